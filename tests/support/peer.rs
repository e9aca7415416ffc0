//! Frames made by hand, for peers that do what no service should.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::{RELIABLE, upgrade_by_hand};

/// A frame of a server; `first` is its first byte (FIN and opcode).
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        n @ ..126 => frame.push(n as u8),
        n @ 126..65536 => {
            frame.push(126);
            frame.extend((n as u16).to_be_bytes());
        }
        n => {
            frame.push(127);
            frame.extend((n as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    frame(0x81, text.as_bytes())
}

pub(crate) fn connected() -> Vec<u8> {
    text(
        r#"{"type":"system","event":"connected","userId":null,"connectionId":"c","reconnectionToken":"t"}"#,
    )
}

pub(crate) fn message(sequence_id: u64, data: &str) -> Vec<u8> {
    text(&format!(
        r#"{{"sequenceId":{sequence_id},"type":"message","from":"server","dataType":"text","data":"{data}"}}"#
    ))
}

pub(crate) fn pong() -> Vec<u8> {
    text(r#"{"type":"pong"}"#)
}

/// A Close frame with this code.
pub(crate) fn close(code: u16) -> Vec<u8> {
    frame(0x88, &code.to_be_bytes())
}

/// Upgrades to the reliable JSON subprotocol; true if the client asks for a recovery.
pub(crate) fn upgrade(stream: &mut TcpStream) -> bool {
    upgrade_by_hand(stream, RELIABLE).contains("awps_connection_id")
}

/// The same, with the `connected` message behind it.
pub(crate) fn open(stream: &mut TcpStream) {
    upgrade(stream);
    stream.write_all(&connected()).expect("write");
}

/// Closes the socket by a reset.
pub(crate) fn reset(stream: TcpStream) {
    socket2::Socket::from(stream).set_linger(Some(Duration::ZERO)).expect("linger");
}

/// The text frames of a client, and when they came.
#[derive(Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<Vec<(Instant, String)>>>);

impl Heard {
    /// Reads on a thread until the client goes away.
    pub(crate) fn listen(&self, stream: &TcpStream) {
        let (heard, mut stream) = (self.clone(), stream.try_clone().expect("clone"));
        thread::spawn(move || {
            while let Some((opcode, payload)) = read_frame(&mut stream) {
                if opcode == 1 {
                    let text = String::from_utf8_lossy(&payload).into_owned();
                    heard.0.lock().expect("lock").push((Instant::now(), text));
                }
            }
        });
    }

    /// When frames came that contain this.
    pub(crate) fn times(&self, part: &str) -> Vec<Instant> {
        let heard = self.0.lock().expect("lock");
        heard.iter().filter(|(_, text)| text.contains(part)).map(|(at, _)| *at).collect()
    }
}

/// The next frame of a client: its opcode and payload.
pub(crate) fn read_frame(stream: &mut impl Read) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).ok()?;
    let length = match head[1] & 0x7f {
        126 => u64::from(u16::from_be_bytes(read(stream)?)),
        127 => u64::from_be_bytes(read(stream)?),
        short => u64::from(short),
    };
    let mask: [u8; 4] = read(stream)?;
    let mut payload = vec![0; usize::try_from(length).ok()?];
    stream.read_exact(&mut payload).ok()?;
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    Some((head[0] & 0x0f, payload))
}

fn read<const N: usize>(stream: &mut impl Read) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).ok()?;
    Some(bytes)
}
