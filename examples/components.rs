//! Three components of one program, each with a subscription of its own: one draws prices, one books
//! orders, one rings at alerts. The first is slow, and skips prices instead of holding up the others.
//!
//! ```sh
//! cargo run --features emulator --example components                          # against the embedded emulator
//! WEBPUBSUB_URL='wss://…' cargo run --features emulator --example components  # against the real service
//! ```
//!
//! The program publishes all that it receives, so it ends by itself. With a URL its token needs the
//! roles to join and leave groups and to send to them.

use std::thread;
use std::time::Duration;

use webpubsub::emulator::Emulator;
use webpubsub::{Client, Event, Overflow, Publish, QueueConfig, Subscribe, Subscription};

const PRICES: usize = 300;
const CLOSING_BELL: &str = "the market is closed";

fn main() -> webpubsub::Result<()> {
    // The emulator, if there is one, lives until the end of `main`.
    let (url, _emulator) = match std::env::var("WEBPUBSUB_URL") {
        Ok(url) => (url, None),
        Err(_) => {
            println!("WEBPUBSUB_URL is not set: using the embedded emulator");
            let emulator = Emulator::start()?;
            (emulator.url("market"), Some(emulator))
        }
    };
    let client = Client::connect(url)?;

    // Few, so that the slow component is never far behind.
    let few = QueueConfig::new().max_messages(10).overflow(Overflow::DropNewest);
    let prices = client.subscribe(Subscribe::new("prices").queue(few))?;
    let orders = client.subscribe("orders")?;
    let alerts = client.subscribe("alerts")?;

    thread::scope(|s| {
        let drawn = s.spawn(|| draw_slowly(&prices));
        let booked = s.spawn(|| book(&orders));
        let rung = s.spawn(|| ring(&alerts));
        let traded = trade(&client);
        if traded.is_err() {
            let _ = client.close(); // no bell will ring
        }
        let rung = rung.join().expect("no panic");
        // Ends the loops of the other two, once they have taken what is in their queues.
        let closed = client.close();
        let (booked, (drawn, skipped)) =
            (booked.join().expect("no panic"), drawn.join().expect("no panic"));
        println!("prices: {drawn} drawn, {skipped} skipped; orders: {booked}; alerts: {rung}");
        traded.and(closed)
    })
}

/// The other side of the market.
fn trade(client: &Client) -> webpubsub::Result<()> {
    client.call_all((0..PRICES).map(|n| Publish::new("prices", format!("{}.50", 10 + n % 5))))?;
    client.call_all(["a dozen eggs", "flour", "yeast"].map(|what| Publish::new("orders", what)))?;
    client.publish("alerts", "a storm is coming")?;
    client.publish("alerts", CLOSING_BELL)?;
    Ok(())
}

/// How many it has drawn, and how many it had no time for.
fn draw_slowly(prices: &Subscription) -> (usize, u64) {
    let (mut drawn, mut skipped) = (0, 0);
    for event in prices {
        match event {
            Event::GroupMessage(_) => {
                thread::sleep(Duration::from_millis(5)); // a picture takes its time
                drawn += 1;
            }
            Event::Lagged(n) => skipped += n,
            _ => {} // such as `Connected`, where messages may be missing
        }
    }
    (drawn, skipped)
}

fn book(orders: &Subscription) -> usize {
    orders.messages().flatten().inspect(|order| println!("order: {}", order.payload)).count()
}

/// Until the closing bell: messages keep their order, so all others have come too.
fn ring(alerts: &Subscription) -> usize {
    let mut rung = 0;
    for alert in alerts.messages().flatten() {
        rung += 1;
        println!("alert: {}", alert.payload);
        if alert.text().is_ok_and(|text| text == CLOSING_BELL) {
            break;
        }
    }
    rung
}
