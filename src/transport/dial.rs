//! Opens a connection: name look-up, TCP, TLS, WebSocket upgrade.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use socket2::SockRef;
use url::Url;

use super::address::{self, Lookup};
use super::proxy::{self, Proxy, ProxyChoice};
use super::stop::Stop;
use super::tls::Connector;
use super::upgrade;
use super::wire::{Wire, is_timeout};
use crate::error::{Error, ErrorKind, Result};
use crate::secret::Secret;

/// Where to connect to, and what to ask for.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: bool,
    /// Path and query; the query holds the token.
    pub(super) path: Secret,
    /// What must not show in a refusal's text, should the peer echo it.
    secrets: Vec<Secret>,
    pub(crate) subprotocol: Option<&'static str>,
    pub(crate) bearer: Option<Secret>,
}

/// How to connect.
#[derive(Clone)]
pub(crate) struct DialOptions {
    /// The limit of each step.
    pub(crate) step: Duration,
    /// The operating system's buffers, if the program chose a size.
    pub(crate) socket_buffer: Option<usize>,
    pub(crate) tls: Connector,
    pub(crate) proxy: ProxyChoice,
    pub(crate) user_agent: String,
    /// Names and values, checked.
    pub(crate) headers: Vec<(String, Secret)>,
}

impl Target {
    /// Takes a `ws` or `wss` URL apart. `query` is the query to use instead of the URL's own.
    pub(crate) fn new(
        url: &Url,
        query: Option<&str>,
        subprotocol: Option<&'static str>,
    ) -> Result<Self> {
        let tls = match url.scheme() {
            "ws" => false,
            "wss" => true,
            other => {
                return Err(Error::config(format!(
                    "the client access URL must begin with `wss://` or `ws://`, not `{other}:`"
                )));
            }
        };
        if tls && !cfg!(feature = "_tls") {
            return Err(Error::config(
                "a `wss` URL needs TLS, but this build of webpubsub has none; enable the feature \
                 `native-tls` or `rustls`",
            ));
        }
        let host = url
            .host_str()
            .filter(|h| !h.is_empty())
            .ok_or_else(|| Error::config("the client access URL has no host"))?;
        let mut path = url.path().to_owned();
        if let Some(query) = query.or(url.query()).filter(|q| !q.is_empty()) {
            path.push('?');
            path.push_str(query);
        }
        // Decoded and as it was written: a peer may echo either.
        let decoded = url.query_pairs().filter(|(name, _)| name == "access_token");
        let raw =
            url.query().unwrap_or("").split('&').filter_map(|p| p.strip_prefix("access_token="));
        let secrets =
            decoded.map(|(_, token)| Secret::new(token)).chain(raw.map(Secret::new)).collect();
        Ok(Self {
            host: host.to_owned(),
            port: url.port_or_known_default().unwrap_or(if tls { 443 } else { 80 }),
            tls,
            path: Secret::new(path),
            secrets,
            subprotocol,
            bearer: None,
        })
    }

    /// Another secret that a refusal's text must not show.
    pub(crate) fn hide(&mut self, secret: Secret) {
        self.secrets.push(secret);
    }

    pub(super) fn authority(&self) -> String {
        let default = if self.tls { 443 } else { 80 };
        if self.port == default {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Replaces every secret of this target in a text that came from outside.
    pub(super) fn scrub(&self, mut text: String) -> String {
        let path_query = self.path.expose().split_once('?').map(|(_, query)| query);
        let secrets = self.secrets.iter().chain(&self.bearer).map(Secret::expose);
        for secret in secrets.chain(path_query).filter(|s| s.len() > 3) {
            text = text.replace(secret, "***");
            // A peer may cut what it echoes.
            if let Some(start) = secret.get(..8).filter(|_| secret.len() >= 16) {
                text = blank(&text, start, 0);
            }
        }
        for name in ["access_token=", "awps_reconnection_token="] {
            text = blank(&text, name, name.len());
        }
        text
    }
}

/// Replaces what begins with `start` (but for its first `keep` bytes) and reads like a token.
fn blank(text: &str, start: &str, keep: usize) -> String {
    let in_token = |c: char| c.is_ascii_alphanumeric() || "-._~+/=%".contains(c);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(start) {
        let (before, found) = rest.split_at(at + keep);
        let end = found.find(|c| !in_token(c)).unwrap_or(found.len());
        out.push_str(before);
        out.push_str("***");
        // At least the start itself, of whatever characters it consists.
        rest = &found[end.max(start.len() - keep)..];
    }
    out + rest
}

/// Opens a connection; blocks at most until the deadline, and ends at once on stop.
///
/// Gives the upgraded stream and what was read past the upgrade.
pub(crate) fn dial(
    target: &Target,
    options: &DialOptions,
    lookup: &mut Lookup,
    deadline: Instant,
    stop: &Stop,
) -> Result<(Wire, Vec<u8>)> {
    let step = || deadline.min(Instant::now() + options.step);
    let via = options.proxy.for_target(target)?;
    let (host, port) = match &via {
        Some(proxy) => (proxy.host.as_str(), proxy.port),
        None => (target.host.as_str(), target.port),
    };
    let addresses = lookup.resolve(host, port, step(), stop)?;
    let socket = address::connect(host, &addresses, options.socket_buffer, step(), stop)?;
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
        .and_then(|mut wire| Ok((upgrade::upgrade(&mut wire, target, options, step())?, wire)));
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
    proxy: &Proxy,
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
        let what = if is_timeout(&e) {
            "did not finish within its time limit"
        } else {
            "failed; is the certificate valid for this host and issued by a trusted authority?"
        };
        Error::new(ErrorKind::Tls, format!("the TLS handshake with `{host}` {what}")).with_source(e)
    })
}

/// For the steps whose errors tell a timeout apart.
pub(super) fn timed_out(e: &std::io::Error) -> bool {
    is_timeout(e)
}
