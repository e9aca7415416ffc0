//! HTTP proxies: which one to use, and the CONNECT tunnel through it (RFC 9110 §9.3.6).

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::time::Instant;

use data_encoding::BASE64;
use url::Url;

use super::target::Target;
use super::wire::{Wire, is_timeout};
use crate::error::{Error, ErrorKind, Result};
use crate::secret::Secret;

/// A proxy's answer has a short head; one that has not ended by then is none.
const MAX_HEAD: usize = 16 * 1024;

/// The HTTP proxy that a client goes through, by a CONNECT tunnel.
///
/// ```
/// # fn main() -> webpubsub::Result<()> {
/// use webpubsub::{Client, Proxy};
///
/// let proxy = Proxy::new("http://user:password@proxy.corp:3128")?;
/// let builder = Client::builder("wss://…").proxy(Some(proxy)); // the environment does not matter
/// let builder = Client::builder("wss://…").proxy(None); // and here nothing is between
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Proxy(Choice);

#[derive(Clone)]
enum Choice {
    Environment,
    Fixed(HttpProxy),
}

impl Proxy {
    /// This proxy: `http://[USER:PASSWORD@]HOST[:PORT]`, with Basic credentials if it has them. The
    /// port is 80 if there is none; the scheme may be missing.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if the URL is not of that form. The error does not repeat it.
    pub fn new(url: impl Into<Secret>) -> Result<Self> {
        Ok(Self(Choice::Fixed(HttpProxy::parse(url.into().expose())?)))
    }

    /// By the environment, which is looked at for each connection: `HTTPS_PROXY` is for `wss`,
    /// `HTTP_PROXY` for `ws`, `ALL_PROXY` for both; `NO_PROXY` lists exceptions (`*`, hosts with all
    /// below them, each with an optional port); lower-case names come first. Loopback hosts are never
    /// proxied this way. A value that is no proxy fails the attempt to connect, with
    /// [`ErrorKind::Config`].
    #[must_use]
    pub fn from_env() -> Self {
        Self(Choice::Environment)
    }

    /// The proxy for a target, if one is to be used.
    pub(super) fn for_target(&self, target: &Target) -> Result<Option<HttpProxy>> {
        match &self.0 {
            Choice::Fixed(proxy) => Ok(Some(proxy.clone())),
            Choice::Environment => {
                from_environment(target, |name| std::env::var(name).ok().filter(|v| !v.is_empty()))
            }
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Choice::Environment => f.write_str("Proxy(from the environment)"),
            Choice::Fixed(proxy) => write!(f, "Proxy({proxy:?})"),
        }
    }
}

/// One whose address is known.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct HttpProxy {
    pub(super) host: String,
    pub(super) port: u16,
    /// The value of `Proxy-Authorization`.
    credentials: Option<Secret>,
    /// The environment variable that names it; `None`: the program does.
    variable: Option<String>,
}

/// Without the credentials.
impl fmt::Debug for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl HttpProxy {
    /// `http://[USER:PASSWORD@]HOST[:PORT]`; the scheme may be missing.
    fn parse(text: &str) -> Result<Self> {
        // No text of these errors repeats the URL, which may hold a password.
        let bad = |rule: &str| {
            Error::config(format!(
                "the proxy URL {rule}; it looks like `http://USER:PASSWORD@HOST:PORT`"
            ))
        };
        let text = text.trim();
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url = Url::parse(&full).map_err(|e| bad("cannot be parsed").with_source(e))?;
        if url.scheme() != "http" {
            return Err(bad("must begin with `http://`: other kinds of proxy are not supported"));
        }
        let host = url.host_str().filter(|h| !h.is_empty()).ok_or_else(|| bad("has no host"))?;
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(bad("must not have a path, a query or a fragment"));
        }
        Ok(Self {
            host: host.to_owned(),
            port: url.port().unwrap_or(80),
            credentials: credentials(&url)
                .map_err(|()| bad("has a user or password that is not UTF-8"))?,
            variable: None,
        })
    }

    /// For errors. Who does not know that there is a proxy must find out who said so.
    fn described(&self) -> String {
        let Self { host, port, variable, .. } = self;
        match variable {
            None => format!("the proxy {host}:{port} (set by `ClientBuilder::proxy`)"),
            Some(name) => {
                format!("the proxy {host}:{port} (from the environment variable `{name}`)")
            }
        }
    }

    /// An error of the look-up of its name, or of the TCP connection to it.
    pub(super) fn unreachable(&self, cause: Error) -> Error {
        if cause.is_closed() {
            return cause;
        }
        Error::new(cause.kind(), format!("{} cannot be reached", self.described()))
            .with_source(cause)
    }
}

