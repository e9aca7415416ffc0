//! How a stream ends, in order and otherwise.

use super::*;

#[test]
fn an_empty_stream_ends_at_once() {
    let mut s = Scene::open();
    assert_eq!(s.finish(), "end");
    s.closed("");
    assert!(s.succeeded());
}

#[test]
fn s03_opening_has_a_limit() {
    let mut s = Scene::new(true);
    s.take();
    s.advance(secs(30));
    assert_eq!(s.take(), "abort Timeout", "the service may have taken the start");
    assert_eq!(s.error().kind(), ErrorKind::Timeout);
    s.ack(1);
    assert_eq!(s.error().kind(), ErrorKind::Timeout);

    let mut s = Scene::new(false);
    s.advance(secs(30));
    assert_eq!(s.take(), "");
    assert!(!s.error().may_have_been_delivered());
}

#[test]
fn s09_the_end_may_be_lost_with_its_answer() {
    let mut s = Scene::open();
    s.send_to(1);
    s.ack(2);
    s.finish();
    s.lose();
    s.advance(secs(10));
    assert_eq!(s.link(), "end");
    s.closed("StreamNotFound");
    assert!(s.succeeded(), "only the first end can have removed it");

    // If the stream may have ended by itself, that is not known.
    let mut s = Scene::open_with(|c| c.idle_timeout = secs(9));
    s.send_to(1);
    s.ack(2);
    s.finish();
    s.lose();
    s.advance(secs(9));
    s.link();
    s.closed("StreamNotFound");
    assert_eq!(s.error().kind(), ErrorKind::OutcomeUnknown);

    // Without a loss it is a failure, also if the end waited for the link.
    let mut s = Scene::open();
    s.lose();
    assert_eq!(s.finish(), "");
    assert_eq!(s.link(), "end");
    s.closed("StreamNotFound");
    assert_eq!(s.error().kind(), ErrorKind::Refused);
}

#[test]
fn s24_the_end_waits_for_the_last_ack() {
    let mut s = Scene::open();
    s.send_to(3);
    assert_eq!(s.take(), "1 2 3");
    assert_eq!(s.finish(), "");
    assert_eq!(s.transient(3), "", "the last one is refused while the end is wanted");
    s.advance(ms(100));
    assert_eq!(s.take(), "3");
    assert_eq!(s.ack(4), "end");
}

#[test]
fn a_start_that_is_refused_or_lost_fails() {
    let mut s = Scene::new(true);
    s.closed("Forbidden");
    assert_eq!(s.error().service_error_name(), Some("Forbidden"));
    assert!(!s.error().may_have_been_delivered());

    let mut s = Scene::new(true);
    s.take();
    s.lose();
    assert_eq!(s.error().kind(), ErrorKind::OutcomeUnknown);
    assert!(!s.writer.is_over(), "an end is owed");
    assert_eq!(s.link(), "abort Disconnected", "subscribers are not to take it for complete");
    assert!(s.writer.is_over());

    let mut s = Scene::new(true);
    s.take();
    s.lose();
    s.new_connection();
    assert!(s.writer.is_over());
    assert_eq!(s.link(), "");

    // A start that was not written waits for any connection.
    let mut s = Scene::new(false);
    s.new_connection();
    assert_eq!(s.link(), "start");
}

#[test]
fn a_new_connection_fails_it_and_says_what_is_certain() {
    for finishing in [false, true] {
        let mut s = Scene::open();
        s.send_to(3);
        s.ack(3);
        if finishing {
            s.finish();
            s.ack(4);
        }
        s.lose();
        s.new_connection();
        assert_eq!(s.error().kind(), ErrorKind::OutcomeUnknown);
        assert!(s.error().to_string().contains("up to fragment"));
        assert_eq!(s.writer.acked(), if finishing { 3 } else { 2 });
        assert_eq!(s.link(), "");
    }
}

#[test]
fn an_abort_goes_at_once_and_any_close_confirms_it() {
    for name in ["", "UserError", "StreamNotFound"] {
        let mut s = Scene::open();
        s.send_to(2);
        s.take();
        assert_eq!(s.abort(), "abort E1");
        assert_eq!(s.nack(1), "");
        s.closed(name);
        assert!(s.succeeded());
    }
    let mut s = Scene::open();
    s.lose();
    assert_eq!(s.abort(), "");
    assert_eq!(s.link(), "abort E1");
    s.lose();
    assert_eq!(s.link(), "abort E1");
}

#[test]
fn the_end_has_a_deadline_in_every_state() {
    // The last ack never comes.
    let mut s = Scene::open();
    s.send_to(1);
    s.advance(secs(1));
    s.finish();
    s.ack(1);
    s.advance(secs(28));
    assert!(s.writer.outcome().is_none());
    s.advance(secs(2));
    assert_eq!(s.error().kind(), ErrorKind::Timeout);
    // `streamClosed` never comes.
    let mut s = Scene::open();
    s.finish();
    s.advance(secs(30));
    assert_eq!(s.error().kind(), ErrorKind::Timeout);
    assert!(s.error().may_have_been_delivered());
    assert_eq!(s.take(), "");
    // The link does not come back: what is owed is said when it does.
    let mut s = Scene::open();
    s.send_to(1);
    s.take();
    s.lose();
    s.finish();
    s.advance(secs(30));
    assert_eq!(s.error().kind(), ErrorKind::Timeout);
    assert_eq!(s.link(), "abort Timeout");
    assert!(s.writer.is_over());
    // So is an abort that never left.
    let mut s = Scene::open();
    s.lose();
    s.abort();
    s.advance(secs(30));
    assert_eq!(s.error().kind(), ErrorKind::Timeout);
    assert!(!s.writer.is_over());
    assert_eq!(s.link(), "abort E1");
    assert!(s.writer.is_over());
}

#[test]
fn an_end_that_the_service_makes_is_a_failure() {
    for name in ["IdleTimeout", "Forbidden", ""] {
        let mut s = Scene::open();
        s.send_to(1);
        s.closed(name);
        assert_eq!(s.error().kind(), ErrorKind::Refused);
        assert_eq!(s.error().service_error_name(), Some(name).filter(|n| !n.is_empty()));
        assert!(s.error().may_have_been_delivered());
    }
}
