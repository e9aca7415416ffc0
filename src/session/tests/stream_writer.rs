//! The publisher of a stream: window, acks, refusals, losses, ends and deadlines. Tests whose names
//! begin with `s` show a defect of the JavaScript client to be absent.

mod ends;

use std::time::{Duration, Instant};

use super::scenario::{frame, text};
use super::{ms, secs};
use crate::error::{Error, ErrorKind};
use crate::protocol::{NamedError, StreamEndError};
use crate::session::stream_writer::{Emit, StreamConfig, StreamWriter};

struct Scene {
    writer: StreamWriter,
    now: Instant,
}

impl Scene {
    fn new(link: bool) -> Self {
        Self::with(link, |_| {})
    }

    fn with(link: bool, change: impl FnOnce(&mut StreamConfig)) -> Self {
        let mut config = StreamConfig::default();
        change(&mut config);
        let now = Instant::now();
        Self { writer: StreamWriter::new(config, now, link, now + secs(30)), now }
    }

    fn open() -> Self {
        Self::open_with(|_| {})
    }

    fn open_with(change: impl FnOnce(&mut StreamConfig)) -> Self {
        let mut s = Self::with(true, change);
        s.writer.ack(s.now, 1);
        assert_eq!(s.take(), "start");
        assert!(s.writer.is_open());
        s
    }

    /// Fragments up to this number are sent; each one's text is its number.
    fn send_to(&mut self, number: u64) {
        while self.writer.next_number() <= number {
            let fragment = frame(&self.writer.next_number().to_string());
            self.writer.send(self.now, fragment).unwrap();
        }
    }

    /// What was written since the last look.
    fn take(&mut self) -> String {
        let mut out = Vec::new();
        while let Some(emit) = self.writer.output() {
            out.push(match emit {
                Emit::Start => "start".into(),
                Emit::Fragment(frame) | Emit::Probe(frame) => text(&frame),
                Emit::KeepAlive => "alive".into(),
                Emit::End => "end".into(),
                Emit::Abort(error) => {
                    format!("abort {}", error.user_error_code.unwrap_or_default())
                }
            });
        }
        out.join(" ")
    }

    fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        let mut ticks = 0;
        while let Some(at) = self.writer.next_wake().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.writer.tick(self.now);
            ticks += 1;
            assert!(ticks < 10_000, "it asks for ticks without end");
        }
        self.now = until;
    }

    fn ack(&mut self, expected: u64) -> String {
        self.writer.ack(self.now, expected);
        self.take()
    }

    fn nack(&mut self, expected: u64) -> String {
        self.writer.nack(self.now, expected, "InvalidSequenceId");
        self.take()
    }

    fn transient(&mut self, expected: u64) -> String {
        self.writer.nack(self.now, expected, "TransientError");
        self.take()
    }

    fn closed(&mut self, name: &str) {
        let error = NamedError { name: name.into(), message: None };
        self.writer.closed(self.now, Some(&error).filter(|_| !name.is_empty()));
    }

    fn finish(&mut self) -> String {
        self.writer.finish(self.now, self.now + secs(30));
        self.take()
    }

    fn abort(&mut self) -> String {
        let error = StreamEndError { message: None, user_error_code: Some("E1".into()) };
        self.writer.abort(self.now, error, self.now + secs(30));
        self.take()
    }

    fn lose(&mut self) {
        self.writer.lost();
    }

    fn link(&mut self) -> String {
        self.writer.linked(self.now);
        self.take()
    }

    fn new_connection(&mut self) {
        self.writer.session_over(&Error::new(ErrorKind::Disconnected, "gone"));
    }

    fn error(&self) -> &Error {
        self.writer.outcome().expect("an end").as_ref().expect_err("a failure")
    }

    fn succeeded(&self) -> bool {
        matches!(self.writer.outcome(), Some(Ok(())))
    }
}

#[test]
fn a_stream_from_start_to_end() {
    let mut s = Scene::new(true);
    assert_eq!(s.take(), "start");
    assert!(s.writer.send(s.now, frame("1")).is_err(), "not before it is accepted");
    assert_eq!(s.ack(1), "");
    s.send_to(3);
    assert_eq!(s.take(), "1 2 3");
    assert_eq!(s.ack(3), "");
    assert_eq!(s.writer.acked(), 2);
    assert_eq!(s.finish(), "");
    assert_eq!(s.ack(4), "end");
    assert!(s.writer.send(s.now, frame("4")).is_err());
    s.closed("");
    assert!(s.succeeded() && s.writer.is_over());
    assert_eq!(s.writer.next_wake(), None);
}

#[test]
fn the_window_is_bounded_by_fragments_and_by_bytes() {
    let mut s = Scene::open();
    s.send_to(255);
    assert!(s.writer.has_room(1));
    s.send_to(256);
    assert!(!s.writer.has_room(1));
    s.ack(2);
    assert!(s.writer.has_room(1));

    let mut s = Scene::open_with(|c| c.max_unacked_bytes = 10);
    assert!(s.writer.has_room(1000), "alone it may be larger");
    s.writer.send(s.now, frame("12345")).unwrap();
    assert!(s.writer.has_room(5) && !s.writer.has_room(6));
    s.ack(2);
    assert!(s.writer.has_room(6));
}

