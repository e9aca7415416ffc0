// The body of the fuzz target `decode`, which the stable tests run too. It is included where
// these names are in scope: Bytes, Text, and Decoder, Frame, Protocol and the codec functions.

/// Decodes any bytes in every way. Nothing may panic, and what can be read must survive being
/// written and read again.
fn check(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let text = Text::from_utf8(bytes.clone()).map(Frame::Text);
    for frame in text.into_iter().chain([Frame::Binary(bytes)]) {
        for &protocol in Protocol::ALL {
            check_downstream(protocol, &frame);
            check_upstream(protocol, &frame);
        }
    }
}

fn check_downstream(protocol: Protocol, frame: &Frame) {
    let mut decoder = Decoder::new(protocol);
    let Ok(message) = decoder.decode(frame) else { return };
    let again = encode_downstream(protocol, &message).expect("a message that was read");
    assert_eq!(decoder.decode(&again).as_ref(), Ok(&message), "{again:?}");
}

fn check_upstream(protocol: Protocol, frame: &Frame) {
    let Ok(message) = decode_upstream(protocol, frame) else { return };
    let again = encode_upstream(protocol, &message).expect("a message that was read");
    assert_eq!(decode_upstream(protocol, &again).as_ref(), Ok(&message), "{again:?}");
}
