//! How another thread cuts short whatever the dialing thread waits for.

use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded, never, select};
use socket2::{SockRef, Socket};

use super::lock;

/// A one-way switch. Once it is on, every wait that knows it ends at once: sleeps and helper
/// results by its channel, socket calls because the registered socket is shut down.
#[derive(Debug)]
pub(crate) struct Stop {
    on: Receiver<()>,
    /// Dropped to switch on: that disconnects `on` for every waiter, now and later.
    switch: Mutex<Option<Sender<()>>>,
    /// The socket that is being connected right now.
    socket: Mutex<Option<TcpStream>>,
}

impl Stop {
    pub(crate) fn new() -> Self {
        let (switch, on) = bounded(0);
        Self { on, switch: Mutex::new(Some(switch)), socket: Mutex::new(None) }
    }

    pub(crate) fn stop(&self) {
        lock(&self.switch).take();
        if let Some(socket) = lock(&self.socket).take() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        lock(&self.switch).is_none()
    }

    /// A receiver for `select!` that becomes ready (disconnected) on stop.
    pub(crate) fn receiver(&self) -> &Receiver<()> {
        &self.on
    }

    /// Shuts this socket down on stop, until the guard is dropped. False if stopped already.
    pub(crate) fn watch(&self, socket: &Socket) -> std::io::Result<Option<Watch<'_>>> {
        *lock(&self.socket) = Some(SockRef::from(socket).try_clone()?.into());
        if self.is_stopped() {
            lock(&self.socket).take();
            return Ok(None);
        }
        Ok(Some(Watch(self)))
    }
}

/// See [`Stop::watch`].
#[must_use]
pub(crate) struct Watch<'a>(&'a Stop);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        lock(&self.0.socket).take();
    }
}

/// Runs something that cannot be interrupted (a name look-up, a user's URL provider) on a detached
/// thread that owns nothing but the slot for its result. At most one runs at a time: a later
/// request waits for the running one and takes its result.
#[derive(Debug)]
pub(crate) struct Helper<T> {
    name: &'static str,
    running: Option<Receiver<T>>,
}

/// Why a [`Helper`] gave no result.
#[derive(Debug)]
pub(crate) enum HelperError {
    /// The deadline passed; the helper goes on and its result will serve the next request.
    TimedOut,
    Stopped,
    /// It panicked, or no thread could be started.
    Died,
}

impl<T: Send + 'static> Helper<T> {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, running: None }
    }

    /// An earlier request has not got its result.
    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    pub(crate) fn run(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
        deadline: Instant,
        stop: &Stop,
    ) -> Result<T, HelperError> {
        if self.running.is_none() {
            let (slot, result) = bounded(1);
            thread::Builder::new()
                .name(self.name.into())
                .spawn(move || drop(slot.send(work())))
                .map_err(|_| HelperError::Died)?;
            self.running = Some(result);
        }
        let result = self.running.clone().unwrap_or_else(never);
        let outcome = select! {
            recv(result) -> r => r.map_err(|_| HelperError::Died),
            recv(stop.receiver()) -> _ => return Err(HelperError::Stopped),
            default(deadline.saturating_duration_since(Instant::now())) => {
                return Err(HelperError::TimedOut);
            }
        };
        self.running = None;
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::RecvTimeoutError;
    use std::time::Duration;

    #[test]
    fn a_stuck_helper_is_abandoned_and_its_late_result_is_used() {
        let (go, wait) = bounded::<()>(0);
        let stop = Stop::new();
        let mut helper = Helper::new("test-helper");
        let soon = Instant::now() + Duration::from_millis(20);
        let first = helper.run(move || wait.recv().map(|()| 1).unwrap_or(2), soon, &stop);
        assert!(matches!(first, Err(HelperError::TimedOut)));
        drop(go);
        let later = Instant::now() + Duration::from_secs(10);
        // The second job never runs: the first one's result is taken.
        assert!(matches!(helper.run(|| 3, later, &stop), Ok(2)));
        assert!(matches!(helper.run(|| 4, later, &stop), Ok(4)));
        assert!(matches!(
            helper.run(|| panic!("on purpose"), later, &stop),
            Err(HelperError::Died)
        ));
    }

    #[test]
    fn stop_ends_a_wait_at_once() {
        let stop = std::sync::Arc::new(Stop::new());
        let other = std::sync::Arc::clone(&stop);
        let t = thread::spawn(move || other.receiver().recv_timeout(Duration::from_secs(60)));
        stop.stop();
        assert_eq!(t.join().expect("joined"), Err(RecvTimeoutError::Disconnected));
        assert!(stop.is_stopped());
    }
}
