//! Many calls at once: registered, sent and taken back under one lock.

use std::sync::Arc;
use std::time::Instant;

use super::pending::{PendingAck, Waiter};
use super::request::sealed::PendingCall;
use super::shared::{Call, Shared};
use crate::error::{Error, Result};
use crate::session::{Key, Session};

impl Shared {
    /// Registers a call and sends it if it may go now; its outcome comes to its `PendingAck`. Then as
    /// much is written as the socket takes at once; the client's thread sees to the rest.
    ///
    /// Below the bounds of what is pending nothing waits. At them the call waits for room until its
    /// deadline, or is refused if it is not to wait.
    pub(super) fn start_one<P: PendingCall>(
        self: &Arc<Self>,
        now: Instant,
        call: Call,
        wait: bool,
    ) -> Result<P> {
        let (deadline, size) = (call.deadline, call.frame.as_bytes().len());
        let start = |session: &mut Session<Waiter>, now| match session.refuses(call.key, &call.kind)
        {
            Some(refused) => Err(refused),
            None => Ok(self.register(session, now, call)),
        };
        let (pending, after) = self.with_place(now, deadline, size, wait, start)?;
        self.finish(after, now);
        pending
    }

    /// The same for many, in order. The bounds are looked at once for all of them, which are in
    /// memory already; the first call's deadline limits the wait for room.
    pub(super) fn start<P: PendingCall>(self: &Arc<Self>, calls: Vec<Call>) -> Result<Vec<P>> {
        let Some(deadline) = calls.first().map(|call| call.deadline) else {
            return Ok(Vec::new());
        };
        if let Some(Key::Ack(id)) = repeated(&calls) {
            return Err(Error::invalid(format!(
                "ack id {id} is used twice in one batch; none of it is sent"
            )));
        }
        let start = |session: &mut Session<Waiter>, now| match calls
            .iter()
            .find_map(|call| session.refuses(call.key, &call.kind))
        {
            Some(refused) => Err(refused),
            None => Ok(calls.into_iter().map(|call| self.register(session, now, call)).collect()),
        };
        let now = Instant::now();
        let (pending, after) = self.with_place(now, deadline, 0, true, start)?;
        self.finish(after, now);
        pending
    }

    /// Sends frames that nobody waits for; without a link, or behind waiting calls, they wait. All
    /// of them have the given deadline.
    pub(super) fn fire(
        self: &Arc<Self>,
        now: Instant,
        deadline: Instant,
        calls: impl IntoIterator<Item = Call>,
    ) -> Result<()> {
        let mut sent = false;
        let mut waiting = Vec::new();
        let (taken, after) = self.with_room(now, deadline, |session, now| {
            for call in calls {
                match session.fire(now, call)? {
                    None => sent = true,
                    Some(mut call) => {
                        call.key = Key::Unacked(self.next_id(None));
                        waiting.push(self.register::<PendingAck>(session, now, call));
                    }
                }
            }
            Ok(())
        })?;
        self.finish(after, deadline);
        // The first wait that reaches the deadline takes all of them back, under one lock: the
        // session fails what is overdue before it does anything else.
        let waits = waiting.iter().map(|one| one.wait().map(drop));
        of_batch(sent, waits.chain(taken.err().map(Err)))
    }
}

/// A key that two of the calls have. Generated ids go up, so one look is usually enough.
fn repeated(calls: &[Call]) -> Option<Key> {
    if calls.is_sorted_by(|a, b| a.key < b.key) {
        return None;
    }
    let mut keys: Vec<Key> = calls.iter().map(|call| call.key).collect();
    keys.sort_unstable();
    keys.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

/// One outcome for all: if any of it left, an error says so.
fn of_batch(mut sent: bool, outcomes: impl IntoIterator<Item = Result<()>>) -> Result<()> {
    let mut failed = None;
    for outcome in outcomes {
        match outcome {
            Ok(()) => sent = true,
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    match failed {
        None => Ok(()),
        Some(error) if !sent || error.may_have_been_delivered() => Err(error),
        Some(error) => Err(Error::new(error.kind(), "only a part of the batch was sent")
            .with_facts_of(&error)
            .with_source(error)
            .maybe_delivered(true)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::shared::Events;
    use super::*;
    use crate::error::ErrorKind;
    use crate::protocol::Frame;
    use crate::session::{CallKind, Config, Output};

    /// Frames of one batch.
    const BATCH: usize = 500;

    fn simple() -> Arc<Shared> {
        let config = Config {
            simple: true,
            recoverable: false,
            close_timeout: Duration::ZERO,
            ..Config::default()
        };
        let (shared, _) = Shared::new(None, config, Events::unused()).expect("shared");
        let mut state = shared.lock();
        state.session.start(Instant::now());
        assert!(matches!(state.session.output(), Some(Output::Dial(_))));
        drop(state);
        shared
    }

    fn batch(deadline: Instant) -> Vec<Call> {
        let frame = Frame::Text("x".into());
        let call = || Call::new(Key::Unacked(0), CallKind::Event, frame.clone(), deadline);
        std::iter::repeat_with(call).take(BATCH).collect()
    }

    /// The link comes up now; says how many frames are sent over it.
    fn link_up(shared: &Shared) -> usize {
        let mut state = shared.lock();
        state.session.linked(Instant::now());
        let mut sent = 0;
        let mut completions = Vec::new();
        while let Some(output) = state.session.output() {
            match output {
                Output::Send { .. } => sent += 1,
                Output::Complete { waiter, result } => completions.push((waiter, result)),
                _ => {}
            }
        }
        drop(state);
        completions.into_iter().for_each(|(waiter, result)| waiter.tell(result));
        sent
    }

    #[test]
    fn a_batch_at_its_deadline_is_sent_as_a_whole_or_taken_back_as_a_whole() {
        for trial in 0..40 {
            let shared = simple();
            let now = Instant::now();
            let deadline = now + Duration::from_millis(20);
            let sender = Arc::clone(&shared);
            let thread = std::thread::spawn(move || sender.fire(now, deadline, batch(deadline)));
            // On a busy machine the thread may start late; a batch that waits is what is tested.
            while shared.lock().session.pending() == 0 && !thread.is_finished() {
                std::thread::yield_now();
            }
            // Around the deadline, once on this side and once on that.
            let at = deadline - Duration::from_micros(200) + Duration::from_micros(20) * trial;
            while Instant::now() < at {
                std::hint::spin_loop();
            }
            let sent = link_up(&shared);
            match thread.join().expect("no panic") {
                Ok(()) => assert_eq!(sent, BATCH),
                Err(error) => {
                    assert!(error.is_timeout() && !error.may_have_been_delivered(), "{error:?}");
                    assert_eq!(sent, 0);
                }
            }
            assert_eq!(shared.lock().session.pending(), 0);
        }
    }

    #[test]
    fn a_batch_of_which_a_part_left_says_so() {
        let timeout = || Error::new(ErrorKind::Timeout, "too late");
        assert!(of_batch(true, [Ok(()), Ok(())]).is_ok());
        let error = of_batch(false, [Err(timeout()), Err(timeout())]).expect_err("all failed");
        assert!(!error.may_have_been_delivered());
        for (sent, outcomes) in
            [(true, [Err(timeout()), Err(timeout())]), (false, [Ok(()), Err(timeout())])]
        {
            let told = timeout(); // callers may share an error
            let error = of_batch(sent, outcomes).expect_err("some failed");
            assert!(error.may_have_been_delivered() && error.is_timeout());
            assert!(!told.may_have_been_delivered());
        }
    }
}