/// The value of a Basic authorization (RFC 7617), if the URL has a user.
fn credentials(url: &Url) -> std::result::Result<Option<Secret>, ()> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let decode =
        |part: &str| percent_decode(part).and_then(|bytes| String::from_utf8(bytes).ok()).ok_or(());
    let (user, password) = (decode(url.username())?, decode(url.password().unwrap_or(""))?);
    let encoded = BASE64.encode(format!("{user}:{password}").as_bytes());
    Ok(Some(Secret::new(format!("Basic {encoded}"))))
}

fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if let (b'%', [high, low, after @ ..]) = (first, tail) {
            let digit = |d: &u8| char::from(*d).to_digit(16);
            bytes.push(u8::try_from(digit(high)? * 16 + digit(low)?).ok()?);
            rest = after;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    Some(bytes)
}

/// `HTTPS_PROXY` for `wss`, `HTTP_PROXY` for `ws`, then `ALL_PROXY`; `NO_PROXY` excepts hosts. The
/// lower-case names come first. Loopback hosts are never proxied this way.
fn from_environment(
    target: &Target,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<HttpProxy>> {
    let get = |name: &str| {
        let names = [name.to_ascii_lowercase(), name.to_owned()];
        names.into_iter().find_map(|name| variable(&name).map(|value| (name, value)))
    };
    let special = if target.tls { "HTTPS_PROXY" } else { "HTTP_PROXY" };
    let Some((name, text)) = [special, "ALL_PROXY"].into_iter().find_map(get) else {
        return Ok(None);
    };
    let excepted =
        get("NO_PROXY").is_some_and(|(_, list)| is_excepted(&list, &target.host, target.port));
    if excepted || is_loopback(&target.host) {
        return Ok(None);
    }
    let proxy = HttpProxy::parse(&text).map_err(|e| {
        Error::config(format!("the environment variable {name} is no usable proxy")).with_source(e)
    })?;
    Ok(Some(HttpProxy { variable: Some(name), ..proxy }))
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// `*`, or a list of hosts: each stands for itself and what is below it, with or without a leading
/// dot, and with a port if it has one. Addresses stand for themselves.
fn is_excepted(list: &str, host: &str, port: u16) -> bool {
    let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
    list.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        if entry == "*" {
            return true;
        }
        let (name, its_port) = match entry.rsplit_once(':') {
            Some((name, digits)) if !name.contains(':') || name.ends_with(']') => {
                (name, digits.parse::<u16>().ok())
            }
            _ => (entry, None),
        };
        let name = name.trim_matches(['[', ']']).trim_start_matches("*.").trim_start_matches('.');
        let name = name.to_ascii_lowercase();
        its_port.is_none_or(|p| p == port)
            && (host == name || host.strip_suffix(&name).is_some_and(|rest| rest.ends_with('.')))
    })
}

/// Asks the proxy on the other end of `wire` for a tunnel to the target.
pub(super) fn tunnel(
    wire: &mut Wire,
    proxy: &HttpProxy,
    target: &Target,
    deadline: Instant,
) -> Result<()> {
    let fail = |what: String| Error::new(ErrorKind::Proxy, format!("{} {what}", proxy.described()));
    let broken = |e: io::Error| {
        let what =
            if is_timeout(&e) { "did not answer within its time limit" } else { "broke off" };
        fail(what.into()).with_source(e)
    };
    wire.write_all(request(proxy, target).as_bytes(), deadline).map_err(broken)?;
    let mut seen = Vec::new();
    loop {
        // Byte by byte: what follows the head belongs to the service.
        let mut byte = [0];
        if wire.read_some(&mut byte, deadline).map_err(broken)? == 0 {
            return Err(fail("closed the connection without an answer".into()));
        }
        seen.push(byte[0]);
        if seen.ends_with(b"\r\n\r\n") || seen.len() > MAX_HEAD {
            break;
        }
    }
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    if !response.parse(&seen).is_ok_and(|s| s.is_complete()) {
        return Err(fail("did not answer in HTTP; is this the proxy's host and port?".into()));
    }
    let status = response.code.unwrap_or(0);
    if (200..300).contains(&status) {
        return Ok(());
    }
    let hint = match status {
        407 if proxy.credentials.is_some() => "; it does not take these credentials",
        407 => "; it wants credentials (`http://USER:PASSWORD@HOST:PORT`)",
        403 => "; it does not allow this host or port",
        502..=504 => "; it does not reach the service",
        _ => "",
    };
    let reason = response.reason.unwrap_or("");
    Err(fail(format!("refused the tunnel with HTTP {status} {reason}{hint}"))
        .with_http_status(status))
}

