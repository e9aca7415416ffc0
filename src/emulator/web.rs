//! The plain HTTP requests that the emulator answers: `/negotiate`, as an app server would, and
//! `/api/`, to say that there is no REST API.

use std::time::{Duration, Instant};

use log::Level;

use super::http::Request;
use super::notes;
use super::server::Shared;
use crate::auth::ClientAccess;
use crate::error::Result;
use crate::transport::Wire;

/// Writing the answer may take this long.
const ANSWER: Duration = Duration::from_secs(30);
/// The rest of the request is read away for this long at most.
const LINGER: Duration = Duration::from_secs(1);
const NO_REST: &str = "The emulator has no REST API. Call the methods of \
    webpubsub::emulator::Emulator, or use the commands of `wps emulator` (`help` lists them).";

/// What `/negotiate` hands out.
#[derive(Debug)]
pub(super) struct Negotiate {
    pub(super) hub: String,
    pub(super) access: ClientAccess,
}

/// An HTTP answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    status: &'static str,
    content_type: &'static str,
    body: String,
}

impl Answer {
    fn text(status: &'static str, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }
}

/// The answer, if this is not a request of a WebSocket client.
pub(super) fn answer(shared: &Shared, request: &Request) -> Option<Answer> {
    let path = request.path.as_str();
    if path == "/api" || path.starts_with("/api/") {
        let (method, path) = (&request.method, notes::path(path));
        notes::write(Level::Info, format_args!("refused: 501 {method:?} {path:?}: {NO_REST}"));
        // Not 404, which the service's server libraries take for "no such connection" or "no such user".
        return Some(Answer::text("501 Not Implemented", NO_REST));
    }
    let negotiate = shared.negotiate.as_ref().filter(|_| path == "/negotiate")?;
    Some(match request.method.as_str() {
        "GET" | "POST" => negotiate.answer(shared, request),
        // A browser asks before it sends a header or a content type of the page's choice.
        "OPTIONS" => Answer::text("204 No Content", ""),
        _ => Answer::text("405 Method Not Allowed", "GET or POST is required."),
    })
}

impl Negotiate {
    fn answer(&self, shared: &Shared, request: &Request) -> Answer {
        match self.url(shared, request) {
            Ok(url) => Answer {
                status: "200 OK",
                content_type: "application/json",
                body: serde_json::json!({ "url": url }).to_string(),
            },
            Err(e) => {
                let text = notes::shortened(&e.to_string());
                notes::write(Level::Info, format_args!("refused: 400 \"/negotiate\": {text}"));
                Answer::text("400 Bad Request", e.to_string())
            }
        }
    }

    fn url(&self, shared: &Shared, request: &Request) -> Result<String> {
        let hub = request.parameter("hub").unwrap_or(&self.hub);
        let mut access = self.access.clone();
        if let Some(user) = request.parameter("user") {
            access = access.user_id(user);
        }
        let url = shared.url_for(hub, &access)?;
        notes::write(Level::Info, format_args!("negotiate: a URL for hub {hub:?}"));
        Ok(url)
    }
}

/// Sends the answer, and reads away what is left of the request: closing a socket with unread bytes
/// would reset the connection, and the answer under way with it.
pub(super) fn send(wire: &mut Wire, answer: &Answer) {
    let Answer { status, content_type, body } = answer;
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nAccess-Control-Allow-Origin: *\r\n\
         Access-Control-Allow-Methods: GET, POST, OPTIONS\r\nAccess-Control-Allow-Headers: *\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    if wire.write_all(head.as_bytes(), Instant::now() + ANSWER).is_err() {
        return;
    }
    let until = Instant::now() + LINGER;
    let mut buffer = [0; 4096];
    while matches!(wire.read_some(&mut buffer, until), Ok(n) if n > 0) {}
}
