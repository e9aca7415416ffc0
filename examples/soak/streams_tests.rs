use super::*;

/// A record of the fragments `from..to` of stream 7.
fn record(from: usize, to: usize, end: Option<ErrorKind>) -> Record {
    let end = end.map(|kind| Error::new(kind, "why"));
    Record { serial: 7, from, to, wrong: None, end }
}

/// How much is wrong with these records of a stream of 5 fragments, of which 3 were acknowledged.
fn wrong(records: &[Record], fate: Fate, lost_session: bool) -> usize {
    let stream = Published { sent: 5, acked: 3, fate };
    check(records, &BTreeMap::from([(7, stream)]), lost_session).len()
}

#[test]
fn a_stream_is_seen_whole_and_only_once() {
    assert_eq!(wrong(&[record(0, 5, None)], Fate::Finished, false), 0);
    assert_eq!(wrong(&[record(0, 4, None)], Fate::Finished, false), 1, "not the last one");
    assert_eq!(wrong(&[record(0, 5, None)], Fate::GivenUp, false), 1, "nobody finished it");
    assert_eq!(wrong(&[], Fate::GivenUp, false), 1, "not even what was acknowledged");
    assert_eq!(wrong(&[], Fate::Finished, true), 0, "it may have been away");
    assert_eq!(wrong(&[record(2, 5, None)], Fate::Finished, false), 1, "not from the start");
    let twice = [record(0, 4, Some(ErrorKind::Disconnected)), record(3, 5, None)];
    assert_eq!(wrong(&twice, Fate::Finished, true), 1, "fragment 3 twice");
}

#[test]
fn a_reader_fails_only_for_a_reason() {
    let disconnected = || [record(0, 4, Some(ErrorKind::Disconnected))];
    assert_eq!(wrong(&disconnected(), Fate::Finished, true), 0);
    assert_eq!(wrong(&disconnected(), Fate::Finished, false), 1, "it was not");
    for kind in [ErrorKind::StreamFailed, ErrorKind::QueueFull, ErrorKind::Closed] {
        assert_eq!(wrong(&[record(0, 5, Some(kind))], Fate::GivenUp, true), 1, "{kind:?}");
    }
}

#[test]
fn a_fragment_is_the_next_one_of_its_stream() {
    let mut seen = Record::new("7");
    seen.take(&Payload::from(text(7, 0, 40)));
    seen.take(&Payload::from(text(7, 1, 40).into_bytes()));
    assert_eq!((seen.fragments(), &seen.wrong), (2, &None));
    for strange in [text(7, 3, 40), text(8, 2, 40), text(7, 1, 40), text(7, 2, 40) + "x"] {
        let mut seen = Record { wrong: None, end: None, ..seen };
        seen.take(&Payload::from(strange));
        assert!(seen.wrong.is_some());
    }
}
