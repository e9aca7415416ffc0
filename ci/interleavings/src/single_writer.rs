//! What is appended is written in order, whoever writes: it is never left with nobody writing and
//! nobody told.
//!
//! `Link` does what `transport/link.rs` and `link/writer.rs` do around a `SingleWriter`. A frame is
//! a number, the socket a list.

use std::sync::Mutex;

use loom::sync::Arc;
use loom::thread;

use crate::explore;
use crate::primitives::Instant;
use crate::sync::{Guard, SingleWriter};
use crate::waker::Waker;

#[derive(Debug, Default)]
struct Out {
    pending: Vec<usize>,
    appended: usize,
    written: usize,
    failed: bool,
    stopped: bool,
}

/// What the writer has taken and not yet written, the next one last.
type Work = Vec<usize>;

#[derive(Debug)]
struct Link {
    out: SingleWriter<Out, Work>,
    waker: Waker,
    /// Not loom's: what is written is no synchronization.
    socket: Mutex<Vec<usize>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flushed {
    All,
    ByOther,
    Rest,
    Failed,
}

/// How a thread writes.
#[derive(Debug, Clone, Copy)]
struct Flush {
    /// How much the socket takes before it is full and the deadline passes.
    room: usize,
    /// After this much the thread asks for relief.
    relief: usize,
    /// How long it waits to relieve another one.
    until: Instant,
    /// It finds the connection broken instead of full.
    breaks: bool,
}

const ALL: Flush = Flush { room: 100, relief: 100, until: Instant::PAST, breaks: false };

impl Link {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            out: SingleWriter::new(Out::default(), Work::new()),
            waker: Waker::new(),
            socket: Mutex::new(Vec::new()),
        })
    }

    fn append(&self, frames: usize) {
        let mut out = self.out.lock();
        for _ in 0..frames {
            let frame = out.appended;
            out.pending.push(frame);
            out.appended += 1;
        }
    }

    /// For callers. What is left then is the reader's.
    fn flush(&self, how: Flush) -> Flushed {
        let flushed = self.write(how);
        if flushed == Flushed::Rest {
            self.waker.wake();
        }
        flushed
    }

    /// Without the wake-up: what the reader itself does.
    fn write(&self, how: Flush) -> Flushed {
        let mut work = match self.out.start(how.until, |out| out.failed) {
            Ok((mut out, mut work)) => {
                if work.is_empty() && !next_batch(&mut out, &mut work) {
                    out.finish(work);
                    return Flushed::All;
                }
                work
            }
            Err(out) if out.failed => return Flushed::Failed,
            Err(_) => return Flushed::ByOther,
        };
        for mine in 1.. {
            if mine > how.room {
                return if how.breaks { self.fail() } else { self.leave(work) };
            }
            let frame = work.pop().expect("a writer has something to write");
            self.socket.lock().expect("no panic").push(frame);
            let mut out = self.out.lock();
            out.written += 1;
            if work.is_empty() && (out.failed || !next_batch(&mut out, &mut work)) {
                out.finish(work);
                return Flushed::All;
            }
            out.set_relief(mine >= how.relief);
            if out.has_relief() {
                out.give_back(work);
                return Flushed::ByOther;
            }
            out.notify();
        }
        unreachable!("the socket is full some day")
    }

    fn leave(&self, work: Work) -> Flushed {
        let out = self.out.lock();
        if out.failed {
            out.give_back(work);
            return Flushed::Failed;
        }
        if out.has_relief() {
            out.give_back(work);
            return Flushed::ByOther;
        }
        out.leave_rest(work);
        Flushed::Rest
    }

    fn fail(&self) -> Flushed {
        let mut out = self.out.lock();
        out.failed = true;
        out.notify();
        drop(out);
        self.waker.wake();
        Flushed::Failed
    }

    fn rest(&self) -> bool {
        let rest = |out: &Out, work: &Work| {
            (!out.failed && (!work.is_empty() || !out.pending.is_empty())).then_some(())
        };
        self.out.rest(rest).is_some()
    }

    /// The reader: at first the socket is as full as it is said to be; whenever there is a rest, it
    /// gets room.
    fn read(&self, mut first: Flush) {
        loop {
            if self.rest() {
                self.write(first);
                first = ALL;
            }
            let out = self.out.lock();
            if out.stopped || out.failed {
                return;
            }
            drop(out);
            if self.rest() {
                // `poll` finds room in the socket.
                self.waker.look();
            } else {
                self.waker.wait();
            }
        }
    }

    /// For a caller: this much is written, or the link has failed. Does not write.
    fn wait_until_written(&self, frames: usize) {
        let mut out = self.out.lock();
        while out.written < frames && !out.failed {
            out = out.wait_for_change(Instant::NEVER.saturating_duration_since(Instant::PAST));
        }
    }

    fn stop(&self) {
        self.out.lock().stopped = true;
        self.waker.wake();
    }

    fn assert_written(&self, frames: usize) {
        assert_eq!(*self.socket.lock().expect("no panic"), Vec::from_iter(0..frames));
        assert!(self.out.lock().is_idle());
    }
}

