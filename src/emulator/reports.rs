//! The `connected` and `disconnected` events: the service queues reports of them, and one thread
//! calls the closures of the program. The same thread sees to it that what is due by time happens in
//! time when nothing else goes on: ends of sessions, acks and ends of streams.
//!
//! The service pushes into [`Reports`] under its own lock. Whoever holds that lock moves the reports
//! to the [`Inbox`] of the thread before letting go of it, and wakes the thread afterwards. So their
//! order is the order in which things happened, for each connection and for all of them together.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::outbox::lock;
use super::server::Shared;
use super::server_session::ConnectionInfo;

type OnConnected = dyn Fn(&ConnectionInfo) + Send + Sync;
type OnDisconnected = dyn Fn(&ConnectionInfo, &str) + Send + Sync;

/// The program's closures.
#[derive(Clone, Default)]
pub(super) struct Listeners {
    pub(super) connected: Option<Arc<OnConnected>>,
    pub(super) disconnected: Option<Arc<OnDisconnected>>,
}

impl Listeners {
    pub(super) fn is_empty(&self) -> bool {
        self.connected.is_none() && self.disconnected.is_none()
    }

    fn call(&self, report: &Report) {
        match report {
            Report::Connected(info) => {
                if let Some(connected) = &self.connected {
                    connected(info);
                }
            }
            Report::Disconnected(info, reason) => {
                if let Some(disconnected) = &self.disconnected {
                    disconnected(info, reason);
                }
            }
            Report::Look | Report::Stop => {}
        }
    }
}

#[derive(Debug)]
pub(super) enum Report {
    Connected(ConnectionInfo),
    /// The session has ended, with the reason.
    Disconnected(ConnectionInfo, String),
    /// A session waits for recovery, a stream for its ack or its end, or the clock was moved:
    /// something may be due before the time until which the thread waits.
    Look,
    /// The emulator is dropped.
    Stop,
}

/// What the service has to report, if anybody listens.
#[derive(Debug, Default)]
pub(super) struct Reports {
    wanted: bool,
    queue: Vec<Report>,
    look_again: bool,
}

impl Reports {
    pub(super) fn wanted(on: bool) -> Self {
        Self { wanted: on, ..Self::default() }
    }

    pub(super) fn push(&mut self, report: impl FnOnce() -> Report) {
        if self.wanted {
            self.queue.push(report());
        }
    }

    /// The thread has to look at the clock, whether anybody listens or not.
    pub(super) fn look_again(&mut self) {
        self.look_again = true;
    }

    pub(super) fn take(&mut self) -> Vec<Report> {
        if std::mem::take(&mut self.look_again) {
            self.queue.push(Report::Look);
        }
        std::mem::take(&mut self.queue)
    }
}

/// What the thread has to report. Its lock is a leaf, held for a few memory operations.
#[derive(Default)]
pub(super) struct Inbox {
    queue: Mutex<VecDeque<Report>>,
    changed: Condvar,
}

impl Inbox {
    pub(super) fn push(&self, reports: Vec<Report>) {
        lock(&self.queue).extend(reports);
    }

    /// Wakes the thread, which is a system call.
    pub(super) fn notify(&self) {
        self.changed.notify_one();
    }

    /// The next report; `None` if there is none until then (`None`: without a limit).
    fn wait(&self, until: Option<Instant>) -> Option<Report> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(report) = queue.pop_front() {
                return Some(report);
            }
            queue = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return None,
                Some(left) => {
                    let woken = self.changed.wait_timeout(queue, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

/// The thread that calls the closures and looks at the clock. Dropping it waits until what is queued has been reported.
pub(super) struct Reporter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Reporter {
    pub(super) fn start(shared: &Arc<Shared>, listeners: Listeners) -> std::io::Result<Self> {
        let (shared, of_thread) = (Arc::clone(shared), Arc::clone(shared));
        let thread = thread::Builder::new()
            .name("emulator-report".into())
            .spawn(move || run(&of_thread, &listeners))?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.shared.reports.push(vec![Report::Stop]);
        self.shared.reports.notify();
        // A closure may own the emulator, and drop it.
        let own = |thread: &JoinHandle<()>| thread.thread().id() == thread::current().id();
        if let Some(thread) = self.thread.take().filter(|thread| !own(thread)) {
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, listeners: &Listeners) {
    loop {
        // Looking ends the sessions whose time is over, which queues their reports: nothing else may
        // be going on in the emulator by then.
        let next = shared
            .with(None, |service, now| service.next_expiry().map(|at| at.saturating_sub(now)));
        let until = next.and_then(|left| Instant::now().checked_add(left));
        match shared.reports.wait(until) {
            Some(Report::Stop) => return,
            Some(report) => {
                // One that panics must not keep the others from being called.
                let _ = catch_unwind(AssertUnwindSafe(|| listeners.call(&report)));
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::grants::Grants;
    use crate::emulator::outbox::Outbox;
    use crate::emulator::server_session::Kind;
    use crate::emulator::service::{Handshake, Service, Settings};
    use crate::protocol::Protocol;

    fn service(wanted: bool) -> Service {
        let mut service = Service::new(Settings::default(), [7; 32]);
        service.reports = Reports::wanted(wanted);
        service
    }

    fn connect(service: &mut Service, protocol: Protocol) -> Arc<str> {
        let handshake = Handshake {
            hub: "h".into(),
            user: None,
            kind: Kind::PubSub(protocol),
            grants: Grants::default(),
            groups: vec!["g".into()],
        };
        service.connect(handshake, Outbox::new(1))
    }

    fn taken(service: &mut Service) -> Vec<(&'static str, String)> {
        let show = |report| match report {
            Report::Connected(info) => ("connected", info.groups.join(",")),
            Report::Disconnected(_, reason) => ("disconnected", reason),
            Report::Look => ("look", String::new()),
            Report::Stop => ("stop", String::new()),
        };
        service.reports.take().into_iter().map(show).collect()
    }

    #[test]
    fn a_lost_session_is_over_when_its_time_is() {
        let mut service = service(true);
        let id = connect(&mut service, Protocol::ReliableJson);
        assert_eq!(taken(&mut service), [], "nothing is written yet");
        service.report_connected(&id);
        service.report_connected(&id);
        assert_eq!(taken(&mut service), [("connected", "g".into())]);
        assert_eq!(service.next_expiry(), None);
        service.detach(Duration::from_secs(5), &id);
        assert_eq!(taken(&mut service), [("look", String::new())]);
        let end = Duration::from_secs(35);
        assert_eq!(service.next_expiry(), Some(end));
        service.expire(end - Duration::from_nanos(1));
        assert_eq!(taken(&mut service), []);
        service.expire(end);
        let why = "The connection was lost and not recovered in time.";
        assert_eq!(taken(&mut service), [("disconnected", why.into())]);
        assert_eq!(service.next_expiry(), None);
    }

    #[test]
    fn a_session_that_ends_before_it_is_known_is_reported_all_the_same() {
        let mut service = service(true);
        let id = connect(&mut service, Protocol::Json);
        service.close(&id, 1011, "why");
        service.report_connected(&id);
        let expected = [("connected", "g".to_owned()), ("disconnected", "why".to_owned())];
        assert_eq!(taken(&mut service), expected);
    }

    #[test]
    fn nothing_is_queued_for_nobody() {
        let mut service = service(false);
        let id = connect(&mut service, Protocol::Json);
        service.overflow(&id);
        assert_eq!(taken(&mut service), []);
    }
}
