//! Typed messages over the reliable protobuf subprotocol: publish telemetry, receive it typed.
//!
//! ```sh
//! cargo run --features emulator,protobuf --example protobuf  # against the embedded emulator
//! WEBPUBSUB_URL='wss://…' cargo run --features emulator,protobuf --example protobuf
//! ```

use std::time::Duration;

use webpubsub::emulator::Emulator;
use webpubsub::prost::{Message, Name};
use webpubsub::{Client, Event, Payload, Protocol};

/// What `prost-build` would make of
///
/// ```proto
/// syntax = "proto3";
/// package telemetry;
/// message Reading { string sensor = 1; double celsius = 2; repeated uint32 samples = 3; }
/// ```
#[derive(Clone, PartialEq, Message)]
#[prost(prost_path = "webpubsub::prost")] // not needed if your `Cargo.toml` has prost itself
struct Reading {
    #[prost(string, tag = "1")]
    sensor: String,
    #[prost(double, tag = "2")]
    celsius: f64,
    #[prost(uint32, repeated, tag = "3")]
    samples: Vec<u32>,
}

impl Name for Reading {
    const PACKAGE: &'static str = "telemetry";
    const NAME: &'static str = "Reading";
}

fn main() -> webpubsub::Result<()> {
    // The emulator, if there is one, lives until the end of `main`.
    let (url, _emulator) = match std::env::var("WEBPUBSUB_URL") {
        Ok(url) => (url, None),
        Err(_) => {
            println!("WEBPUBSUB_URL is not set: using the embedded emulator");
            let emulator = Emulator::start()?;
            (emulator.url("telemetry"), Some(emulator))
        }
    };

    let client = Client::builder(url).protocol(Protocol::ReliableProtobuf).connect()?;
    client.join_group("sensors")?;

    let reading = Reading { sensor: "attic".into(), celsius: 21.5, samples: vec![214, 215, 216] };
    client.publish("sensors", Payload::pack(&reading))?;
    // Plain bytes travel as they are, without base64.
    client.publish("sensors", vec![0u8; 16])?;

    let mut left = 2;
    while left > 0 {
        let message = match client.recv_timeout(Duration::from_secs(10))? {
            Some(Event::GroupMessage(message)) => message,
            Some(_) => continue, // lifecycle events, such as `Connected`
            None => panic!("no message within 10 s"),
        };
        left -= 1;
        match message.payload.message_name().as_deref() {
            Some("telemetry.Reading") => {
                let Reading { sensor, celsius, samples } = message.unpack()?;
                println!("{sensor}: {celsius} °C, samples {samples:?}");
            }
            Some(other) => println!("a message of the type {other}"),
            None => println!("{}", message.payload), // text, JSON or bytes
        }
    }
    client.close()
}
