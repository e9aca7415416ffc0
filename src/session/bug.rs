//! Deliberate bugs, by which the simulation shows that it would find them. Only tests can switch one
//! on, for their own thread; in every other build [`Bug::is_on`] is `false` for the compiler.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// After a loss the largest id seen stays, although what was held is gone.
    NoRewind,
    /// Sequence acks leave on a recovery link that is not proved.
    AckUnproved,
    /// What is held counts as handed to the queue.
    AckHeld,
    /// A repeated message is delivered again.
    DeliverDuplicates,
    /// Reading goes on however much is held.
    UnboundedHold,
    /// A recovered link gets the unacked calls in the wrong order.
    ResendBackwards,
    /// A call that times out while it waits for its ack tells nobody.
    ForgetOutcome,
    /// A timeout says of a written call that it was not delivered.
    DenyDelivery,
    /// Waiting calls are admitted before overdue ones have failed.
    AdmitOverdue,
    /// The ack that comes last decides about a group.
    JoinByAckOrder,
    /// HTTP 4xx ends a recovery.
    GiveUpOn4xx,
    /// A link that is known to be dead counts as open.
    WriteOnDeadLink,
}

impl Bug {
    #[cfg(not(test))]
    #[inline(always)]
    pub(super) const fn is_on(self) -> bool {
        false
    }
}

#[cfg(test)]
mod switch {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static ON: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    impl Bug {
        pub(crate) const ALL: [Self; 12] = [
            Self::NoRewind,
            Self::AckUnproved,
            Self::AckHeld,
            Self::DeliverDuplicates,
            Self::UnboundedHold,
            Self::ResendBackwards,
            Self::ForgetOutcome,
            Self::DenyDelivery,
            Self::AdmitOverdue,
            Self::JoinByAckOrder,
            Self::GiveUpOn4xx,
            Self::WriteOnDeadLink,
        ];

        pub(in crate::session) fn is_on(self) -> bool {
            ON.get() == Some(self)
        }

        /// Switches a bug on for this thread, or all off.
        pub(crate) fn switch(bug: Option<Self>) {
            ON.set(bug);
        }
    }
}
