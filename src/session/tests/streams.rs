//! Streams in the life of a connection: which link carries what, and what ends them.

use std::time::Duration;

use super::scenario::frame;
use super::{Scenario, secs};
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::NamedError;
use crate::session::stream_writer::StreamConfig;
use crate::session::streams::{StreamNews, StreamStart};

impl Scenario {
    fn open_stream(&mut self, id: &str) -> Result<()> {
        self.open_stream_for(id, secs(30))
    }

    fn open_stream_for(&mut self, id: &str, limit: Duration) -> Result<()> {
        let start = StreamStart {
            group: "g".into(),
            stream_id: id.into(),
            no_echo: false,
            idle_timeout_ms: 300_000,
        };
        let config = StreamConfig::default();
        let begun = self.session.open_stream(self.now, start, config, self.now + limit);
        self.drain();
        begun
    }

    fn news(&mut self, id: &str, news: StreamNews) {
        self.session.stream_news(self.now, id, news);
        self.drain();
    }

    /// The service accepts all below this number.
    fn accepts(&mut self, id: &str, expected: u64) {
        self.news(id, StreamNews::Ack(expected));
    }

    /// An open stream of which nothing is logged.
    fn with_stream(&mut self, id: &str) {
        self.open_stream(id).expect("begun");
        self.accepts(id, 1);
        self.take();
    }

    fn send_fragment(&mut self, id: &str, text: &str) -> Result<()> {
        let now = self.now;
        let sent = self.session.drive_stream(now, id, |w| w.send(now, frame(text)));
        self.drain();
        sent.expect("it is known")
    }

    fn finish_stream(&mut self, id: &str) {
        let now = self.now;
        self.session.drive_stream(now, id, |w| w.finish(now, now + secs(30)));
        self.drain();
    }

    fn drop_stream(&mut self, id: &str) {
        self.session.release_stream(self.now, id, self.now + secs(30));
        self.drain();
    }

    fn outcome(&mut self, id: &str) -> Option<Result<()>> {
        let outcome = self.session.drive_stream(self.now, id, |w| w.outcome().cloned());
        self.drain();
        outcome.expect("it is known")
    }

    fn stream_error(&mut self, id: &str) -> Error {
        self.outcome(id).expect("an end").expect_err("a failure")
    }
}

#[test]
fn a_stream_from_start_to_end() {
    let mut s = Scenario::connected();
    s.open_stream("a").expect("begun");
    assert_eq!(s.take(), ["stream a: start g"]);
    s.accepts("a", 1);
    s.send_fragment("a", "1").expect("sent");
    assert_eq!(s.take(), ["stream a: 1"]);
    s.finish_stream("a");
    assert_eq!(s.take(), [""; 0], "not before the last ack");
    s.accepts("a", 2);
    assert_eq!(s.take(), ["stream a: end"]);
    s.news("a", StreamNews::Closed(None));
    assert!(s.outcome("a").expect("an end").is_ok());
    s.drop_stream("a");
    assert_eq!(s.take(), [""; 0]);
    assert_eq!((s.session.streams(), s.session.next_wake()), (0, None), "nothing is left of it");
}

#[test]
fn an_id_is_in_use_by_one_stream_at_a_time() {
    let mut s = Scenario::connected();
    s.with_stream("a");
    assert_eq!(s.open_stream("a").expect_err("in use").kind(), ErrorKind::InvalidRequest);
    s.open_stream("b").expect("another");
    s.drop_stream("a");
    assert_eq!(s.only("stream a"), ["stream a: abort Dropped"]);
    assert!(s.open_stream("a").is_err(), "the service may not know yet");
    s.news("a", StreamNews::Closed(None));
    s.open_stream("a").expect("it is free again");
}

#[test]
fn without_a_link_the_start_waits_for_the_next_connection_within_its_deadline() {
    let mut s = Scenario::new();
    s.start();
    s.open_stream("a").expect("begun");
    s.open_stream_for("late", secs(1)).expect("begun");
    s.linked();
    assert_eq!(s.only("stream"), [""; 0], "the service has not said who we are");
    s.now += secs(2);
    s.hello("c1", "t1");
    assert_eq!(s.only("stream"), ["stream a: start g"]);
    let error = s.stream_error("late");
    assert!(error.is_timeout() && !error.may_have_been_delivered(), "{error}");
}

#[test]
fn a_link_that_a_writer_found_dead_takes_no_start() {
    let mut s = Scenario::connected();
    s.session.suspend();
    s.open_stream("a").expect("begun");
    assert_eq!(s.take(), [""; 0]);
    s.lose(None);
    s.linked();
    s.prove();
    assert_eq!(s.only("stream"), ["stream a: start g"]);
}

#[test]
fn s04_a_recovery_goes_on_with_it_as_soon_as_the_session_is_proved() {
    let mut s = Scenario::connected();
    s.with_stream("a");
    s.with_stream("quiet");
    s.send_fragment("a", "1").expect("sent");
    s.lose(None);
    s.take();
    s.send_fragment("a", "2").expect("it waits in the window");
    s.linked();
    assert_eq!(s.only("stream"), [""; 0]);
    // No `connected`, no pong.
    s.prove();
    let mut resumed = s.only("stream");
    resumed.sort_unstable();
    assert_eq!(resumed, ["stream a: 1", "stream a: 2", "stream quiet: alive"]);
}

