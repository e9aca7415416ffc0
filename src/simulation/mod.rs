//! The whole client but its threads and sockets, in one thread and in virtual time, against the
//! emulator's hub over a simulated network. `docs/simulation.md` says what is simulated, and how a
//! seed is replayed.
//!
//! A run is a [`Schedule`], which is made from a seed before it begins; nothing random happens in
//! it. So a failure repeats, shrinks, and can be kept as a test.

mod checker;
mod client;
mod generate;
mod network;
mod schedule;
mod shrink;
mod tests;
mod world;
