//! Host names to addresses, and addresses to a TCP connection.

use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, select, unbounded};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::stop::{Helper, HelperError, Stop};
use crate::error::{Error, ErrorKind, Result};

/// What a look-up returns: the question it answers, and the answer.
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
                return Err(failed("returned no address"));
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

/// An address that has not answered after this long gets a rival (RFC 8305 §5).
const HEAD_START: Duration = Duration::from_millis(250);

/// Connects to the first address that answers, all within one deadline.
pub(super) fn connect(
    host: &str,
    addresses: &[SocketAddr],
    buffer: Option<usize>,
    deadline: Instant,
    stop: &Stop,
) -> Result<TcpStream> {
    let connected = match addresses {
        [one] => connect_watched(*one, buffer, deadline, stop).map_err(|e| (Some(*one), e)),
        many => Race::new(buffer, deadline).run(many, stop),
    };
    connected.map_err(|(address, e)| {
        if stop.is_stopped() {
            return Error::closed();
        }
        let what = if e.kind() == io::ErrorKind::TimedOut { "timed out" } else { "failed" };
        let to = address.map_or(String::new(), |a| format!(" ({a})"));
        let others = match addresses.len() {
            0 | 1 => String::new(),
            n => format!(", as did those to all of its {n} addresses"),
        };
        let text = format!("the TCP connection to `{host}`{to} {what}{others}");
        Error::new(ErrorKind::Connect, text).with_source(e)
    })
}

/// On this thread; a stop shuts the socket down.
fn connect_watched(
    address: SocketAddr,
    buffer: Option<usize>,
    deadline: Instant,
    stop: &Stop,
) -> io::Result<TcpStream> {
    let socket = new_socket(address, buffer)?;
    match stop.watch(&socket)? {
        Some(_watch) => finish(socket, address, deadline),
        None => Err(io::ErrorKind::Interrupted.into()),
    }
}

fn new_socket(address: SocketAddr, buffer: Option<usize>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(size) = buffer {
        socket.set_send_buffer_size(size)?;
        socket.set_recv_buffer_size(size)?;
    }
    Ok(socket)
}

fn finish(socket: Socket, address: SocketAddr, deadline: Instant) -> io::Result<TcpStream> {
    let left = deadline.saturating_duration_since(Instant::now());
    socket.connect_timeout(&address.into(), left.max(Duration::from_millis(1)))?;
    socket.set_tcp_nodelay(true)?;
    notice_dead_network(&socket)?;
    Ok(socket.into())
}

/// Unacknowledged data ends the connection after this time. Below 20 s, because the first data that
/// a dead network loses may be a ping, 10 s after the network died, and the system is up to 1.5 s
/// late. (Data that the peer has no room for counts too, though its system answers: RFC 5482.)
#[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
const UNACKNOWLEDGED: Duration = Duration::from_secs(18);
/// With nothing under way, the system probes the peer's after this much silence, this often, and
/// ends the connection after this many probes without an answer: 25 s at most.
const PROBE_AFTER: Duration = Duration::from_secs(10);
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBES: u32 = 3;

/// Lets TCP itself notice within 30 s that the network is dead. Our own pings cannot: they say
/// nothing about it while the service is silent because it runs an event handler.
fn notice_dead_network(socket: &Socket) -> io::Result<()> {
    let keepalive = TcpKeepalive::new().with_time(PROBE_AFTER);
    // OpenBSD and the like have these two for the whole system only.
    #[cfg(any(
        windows,
        target_vendor = "apple",
        target_os = "android",
        target_os = "dragonfly",
        target_os = "freebsd",
        target_os = "fuchsia",
        target_os = "illumos",
        target_os = "linux",
        target_os = "netbsd",
    ))]
    let keepalive = keepalive.with_interval(PROBE_EVERY).with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    limit_unacknowledged(socket, None)
}

/// How long TCP may wait for the peer to take data, if not for the usual time. A peer that lives but
/// reads nothing counts too, so while an event handler may run the limit must be longer.
pub(super) fn limit_unacknowledged(socket: &Socket, limit: Option<Duration>) -> io::Result<()> {
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    socket.set_tcp_user_timeout(Some(limit.unwrap_or(UNACKNOWLEDGED)))?;
    // Elsewhere `socket2` offers no such limit.
    let _ = (socket, limit);
    Ok(())
}

/// Which address failed, and how.
type Failure = (Option<SocketAddr>, io::Error);
type Attempt = (usize, io::Result<TcpStream>);

