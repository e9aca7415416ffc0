//! The subscriber of streams: gaps, repetitions, ends, and what is ignored. Those whose names begin
//! with `s` show a defect of the JavaScript client to be absent.

use std::time::{Duration, Instant};

use super::secs;
use crate::message::{GroupMessage, Payload, StreamFailure, StreamPart};
use crate::protocol::{Decoder, Downstream, Frame, Protocol};
use crate::session::stream_reader::{Arrived, ReaderConfig, StreamEnd, StreamReaders};

struct Scene {
    readers: StreamReaders,
    now: Instant,
}

impl Scene {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut ReaderConfig)) -> Self {
        let mut config = ReaderConfig::default();
        change(&mut config);
        Self { readers: StreamReaders::new(config), now: Instant::now() }
    }

    /// A fragment of a stream of the group `g`, whose text is its number.
    fn part(&mut self, id: &str, number: u64) -> String {
        self.message("g", id, number, &number.to_string(), false, None)
    }

    fn end(&mut self, id: &str, number: u64) -> String {
        self.message("g", id, number, "", true, None)
    }

    /// What it brings: `stream`, `+` if it is new, `:part`, and how it ends.
    fn message(
        &mut self,
        group: &str,
        id: &str,
        number: u64,
        text: &str,
        end_of_stream: bool,
        error: Option<&str>,
    ) -> String {
        let failure = |name: &str| StreamFailure { name: name.into(), ..StreamFailure::default() };
        let error = error.map(failure);
        let part =
            StreamPart { stream_id: id.into(), stream_sequence_id: number, end_of_stream, error };
        let mut message = GroupMessage::new(group, text);
        message.stream = Some(Box::new(part));
        self.arrive(&message)
    }

    fn arrive(&mut self, message: &GroupMessage) -> String {
        let arrived = self.readers.message(self.now, message, true);
        let Some(Arrived { stream, is_new, part, end }) = arrived else { return "-".into() };
        let mut out = format!("{stream}{}", if is_new { "+" } else { "" });
        if let Some(part) = part {
            out.extend([":", part.text().unwrap()]);
        }
        match end {
            None => {}
            Some(StreamEnd::Complete) => out.push_str(" end"),
            Some(StreamEnd::Failed(failure)) => out.extend([" failed ", &failure.name]),
            Some(StreamEnd::OutOfOrder { expected, came }) => {
                out.push_str(&format!(" {came} instead of {expected}"));
            }
        }
        out
    }

    fn advance(&mut self, by: Duration) -> Vec<u64> {
        let (until, mut silent) = (self.now + by, Vec::new());
        while let Some(at) = self.readers.next_wake().filter(|at| *at <= until) {
            self.now = at;
            silent.extend(self.readers.tick(at));
        }
        self.now = until;
        silent
    }
}

#[test]
fn a_stream_from_its_first_fragment_to_its_end() {
    let mut s = Scene::new();
    assert_eq!(s.part("a", 1), "1+:1");
    assert_eq!(s.part("b", 1), "2+:1");
    assert_eq!(s.part("a", 2), "1:2");
    assert_eq!(
        s.message("other", "a", 1, "x", false, None),
        "3+:x",
        "its group is part of its name"
    );
    assert_eq!(s.end("a", 3), "1 end");
    assert_eq!(s.part("a", 1), "4+:1", "the id may come again");
    assert_eq!(s.end("b", 2), "2 end");
    assert_eq!(s.end("empty", 1), "5+ end", "a stream without a fragment");
    assert_eq!(s.readers.message(s.now, &GroupMessage::new("g", "no stream"), true), None);
}

#[test]
fn the_last_message_may_bring_data_and_an_error() {
    let mut s = Scene::new();
    s.part("a", 1);
    assert_eq!(s.message("g", "a", 2, "last", true, None), "1:last end");
    s.part("b", 1);
    assert_eq!(s.message("g", "b", 2, "", true, Some("UserError")), "2 failed UserError");
    s.part("c", 1);
    assert_eq!(s.message("g", "c", 2, "x", true, Some("Cancelled")), "3:x failed Cancelled");
}

#[test]
fn s14_gaps_and_repetitions_end_a_stream() {
    let mut s = Scene::new();
    s.part("a", 1);
    assert_eq!(s.part("a", 3), "1 3 instead of 2");
    assert_eq!(s.part("a", 4), "-", "ignored to its end");
    assert_eq!(s.end("a", 5), "-");
    assert_eq!(s.part("a", 1), "2+:1");
    assert_eq!(s.part("a", 1), "2 1 instead of 2", "a repetition, or another publisher");
    s.end("a", 2);
    s.part("a", 1);
    assert_eq!(s.end("a", 3), "3 3 instead of 2", "the end is numbered too");
    assert_eq!(s.part("a", 1), "4+:1");
    // The largest number does not go round to 0.
    assert_eq!(s.part("z", u64::MAX), format!("5+:{}", u64::MAX));
    assert_eq!(s.part("z", 0), format!("5 0 instead of {}", u64::MAX));
}

