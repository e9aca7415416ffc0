//! What comes from a client's transport, in order: decoding, and holding it behind a running event
//! handler.
//!
//! While the event handler works on an event of a session, everything else of that session waits
//! in arrival order, as at the service: pings, repeats of the same ack id, a Close, the end of the
//! transport. That the event handler runs is state of the session, not a blocked thread, so it
//! holds on a recovered transport too.
//!
//! Invariants: what is held came on the session's current transport (a session that gets another
//! one, or loses it, forgets what is held, as a socket forgets what nobody read); at most one event
//! of a session is with the handler; its answer goes the way of the session's current transport.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::events::{EmulatedEvent, EventAnswer};
use super::receive::From;
use super::server_session::{Running, ServerSession};
use super::service::Service;
use crate::message::Payload;
use crate::protocol::{Frame, Protocol, SendContent, Upstream, decode_upstream};

/// An event for the event handler, which runs under no lock; then [`Service::answer`] is called.
pub(crate) type Started = Option<Box<EmulatedEvent>>;

/// One thing that came on a transport, decoded.
#[derive(Debug)]
pub(super) struct Inbound {
    what: What,
    /// Bytes of the frame.
    size: usize,
}

#[derive(Debug)]
enum What {
    Message(Upstream<'static>),
    /// A frame of a simple client.
    Raw(Frame),
    /// The frame broke a rule, which ends connection and session.
    Violation {
        code: u16,
        reason: &'static str,
        /// What the Close does not say: for the log.
        why: Cow<'static, str>,
    },
    Close {
        code: Option<u16>,
    },
    /// The transport ended, or nothing more is read from it.
    End,
}

impl Inbound {
    /// Decodes a data frame. This is the costly part, so it is done without the service's lock.
    pub(super) fn data(protocol: Option<Protocol>, frame: Frame, limit: usize) -> Self {
        let size = frame.as_bytes().len();
        if size > limit {
            return Self::violation(protocol, 1009);
        }
        let what = match protocol {
            None => What::Raw(frame),
            Some(protocol) => match decode_upstream(protocol, &frame) {
                Ok(message) => What::Message(message),
                Err(malformed) => {
                    let (code, reason) = complaint(protocol, malformed.wrong_frame_kind);
                    What::Violation { code, reason, why: malformed.why }
                }
            },
        };
        Self { what, size }
    }

    /// The WebSocket layer refused what came, with this code.
    pub(super) fn violation(protocol: Option<Protocol>, code: u16) -> Self {
        let reason = match (code, protocol) {
            (1009, _) => "The client message is too large.",
            (1007, Some(protocol)) => complaint(protocol, false).1,
            _ => "The client frame is invalid.",
        };
        Self { what: What::Violation { code, reason, why: reason.into() }, size: 0 }
    }

    /// A Close frame of the client.
    pub(super) fn close(code: Option<u16>) -> Self {
        Self { what: What::Close { code }, size: 0 }
    }

    /// The end of the transport without a Close frame.
    pub(super) fn end() -> Self {
        Self { what: What::End, size: 0 }
    }
}

/// What came while the event handler was running.
#[derive(Debug, Default)]
pub(super) struct Held {
    inbound: VecDeque<Inbound>,
    bytes: usize,
}

impl Held {
    /// At the service the rest stays in the socket of the blocked link, so a client gets rid of
    /// about as much as the systems' socket buffers take. From here on the service asks not to read,
    /// and the rest does the same here; without a bound a client that does not wait for acks could
    /// fill the memory while a handler is slow. All of it is carried out at once when the handler is
    /// done, and each message brings two frames at most, an echo and an ack: these must fit into the
    /// outbound queue.
    const MESSAGES: usize = 400;
    const BYTES: usize = 1 << 20;

    fn push(&mut self, inbound: Inbound) {
        self.bytes += inbound.size;
        self.inbound.push_back(inbound);
    }

    fn pop(&mut self) -> Option<Inbound> {
        let inbound = self.inbound.pop_front()?;
        self.bytes -= inbound.size;
        Some(inbound)
    }

    fn is_full(&self) -> bool {
        self.inbound.len() >= Self::MESSAGES || self.bytes >= Self::BYTES
    }
}

impl ServerSession {
    /// The transport is the session's no longer, or the session ends: what is held is forgotten,
    /// and its reader goes on, which may have to see the client's Close.
    pub(super) fn forget_held(&mut self) {
        self.held = Held::default();
        if let Some(outbox) = &self.outbox {
            outbox.pause_input(false);
        }
    }

    /// What faults hold back goes with the transport.
    pub(super) fn forget_held_answers(&mut self) {
        self.held_acks.clear();
        self.held_responses.clear();
    }
}

impl Service {
    /// Takes what came on a transport; nothing happens if the session has another one by now.
    pub(super) fn receive(
        &mut self,
        now: Duration,
        id: &Arc<str>,
        link: u64,
        inbound: Inbound,
    ) -> Started {
        let session = self.session_on(id, link)?;
        if session.running.is_some() {
            session.held.push(inbound);
            if let (true, Some(outbox)) = (session.held.is_full(), &session.outbox) {
                outbox.pause_input(true);
            }
            return None;
        }
        self.carry_out(From { id, now }, inbound.what)
    }