#[test]
fn s01_a_nack_rewinds_once_for_each_number() {
    let mut s = Scene::open();
    s.send_to(5);
    s.take();
    // 2 was refused, so 3, 4 and 5 are too.
    assert_eq!(s.nack(2), "2 3 4 5");
    assert_eq!(s.nack(2), "");
    assert_eq!(s.nack(2), "");
    assert_eq!(s.ack(6), "");
    assert_eq!(s.writer.acked(), 5);

    // Refused again: after as many nacks as were in flight, or after a while.
    s.send_to(7);
    s.take();
    assert_eq!(s.nack(6), "6 7");
    assert_eq!(s.nack(6), "");
    assert_eq!(s.nack(6), "6 7");
    s.advance(ms(999));
    assert_eq!(s.nack(6), "");
    s.advance(ms(1));
    assert_eq!(s.take(), "");
    assert_eq!(s.nack(6), "6 7");
    // What was accepted meanwhile is not sent again.
    assert_eq!(s.nack(7), "7");
}

#[test]
fn a_refusal_for_the_moment_is_followed_by_a_pause_that_grows() {
    let mut s = Scene::open();
    s.send_to(3);
    s.take();
    let mut pause = ms(100);
    for _ in 0..7 {
        assert_eq!(s.transient(2), "");
        assert_eq!(s.nack(2), "", "3 was in flight");
        s.advance(pause - ms(1));
        assert_eq!(s.take(), "");
        s.advance(ms(1));
        assert_eq!(s.take(), "2 3");
        pause = (pause * 2).min(secs(5));
    }
    s.ack(3);
    assert_eq!(s.transient(3), "");
    // What is written during the pause goes behind it.
    s.send_to(4);
    s.advance(ms(100));
    assert_eq!(s.take(), "3 4");
    assert_eq!(s.nack(3), "3 4", "no fragment was in flight behind it");
}

#[test]
fn s02_a_nack_does_not_accept_the_start() {
    let mut s = Scene::new(true);
    s.nack(1);
    s.transient(1);
    assert!(!s.writer.is_open() && s.writer.outcome().is_none());
    s.ack(1);
    assert!(s.writer.is_open());
}

#[test]
fn s04_it_resumes_as_soon_as_there_is_a_link() {
    let mut s = Scene::open();
    s.send_to(3);
    s.ack(2);
    s.lose();
    s.send_to(4);
    assert_eq!(s.take(), "");
    s.advance(secs(20));
    assert_eq!(s.take(), "", "no timer writes without a link");
    assert_eq!(s.link(), "2 3 4");
    s.ack(5);
    s.lose();
    assert_eq!(s.link(), "alive", "shows whether the stream is still there");
    s.closed("StreamNotFound");
    assert_eq!(s.error().service_error_name(), Some("StreamNotFound"));
}

#[test]
fn s10_keep_alives_come_by_themselves() {
    let mut s = Scene::open();
    s.advance(secs(99));
    assert_eq!(s.take(), "");
    s.advance(secs(1));
    assert_eq!(s.take(), "alive");
    s.send_to(1);
    s.ack(2);
    s.advance(secs(99));
    assert_eq!(s.take(), "", "counted from the last fragment");
    s.advance(secs(101));
    assert_eq!(s.take(), "alive alive");
}

#[test]
fn without_acks_the_oldest_is_sent_again_each_second() {
    let mut s = Scene::open();
    s.send_to(3);
    s.take();
    s.advance(ms(900));
    s.send_to(4); // others behind it do not put it off
    s.take();
    s.advance(ms(100));
    assert_eq!(s.take(), "1");
    s.advance(secs(2));
    assert_eq!(s.take(), "1 1");
    s.ack(3);
    s.advance(secs(1));
    assert_eq!(s.take(), "3");
    s.ack(5);
    s.advance(secs(50));
    assert_eq!(s.take(), "");
}

#[test]
fn a_stream_without_progress_fails() {
    let mut s = Scene::open();
    s.advance(secs(60));
    s.send_to(2);
    s.advance(secs(29));
    s.ack(1); // says nothing new
    s.take();
    s.advance(secs(1));
    assert_eq!(s.take(), "abort Timeout");
    assert_eq!(s.error().kind(), ErrorKind::Timeout);
    assert!(s.writer.send(s.now, frame("3")).is_err());

    // The time without a link does not count.
    let mut s = Scene::open();
    s.send_to(2);
    s.advance(secs(20));
    s.lose();
    s.advance(secs(20));
    s.link();
    s.advance(secs(29));
    assert!(s.writer.is_open());
    s.advance(secs(1));
    assert!(!s.writer.is_open());
}

#[test]
fn numbers_that_cannot_be_end_the_stream() {
    for (sent, number, nack) in
        [(3, 5, false), (3, 0, false), (3, 1, false), (3, 5, true), (3, 1, true), (0, 2, false)]
    {
        let mut s = Scene::open();
        s.send_to(sent);
        if sent > 0 {
            s.ack(2);
        }
        s.take();
        let emitted = if nack { s.nack(number) } else { s.ack(number) };
        assert_eq!(emitted, "abort ProtocolViolation", "{sent} {number} {nack}");
        assert!(s.error().to_string().contains("broke the rules"));
    }
    let mut s = Scene::new(true);
    assert_eq!(s.ack(2), "start abort ProtocolViolation");
    // While sending is paused, those sent before count.
    let mut s = Scene::open();
    s.send_to(3);
    s.take();
    s.transient(1);
    assert_eq!(s.ack(3), "3");
    assert_eq!(s.ack(4), "");
}