fn next_batch(out: &mut Guard<'_, Out, Work>, work: &mut Work) -> bool {
    std::mem::swap(work, &mut out.pending);
    work.reverse();
    !work.is_empty()
}

fn spawn<R: 'static>(
    link: &Arc<Link>,
    act: impl FnOnce(&Link) -> R + 'static,
) -> thread::JoinHandle<R> {
    let link = Arc::clone(link);
    thread::spawn(move || act(&link))
}

fn send(link: &Link, frames: usize, how: Flush) -> Flushed {
    link.append(frames);
    link.flush(how)
}

#[test]
fn what_a_caller_leaves_the_reader_writes() {
    explore("two callers, one of whom leaves a rest, and the reader", || {
        let link = Link::new();
        let reader = spawn(&link, |link| link.read(ALL));
        let caller = spawn(&link, |link| send(link, 2, Flush { room: 1, ..ALL }));
        send(&link, 1, ALL);
        link.wait_until_written(3);
        caller.join().expect("joined");
        link.stop();
        reader.join().expect("joined");
        link.assert_written(3);
    });
}

#[test]
fn what_the_reader_appends_and_leaves_it_writes_later() {
    explore("the reader with a frame of its own and a full socket, and two callers", || {
        let link = Link::new();
        let reader = spawn(&link, |link| {
            link.append(1);
            link.out.note_rest();
            link.read(Flush { room: 0, ..ALL });
        });
        let caller = spawn(&link, |link| send(link, 1, ALL));
        send(&link, 1, Flush { room: 0, ..ALL });
        caller.join().expect("joined");
        link.wait_until_written(3);
        link.stop();
        reader.join().expect("joined");
        link.assert_written(3);
    });
}

#[test]
fn a_writer_hands_over_to_one_who_waits() {
    explore("a writer that asks for relief, and two callers who may give it", || {
        let link = Link::new();
        let patient = Flush { relief: 1, until: Instant::NEVER, ..ALL };
        let callers = [2, 1].map(|frames| spawn(&link, move |link| send(link, frames, patient)));
        send(&link, 1, patient);
        for caller in callers {
            caller.join().expect("joined");
        }
        // All had room, so nothing needs the reader.
        link.assert_written(4);
    });
}

#[test]
fn a_writer_hands_over_even_at_the_deadline_of_the_next() {
    explore("a writer that asks for relief, and one whose deadline passes", || {
        let link = Link::new();
        let clock = thread::spawn(Instant::pass);
        let caller = spawn(&link, |link| send(link, 3, Flush { relief: 1, ..ALL }));
        send(&link, 1, Flush { until: Instant::SOON, ..ALL });
        caller.join().expect("joined");
        clock.join().expect("joined");
        link.assert_written(4);
    });
}

#[test]
fn a_writer_that_leaves_wakes_those_who_wait_to_relieve_it() {
    explore(
        "a writer that asks for relief and finds the socket full, another, and the reader",
        || {
            let link = Link::new();
            let reader = spawn(&link, |link| link.read(ALL));
            let tired = Flush { room: 1, relief: 1, ..ALL };
            let caller = spawn(&link, move |link| send(link, 2, tired));
            send(&link, 1, Flush { until: Instant::NEVER, ..tired });
            caller.join().expect("joined");
            link.wait_until_written(3);
            link.stop();
            reader.join().expect("joined");
            link.assert_written(3);
        },
    );
}

#[test]
fn a_link_that_fails_wakes_all() {
    explore(
        "a writer that finds the link broken, one who waits to relieve it, and the reader",
        || {
            let link = Link::new();
            let reader = spawn(&link, |link| link.read(ALL));
            let unlucky = Flush { room: 1, relief: 1, breaks: true, ..ALL };
            let caller = spawn(&link, move |link| send(link, 2, unlucky));
            send(&link, 1, Flush { until: Instant::NEVER, ..unlucky });
            link.wait_until_written(3);
            caller.join().expect("joined");
            link.stop();
            reader.join().expect("joined");
            let written = link.socket.lock().expect("no panic").clone();
            assert_eq!(written, Vec::from_iter(0..written.len()));
        },
    );
}
