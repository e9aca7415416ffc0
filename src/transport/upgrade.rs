//! Our own WebSocket upgrade request (RFC 6455 §4).
//!
//! tungstenite's would log the whole request, access token included. Ours also keeps the status
//! and body of a refusal and the bytes behind the 101.

use std::io;
use std::time::{Duration, Instant};

use httparse::Status;
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;

use super::options::DialOptions;
use super::target::Target;
use super::wire::{Wire, is_timeout};
use crate::error::{Error, ErrorKind, Result};

/// A response head longer than this is nobody's, interim answers before it included.
const MAX_HEAD: usize = 16 * 1024;
/// At most this many interim answers (RFC 9110 §15.2) are skipped: more than anybody sends who still means to
/// answer within the time limit.
const MAX_INTERIM: u32 = 100;
const MAX_HEADERS: usize = 64;
/// This much of a refusal's body is read, and this many characters of it are shown.
const MAX_BODY: usize = 4096;
const SHOWN_BODY: usize = 300;
/// The body of a refusal is a courtesy: do not wait longer for it.
const BODY_WAIT: Duration = Duration::from_secs(2);

/// Asks for the upgrade. Returns the bytes that followed the response's head.
///
/// `written` limits the writing of the request, `answered` all of it: the service answers when the
/// program's `connect` handler has.
pub(super) fn upgrade(
    wire: &mut Wire,
    target: &Target,
    options: &DialOptions,
    written: Instant,
    answered: Instant,
) -> Result<Vec<u8>> {
    let key = generate_key();
    let request = request(target, options, &key);
    wire.write_all(request.as_bytes(), written).map_err(broken)?;
    let mut seen = Vec::new();
    // On the heap, as the headers below: the stack of each reader thread would keep them for good.
    let mut buf = vec![0; 4096];
    // The interim answers before the final one, and where that one begins.
    let (mut interim, mut start) = (0, 0);
    loop {
        let mut headers = vec![httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(&seen[start..]).map_err(|e| {
            fail("got an answer that is not HTTP; is this the right host and port?").with_source(e)
        })?;
        match (parsed, response.code) {
            (Status::Complete(head), Some(101)) => {
                check(&response, target, &key)?;
                return Ok(seen.split_off(start + head));
            }
            (Status::Complete(head), Some(100..200)) if interim < MAX_INTERIM => {
                interim += 1;
                start += head;
            }
            (Status::Complete(_), Some(100..200)) => {
                return Err(fail("got interim answers (HTTP 1xx) without end"));
            }
            (Status::Complete(head), _) => {
                let refusal = Refusal::read(&response);
                let body = seen.split_off(start + head);
                let body = read_body(wire, body, refusal.length, answered);
                return Err(refusal.into_error(target, &body));
            }
            (Status::Partial, _) if seen.len() < MAX_HEAD => {
                match wire.read_some(&mut buf, answered).map_err(broken)? {
                    0 => {
                        return Err(fail(
                            "failed: the peer closed the connection without an answer",
                        ));
                    }
                    n => seen.extend_from_slice(&buf[..n]),
                }
            }
            (Status::Partial, _) if interim > 0 => {
                return Err(fail("got interim answers (HTTP 1xx) with endless heads"));
            }
            (Status::Partial, _) => return Err(fail("got an answer with an endless head")),
        }
    }
}

fn broken(e: io::Error) -> Error {
    let what = if is_timeout(&e) {
        "got no answer within its time limit"
    } else {
        "failed: the connection broke"
    };
    fail(what).with_source(e)
}

fn fail(what: &str) -> Error {
    Error::new(ErrorKind::Upgrade, format!("the WebSocket upgrade {what}"))
}

fn request(target: &Target, options: &DialOptions, key: &str) -> String {
    let mut request = format!(
        "GET {} HTTP/1.1\r\n\
         Host: {}\r\n\
         Upgrade: websocket\r\n\
         Connection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\n\
         Sec-WebSocket-Version: 13\r\n\
         User-Agent: {}\r\n",
        target.path.expose(),
        target.authority(),
        options.user_agent,
    );
    let mut header = |name: &str, value: &str| {
        request.extend([name, ": ", value, "\r\n"]);
    };
    if let Some(subprotocol) = target.subprotocol {
        header("Sec-WebSocket-Protocol", subprotocol);
    }
    if let Some(token) = &target.bearer {
        header("Authorization", &format!("Bearer {}", token.expose()));
    }
    for (name, value) in &options.headers {
        header(name, value.expose());
    }
    request.push_str("\r\n");
    request
}

/// The values of all lines of this name: where a list is expected they are one list (RFC 9110 §5.3).
fn values<'a>(
    response: &'a httparse::Response<'_, '_>,
    name: &'a str,
) -> impl Iterator<Item = &'a str> {
    let lines = response.headers.iter().filter(move |h| h.name.eq_ignore_ascii_case(name));
    lines.filter_map(|h| std::str::from_utf8(h.value).ok()).map(str::trim)
}

