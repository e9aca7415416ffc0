//! What has arrived while the event queue has no room, in arrival order.

use std::collections::VecDeque;

use crate::message::Event;

/// Reading goes on until this many messages are held. A reliable connection never gets there
/// unread: the service ends it at 1000 unacknowledged messages.
pub(crate) const HOLD_MESSAGES: usize = 1000;
/// Or this many bytes of them.
pub(crate) const HOLD_BYTES: usize = 16 << 20;
/// While the client closes the rest of the stream is read up to this many bytes, so that the
/// peer's Close is seen.
const HOLD_BYTES_CLOSING: usize = 64 << 20;

#[derive(Debug)]
pub(super) enum Held {
    Message {
        event: Event,
        id: Option<u64>,
        size: usize,
    },
    /// A numbered frame that is not delivered but counts for the service.
    Skipped {
        id: u64,
        size: usize,
    },
    /// A lifecycle event keeps its place behind the messages that came before it.
    Event(Event),
}

#[derive(Debug, Default)]
pub(super) struct Hold {
    items: VecDeque<Held>,
    messages: usize,
    bytes: usize,
}

impl Held {
    /// Messages and bytes that count for the bounds.
    fn weight(&self) -> (usize, usize) {
        match self {
            Self::Message { size, .. } | Self::Skipped { size, .. } => (1, *size),
            Self::Event(_) => (0, 0),
        }
    }
}

impl Hold {
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn push(&mut self, item: Held) {
        let (messages, bytes) = item.weight();
        self.messages += messages;
        self.bytes += bytes;
        self.items.push_back(item);
    }

    pub(super) fn front(&self) -> Option<&Held> {
        self.items.front()
    }

    pub(super) fn pop(&mut self) -> Option<Held> {
        let item = self.items.pop_front()?;
        let (messages, bytes) = item.weight();
        self.messages -= messages;
        self.bytes -= bytes;
        if self.items.is_empty() {
            // A burst may have made it large.
            self.items = VecDeque::new();
        }
        Some(item)
    }

    /// Drops what the service sends again after a recovery: all that has a sequence id. Returns
    /// how many messages that were.
    pub(super) fn drop_numbered(&mut self) -> u64 {
        let items = std::mem::take(self).items;
        let mut dropped = 0;
        for item in items {
            match item {
                Held::Message { id: Some(_), .. } => dropped += 1,
                Held::Skipped { .. } => {}
                other => self.push(other),
            }
        }
        dropped
    }

    /// Whether more may be read from the connection.
    pub(super) fn has_room(&self, closing: bool) -> bool {
        match closing {
            false => self.messages < HOLD_MESSAGES && self.bytes < HOLD_BYTES,
            true => self.bytes < HOLD_BYTES_CLOSING,
        }
    }

    #[cfg(test)]
    pub(super) fn weight(&self) -> (usize, usize) {
        (self.messages, self.bytes)
    }

    /// So full that what becomes of the connection may be due to it: the service's own limits are
    /// near, or acks are no longer read.
    pub(super) fn is_nearly_full(&self) -> bool {
        self.messages >= HOLD_MESSAGES / 4 * 3 || self.bytes >= HOLD_BYTES / 4 * 3
    }
}
