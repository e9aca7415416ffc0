//! The floor's client: tungstenite on a blocking socket, one thread, nothing around it.

use std::borrow::Cow;
use std::io::{self, Read, Write};
use std::net::TcpStream;

use native_tls::TlsStream;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, Utf8Bytes, WebSocket};
use webpubsub::Protocol;

use super::Transport;
use super::peer::Target;

/// The client's own default.
const READ_BUFFER: usize = 8 * 1024;

/// TCP or TLS over it.
pub(crate) enum Tunnel {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Tunnel {
    pub(crate) fn open(peer: &Target) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", peer.port)).expect("connect");
        socket.set_nodelay(true).expect("no delay");
        if peer.transport == Transport::Ws {
            return Self::Plain(socket);
        }
        Self::Tls(Box::new(peer.connector().connect("127.0.0.1", socket).expect("TLS")))
    }
}

impl Read for Tunnel {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(s) => s.read(buf),
            Self::Tls(s) => s.read(buf),
        }
    }
}

impl Write for Tunnel {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(s) => s.write(buf),
            Self::Tls(s) => s.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(s) => s.flush(),
            Self::Tls(s) => s.flush(),
        }
    }
}

/// An upgraded connection.
pub(crate) struct Raw {
    pub(crate) ws: WebSocket<Tunnel>,
}

impl Raw {
    pub(crate) fn connect(peer: &Target, protocol: Protocol) -> Self {
        let mut request = peer.url().into_client_request().expect("a request");
        let name = protocol.name().parse().expect("a header value");
        request.headers_mut().insert("Sec-WebSocket-Protocol", name);
        let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER);
        let tunnel = Tunnel::open(peer);
        let upgraded = tungstenite::client::client_with_config(request, tunnel, Some(config));
        let mut raw = Self { ws: upgraded.map_err(|e| e.to_string()).expect("the upgrade").0 };
        raw.read(|message| assert_eq!(message.event, "connected"));
        raw
    }

    /// Into tungstenite's buffer.
    pub(crate) fn write(&mut self, group: &str, ack_id: Option<u64>, data: &str) {
        self.ws.write(encode(group, ack_id, data)).expect("write");
    }

    pub(crate) fn flush(&mut self) {
        self.ws.flush().expect("flush");
    }

    pub(crate) fn send(&mut self, group: &str, ack_id: Option<u64>, data: &str) {
        self.ws.send(encode(group, ack_id, data)).expect("send");
    }

    pub(crate) fn sequence_ack(&mut self, sequence_id: u64) {
        let text = serde_json::to_string(&SequenceAck { kind: "sequenceAck", sequence_id });
        self.ws.send(Message::text(text.expect("JSON"))).expect("send");
    }

    /// The next message, decoded.
    pub(crate) fn read<R>(&mut self, look: impl FnOnce(&Flat<'_>) -> R) -> R {
        let text: Utf8Bytes = loop {
            match self.ws.read().expect("read") {
                Message::Text(text) => break text,
                Message::Close(_) => panic!("the peer closed"),
                _ => {}
            }
        };
        look(&serde_json::from_str(&text).expect("JSON"))
    }

    pub(crate) fn read_ack(&mut self) -> u64 {
        loop {
            if let Some(id) = self.read(|m| m.success.and(m.ack_id)) {
                return id;
            }
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Publish<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    group: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ack_id: Option<u64>,
    data_type: &'static str,
    data: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SequenceAck {
    #[serde(rename = "type")]
    kind: &'static str,
    sequence_id: u64,
}

fn encode(group: &str, ack_id: Option<u64>, data: &str) -> Message {
    Message::text(publication(group, ack_id, data))
}

pub(crate) fn publication(group: &str, ack_id: Option<u64>, data: &str) -> String {
    let message = Publish { kind: "sendToGroup", group, ack_id, data_type: "text", data };
    serde_json::to_string(&message).expect("JSON")
}

/// What comes, without a copy.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Flat<'a> {
    #[serde(borrow, rename = "type")]
    pub(crate) kind: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) event: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) from: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) group: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) from_user_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) data_type: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) data: Option<&'a RawValue>,
    pub(crate) sequence_id: Option<u64>,
    pub(crate) ack_id: Option<u64>,
    pub(crate) success: Option<bool>,
}