fn header<'a>(response: &'a httparse::Response<'_, '_>, name: &'a str) -> Option<&'a str> {
    values(response, name).next()
}

fn check(response: &httparse::Response<'_, '_>, target: &Target, key: &str) -> Result<()> {
    let has = |name, token: &str| {
        let mut listed = values(response, name).flat_map(|v| v.split(',')).map(str::trim);
        listed.any(|one| one.eq_ignore_ascii_case(token))
    };
    if !has("Upgrade", "websocket") || !has("Connection", "upgrade") {
        return Err(fail("was answered with 101, but not for a WebSocket"));
    }
    if header(response, "Sec-WebSocket-Accept") != Some(&derive_accept_key(key.as_bytes())) {
        return Err(fail("was answered for another request (`Sec-WebSocket-Accept` is wrong)"));
    }
    if values(response, "Sec-WebSocket-Extensions").any(|v| !v.is_empty()) {
        return Err(fail("was answered with an extension that was not asked for"));
    }
    check_subprotocol(header(response, "Sec-WebSocket-Protocol"), target.subprotocol)
}

fn check_subprotocol(granted: Option<&str>, asked: Option<&str>) -> Result<()> {
    let refuse = |text: String| Err(Error::new(ErrorKind::Subprotocol, text));
    match (asked, granted.filter(|g| !g.is_empty())) {
        (Some(asked), Some(granted)) if granted.eq_ignore_ascii_case(asked) => Ok(()),
        (None, None) => Ok(()),
        (Some(asked), Some(granted)) => refuse(format!(
            "the service granted the subprotocol `{granted}`, but `{asked}` was asked for"
        )),
        (Some(asked), None) => refuse(format!(
            "the service did not grant the subprotocol `{asked}`; is this the URL of a Web PubSub \
             hub?"
        )),
        (None, Some(granted)) => refuse(format!(
            "the service chose the subprotocol `{granted}`, although none was asked for"
        )),
    }
}

struct Refusal {
    status: u16,
    reason: String,
    retry_after: Option<Duration>,
    location: Option<String>,
    length: Option<usize>,
}

impl Refusal {
    fn read(response: &httparse::Response<'_, '_>) -> Self {
        Self {
            status: response.code.unwrap_or(0),
            reason: response.reason.unwrap_or("").to_owned(),
            // The other form of Retry-After, a date, is not worth a date parser.
            retry_after: header(response, "Retry-After")
                .and_then(|v| v.parse().ok())
                .map(Duration::from_secs),
            location: header(response, "Location")
                .map(|v| v.split(['?', '#']).next().unwrap_or("").to_owned()),
            length: header(response, "Content-Length").and_then(|v| v.parse().ok()),
        }
    }

