//! The protobuf subprotocols through a socket: frames written by hand.

use super::*;
use crate::protocol::{Decoder, Downstream, Frame, Protocol};

const PROTOBUF: &str = "protobuf.webpubsub.azure.v1";
const RELIABLE_PROTOBUF: &str = "protobuf.reliable.webpubsub.azure.v1";

fn send_bytes(socket: &mut Socket, bytes: &[u8]) {
    socket.send(Message::binary(bytes.to_vec())).unwrap();
}

fn read_bytes(socket: &mut Socket) -> Vec<u8> {
    match socket.read().unwrap() {
        Message::Binary(bytes) => bytes.to_vec(),
        other => panic!("{other:?}"),
    }
}

/// Returns the connection id and the reconnection token too.
fn open_protobuf(url: &str, subprotocol: &str) -> (Socket, String, Option<String>) {
    let (mut socket, response) = dial(url, subprotocol).unwrap();
    assert_eq!(response.headers()["Sec-WebSocket-Protocol"], subprotocol);
    let frame = Frame::Binary(read_bytes(&mut socket).into());
    let connected = Decoder::new(Protocol::Protobuf).decode(&frame).unwrap();
    let Downstream::Connected { connection_id, reconnection_token, .. } = connected else {
        panic!("{connected:?}")
    };
    (socket, connection_id, reconnection_token.map(|token| token.expose().to_owned()))
}

#[test]
fn requests_are_answered_in_protobuf() {
    let emulator = Emulator::start().unwrap();
    let url = emulator.url("chat");
    let (mut socket, _, token) = open_protobuf(&url, PROTOBUF);
    assert_eq!(token, None);
    send_bytes(&mut socket, b"\x32\x06\x0a\x02g1\x10\x01"); // join g1, ack 1
    assert_eq!(read_bytes(&mut socket), b"\x0a\x04\x08\x01\x10\x01");
    send_bytes(&mut socket, b"\x4a\x00"); // ping
    assert_eq!(read_bytes(&mut socket), b"\x22\x00");

    // To itself and to a JSON client; the message carries no sender.
    let (mut json, _) = open(&url, JSON);
    join(&mut json, "g1");
    send_bytes(&mut socket, b"\x0a\x0c\x0a\x02g1\x1a\x06\x22\x04true");
    let got = read(&mut json);
    assert_eq!((&got["dataType"], &got["data"]), (&json!("json"), &json!(true)));
    let own = read_bytes(&mut socket);
    assert_eq!(own, b"\x12\x13\x0a\x05group\x12\x02g1\x1a\x06\x22\x04true");
}

#[test]
fn numbered_messages_come_again_after_a_recovery() {
    let emulator = Emulator::start().unwrap();
    let (mut socket, id, token) = open_protobuf(&emulator.url("chat"), RELIABLE_PROTOBUF);
    let token = token.unwrap();
    emulator.send_to_all("chat", "one").unwrap();
    emulator.send_to_all("chat", "two").unwrap();
    read_bytes(&mut socket);
    send_bytes(&mut socket, b"\x42\x02\x08\x01"); // sequence ack 1
    assert!(emulator.wait_until(WATCHDOG, |s| s.sequence_acks == 1));
    emulator.faults().drop_connections();
    let url = format!(
        "ws://127.0.0.1:{}/client/hubs/chat?awps_connection_id={id}&awps_reconnection_token={token}",
        emulator.port(),
    );
    let (mut again, _) = dial(&url, RELIABLE_PROTOBUF).unwrap();
    assert_eq!(read_bytes(&mut again), b"\x12\x11\x0a\x06server\x1a\x05\x0a\x03two\x20\x02");
}

#[test]
fn broken_input_closes_with_the_words_of_the_service() {
    let emulator = Emulator::start().unwrap();
    let url = emulator.url("chat");
    let invalid = "The client message is not a valid protobuf.webpubsub.azure.v1 protocol message.";
    let text = "The protobuf.webpubsub.azure.v1 subprotocol requires binary messages.";
    let large = "The client message is too large.";
    for subprotocol in [PROTOBUF, RELIABLE_PROTOBUF] {
        for (message, code, reason) in [
            (Message::binary(vec![]), 1007, invalid),
            (Message::binary(vec![255]), 1007, invalid),
            (Message::binary(b"\x32\x03\x0a\x01 ".to_vec()), 1007, invalid),
            (Message::text("{\"type\":\"ping\"}"), 1003, text),
            (Message::binary(vec![0; (1 << 20) + 1]), 1009, large),
        ] {
            let (mut socket, ..) = open_protobuf(&url, subprotocol);
            let _ = socket.send(message);
            assert_eq!(read_close(&mut socket), (code, reason.to_owned()));
        }
    }
}
