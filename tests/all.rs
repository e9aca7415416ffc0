//! All integration tests in one binary.

mod fuzz_decode;
mod protocol_vectors;
