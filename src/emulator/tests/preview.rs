//! Invocations, streams and group state, in virtual time.

mod group_state;
mod invocations;
mod streams;

use std::time::Duration;

use serde_json::{Value, json};

use crate::emulator::virtual_service::{Out, Started, Transport, VirtualService};
use crate::protocol::{Frame, Protocol};

const T0: Duration = Duration::ZERO;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// One client and its end of the transport.
struct Peer {
    on: Transport,
    id: String,
    token: String,
}

impl Peer {
    fn new(service: &mut VirtualService, protocol: Protocol) -> Self {
        Self::of(service.connect(Some(protocol), Some("u")))
    }

    fn of(on: Transport) -> Self {
        let connected = messages(&on).remove(0);
        let field = |name: &str| connected[name].as_str().unwrap_or_default().to_owned();
        Self { on, id: field("connectionId"), token: field("reconnectionToken") }
    }

    /// A member of the group `g`.
    fn member(service: &mut VirtualService, protocol: Protocol) -> Self {
        let peer = Self::new(service, protocol);
        peer.join(service, "g");
        peer
    }

    fn join(&self, service: &mut VirtualService, group: &str) {
        self.up(service, T0, json!({"type": "joinGroup", "group": group}));
    }

    /// Sends a message. Returns what then is with the event handler.
    fn up(&self, service: &mut VirtualService, now: Duration, message: Value) -> Started {
        service.receive(now, &self.on, Frame::Text(message.to_string().into()))
    }

    fn recover(&mut self, service: &mut VirtualService, now: Duration) {
        self.on = service.recover(now, &self.id, &self.token);
        assert!(self.on.connection_id().is_some());
    }

    /// What has come since the last look.
    fn got(&self) -> Vec<Value> {
        messages(&self.on)
    }
}

fn messages(on: &Transport) -> Vec<Value> {
    let json = |out| match out {
        Out::Frame(Frame::Text(text)) => serde_json::from_str(&text).ok(),
        other => panic!("{other:?}"),
    };
    on.take(usize::MAX).into_iter().filter_map(json).collect()
}
