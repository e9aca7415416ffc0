//! Opens a connection: name look-up, TCP, TLS, WebSocket upgrade.

use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
use std::net::TcpStream;
use std::time::Instant;

use socket2::SockRef;

use super::address::{self, Lookup};
use super::options::DialOptions;
use super::proxy::{self, HttpProxy};
use super::stop::Stop;
use super::target::Target;
use super::tls;
use super::upgrade;
use super::wire::{Wire, is_timeout};
use crate::error::{Error, ErrorKind, Result};

/// Opens a connection; blocks at most until the deadline, and ends at once on stop. Each step has
/// its own limit too, but for the wait for the answer to the upgrade.
///
/// Returns the upgraded stream and what was read past the upgrade.
pub(crate) fn dial(
    target: &Target,
    options: &DialOptions,
    lookup: &mut Lookup,
    deadline: Instant,
    stop: &Stop,
) -> Result<(Wire, Vec<u8>)> {
    let step = || deadline.min(Instant::now() + options.step);
    let via = match &options.proxy {
        Some(proxy) => proxy.for_target(target)?,
        None => None,
    };
    let (host, port) = match &via {
        Some(proxy) => (proxy.host.as_str(), proxy.port),
        None => (target.host.as_str(), target.port),
    };
    let socket = lookup.resolve(host, port, step(), stop).and_then(|addresses| {
        address::connect(host, &addresses, options.socket_buffer, step(), stop)
    });
    let socket = socket.map_err(|e| match &via {
        Some(proxy) => proxy.unreachable(e),
        None => e,
    })?;
    // From here on a stop shuts the socket down, and so ends each blocked call.
    let watched = socket.try_clone().map_err(|e| connect_error(&target.host, e))?;
    let watch = stop.watch(&SockRef::from(&watched)).map_err(|e| connect_error(&target.host, e))?;
    if watch.is_none() {
        return Err(Error::closed());
    }
    let through = |socket| match &via {
        Some(proxy) => tunnel(socket, proxy, target, step()),
        None => Ok(socket),
    };
    let upgraded = through(socket)
        .and_then(|socket| secure(target, options, socket, step()))
        .and_then(|mut wire| {
            let leftover = upgrade::upgrade(&mut wire, target, options, step(), deadline)?;
            Ok((leftover, wire))
        });
    match upgraded {
        Ok((leftover, wire)) => Ok((wire, leftover)),
        Err(_) if stop.is_stopped() => Err(Error::closed()),
        Err(e) => Err(e),
    }
}

fn connect_error(host: &str, e: std::io::Error) -> Error {
    Error::new(ErrorKind::Connect, format!("the TCP connection to `{host}` failed")).with_source(e)
}

fn tunnel(
    socket: TcpStream,
    proxy: &HttpProxy,
    target: &Target,
    deadline: Instant,
) -> Result<TcpStream> {
    let mut wire = Wire::plain(socket);
    proxy::tunnel(&mut wire, proxy, target, deadline)?;
    Ok(wire.socket)
}

fn secure(
    target: &Target,
    options: &DialOptions,
    socket: TcpStream,
    deadline: Instant,
) -> Result<Wire> {
    if !target.tls {
        return Ok(Wire::plain(socket));
    }
    let host = target.host.trim_matches(['[', ']']);
    options.tls.connect(host, socket, deadline).map_err(|e| {
        let what = match e.kind() {
            _ if is_timeout(&e) => "did not finish within its time limit",
            _ if tls::is_no_tls(&e) => {
                "failed: the port answers, but speaks no TLS; use `ws://`, or the port for `wss://`"
            }
            UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe => {
                "failed: the peer closed the connection; is TLS spoken at this port?"
            }
            _ => {
                "failed; is the certificate valid for this host and issued by a trusted authority? \
                 (`TlsConfig::root_certificate_pem` adds one to trust, also a self-signed one)"
            }
        };
        Error::new(ErrorKind::Tls, format!("the TLS handshake with `{host}` {what}")).with_source(e)
    })
}
