//! Frames on their way out (RFC 6455 §5.2). The way in is tungstenite's.

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// The kind of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Text,
    Binary,
    Ping,
    /// Unsolicited; the answer to a ping is tungstenite's.
    #[cfg(feature = "emulator")]
    Pong,
    Close,
}

impl Op {
    fn code(self) -> OpCode {
        match self {
            Self::Text => OpCode::Data(Data::Text),
            Self::Binary => OpCode::Data(Data::Binary),
            Self::Ping => OpCode::Control(Control::Ping),
            #[cfg(feature = "emulator")]
            Self::Pong => OpCode::Control(Control::Pong),
            Self::Close => OpCode::Control(Control::Close),
        }
    }
}

/// One unfragmented frame (RFC 6455 §5.2).
pub(super) fn write_frame(out: &mut Vec<u8>, op: Op, mask: Option<[u8; 4]>, payload: &[u8]) {
    let header = FrameHeader { opcode: op.code(), mask, ..FrameHeader::default() };
    out.reserve(payload.len() + 14);
    // Writing to a vector cannot fail.
    let _ = header.format(payload.len() as u64, out);
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(mask) = mask {
        apply_mask(&mut out[start..], mask);
    }
}

/// One frame of a server, for a peer that is to get it in pieces.
#[cfg(feature = "emulator")]
pub(crate) fn encode_frame(op: Op, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    write_frame(&mut frame, op, None, payload);
    frame
}

fn apply_mask(data: &mut [u8], mask: [u8; 4]) {
    let wide = u64::from_ne_bytes([
        mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3],
    ]);
    let (blocks, rest) = data.as_chunks_mut::<8>();
    for block in blocks {
        *block = (u64::from_ne_bytes(*block) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masking_is_its_own_inverse_at_every_length() {
        for len in 0..40usize {
            let plain: Vec<u8> = (0..len as u8).collect();
            let mut data = plain.clone();
            apply_mask(&mut data, [1, 2, 3, 4]);
            for (i, b) in data.iter().enumerate() {
                assert_eq!(*b, plain[i] ^ [1, 2, 3, 4][i % 4]);
            }
        }
    }
}
