//! The upgrade request: reading it, and answering it.

use std::io;
use std::time::Instant;

use tungstenite::handshake::derive_accept_key;

use crate::transport::Wire;

/// A request head longer than this is refused. Tokens may be long.
const MAX_HEAD: usize = 64 * 1024;
/// A longer target is refused with 414, so that a long token has to go into the header.
const MAX_TARGET: usize = 8 * 1024;
const MAX_HEADERS: usize = 128;

/// What matters of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: Vec<(String, String)>,
    /// All headers, in order, the names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) bearer: Option<String>,
    pub(super) host: String,
    /// The subprotocols asked for, in order.
    pub(super) protocols: Vec<String>,
    /// `Sec-WebSocket-Key`, if this is a WebSocket upgrade of version 13.
    pub(super) key: Option<String>,
}

/// An HTTP answer other than 101.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) text: String,
    pub(super) retry_after: Option<u32>,
}

impl Refusal {
    pub(super) fn new(status: u16, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), retry_after: None }
    }
}

impl Request {
    /// The first value of a query parameter.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The last value of a query parameter.
    pub(super) fn last_parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().rfind(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// A request (or why it is refused), and the bytes that followed its head.
type Read = (Result<Request, Refusal>, Vec<u8>);

/// Reads a request head. `Ok(None)` if the client left.
pub(super) fn read(wire: &mut Wire, deadline: Instant) -> io::Result<Option<Read>> {
    let mut seen = Vec::new();
    loop {
        let mut buf = [0; 4096];
        match wire.read_some(&mut buf, deadline)? {
            0 => return Ok(None),
            n => seen.extend_from_slice(&buf[..n]),
        }
        match parse(&seen) {
            Ok(Some((request, head))) => return Ok(Some((Ok(request), seen.split_off(head)))),
            Ok(None) if seen.len() <= MAX_HEAD => {}
            Ok(None) => {
                let refusal = match seen.contains(&b'\n') {
                    true => Refusal::new(431, "The request head is too large."),
                    false => too_long(),
                };
                return Ok(Some((Err(refusal), Vec::new())));
            }
            Err(refusal) => return Ok(Some((Err(refusal), Vec::new()))),
        }
    }
}

/// The request and the length of its head, or `None` if it is not complete.
fn parse(bytes: &[u8]) -> Result<Option<(Request, usize)>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let length = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        // The first byte of a TLS handshake: a `wss` URL and an emulator without TLS.
        Err(_) if bytes.first() == Some(&0x16) => {
            return Err(Refusal::new(400, "The client speaks TLS, which is not switched on."));
        }
        Err(e) => return Err(Refusal::new(400, format!("The request is not valid HTTP: {e}."))),
    };
    let target = head.path.unwrap_or_default();
    if target.len() > MAX_TARGET {
        return Err(too_long());
    }
    let method = head.method.unwrap_or_default().to_owned();
    let mut request = Request { method, ..Request::default() };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    request.path = percent_decode(path);
    request.query = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();

    let (mut upgrade, mut connection, mut version) = (false, false, false);
    let mut key = None;
    for header in head.headers.iter() {
        let value = String::from_utf8_lossy(header.value).trim().to_owned();
        let has = |token: &str| value.split(',').any(|t| t.trim().eq_ignore_ascii_case(token));
        let name = header.name.to_ascii_lowercase();
        match name.as_str() {
            "upgrade" => upgrade |= has("websocket"),
            "connection" => connection |= has("upgrade"),
            "sec-websocket-version" => version |= value == "13",
            "sec-websocket-key" => key = Some(value.clone()),
            "sec-websocket-protocol" => {
                let names = value.split(',').map(str::trim).filter(|n| !n.is_empty());
                request.protocols.extend(names.map(Into::into));
            }
            "host" => request.host.clone_from(&value),
            "authorization" => {
                request.bearer = value
                    .split_once(' ')
                    .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Bearer"))
                    .map(|(_, token)| token.trim().to_owned());
            }
            _ => {}
        }
        request.headers.push((name, value));
    }
    if head.method == Some("GET") && upgrade && connection && version {
        request.key = key;
    }
    Ok(Some((request, length)))
}

fn too_long() -> Refusal {
    Refusal::new(414, "The request target is longer than 8 KiB.")
}

/// Accepts the upgrade.
pub(super) fn accept(
    wire: &mut Wire,
    key: &str,
    protocol: Option<&str>,
    deadline: Instant,
) -> io::Result<()> {
    let accept = derive_accept_key(key.as_bytes());
    let protocol =
        protocol.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n")).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{protocol}\r\n"
    );
    wire.write_all(head.as_bytes(), deadline)
}

/// Refuses it.
pub(super) fn refuse(wire: &mut Wire, refusal: &Refusal, deadline: Instant) -> io::Result<()> {
    let Refusal { status, text, retry_after } = refusal;
    let phrase = match status {
        301 => "Moved Permanently",
        302 => "Found",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        414 => "URI Too Long",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Refused",
    };
    let retry_after =
        retry_after.map(|seconds| format!("Retry-After: {seconds}\r\n")).unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\n{retry_after}Connection: close\r\n\r\n{text}",
        text.len()
    );
    wire.write_all(answer.as_bytes(), deadline)
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).filter(|h| *first == b'%' && h.iter().all(u8::is_ascii_hexdigit));
        let hex = hex.and_then(|h| std::str::from_utf8(h).ok());
        let code = hex.and_then(|h| u8::from_str_radix(h, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "GET /client/hubs/a%60b?access_token=x.y&g=%20a HTTP/1.1\r\n\
        Host: 127.0.0.1:1\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: k\r\nAuthorization: bearer T\r\n\
        Sec-WebSocket-Protocol: one, two\r\n\r\n";

    #[test]
    fn reads_what_matters() {
        let (request, length) = parse(format!("{HEAD}rest").as_bytes()).unwrap().unwrap();
        assert_eq!(length, HEAD.len());
        assert_eq!(request.path, "/client/hubs/a`b");
        assert_eq!(request.parameter("access_token"), Some("x.y"));
        assert_eq!(request.parameter("g"), Some(" a"));
        assert_eq!(request.bearer.as_deref(), Some("T"));
        assert_eq!(request.protocols, ["one", "two"]);
        assert_eq!(request.headers[0], ("host".into(), "127.0.0.1:1".into()));
        assert_eq!(request.key.as_deref(), Some("k"));
    }

    #[test]
    fn incomplete_or_foreign_requests_are_told_apart() {
        assert_eq!(parse(&HEAD.as_bytes()[..40]), Ok(None));
        let tls = parse(b"\x16\x03\x01 hello\r\n\r\n").unwrap_err();
        assert!(tls.status == 400 && tls.text.contains("TLS"), "{tls:?}");
        let post = HEAD.replace("GET", "POST");
        assert_eq!(parse(post.as_bytes()).unwrap().unwrap().0.key, None);
    }

    #[test]
    fn a_long_target_is_refused_and_a_long_header_is_not() {
        let long = "x".repeat(MAX_TARGET);
        let target = HEAD.replace("x.y", &long);
        assert_eq!(parse(target.as_bytes()).unwrap_err().status, 414);
        let header = HEAD.replace("bearer T", &format!("bearer {long}"));
        assert_eq!(parse(header.as_bytes()).unwrap().unwrap().0.bearer, Some(long));
    }

    #[test]
    fn broken_percent_signs_stay() {
        assert_eq!(percent_decode("a%2Fb%zz%+1%4"), "a/b%zz%+1%4");
    }
}
