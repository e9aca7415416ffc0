//! Of what goes wrong in other clients (see `defects.rs`): frames of the JSON subprotocols that a
//! service should not send, made by hand.

use webpubsub::emulator::{Direction, Emulator};
use webpubsub::{ErrorKind, Publish};

use crate::support::{WATCHDOG, client, emulator, eventually, next_group_message};

/// The client has acknowledged this sequence id.
fn acknowledged(emulator: &Emulator, id: u64) -> bool {
    let ack = format!("{{\"type\":\"sequenceAck\",\"sequenceId\":{id}}}");
    emulator.frames().iter().any(|f| f.direction == Direction::Up && f.text == ack)
}

#[test]
fn j03_a_frame_that_is_not_json_is_skipped_and_those_behind_it_arrive() {
    let emulator = emulator();
    let client = client(&emulator);
    client.join_group("g").expect("join");
    emulator.faults().send_raw_text(None, "}{");
    emulator.send_to_group("hub", "g", "behind").expect("sent");
    assert_eq!(next_group_message(&client).text().expect("text"), "behind");
    assert_eq!(client.stats().malformed, 1);
}

#[test]
fn j11_null_as_data_is_delivered_and_acknowledged() {
    let emulator = Emulator::builder().record_frames(100).start().expect("emulator");
    let client = client(&emulator);
    let text = r#"{"sequenceId":1,"type":"message","from":"group","group":"g","dataType":"json","data":null}"#;
    emulator.faults().send_raw_text(None, text);
    let message = next_group_message(&client);
    assert_eq!(message.json::<Option<u8>>().expect("json"), None);
    eventually("acknowledged", || acknowledged(&emulator, 1));
    assert_eq!(emulator.stats().connections_opened, 1, "the connection lives on");
}

#[test]
fn p14_numbers_of_frames_that_cannot_be_read_are_acknowledged() {
    let emulator = Emulator::builder().record_frames(100).start().expect("emulator");
    let client = client(&emulator);
    for text in [
        r#"{"sequenceId":1,"type":"message","from":"server","dataType":"cbor","data":"x"}"#,
        r#"{"sequenceId":2,"type":"holograms"}"#,
        r#"{"sequenceId":3,"type":"message","from":"group","group":7}"#,
    ] {
        emulator.faults().send_raw_text(None, text);
    }
    eventually("acknowledged", || acknowledged(&emulator, 3));
    assert_eq!(client.stats().malformed, 3);
    assert_eq!(client.stats().messages_in, 0, "nothing is delivered without its data");
    assert_eq!(emulator.stats().connections_opened, 1, "the connection lives on");
}

#[test]
fn p14_an_ack_without_the_reasons_text_still_ends_the_call() {
    let emulator = emulator();
    let client = client(&emulator);
    emulator.faults().hold_acks(true);
    let pending = client.start(Publish::new("g", "x").ack_id(9)).expect("start");
    assert!(emulator.wait_until(WATCHDOG, |s| s.frames_in >= 1));
    emulator.faults().send_raw_text(None, r#"{"type":"ack","ackId":9,"success":false}"#);
    assert_eq!(pending.wait().expect_err("refused").kind(), ErrorKind::Refused);
}