    fn into_error(self, target: &Target, body: &[u8]) -> Error {
        let mut text = format!("the WebSocket upgrade was refused with HTTP {}", self.status);
        if !self.reason.is_empty() {
            text.extend([" ", &self.reason]);
        }
        text.push_str(match self.status {
            // Neither the URL nor the access token, which is not even sent, can be to blame.
            401 | 403 | 404 if target.recovers => {
                "; the same URL worked when the connection was made, so the service has been \
                 restarted, moved or removed since, or no longer accepts this client"
            }
            401 => "; is the access token present, unexpired and made for this hub?",
            403 => "; the access token does not allow this",
            404 => "; is the host and hub in the URL right?",
            429 => "; too many connections or requests",
            300..=399 => "; redirects are not followed",
            _ => "",
        });
        if let Some(location) = self.location {
            text.extend([" (to `", &location, "`)"]);
        }
        // Before the cut: half a token would not be recognised.
        let body = target.scrub(String::from_utf8_lossy(body).into_owned());
        let cut: String = body.trim().chars().take(SHOWN_BODY).collect();
        if !cut.is_empty() {
            text.extend([" (it says: ", &cut, ")"]);
        }
        Error::new(ErrorKind::Upgrade, target.scrub(text))
            .with_http_status(self.status)
            .with_retry_after(self.retry_after)
    }
}

fn read_body(
    wire: &mut Wire,
    mut body: Vec<u8>,
    length: Option<usize>,
    deadline: Instant,
) -> Vec<u8> {
    let wanted = length.unwrap_or(MAX_BODY).min(MAX_BODY);
    let deadline = deadline.min(Instant::now() + BODY_WAIT);
    let mut buf = vec![0; 1024];
    while body.len() < wanted {
        match wire.read_some(&mut buf, deadline) {
            Ok(n) if n > 0 => body.extend_from_slice(&buf[..n]),
            _ => break,
        }
    }
    body.truncate(wanted);
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use url::Url;

    fn target(url: &str, subprotocol: Option<&'static str>) -> Target {
        Target::new(&Url::parse(url).expect("url"), None, subprotocol).expect("target")
    }

    #[test]
    fn the_request_has_what_rfc_6455_asks_for() {
        let t = target("ws://h:81/client/hubs/a?access_token=T&x=1", Some("p"));
        let options = DialOptions {
            step: Duration::ZERO,
            socket_buffer: None,
            tls: crate::transport::TlsConfig::new(),
            proxy: None,
            user_agent: "agent/1".into(),
            headers: vec![("X-One".into(), "1".into())],
        };
        let text = request(&t, &options, "K");
        assert!(text.contains("\r\nUser-Agent: agent/1\r\n") && text.contains("\r\nX-One: 1\r\n"));
        assert!(
            text.starts_with("GET /client/hubs/a?access_token=T&x=1 HTTP/1.1\r\nHost: h:81\r\n")
        );
        assert!(text.contains("\r\nSec-WebSocket-Protocol: p\r\n"));
        assert!(text.ends_with("\r\n\r\n"));
        assert!(!format!("{t:?}").contains("access_token"));
    }

    #[test]
    fn a_refusal_shows_status_and_body_but_no_secret() {
        let t = target("ws://h/client/hubs/a?access_token=SECRET", None);
        let mut headers = [httparse::EMPTY_HEADER; 8];
        let mut r = httparse::Response::new(&mut headers);
        let head = b"HTTP/1.1 429 Slow down\r\nRetry-After: 7\r\n\r\n";
        assert!(r.parse(head).expect("http").is_complete());
        let e = Refusal::read(&r).into_error(&t, b" no SECRET for you ");
        assert_eq!(e.http_status(), Some(429));
        assert_eq!(e.retry_after(), Some(Duration::from_secs(7)));
        assert!(e.to_string().ends_with("(it says: no *** for you)"), "{e}");
    }

    #[test]
    fn the_granted_subprotocol_must_be_the_one_asked_for() {
        assert!(check_subprotocol(Some("A"), Some("a")).is_ok());
        assert!(check_subprotocol(None, None).is_ok());
        for (granted, asked) in [(None, Some("a")), (Some("b"), Some("a")), (Some("a"), None)] {
            let e = check_subprotocol(granted, asked).expect_err("must differ");
            assert_eq!(e.kind(), ErrorKind::Subprotocol);
        }
    }
}
