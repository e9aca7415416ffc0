//! The laboratory: what can be made to go wrong, while clients are connected.
//!
//! Two places look at faults. [`Plan`] is part of the service: faults that decide about acks, replay
//! and pings, without a socket. [`Switches`] are looked at by the connections' threads: stalls,
//! frozen sockets, refused upgrades.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::outbox::{Fate, Latency, lock};
use super::preview_faults::PreviewPlan;
use super::server::Shared;
use super::slow_write::Pace;
use crate::protocol::Frame;

/// A step of a client's dialing at which the emulator can stall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StallAt {
    /// TCP is connected (the operating system does that), then nothing.
    Accept,
    /// No answer to the TLS handshake; without TLS the same as [`StallAt::Accept`].
    Tls,
    /// The upgrade request is read and not answered.
    Upgrade,
    /// The upgrade succeeds, then nothing: no `connected`, no reading.
    Connected,
}

/// Faults inside the service; counts go down with each use.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) hold_acks: bool,
    pub(super) duplicate_replay: bool,
    pub(super) silent_pings: bool,
    pub(super) lose_close_frames: bool,
    pub(super) lose_acks: u64,
    pub(super) drop_before_ack: u64,
    pub(super) drop_after_ack: u64,
    pub(super) drop_before_execution: u64,
    pub(super) refuse_recovery: u64,
    pub(super) frames_to_drop: Option<u64>,
    pub(super) preview: PreviewPlan,
}

pub(super) fn take(count: &mut u64) -> bool {
    let some = *count > 0;
    *count -= u64::from(some);
    some
}

impl Plan {
    pub(super) fn take_lost_ack(&mut self) -> bool {
        take(&mut self.lose_acks)
    }

    pub(super) fn take_drop_before_ack(&mut self) -> bool {
        take(&mut self.drop_before_ack)
    }

    pub(super) fn take_drop_after_ack(&mut self) -> bool {
        take(&mut self.drop_after_ack)
    }

    pub(super) fn take_drop_before_execution(&mut self) -> bool {
        take(&mut self.drop_before_execution)
    }

    pub(super) fn take_recovery_refusal(&mut self) -> bool {
        take(&mut self.refuse_recovery)
    }

    /// Counts a frame; true if the connection is to be cut behind it.
    pub(super) fn take_frame_drop(&mut self) -> bool {
        let Some(left) = &mut self.frames_to_drop else { return false };
        *left = left.saturating_sub(1);
        let now = *left == 0;
        if now {
            self.frames_to_drop = None;
        }
        now
    }
}

/// A scripted refusal of upgrades.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refuse {
    left: u32,
    pub(super) status: u16,
    pub(super) retry_after: Option<u32>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    frozen: bool,
    stalled: [bool; 4],
    slow_read: Option<Duration>,
    pub(super) slow_write: Option<Pace>,
    refuse_upgrades: Option<Refuse>,
    refuse_recoveries: Option<Refuse>,
}

/// Faults at the sockets.
#[derive(Debug, Default)]
pub(super) struct Switches {
    /// Whether anything in `state` slows down connections that are up.
    active: AtomicBool,
    stopping: AtomicBool,
    /// The outboxes look at it.
    pub(super) latency: Latency,
    state: Mutex<State>,
    changed: Condvar,
}

impl Switches {
    pub(super) fn stop(&self) {
        self.stopping.store(true, SeqCst);
        self.notify();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }

    /// Somebody at a gate has to look again.
    pub(super) fn notify(&self) {
        drop(lock(&self.state));
        self.changed.notify_all();
    }

    fn change(&self, f: impl FnOnce(&mut State)) {
        let mut state = lock(&self.state);
        f(&mut state);
        let slow = state.slow_read.is_some() || state.slow_write.is_some();
        self.active.store(state.frozen || slow, SeqCst);
        drop(state);
        self.changed.notify_all();
    }

