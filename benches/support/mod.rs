//! What the benches share: the peer in its own process, its wire, a raw client, and numbers.

// Each bench is a crate of its own and uses another part of this.
#![allow(dead_code)]

pub(crate) mod args;
pub(crate) mod numbers;
pub(crate) mod peer;
pub(crate) mod raw;
pub(crate) mod serve;
pub(crate) mod wire;

/// `ws` or `wss`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Ws,
    Wss,
}

impl Transport {
    pub(crate) const ALL: [Self; 2] = [Self::Ws, Self::Wss];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }
}