#[test]
fn a_start_that_is_lost_with_its_link_fails_and_is_ended_after_the_recovery() {
    let mut s = Scenario::connected();
    s.open_stream("a").expect("begun");
    s.lose(None);
    assert_eq!(s.stream_error("a").kind(), ErrorKind::OutcomeUnknown);
    s.drop_stream("a");
    s.take();
    s.linked();
    s.prove();
    assert_eq!(s.only("stream"), ["stream a: abort Disconnected"]);
    assert_eq!(s.session.streams(), 0);
    let error = NamedError { name: "StreamNotFound".into(), message: None };
    s.news("a", StreamNews::Closed(Some(error)));
    assert_eq!(s.take(), [""; 0]);
}

#[test]
fn a_new_connection_ends_the_streams_of_the_old_one() {
    let mut s = Scenario::connected();
    s.with_stream("a");
    for number in ["1", "2", "3"] {
        s.send_fragment("a", number).expect("sent");
    }
    s.accepts("a", 3);
    s.renew("c2");
    assert_eq!(s.only("stream"), [""; 0], "nothing of it goes to the new connection");
    let error = s.stream_error("a");
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
    assert!(error.to_string().contains("up to fragment 2"), "{error}");
    assert_eq!(s.session.drive_stream(s.now, "a", |w| w.acked()), Some(2));
    assert!(s.send_fragment("a", "4").is_err());
    s.drop_stream("a");
    s.with_stream("a");
    assert_eq!(s.session.streams(), 1);
}

#[test]
fn a_recovery_that_fails_ends_them_too() {
    let mut s = Scenario::connected();
    s.with_stream("a");
    s.lose(None);
    s.linked();
    s.lose(Some(1008));
    assert_eq!(s.stream_error("a").kind(), ErrorKind::OutcomeUnknown);
}

#[test]
fn the_close_aborts_open_streams_before_its_close_frame() {
    let mut s = Scenario::connected();
    s.with_stream("open");
    s.open_stream("starting").expect("begun");
    s.with_stream("ending");
    s.finish_stream("ending");
    s.take();
    s.close();
    let mut log = s.take();
    assert_eq!(log.pop().as_deref(), Some("close 1000"));
    log.sort_unstable();
    assert_eq!(log, ["stream open: abort Closed", "stream starting: abort Closed"]);
    for id in ["open", "starting", "ending"] {
        let error = s.stream_error(id);
        assert!(error.is_closed() && error.may_have_been_delivered(), "{id}: {error}");
    }
    assert!(s.open_stream("new").expect_err("closed").is_closed());
    s.drop_stream("open");
    s.accepts("open", 1);
    assert_eq!(s.take(), [""; 0], "nothing follows the Close frame");
}

#[test]
fn without_a_link_the_close_ends_them_all_the_same() {
    let mut s = Scenario::connected();
    s.with_stream("a");
    s.lose(None);
    s.open_stream("waiting").expect("begun");
    s.take();
    s.stop();
    assert_eq!(s.only("stream"), [""; 0]);
    assert!(s.stream_error("a").may_have_been_delivered());
    let error = s.stream_error("waiting");
    assert!(error.is_closed() && !error.may_have_been_delivered(), "{error}");
}

#[test]
fn what_is_said_about_unknown_streams_is_ignored() {
    let mut s = Scenario::connected();
    for news in [
        StreamNews::Ack(7),
        StreamNews::Nack { expected: 1, name: "InvalidSequenceId".into() },
        StreamNews::Closed(None),
    ] {
        s.news("nobody", news);
    }
    assert_eq!(s.take(), [""; 0]);
    assert_eq!(s.session.next_wake(), None);
}

#[test]
fn s10_keep_alives_and_probes_come_by_the_ticks_of_the_session() {
    let mut s = Scenario::connected();
    s.with_stream("a");
    s.advance(secs(201));
    assert_eq!(s.take(), ["stream a: alive", "stream a: alive"]);
    s.send_fragment("a", "1").expect("sent");
    s.take();
    s.advance(secs(2));
    assert_eq!(s.take(), ["stream a: 1", "stream a: 1"], "once a second");
    s.accepts("a", 2);
    s.advance(secs(99));
    assert_eq!(s.take(), [""; 0]);
}

#[test]
fn streams_and_calls_do_not_hold_each_other_up() {
    let mut s = Scenario::connected();
    s.with_stream("a");
    s.send_fragment("a", "1").expect("sent");
    s.call(1);
    s.send_fragment("a", "2").expect("sent");
    assert_eq!(s.take(), ["stream a: 1", "send msg#1", "stream a: 2"]);
    s.ack(1);
    assert!(s.result(1).is_ok());
}

#[test]
fn a_dropped_stream_is_forgotten_at_its_deadline() {
    let mut s = Scenario::connected();
    s.with_stream("a");
    s.drop_stream("a");
    assert_eq!(s.session.streams(), 1);
    s.advance(secs(31));
    assert_eq!((s.session.streams(), s.session.next_wake()), (0, None));
}