#[test]
fn a_stream_met_in_the_middle_is_read_unless_that_is_not_wanted() {
    let mut s = Scene::new();
    assert_eq!(s.part("a", 7), "1+:7");
    assert_eq!(s.part("a", 8), "1:8");
    let mut s = Scene::with(|c| c.from_start = true);
    assert_eq!(s.part("a", 7), "-");
    assert_eq!(s.part("a", 8), "-");
    assert_eq!(s.end("a", 9), "-");
    assert_eq!(s.part("a", 1), "2+:1");
    assert_eq!(s.end("late", 9), "-");
}

#[test]
fn s15_a_new_connection_and_a_leave_end_what_is_open() {
    let mut s = Scene::new();
    s.part("a", 1);
    s.message("other", "a", 1, "x", false, None);
    s.part("b", 1);
    s.part("b", 9); // failed
    assert_eq!(s.readers.new_connection(), [1, 2]);
    assert_eq!(s.part("a", 3), "4+:3", "a stream in the middle");
    s.message("other", "a", 2, "x", false, None);
    assert_eq!(s.readers.left("g"), [4]);
    assert_eq!(s.readers.left("g"), [0; 0]);
    assert_eq!(s.readers.new_connection(), [5]);
}

#[test]
fn s16_a_last_message_without_data_type_ends_its_stream() {
    let mut s = Scene::new();
    s.part("a", 1);
    let frame = r#"{"type":"message","from":"group","group":"g","sequenceId":9,
        "stream":{"streamId":"a","streamSequenceId":2,"endOfStream":true}}"#;
    let mut decoder = Decoder::new(Protocol::ReliableJson);
    let decoded = decoder.decode(&Frame::Text(frame.into()));
    let Ok(Downstream::GroupMessage(message)) = decoded else { panic!("{decoded:?}") };
    assert_eq!(s.arrive(&message), "1 end");
    // A JSON null is a fragment like any other.
    let frame = r#"{"type":"message","from":"group","group":"g","dataType":"json","data":null,
        "stream":{"streamId":"a","streamSequenceId":1}}"#;
    let decoded = decoder.decode(&Frame::Text(frame.into()));
    let Ok(Downstream::GroupMessage(message)) = decoded else { panic!("{decoded:?}") };
    let arrived = s.readers.message(s.now, &message, true).unwrap();
    assert_eq!(arrived.part.as_ref().map(Payload::as_bytes), Some(&b"null"[..]));
}

#[test]
fn s17_silence_ends_a_stream_only_on_request() {
    let mut s = Scene::new();
    s.part("a", 1);
    assert_eq!(s.advance(secs(100_000)), [0; 0]);
    assert_eq!(s.part("a", 2), "1:2");

    let mut s = Scene::with(|c| c.silence_timeout = Some(secs(10)));
    s.part("a", 1);
    s.advance(secs(5));
    s.part("b", 1);
    s.advance(secs(4));
    s.part("a", 2);
    assert_eq!(s.advance(secs(6)), [2]);
    assert_eq!(s.part("b", 2), "-");
    assert_eq!(s.advance(secs(4)), [1]);
    assert_eq!(s.readers.next_wake(), None);
}

#[test]
fn s18_what_is_tracked_is_bounded() {
    let mut s = Scene::with(|c| (c.from_start, c.max_streams) = (true, 3));
    assert_eq!(s.part("a", 1), "1+:1");
    for id in ["x", "y", "z", "w"] {
        assert_eq!(s.part(id, 5), "-"); // and its last message never comes
    }
    // Ignored ones make room for those that can be read.
    assert_eq!(s.part("b", 1), "6+:1");
    assert_eq!(s.part("c", 1), "7+:1");
    assert_eq!(s.part("d", 1), "-", "three are read");
    assert_eq!(s.end("d", 2), "-");
    assert_eq!(s.end("a", 2), "1 end");
    assert_eq!(s.part("e", 1), "8+:1");
}

#[test]
fn an_id_that_is_ignored_may_begin_anew() {
    let mut s = Scene::new();
    s.part("a", 1);
    s.part("a", 3);
    // Its publisher is gone without a last message, and another one takes the id.
    assert_eq!(s.part("a", 1), "2+:1");
    assert_eq!(s.part("a", 2), "2:2");
}

#[test]
fn s13_a_stream_that_nobody_reads_is_thrown_away_to_its_end() {
    let mut s = Scene::new();
    s.part("a", 1);
    s.readers.ignore(1);
    s.readers.ignore(99);
    assert_eq!(s.part("a", 2), "-");
    assert_eq!(s.end("a", 3), "-");
    assert_eq!(s.part("a", 1), "2+:1");
}

#[test]
fn a_stream_of_which_only_the_end_is_seen_is_none() {
    let mut s = Scene::new();
    assert_eq!(s.end("a", 4), "-");
    assert_eq!(s.message("g", "a", 4, "last words", true, None), "2+:last words end");
    assert_eq!(s.end("empty", 1), "3+ end", "seen whole");
}