/// Several addresses: the next one starts when the last has failed or used up its head start. Each
/// runs on a thread of its own that holds its socket and the slot for its result; when the race is
/// over the others' sockets are shut down, which ends their threads.
struct Race {
    buffer: Option<usize>,
    deadline: Instant,
    results: (Sender<Attempt>, Receiver<Attempt>),
    sockets: Vec<Option<Socket>>,
    running: usize,
    last: Option<Failure>,
}

impl Race {
    fn new(buffer: Option<usize>, deadline: Instant) -> Self {
        Self { buffer, deadline, results: unbounded(), sockets: Vec::new(), running: 0, last: None }
    }

    fn run(
        mut self,
        addresses: &[SocketAddr],
        stop: &Stop,
    ) -> std::result::Result<TcpStream, Failure> {
        let mut next_start = Instant::now();
        loop {
            let now = Instant::now();
            if let Some(address) = addresses.get(self.sockets.len())
                && (now >= next_start || self.running == 0)
            {
                next_start = now + HEAD_START;
                self.start(*address);
                continue;
            }
            if self.running == 0 {
                return Err(self.failure());
            }
            let more = self.sockets.len() < addresses.len();
            let until = if more { next_start.min(self.deadline) } else { self.deadline };
            select! {
                recv(self.results.1) -> result => match result {
                    Ok((lane, Ok(stream))) => {
                        self.sockets[lane] = None;
                        return Ok(stream);
                    }
                    Ok((lane, Err(e))) => {
                        self.running -= 1;
                        self.last = Some((addresses.get(lane).copied(), e));
                        next_start = now;
                    }
                    Err(_) => return Err(self.failure()),
                },
                recv(stop.receiver()) -> _ => return Err(self.failure()),
                default(until.saturating_duration_since(now)) => {
                    if Instant::now() >= self.deadline {
                        let late = io::Error::new(io::ErrorKind::TimedOut, "no address answered");
                        return Err((addresses.first().copied(), late));
                    }
                }
            }
        }
    }

    fn failure(&mut self) -> Failure {
        self.last.take().unwrap_or_else(|| (None, io::ErrorKind::NotFound.into()))
    }

    fn start(&mut self, address: SocketAddr) {
        let lane = self.sockets.len();
        match self.spawn(lane, address) {
            Ok(socket) => {
                self.running += 1;
                self.sockets.push(Some(socket));
            }
            Err(e) => {
                self.sockets.push(None);
                self.last = Some((Some(address), e));
            }
        }
    }

    fn spawn(&self, lane: usize, address: SocketAddr) -> io::Result<Socket> {
        let socket = new_socket(address, self.buffer)?;
        let ours = socket.try_clone()?;
        let (results, deadline) = (self.results.0.clone(), self.deadline);
        thread::Builder::new().name("webpubsub-dial".into()).spawn(move || {
            let _ = results.send((lane, finish(socket, address, deadline)));
        })?;
        Ok(ours)
    }
}

impl Drop for Race {
    fn drop(&mut self) {
        for socket in self.sockets.iter().flatten() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    use socket2::SockRef;

    #[test]
    fn families_alternate_and_nothing_is_lost() {
        let v4 = |n| SocketAddr::from(([10, 0, 0, n], 1));
        let v6 = |n| SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, n], 1));
        assert_eq!(interleave(vec![v6(1), v6(2), v6(3), v4(1)]), [v6(1), v4(1), v6(2), v6(3)]);
        assert_eq!(interleave(vec![v4(1), v6(1), v6(2)]), [v4(1), v6(1), v6(2)]);
    }

    /// The sockets that `connect` returns for a single address and for a race of two.
    fn dialed() -> Vec<TcpStream> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let good = listener.local_addr().expect("address");
        let refuses = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("addr");
        let deadline = Instant::now() + Duration::from_secs(20);
        let dial = |addresses: &[SocketAddr]| {
            connect("test", addresses, None, deadline, &Stop::new()).expect("connect")
        };
        vec![dial(&[good]), dial(&[refuses, good])]
    }

    #[test]
    fn every_dialed_socket_notices_a_dead_network() {
        for stream in dialed() {
            let socket = SockRef::from(&stream);
            assert!(socket.tcp_nodelay().expect("nodelay"));
            assert!(socket.keepalive().expect("keepalive"));
            #[cfg(any(target_vendor = "apple", target_os = "linux", target_os = "android"))]
            {
                assert_eq!(socket.tcp_keepalive_time().expect("time"), PROBE_AFTER);
                assert_eq!(socket.tcp_keepalive_interval().expect("interval"), PROBE_EVERY);
                assert_eq!(socket.tcp_keepalive_retries().expect("retries"), PROBES);
            }
            #[cfg(any(target_os = "linux", target_os = "android"))]
            assert_eq!(socket.tcp_user_timeout().expect("limit"), Some(UNACKNOWLEDGED));
        }
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
