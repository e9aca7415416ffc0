//! Every thread that waits, and the channel, get the same value, once.

use loom::sync::Arc;
use loom::thread;

use crate::explore;
use crate::primitives::{Instant, Sender};
use crate::sync::OneShot;

type Slot = Arc<OneShot<&'static str>>;

fn spawn<R: 'static>(slot: &Slot, act: impl FnOnce(Slot) -> R + 'static) -> thread::JoinHandle<R> {
    let slot = Arc::clone(slot);
    thread::spawn(move || act(slot))
}

#[test]
fn every_waiter_and_the_channel_get_the_first_value() {
    explore("two values, two threads that wait, and a channel", || {
        let slot = Slot::new(OneShot::new());
        let first = spawn(&slot, |slot| slot.set("ack"));
        let second = spawn(&slot, |slot| slot.set("lost"));
        let waiter = spawn(&slot, |slot| slot.wait_until(Instant::NEVER));
        let channel = Sender::new();
        slot.send_to(channel.clone());
        let seen = slot.wait_until(Instant::NEVER);
        assert!(seen.is_some());
        assert_eq!(waiter.join().expect("joined"), seen);
        first.join().expect("joined");
        second.join().expect("joined");
        assert_eq!(slot.get(), seen);
        assert_eq!(channel.sent(), Vec::from_iter(seen));
    });
}

/// `PendingAck::wait` and its end at the deadline.
#[test]
fn a_value_and_the_deadline_at_once_have_one_outcome() {
    explore("a value, a deadline that ends the call, and a thread that waits on", || {
        let slot = Slot::new(OneShot::new());
        let clock = thread::spawn(Instant::pass);
        let setter = spawn(&slot, |slot| slot.set("ack"));
        let other = spawn(&slot, |slot| slot.wait_until(Instant::NEVER));
        let channel = Sender::new();
        slot.send_to(channel.clone());
        let seen = slot.wait_until(Instant::SOON).or_else(|| {
            slot.set("timeout");
            slot.wait_until(Instant::NEVER)
        });
        assert!(seen.is_some());
        assert_eq!(other.join().expect("joined"), seen);
        setter.join().expect("joined");
        clock.join().expect("joined");
        assert_eq!(channel.sent(), Vec::from_iter(seen));
    });
}