fn request(proxy: &HttpProxy, target: &Target) -> String {
    let to = format!("{}:{}", target.host, target.port);
    let mut request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n");
    if let Some(credentials) = &proxy.credentials {
        request.extend(["Proxy-Authorization: ", credentials.expose(), "\r\n"]);
    }
    request.push_str("\r\n");
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Target {
        Target::new(&Url::parse(url).expect("url"), None, None).expect("target")
    }

    #[test]
    fn proxy_urls() {
        let p = HttpProxy::parse("http://us%40er:p%3Aw@proxy.corp:3128/").expect("good");
        assert_eq!((p.host.as_str(), p.port), ("proxy.corp", 3128));
        let expected = format!("Basic {}", BASE64.encode(b"us@er:p:w"));
        assert_eq!(p.credentials.as_ref().map(Secret::expose), Some(expected.as_str()));
        let shown = Proxy::new("http://u:SECRET@proxy.corp:3128").expect("good");
        assert_eq!(format!("{shown:?}"), "Proxy(proxy.corp:3128)");
        assert_eq!(HttpProxy::parse("proxy:8080").expect("good").port, 8080);
        for bad in ["", "socks5://SECRET@h", "https://h:1", "http://h/SECRET", "http://u:SECRET@"] {
            let e = Proxy::new(bad).expect_err(bad);
            assert_eq!(e.kind(), ErrorKind::Config);
            assert!(!format!("{e} {e:?}").contains("SECRET"), "{e:?}");
        }
    }

    #[test]
    fn the_environment_chooses_by_scheme_and_lower_case_wins() {
        let env = |name: &str| {
            let value = match name {
                "http_proxy" => "http://low:1",
                "HTTP_PROXY" => "http://up:2",
                "HTTPS_PROXY" => "http://secure:3",
                "no_proxy" => "internal.corp, .dot.corp,10.0.0.7,special:8443",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let chosen = |url: &str| {
            from_environment(&target(url), env).expect("good").map(|p| (p.host, p.port))
        };
        let to = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(chosen("ws://x.com/h"), to("low", 1));
        if cfg!(feature = "_tls") {
            assert_eq!(chosen("wss://x.com/h"), to("secure", 3));
        }
        for direct in [
            "ws://localhost/h",
            "ws://127.0.0.1:8080/h",
            "ws://[::1]/h",
            "ws://internal.corp/h",
            "ws://a.internal.corp/h",
            "ws://a.dot.corp/h",
            "ws://10.0.0.7/h",
            "ws://special:8443/h",
        ] {
            assert_eq!(chosen(direct), None, "{direct}");
        }
        for proxied in ["ws://notinternal.corp/h", "ws://special/h", "ws://10.0.0.70/h"] {
            assert_eq!(chosen(proxied), to("low", 1), "{proxied}");
        }
        let all = |name: &str| (name == "ALL_PROXY").then(|| "all:9".to_owned());
        let found = from_environment(&target("ws://x.com/h"), all).expect("good");
        assert_eq!(found.map(|p| p.port), Some(9));
        let bad = |name: &str| (name == "ALL_PROXY").then(|| "socks5://u:SECRET@h".to_owned());
        let e = from_environment(&target("ws://x.com/h"), bad).expect_err("not supported");
        assert!(e.to_string().contains("ALL_PROXY") && !format!("{e:?}").contains("SECRET"));
    }
}
