//! Host names to addresses, and addresses to a TCP connection.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::stop::{Helper, HelperError, Stop};
use crate::error::{Error, ErrorKind, Result};

/// What a look-up gives: the question it answers, and the answer.
type Answer = ((String, u16), io::Result<Vec<SocketAddr>>);

/// How host names become addresses.
pub(crate) type Resolver = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// Name look-ups of one client. The system's resolver cannot be interrupted, so it runs on a
/// helper thread; at most one per client.
pub(crate) struct Lookup {
    helper: Helper<Answer>,
    resolver: Arc<Resolver>,
}

impl Lookup {
    /// `None`: the system's resolver.
    pub(crate) fn new(resolver: Option<Arc<Resolver>>) -> Self {
        let system = |host: &str, port| (host, port).to_socket_addrs().map(Iterator::collect);
        Self {
            helper: Helper::new("webpubsub-lookup"),
            resolver: resolver.unwrap_or_else(|| Arc::new(system)),
        }
    }

    /// The addresses of a host, IPv6 and IPv4 alternating (RFC 8305 §4).
    pub(crate) fn resolve(
        &mut self,
        host: &str,
        port: u16,
        deadline: Instant,
        stop: &Stop,
    ) -> Result<Vec<SocketAddr>> {
        if let Ok(ip) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let failed = |why: &str| {
            Error::new(ErrorKind::NameLookup, format!("looking up the host name `{host}` {why}"))
        };
        loop {
            let question = (host.to_owned(), port);
            let resolver = Arc::clone(&self.resolver);
            let work = move || {
                let answer = resolver(&question.0, question.1);
                (question, answer)
            };
            let (question, answer) =
                self.helper.run(work, deadline, stop).map_err(|e| match e {
                    HelperError::TimedOut => failed("took longer than its time limit"),
                    HelperError::Stopped => Error::closed(),
                    HelperError::Died => failed("failed: the resolver panicked"),
                })?;
            if question != (host.to_owned(), port) {
                continue; // the late answer to an earlier question
            }
            let found: Vec<SocketAddr> = answer.map_err(|e| {
                failed("failed; is the name right, and is there a network?").with_source(e)
            })?;
            if found.is_empty() {
                return Err(failed("gave no address"));
            }
            return Ok(interleave(found));
        }
    }
}

/// Alternates the families, beginning with that of the resolver's first choice.
fn interleave(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let (mut a, mut b): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|addr| addr.is_ipv6() == first_is_v6);
    a.reverse();
    b.reverse();
    let mut mixed = Vec::new();
    while let Some(addr) = a.pop().or_else(|| b.pop()) {
        mixed.push(addr);
        mixed.extend(b.pop());
    }
    mixed
}

/// Connects to the first address that answers. The time is shared out over the addresses.
pub(super) fn connect(
    host: &str,
    addresses: &[SocketAddr],
    buffer: Option<usize>,
    deadline: Instant,
    stop: &Stop,
) -> Result<TcpStream> {
    let mut last = None;
    for (i, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / (addresses.len() - i) as u32;
        match connect_one(*address, buffer, share.max(Duration::from_millis(1)), stop) {
            Ok(Some(stream)) => return Ok(stream),
            Ok(None) => return Err(Error::closed()),
            Err(_) if stop.is_stopped() => return Err(Error::closed()),
            Err(e) => last = Some((*address, e)),
        }
    }
    let Some((address, e)) = last else {
        return Err(Error::new(ErrorKind::Connect, format!("`{host}` has no address")));
    };
    let what = if e.kind() == io::ErrorKind::TimedOut { "timed out" } else { "failed" };
    let others = match addresses.len() {
        1 => String::new(),
        n => format!(", the last of {n} addresses"),
    };
    Err(Error::new(
        ErrorKind::Connect,
        format!("the TCP connection to `{host}` ({address}{others}) {what}"),
    )
    .with_source(e))
}

fn connect_one(
    address: SocketAddr,
    buffer: Option<usize>,
    limit: Duration,
    stop: &Stop,
) -> io::Result<Option<TcpStream>> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    let Some(_watch) = stop.watch(&socket)? else { return Ok(None) };
    if let Some(size) = buffer {
        socket.set_send_buffer_size(size)?;
        socket.set_recv_buffer_size(size)?;
    }
    socket.connect_timeout(&address.into(), limit)?;
    socket.set_tcp_nodelay(true)?;
    // Beneath our own pings; for the middle boxes and for keep-alive switched off.
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15));
    socket.set_tcp_keepalive(&keepalive)?;
    Ok(Some(socket.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_alternate_and_nothing_is_lost() {
        let v4 = |n| SocketAddr::from(([10, 0, 0, n], 1));
        let v6 = |n| SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, n], 1));
        assert_eq!(interleave(vec![v6(1), v6(2), v6(3), v4(1)]), [v6(1), v4(1), v6(2), v6(3)]);
        assert_eq!(interleave(vec![v4(1), v6(1), v6(2)]), [v4(1), v6(1), v6(2)]);
    }

    #[test]
    fn literal_addresses_need_no_look_up() {
        let mut lookup = Lookup::new(None);
        let stop = Stop::new();
        stop.stop();
        let found = lookup.resolve("[::1]", 80, Instant::now(), &stop).expect("literal");
        assert_eq!(found, [SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 80))]);
        assert!(lookup.resolve("localhost", 80, Instant::now(), &stop).is_err());
    }
}