    /// Waits as long as this step is stalled, the connection is not over and the emulator lives.
    pub(super) fn stall(&self, at: StallAt, is_over: impl Fn() -> bool) {
        self.wait_while(|state| state.stalled[at as usize], is_over);
    }

    /// Waits that long, or until the connection is over or the emulator ends.
    pub(super) fn sleep(&self, limit: Duration, is_over: impl Fn() -> bool) {
        let start = Instant::now();
        let mut state = lock(&self.state);
        while !self.is_stopping() && !is_over() {
            let left = limit.saturating_sub(start.elapsed());
            if left.is_zero() {
                return;
            }
            let woken = self.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.active.load(SeqCst) && lock(&self.state).frozen
    }

    /// Waits as long as connections are frozen.
    pub(super) fn thaw(&self, is_over: impl Fn() -> bool) {
        if self.active.load(SeqCst) {
            self.wait_while(|state| state.frozen, is_over);
        }
    }

    /// The pause between two reads.
    pub(super) fn pause(&self, is_over: impl Fn() -> bool) {
        if !self.active.load(SeqCst) {
            return;
        }
        let start = Instant::now();
        self.wait_while(|state| state.slow_read.is_some_and(|p| start.elapsed() < p), is_over);
    }

    /// How slowly frames are to be written, if they are.
    pub(super) fn pace(&self) -> Option<Pace> {
        if self.active.load(SeqCst) { lock(&self.state).slow_write } else { None }
    }

    pub(super) fn wait_while(&self, held: impl Fn(&State) -> bool, is_over: impl Fn() -> bool) {
        let mut state = lock(&self.state);
        while held(&state) && !self.is_stopping() && !is_over() {
            let pauses = [state.slow_read, state.slow_write.map(|pace| pace.pause)];
            let shortest = pauses.into_iter().flatten().min();
            let limit = shortest.unwrap_or(Duration::from_secs(60));
            let limit = limit.clamp(Duration::from_millis(1), Duration::from_secs(60));
            let woken = self.changed.wait_timeout(state, limit);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A scripted refusal of this upgrade, if there is one.
    pub(super) fn take_refusal(&self, recovery: bool) -> Option<Refuse> {
        let mut state = lock(&self.state);
        if recovery && let Some(refuse) = use_up(&mut state.refuse_recoveries) {
            return Some(refuse);
        }
        use_up(&mut state.refuse_upgrades)
    }
}

fn use_up(slot: &mut Option<Refuse>) -> Option<Refuse> {
    let refuse = slot.as_mut()?;
    let copy = *refuse;
    refuse.left = refuse.left.saturating_sub(1);
    if refuse.left == 0 {
        *slot = None;
    }
    Some(copy)
}

fn refuse(left: u32, status: u16, retry_after: Option<u32>) -> Option<Refuse> {
    (left > 0).then_some(Refuse { left, status, retry_after })
}

/// Makes things go wrong; from [`Emulator::faults`](super::Emulator::faults).
///
/// Everything acts on the whole emulator unless it says otherwise, at once and in any combination.
/// Counts given to `…_next_…` calls replace what was left of earlier ones; 0 switches the fault
/// off.
///
/// ```
/// use webpubsub::emulator::Emulator;
/// use webpubsub::{Client, Event};
///
/// # fn main() -> webpubsub::Result<()> {
/// let emulator = Emulator::start()?;
/// let client = Client::connect(emulator.url("chat"))?;
/// emulator.faults().refuse_recoveries(1, 503);
/// emulator.faults().drop_connections();
/// // One attempt is refused, the next one a second later is not.
/// while !matches!(client.recv()?, Event::Recovered(_)) {}
/// assert_eq!(emulator.stats().recoveries_refused, 1);
/// # client.close() }
/// ```
#[derive(Clone)]
pub struct Faults {
    pub(super) shared: Arc<Shared>,
}

impl Faults {
    /// Cuts all TCP connections now, without a Close frame. Reliable sessions stay recoverable.
    pub fn drop_connections(&self) {
        self.shared.end_transports(Fate::Cut);
    }

    /// Cuts the TCP connection of one session; false if it has none.
    pub fn drop_connection(&self, connection_id: &str) -> bool {
        self.shared.with(None, |service, now| {
            let outbox = service.detach(now, connection_id);
            if let Some(outbox) = &outbox {
                outbox.abort(Fate::Cut);
                service.touch_outbox(outbox);
            }
            outbox.is_some()
        })
    }

    /// Ends all TCP connections by a reset (RST). Reliable sessions stay recoverable.
    pub fn reset_connections(&self) {
        self.shared.end_transports(Fate::Reset);
    }

    /// Stops reading and writing on all connections, on new ones after the upgrade. Nothing is
    /// lost: `freeze(false)` goes on where it stopped. What is sent meanwhile counts against the
    /// outbound limit ([`Limits`](super::Limits)); a session that exceeds it ends while frozen. One WebSocket ping (not the subprotocol's)
    /// per connection may still be answered.
    pub fn freeze(&self, on: bool) {
        self.shared.switches.change(|s| s.frozen = on);
    }

    /// Waits this long before each read, so that a client's writes back up. `None` ends it.
    pub fn slow_read(&self, pause: Option<Duration>) {
        self.shared.switches.change(|s| s.slow_read = pause);
    }

    /// Writes everything this long after it was queued, or a little later, as from a service that
    /// is further away than 127.0.0.1. What the latency holds back does not count against the
    /// outbound limit. Upgrades are not delayed. `None` ends it; what was held back follows at once.
    pub fn latency(&self, delay: Option<Duration>) {
        self.shared.switches.latency.set(delay);
        self.shared.wake_all();
    }

    /// Writes frames in pieces of `bytes` (1 at least) and waits this long after each piece, so
    /// that a message arrives slowly and the connection is never silent. `None` ends it: what is
    /// left of a frame follows at once. Close frames are written whole.
    pub fn slow_write(&self, bytes: usize, pause: Option<Duration>) {
        let pace = pause.map(|pause| Pace { bytes: bytes.max(1), pause });
        self.shared.switches.change(|s| s.slow_write = pace);
    }

    /// Stalls new connections at one step, until switched off.
    pub fn stall(&self, at: StallAt, on: bool) {
        self.shared.switches.change(|s| s.stalled[at as usize] = on);
    }

    /// Carries requests out but keeps their acks; `hold_acks(false)` sends them. A lost transport
    /// loses the held acks.
    pub fn hold_acks(&self, on: bool) {
        self.shared.with(None, |service, _| {
            if on {
                service.plan.hold_acks = true;
            } else {
                service.release_acks();
            }
        });
    }

    /// Carries requests out and throws the next `count` acks away. The connection stays.
    pub fn lose_next_acks(&self, count: u64) {
        self.plan(|plan| plan.lose_acks = count);
    }

    /// The next `count` times that an ack is due: the request is carried out, then the connection
    /// is cut, and the ack is lost.
    pub fn drop_before_next_ack(&self, count: u64) {
        self.plan(|plan| plan.drop_before_ack = count);
    }

    /// The next `count` times that an ack was sent, the connection is cut after it.
    pub fn drop_after_next_ack(&self, count: u64) {
        self.plan(|plan| plan.drop_after_ack = count);
    }

    /// The next `count` requests with an ack id are not carried out; the connection is cut
    /// instead.
    pub fn drop_before_next_execution(&self, count: u64) {
        self.plan(|plan| plan.drop_before_execution = count);
    }

    /// After this many more messages of clients have been carried out, the connection that sent the
    /// last one is cut; its answers leave first. 0 switches it off.
    pub fn drop_after_frames(&self, count: u64) {
        self.plan(|plan| plan.frames_to_drop = (count > 0).then_some(count));
    }

    /// The next `count` recoveries are refused as the service refuses one whose session is gone:
    /// upgrade, then Close 1008. The session ends with it, unless the client's token was wrong.
    pub fn recovery_closes_1008(&self, count: u64) {
        self.plan(|plan| plan.refuse_recovery = count);
    }

    /// A recovery sends again what was acknowledged lately (from the time this is switched on),
    /// and everything else twice.
    pub fn duplicate_replay(&self, on: bool) {
        self.plan(|plan| plan.duplicate_replay = on);
    }

    /// Leaves the subprotocol's pings without a pong.
    pub fn silent_pings(&self, on: bool) {
        self.plan(|plan| plan.silent_pings = on);
    }

    /// Writes no Close frame but ends the connection by a reset (RST) where one is due, whoever
    /// wanted it: the service, [`Emulator::close_connection`](super::Emulator::close_connection) or
    /// [`Faults::close_connections`]. What was sent just before may be lost with it. Sessions end or
    /// live on as with the Close. The one that refuses a recovery is written all the same.
    ///
    /// Microsoft's emulator aborts its sockets right behind most Close frames, so that few arrive.
    pub fn lose_close_frames(&self, on: bool) {
        self.plan(|plan| plan.lose_close_frames = on);
    }

    /// Answers the next `count` upgrades, recoveries included, with an HTTP status, and with
    /// `Retry-After` (seconds) if given.
    pub fn refuse_next_upgrades(&self, count: u32, status: u16, retry_after: Option<u32>) {
        self.shared.switches.change(|s| s.refuse_upgrades = refuse(count, status, retry_after));
    }

    /// Answers the next `count` recoveries, and no new connections, with an HTTP status.
    pub fn refuse_recoveries(&self, count: u32, status: u16) {
        self.shared.switches.change(|s| s.refuse_recoveries = refuse(count, status, None));
    }

    /// Sends a Close frame on all connections. The codes 1000, 1002, 1003, 1007, 1008, 1009 and
    /// 1011 end the session as at the service; after any other it can be recovered.
    pub fn close_connections(&self, code: u16, reason: &str) {
        self.close_some(None, code, reason);
    }

    /// The same on one connection; false if there is none of that id.
    pub fn close_connection(&self, connection_id: &str, code: u16, reason: &str) -> bool {
        self.close_some(Some(connection_id), code, reason) > 0
    }

    fn close_some(&self, connection_id: Option<&str>, code: u16, reason: &str) -> usize {
        self.shared.with(None, |service, now| {
            let mut ids = service.open_sessions();
            ids.retain(|id| connection_id.is_none_or(|wanted| wanted == &**id));
            for id in &ids {
                service.close_with(now, id, code, reason);
            }
            ids.len()
        })
    }

    /// Sends a text frame as it is to one connection, or to all (`None`). Returns to how many.
    pub fn send_raw_text(&self, connection_id: Option<&str>, text: &str) -> usize {
        self.send_raw(connection_id, &Frame::Text(text.into()))
    }

    /// Sends a binary frame as it is to one connection, or to all (`None`). Returns to how many.
    pub fn send_raw_binary(&self, connection_id: Option<&str>, bytes: &[u8]) -> usize {
        self.send_raw(connection_id, &Frame::Binary(bytes.to_vec().into()))
    }

    fn send_raw(&self, connection_id: Option<&str>, frame: &Frame) -> usize {
        self.shared.with(None, |service, _| {
            let mut ids = service.open_sessions();
            ids.retain(|id| connection_id.is_none_or(|wanted| wanted == &**id));
            for id in &ids {
                service.push_raw(id, frame.clone());
            }
            ids.len()
        })
    }

    /// Switches every fault off; what faults held back is sent.
    pub fn clear(&self) {
        self.shared.switches.change(|s| *s = State::default());
        self.latency(None);
        self.shared.with(None, |service, _| {
            service.release_acks();
            service.release_responses();
            service.release_stream_acks();
            service.release_snapshots();
            service.plan = Plan::default();
        });
    }

    pub(super) fn plan(&self, change: impl FnOnce(&mut Plan)) {
        self.shared.with(None, |service, _| change(&mut service.plan));
    }
}

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faults").finish_non_exhaustive()
    }
}
