//! Whatever the order of raising and taking, what was stored before a wake-up is seen: at the
//! latest after the next wait.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use loom::thread;

use crate::explore;
use crate::waker::Waker;

#[derive(Debug)]
struct Model {
    waker: Waker,
    /// Relaxed, so that only the wake-up makes the stores visible.
    stored: [AtomicUsize; 2],
}

impl Model {
    fn new() -> Arc<Self> {
        let stored = [AtomicUsize::new(0), AtomicUsize::new(0)];
        Arc::new(Self { waker: Waker::new(), stored })
    }

    fn sees(&self, wanted: [usize; 2]) -> bool {
        self.stored.iter().zip(wanted).all(|(stored, wanted)| stored.load(Relaxed) == wanted)
    }
}

/// Each is a store and a wake-up.
fn wake_times(model: &Arc<Model>, thread: usize, times: usize) -> thread::JoinHandle<()> {
    let model = Arc::clone(model);
    thread::spawn(move || {
        for n in 1..=times {
            model.stored[thread].store(n, Relaxed);
            model.waker.wake();
        }
    })
}

#[test]
fn a_thread_that_only_waits_for_wake_ups_sees_all() {
    explore("wake-ups by two threads, and a thread that waits", || {
        let model = Model::new();
        let threads = [wake_times(&model, 0, 2), wake_times(&model, 1, 1)];
        while !model.sees([2, 1]) {
            model.waker.wait();
        }
        for thread in threads {
            thread.join().expect("joined");
        }
    });
}

#[test]
fn a_wait_that_ends_for_another_reason_loses_no_wake_up() {
    explore("wake-ups, and a thread whose wait also ends for other reasons", || {
        let model = Model::new();
        let threads = [wake_times(&model, 0, 2), wake_times(&model, 1, 1)];
        model.waker.look();
        while !model.sees([2, 1]) {
            model.waker.wait();
        }
        for thread in threads {
            thread.join().expect("joined");
        }
    });
}

#[test]
fn a_wait_that_finds_a_wake_up_sees_what_it_was_for() {
    explore("one wake-up, and a wait that ends for another reason", || {
        let model = Model::new();
        let thread = wake_times(&model, 0, 1);
        let woken = model.waker.look();
        assert!(!woken || model.sees([1, 0]));
        thread.join().expect("joined");
    });
}