    /// The event handler's answer. What was held behind it is carried out, up to the next event.
    ///
    /// The session may have a new transport by now, which gets message and ack, or none: the
    /// message then goes the way of all messages, the ack is lost.
    pub(super) fn answer(&mut self, now: Duration, id: &str, answer: EventAnswer) -> Started {
        let session = self.sessions.get_mut(id)?;
        let running = session.running.take()?;
        let id = Arc::clone(&session.id);
        let from = From { id: &id, now };
        match running {
            Running::Event { ack_id } => self.settle_event(from, ack_id, answer),
            Running::Invocation { id, link } => self.settle_invocation(from, id, link, answer),
        }
        self.after_message(from);
        let started = self.carry_out_held(from);
        // The thread that brings the answer need not be the one that reads for this transport.
        if let Some(outbox) = self.sessions.get(&id).and_then(|s| s.outbox.clone()) {
            self.touch_outbox(&outbox);
        }
        started
    }

    fn carry_out_held(&mut self, from: From<'_>) -> Started {
        loop {
            // A cut on the way forgets what is held, the end of the session all of it.
            let session = self.sessions.get_mut(from.id)?;
            let next = session.held.pop();
            if let (false, Some(outbox)) = (session.held.is_full(), &session.outbox) {
                outbox.pause_input(false);
            }
            let started = self.carry_out(from, next?.what);
            if started.is_some() {
                return started;
            }
        }
    }

    fn carry_out(&mut self, from: From<'_>, what: What) -> Started {
        let started = match what {
            What::Message(message) if self.refuses_data(from, &message) => {
                let (code, reason) = complaint(Protocol::Json, false);
                let why = "the data type protobuf in JSON".into();
                return self.carry_out(from, What::Violation { code, reason, why });
            }
            What::Message(message) => self.message(from, message),
            What::Raw(frame) => self.raw(from, frame),
            What::Violation { code, reason, why } => {
                self.counters.count().malformed += 1;
                self.notes.info(|| format!("malformed: {}, {why}", from.id));
                self.close(from.id, code, reason);
                return None;
            }
            What::Close { code } => {
                let code_text = || code.map_or("without a code".into(), |code| code.to_string());
                self.notes.info(|| format!("closed by the client: {}, {}", from.id, code_text()));
                // A code that nobody may send counts as none here, and it ends the session too: it
                // breaks a rule.
                self.transport_ended(from, matches!(code, None | Some(1000)));
                return None;
            }
            What::End => {
                self.transport_ended(from, false);
                return None;
            }
        };
        // A message that went to the event handler counts when it is answered.
        if started.is_none() {
            self.after_message(from);
        }
        started
    }

    /// Protobuf data in a JSON message, if that is to be refused.
    fn refuses_data(&self, from: From<'_>, message: &Upstream<'_>) -> bool {
        if !self.settings.refuse_protobuf_over_json {
            return false;
        }
        let data = match message {
            Upstream::Event(event) => &event.payload,
            Upstream::SendToGroup(send) => match &send.content {
                SendContent::Payload(payload) => payload,
                SendContent::Stream { .. } => return false,
            },
            Upstream::Invoke(invoke) => match &invoke.payload {
                Some(payload) => payload,
                None => return false,
            },
            Upstream::StreamData { payload: Some(payload), .. } => payload,
            _ => return false,
        };
        matches!(data, Payload::Protobuf(_))
            && self.protocol_of(from.id).is_some_and(Protocol::is_text)
    }

    /// A Close of 1000 or without a code is the client's goodbye. After anything else a reliable
    /// session waits for recovery.
    fn transport_ended(&mut self, from: From<'_>, goodbye: bool) {
        if goodbye {
            self.end_session(from.id, "The client closed the connection.");
        } else {
            self.detach(from.now, from.id);
        }
    }
}

/// Code and reason for input that breaks a rule.
fn complaint(protocol: Protocol, wrong_frame_kind: bool) -> (u16, &'static str) {
    let (requires, is_not_valid) = match protocol {
        Protocol::Json | Protocol::ReliableJson => (
            "The JSON subprotocol requires text messages.",
            "The client message is not a valid JSON protocol message.",
        ),
        // Of the reliable one too: that is how the service's own emulator words it.
        #[cfg(feature = "protobuf")]
        Protocol::Protobuf | Protocol::ReliableProtobuf => (
            "The protobuf.webpubsub.azure.v1 subprotocol requires binary messages.",
            "The client message is not a valid protobuf.webpubsub.azure.v1 protocol message.",
        ),
    };
    if wrong_frame_kind { (1003, requires) } else { (1007, is_not_valid) }
}
