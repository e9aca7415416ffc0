//! Feeds arbitrary bytes to all codecs: `cargo +nightly fuzz run decode`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use webpubsub::__codecs::{
    Decoder, Frame, decode_upstream, encode_downstream, encode_upstream,
};
use webpubsub::{Bytes, Protocol, Text};

include!("../../tests/support/fuzz_body.rs");

fuzz_target!(|data: &[u8]| check(data));
