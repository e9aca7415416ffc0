//! The order in which lifecycle events may come.

use super::scenario::name;
use crate::message::Event;

/// The legal order of lifecycle events:
///
/// ```text
/// life    = [ Connected up ] Stopped
/// up      = { JoinFailed } [ Recovering lost | Disconnected over ]
/// lost    = { Recovering | JoinFailed } [ Recovered up | Disconnected over ]
/// over    = { Reconnecting } [ Connected up ]
/// ```
///
/// `Stopped` may cut each of them short, and comes once. `gap_possible` is false in the first
/// `Connected` only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    New,
    Up,
    Lost,
    Over,
    Ended,
}

impl State {
    pub(super) fn check(&mut self, event: &Event) {
        let Some(next) = self.after(event) else { panic!("{} while {self:?}", name(event)) };
        *self = next;
    }

    /// The next state, if the event may come now.
    pub(crate) fn after(self, event: &Event) -> Option<Self> {
        match (self, event) {
            (Self::Ended, _) => None,
            (_, Event::Stopped(_)) => Some(Self::Ended),
            (Self::New, Event::Connected(e)) if !e.gap_possible => Some(Self::Up),
            (Self::Over, Event::Connected(e)) if e.gap_possible => Some(Self::Up),
            (Self::Up | Self::Lost, Event::JoinFailed(_)) => Some(self),
            (Self::Up | Self::Lost, Event::Recovering(_)) => Some(Self::Lost),
            (Self::Lost, Event::Recovered(_)) => Some(Self::Up),
            (Self::Up | Self::Lost, Event::Disconnected(_)) => Some(Self::Over),
            // `New`: a client that connects in the background.
            (Self::New | Self::Over, Event::Reconnecting(_)) => Some(self),
            _ => None,
        }
    }
}
