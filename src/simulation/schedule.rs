//! What happens in a run, as plain data that is made before it.

use std::fmt;

use crate::client::Overflow;
use crate::emulator::virtual_service::Fault;
use crate::protocol::Protocol;

/// A run: who takes part, and what happens when (in milliseconds).
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    pub(super) setup: Setup,
    pub(super) actions: Vec<(u32, Action)>,
}

#[derive(Debug, Clone)]
pub(super) struct Setup {
    /// For the jitter of the sessions and the ids of the hub.
    pub(super) seed: u64,
    pub(super) connected_after_recovery: bool,
    /// A failed event costs the connection.
    pub(super) failed_event_closes: bool,
    /// One way, in microseconds.
    pub(super) latency: u32,
    /// Nothing is scheduled that could cost a connection, so none may be lost.
    pub(super) calm: bool,
    pub(super) clients: Vec<ClientSetup>,
}

#[derive(Debug, Clone)]
pub(super) struct ClientSetup {
    pub(super) protocol: Protocol,
    pub(super) soft: usize,
    pub(super) hard: usize,
    pub(super) overflow: Overflow,
    pub(super) auto_reconnect: bool,
    pub(super) rejoin: bool,
    pub(super) resend: bool,
    pub(super) url_provider: bool,
    pub(super) max_in_flight: usize,
    /// Interval and limit, in milliseconds.
    pub(super) keep_alive: Option<(u32, u32)>,
    pub(super) call_timeout: u32,
    /// The out-buffer's high-water mark.
    pub(super) high_water: usize,
    /// What the systems hold of one direction of a link.
    pub(super) socket: usize,
    /// In one instant callers come before the reader.
    pub(super) callers_first: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Action {
    /// A program makes `count` equal calls that may take `within` milliseconds. `waits`: a thread
    /// waits for each outcome and takes the call back itself.
    Call {
        client: usize,
        what: What,
        count: u16,
        within: u32,
        waits: bool,
    },
    /// A program subscribes to a group. `waits`: it wants to know the outcome within so many
    /// milliseconds.
    Subscribe {
        client: usize,
        group: u8,
        within: u32,
        waits: bool,
        overflow: Overflow,
    },
    /// It ends the oldest of its subscriptions, or the newest.
    Unsubscribe {
        client: usize,
        oldest: bool,
    },
    /// The app server publishes.
    Publish {
        group: u8,
        count: u16,
        size: u16,
    },
    Consumer {
        client: usize,
        mode: Consume,
    },
    /// The reader thread gets no time for so many milliseconds.
    Stall {
        client: usize,
        ms: u32,
    },
    Link {
        client: usize,
        fault: LinkFault,
    },
    /// What becomes of the next dial that nothing else is planned for.
    Dial {
        client: usize,
        fate: DialFate,
    },
    Hub(Fault),
    /// The app server closes the connection.
    AppCloses {
        client: usize,
    },
    /// The program closes the client.
    Close {
        client: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum What {
    Join(u8),
    Leave(u8),
    /// The join of a subscription, which is made by an action of its own.
    Subscribe(u8),
    Send {
        group: u8,
        size: u16,
    },
    Fire {
        group: u8,
        size: u16,
    },
    /// The event handler works for so many milliseconds.
    Event {
        handler: u32,
        answer: Answer,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Nothing,
    Message,
    Failure,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Consume {
    /// Takes everything at once.
    Greedy,
    Paused,
    /// Takes that many events every so many milliseconds.
    Slow {
        events: u16,
        every: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkFault {
    /// The service's side ends the stream behind all that was sent.
    Fin,
    /// What is under way is gone.
    Reset,
    /// From now on nothing arrives in either direction.
    BlackHole,
    /// Both directions become this slow; large frames arrive in pieces.
    Slow {
        bytes_per_ms: u32,
    },
    Close {
        code: u16,
    },
    /// A Close without a code. The service learns from the client's answer that the link has ended.
    CloseWithoutCode,
    /// The Close frame is lost by a reset right behind it.
    LostClose {
        code: u16,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DialFate {
    Fails,
    Hangs,
    Refused {
        status: u16,
        retry_after: Option<u16>,
    },
    /// The upgrade succeeds, then nothing comes.
    Mute,
}

impl fmt::Display for Schedule {
    /// As it can be put into a test.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "setup: {:?}", self.setup)?;
        writeln!(f, "actions: vec![")?;
        for action in &self.actions {
            writeln!(f, "    {action:?},")?;
        }
        write!(f, "]")
    }
}
