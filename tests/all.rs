//! All integration tests in one binary. `support` holds what they share.

mod calls;
mod concurrency;
mod connecting;
mod defects;
mod fuzz_decode;
mod memory;
mod protocol_vectors;
mod proxies;
mod simple;
mod soak;
mod sources;
mod stop;
mod support;
mod tls;
