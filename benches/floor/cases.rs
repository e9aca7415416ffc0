//! What is measured, and what is expected of it.

use std::fmt;
use std::time::Duration;

use webpubsub::Protocol;

use super::support::Transport;
use super::support::peer::Peer;
use super::{floor, ours};

/// Calls in flight when they are pipelined.
pub(crate) const WINDOW: usize = 256;
/// Messages handed over at once.
pub(crate) const BATCH: usize = 32;
/// The size that the targets are about.
const USUAL: usize = 256;
const SIZES: [usize; 4] = [16, USUAL, 4096, 65_536];

#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    pub(crate) fn holds(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(limit) => ratio <= limit,
            Self::AtLeast(limit) => ratio >= limit,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "<={limit:.2}"),
            Self::AtLeast(limit) => write!(f, ">={limit:.2}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    RoundTrip,
    Pipelined {
        batch: usize,
    },
    Fire {
        batch: usize,
    },
    Receive {
        flood: &'static str,
    },
    /// The same, discarded behind the decoder: what the hand-over costs is the difference.
    ReceiveOnReader,
    FourCallers,
    SendWhileReceiving,
}

#[derive(Debug)]
pub(crate) struct Case {
    kind: Kind,
    size: usize,
    pub(crate) unit: &'static str,
}

pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |kind, size, unit| cases.push(Case { kind, size, unit });
    add(Kind::RoundTrip, USUAL, "us");
    for batch in [1, BATCH] {
        SIZES.iter().for_each(|size| add(Kind::Pipelined { batch }, *size, "msg/s"));
    }
    for batch in [1, BATCH] {
        SIZES.iter().for_each(|size| add(Kind::Fire { batch }, *size, "msg/s"));
    }
    for flood in ["plain", "reliable"] {
        SIZES.iter().for_each(|size| add(Kind::Receive { flood }, *size, "msg/s"));
    }
    add(Kind::ReceiveOnReader, USUAL, "msg/s");
    add(Kind::FourCallers, USUAL, "msg/s");
    add(Kind::SendWhileReceiving, USUAL, "us");
    cases
}

impl Case {
    pub(crate) fn names(&self) -> Vec<String> {
        let batch = |batch| if batch == 1 { "one".into() } else { format!("batch{batch}") };
        let size = match self.size {
            n if n >= 1024 => format!("{}KiB", n / 1024),
            n => format!("{n}B"),
        };
        match self.kind {
            Kind::RoundTrip => vec!["ack_rtt_p50".into(), "ack_rtt_p99".into()],
            Kind::Pipelined { batch: n } => vec![format!("pipelined_{}_{size}", batch(n))],
            Kind::Fire { batch: n } => vec![format!("fire_{}_{size}", batch(n))],
            Kind::Receive { flood } => vec![format!("receive_{flood}_{size}")],
            Kind::ReceiveOnReader => vec![format!("receive_on_reader_{size}")],
            Kind::FourCallers => vec![format!("four_callers_{size}")],
            Kind::SendWhileReceiving => vec!["send_p99_while_receiving".into()],
        }
    }

    /// Of the `i`th name.
    pub(crate) fn target(&self, i: usize, transport: Transport) -> Option<Target> {
        if self.size != USUAL || i > 0 {
            return None;
        }
        Some(match (self.kind, transport) {
            (Kind::RoundTrip, Transport::Ws) => Target::AtMost(1.35),
            (Kind::RoundTrip, Transport::Wss) => Target::AtMost(1.30),
            (Kind::Pipelined { batch: 1 }, _) => Target::AtLeast(0.80),
            (Kind::Pipelined { .. }, _) => Target::AtLeast(0.55),
            (Kind::Fire { batch: 1 }, _) => Target::AtLeast(0.85),
            (Kind::Fire { .. } | Kind::ReceiveOnReader, _) => Target::AtLeast(0.90),
            (Kind::Receive { .. }, _) => Target::AtLeast(0.35),
            (Kind::FourCallers, _) => Target::AtLeast(3.0),
            (Kind::SendWhileReceiving, _) => return None,
        })
    }

    /// What the floor reached on the machine on which the targets were set.
    pub(crate) fn reference(&self, name: &str, transport: &str) -> Option<f64> {
        match (name, transport) {
            ("ack_rtt_p50", "ws") => Some(14.9),
            ("ack_rtt_p50", "wss") => Some(20.4),
            ("pipelined_one_256B", "ws") => Some(356e3),
            ("pipelined_batch32_256B", "ws") => Some(1674e3),
            ("fire_one_256B", "ws") => Some(450e3),
            ("fire_batch32_256B", "ws") => Some(2634e3),
            ("receive_plain_256B", "ws") => Some(2.7e6),
            _ => None,
        }
    }

    /// One value for each name.
    pub(crate) fn floor(&self, peer: &Peer, length: Duration) -> Vec<f64> {
        match self.kind {
            Kind::RoundTrip => floor::round_trip(peer, self.size, length),
            Kind::Pipelined { batch } => vec![floor::pipelined(peer, self.size, batch, length)],
            Kind::Fire { batch } => vec![floor::fire(peer, self.size, batch, length)],
            Kind::Receive { flood } => vec![floor::receive(peer, flood, self.size, length)],
            Kind::ReceiveOnReader => vec![floor::receive(peer, "plain", self.size, length)],
            // Here the floor is our own single caller.
            Kind::FourCallers => vec![ours::callers(peer, 1, self.size, length)],
            Kind::SendWhileReceiving => {
                vec![floor::send_while_receiving(peer, self.size, length)]
            }
        }
    }

    pub(crate) fn ours(&self, peer: &Peer, length: Duration) -> Vec<f64> {
        match self.kind {
            Kind::RoundTrip => ours::round_trip(peer, self.size, length),
            Kind::Pipelined { batch: 1 } => vec![ours::pipelined(peer, self.size, length)],
            Kind::Pipelined { .. } => vec![ours::pipelined_batches(peer, self.size, length)],
            Kind::Fire { batch: 1 } => vec![ours::callers(peer, 1, self.size, length)],
            Kind::Fire { .. } => vec![ours::fire_batches(peer, self.size, length)],
            Kind::Receive { flood } => vec![ours::receive(peer, flood, self.size, length)],
            Kind::ReceiveOnReader => vec![ours::receive_on_reader(peer, self.size, length)],
            Kind::FourCallers => vec![ours::callers(peer, 4, self.size, length)],
            Kind::SendWhileReceiving => vec![ours::send_while_receiving(peer, self.size, length)],
        }
    }
}

/// `json` for a flood without numbers.
pub(crate) fn protocol_for(flood: &str) -> Protocol {
    if flood == "reliable" { Protocol::ReliableJson } else { Protocol::Json }
}
