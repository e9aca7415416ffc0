//! A blocking, thread-based client for [Azure Web PubSub], with an emulator of the service that
//! runs inside your process.
//!
//! [`Client`] speaks the service's PubSub subprotocols (groups, events, acks, recovery of a lost
//! link); [`SimpleClient`] sends and receives plain frames. There is no async runtime: calls block
//! the calling thread, received messages wait in a queue, and one thread per client does the rest.
//!
//! [Azure Web PubSub]: https://learn.microsoft.com/azure/azure-web-pubsub/
//!
//! On this page: [a first example](#a-first-example) · [words](#words) ·
//! [threads](#threads-and-cloning) · [sending](#sending-three-ways) · [receiving](#receiving) ·
//! [loss](#when-the-link-is-lost) · [errors](#errors) · [time limits](#time-limits) ·
//! [access](#where-the-url-comes-from) · [emulator](#the-emulator) · [user
//! interfaces](#user-interfaces) · [async code](#from-async-code) · [features](#features) ·
//! [logging and secrets](#logging-and-secrets) · [what is missing](#what-is-missing) · [for
//! contributors](#map-of-the-modules)
//!
//! # A first example
//!
#![cfg_attr(feature = "emulator", doc = "```")]
#![cfg_attr(not(feature = "emulator"), doc = "```ignore")]
//! use webpubsub::{Client, Event};
//!
//! # use webpubsub::emulator::Emulator;
//! # fn main() -> webpubsub::Result<()> {
//! # let emulator = Emulator::start()?;
//! # let url = emulator.url("chat");
//! // `url` is a client access URL, `wss://NAME.webpubsub.azure.com/client/hubs/HUB?access_token=…`
//! let client = Client::connect(url)?;
//! client.join_group("chat")?; // returns when the service has acked
//! client.publish("chat", "hello")?; // so does this
//! for event in client.events() {
//!     match event {
//!         Event::GroupMessage(message) => {
//!             println!("{}: {}", message.group, message.payload);
//!             break;
//!         }
//!         Event::Stopped(stopped) => return Err(stopped.cause), // such as an expired token
//!         _ => {} // `Connected`, `Recovering` and so on
//!     }
//! }
//! client.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! More programs are in the folder `examples`: `quickstart`, `simple`, `pubsub`, `components`,
//! `chat`, `negotiate`, `protobuf`, and `soak`, which proves the promises below under faults.
//!
//! # Words
//!
//! | word | what it means |
//! | --- | --- |
//! | hub | A space of its own within a service, named by the URL. Groups, users and handlers of events belong to one hub. |
//! | group | The connections that have joined a name. What is published to it reaches each of them; it exists as long as it has a member. |
//! | event | What a client sends to the app server, under a name ([`SendEvent`]). An [`Event`] is something else: one item of the queue. |
//! | app server | Your own program behind the service. It hands out client access URLs, answers events, and may send to groups, users and connections. |
//! | role | A permission in the access token, such as to join any group or to send to one ([`Role`]). |
//! | ack | The service's answer to a call: done, or refused and why. It does not say that somebody has received the message. |
//!
//! # Threads and cloning
//!
//! [`Client`] and [`SimpleClient`] are `Clone + Send + Sync`. A clone is the same client and costs
//! a reference count; use it from any thread, without a lock of your own. Frames leave in the order
//! in which the calls were made, also those of several threads.
//!
//! Each client has one thread, named `webpubsub` unless [`name`](ClientBuilder::name) says
//! otherwise. It reads and keeps the connection alive. It never waits for a caller, and runs no
//! code of yours but for your program's logger and a closure given to
//! [`on_wake`](ClientBuilder::on_wake). A send is written by the thread that calls, or by another
//! one that is writing just then. While the client connects there are short-lived helpers: one that
//! connects in the background or again after a loss, one that looks up the host name, one that asks
//! your [URL provider](UrlSource::provider). A host with several addresses gets a further helper
//! for each that is tried.
//!
//! Memory is bounded for what is received (see [below](#receiving)). Calls that were started are kept
//! until their ack or deadline: at most 65,536 ([`ClientBuilder::max_pending_calls`]), of which 64 MiB
//! ([`ClientBuilder::max_pending_bytes`]) may wait to be written.
//!
//! A client ends in one of three ways: [`Client::close`] (flushes, says goodbye, waits for the
//! thread), the drop of the last clone (neither flushes nor waits), or the service (see [below
//! ](#when-the-link-is-lost)). After `close` every call fails with [`ErrorKind::Closed`], and the
//! queue ends behind [`Event::Stopped`].
//!
//! For Ctrl-C, call `close` on a clone from the handler (with the crate `ctrlc` that is a thread of
//! its own, so it may block): the iteration over `events()` then ends, and `main` returns. A clone
//! in the handler keeps the client alive, so the drop of the others does not end it. `connect`
//! makes one attempt and cannot be interrupted. Where the network may come later,
//! [`connect_in_background`](ClientBuilder::connect_in_background) returns at once and goes on
//! trying; [`wait_connected`](Client::wait_connected) waits for it, and `close` ends both at once.
//!
//! # Sending, three ways
//!
#![cfg_attr(feature = "emulator", doc = "```")]
#![cfg_attr(not(feature = "emulator"), doc = "```ignore")]
//! # use webpubsub::{Client, Publish, SendEvent};
//! # use webpubsub::emulator::{Emulator, EventAnswer};
//! # use std::time::Duration;
//! # fn main() -> webpubsub::Result<()> {
//! # let emulator = Emulator::builder().event_handler(|_| EventAnswer::Nothing).start()?;
//! # let client = Client::connect(emulator.url("chat"))?;
//! // Wait for the ack. The short form, and the long one with options:
//! client.publish("chat", "hello")?;
//! client.call(Publish::new("chat", "hello").no_echo().timeout(Duration::from_secs(3)))?;
//!
//! // Start, and look at the ack later: many calls can be under way at once.
//! let pending = client.start(Publish::new("chat", "later"))?;
//! // … other work …
//! pending.wait()?;
//! for call in client.start_all((0..100).map(|n| SendEvent::new("measured", n.to_string())))? {
//!     call.wait()?;
//! }
//!
//! // Fire and forget: no ack is asked for, and no outcome is ever known.
//! client.fire_and_forget(Publish::new("chat", &b"\x01\x02"[..]))?;
//! # client.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Publish`], [`SendEvent`], [`JoinGroup`] and [`LeaveGroup`] are plain values whose methods are
//! their options. [`call_all`](Client::call_all) pipelines as many requests as an iterator returns;
//! [`start_all`](Client::start_all) and [`fire_and_forget_all`](Client::fire_and_forget_all) write
//! many together, which costs far less than one by one. Text (`&str`, `String`), bytes (`&[u8]`,
//! `Vec<u8>`, [`Bytes`]) and `serde_json::Value` turn into a [`Payload`] by themselves;
//! [`Payload::from_json`] takes anything that serde can serialize.
//!
//! A call has one ack id for its whole life. If it must be sent again, after a recovery, it is the
//! identical message with the same id, so the service executes it once; an answer `Duplicate` then
//! is a success ([`Ack::duplicate`]). At most 256 calls ([`ClientBuilder::max_in_flight`]) and 16
//! MiB are sent and unacked; further ones wait in order. (The service cuts a connection of a plain
//! subprotocol for which 1000 frames are unsent, acks and own echoes included. Fire and forget has
//! no such limit: a flood of it to a group of which you are a member may cost the connection.) What
//! the service would answer by closing the connection (an invalid name, a message above 1 MiB, the
//! bare JSON value `null`) is refused here first, with [`ErrorKind::InvalidRequest`].
//!
//! # Receiving
//!
//! Messages and what happens to the connection come through one queue, in arrival order, as
//! [`Event`]s. [`Client::events`] returns it as a [`crossbeam_channel::Receiver`], to be iterated or
//! used in `select!` together with your own channels; [`recv`](Client::recv),
//! [`recv_timeout`](Client::recv_timeout) and [`try_recv`](Client::try_recv) are the same with this
//! crate's [`Error`]. All receivers of a client share the queue: each event goes to one of them.
//!
#![cfg_attr(feature = "emulator", doc = "```")]
#![cfg_attr(not(feature = "emulator"), doc = "```ignore")]
//! # use webpubsub::{Client, Event};
//! # use webpubsub::emulator::Emulator;
//! use std::time::Duration;
//!
//! use webpubsub::crossbeam_channel::{select, tick};
//!
//! # fn main() -> webpubsub::Result<()> {
//! # let emulator = Emulator::start()?;
//! # let client = Client::connect(emulator.url("chat"))?;
//! let (events, clock) = (client.events(), tick(Duration::from_millis(20)));
//! loop {
//!     select! {
//!         recv(events) -> event => match event {
//!             Ok(Event::GroupMessage(m)) => println!("{}", m.payload),
//!             Ok(Event::ServerMessage(m)) => println!("from the service: {}", m.payload),
//!             Ok(Event::Stopped(why)) => return Err(why.cause),
//!             Ok(_) => {} // new kinds may come
//!             Err(_) => break, // the queue has ended
//!         },
//!         recv(clock) -> _ => {
//!             // … what the program does besides
//! #           break;
//!         }
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The queue is bounded ([`QueueConfig`]): 1024 messages, or 64 MiB. While calls wait for acks,
//! which come over the same connection, the bound is 16,384. When it is full the client reads on
//! for another 1000 messages or 16 MiB, so acks, a lost link and its recovery are not held up by a
//! slow consumer. Past that it stops reading, which applies back-pressure to the service, and calls
//! time out (the error names the full queue): a program that publishes to a group of which it is a
//! member must read its events, or ask for [`no_echo`](Publish::no_echo) or no queue at all.
//! [`Overflow`] names two other policies: drop (counted, and noted in the queue as [`Event::Lagged`]), or end the client.
//! A program that only sends asks for no queue, [`event_queue(None)`](ClientBuilder::event_queue).
//!
//! One warning. On a reliable connection the service holds at most 1000 messages that the client
//! has not acknowledged, and this client acknowledges what it has put into the queue. A consumer
//! that falls some 2000 messages behind loses its session ([`Event::Disconnected`]) and gets a new
//! connection, with a gap.
//!
//! ## A queue per group
//!
//! A part of a program that is interested in one group [subscribes](Client::subscribe) to it: the
//! group is joined, and its messages come to a queue of their own instead of `events()`.
//!
#![cfg_attr(feature = "emulator", doc = "```")]
#![cfg_attr(not(feature = "emulator"), doc = "```ignore")]
//! # use webpubsub::{Client, Overflow, QueueConfig, Subscribe};
//! # use webpubsub::emulator::Emulator;
//! # fn main() -> webpubsub::Result<()> {
//! # let emulator = Emulator::start()?;
//! # let client = Client::connect(emulator.url("chat"))?;
//! let orders = client.subscribe("orders")?;
//! // A component that may skip messages must not hold up the others. When it is behind, the messages
//! // that come are dropped, and `Event::Lagged` says so.
//! let few = QueueConfig::new().max_messages(100).overflow(Overflow::DropNewest);
//! let prices = client.subscribe(Subscribe::new("prices").queue(few))?;
//! client.publish("orders", "a dozen eggs")?;
//! for order in orders.messages() {
//!     println!("{}", order?.payload);
//! #   break;
//! }
//! # client.close() }
//! ```
//!
//! Each subscription of a group gets every message. Where messages may be missing its queue says so,
//! as `events()` does: [`Event::Connected`] with `gap_possible`, [`Event::Lagged`], and last
//! [`Event::Stopped`]. With [`Overflow::Wait`] a full queue holds up all others behind it, since
//! messages keep their order; the log names it. The drop of the last subscription leaves the group,
//! unless the program has also joined it.
//!
//! An event queue that nobody has asked for (by [`events`](Client::events), `recv` and its like, or
//! by joining a group) drops what it has no room for, so a program with subscriptions alone, or one
//! that only publishes, never stalls.
//!
//! # When the link is lost
//!
//! | | [`ReliableJson`](Protocol::ReliableJson) (default) | [`Json`](Protocol::Json) |
//! | --- | --- | --- |
//! | what the client does | recovers the session: first try at once, then every second, for 30 s; only then a new connection | a new connection: after up to 1 s, later up to 30 s, without end |
//! | events | `Recovering`, `Recovered` | `Disconnected`, `Reconnecting`, `Connected` with `gap_possible` |
//! | messages for us | sent again by the service; repeated ones are dropped | lost while we are away |
//! | calls in flight | sent again, same id: executed once, they just take longer | fail with `OutcomeUnknown`, or sent again if [asked for](Reconnect::resend_calls) |
//! | joins and leaves in flight | sent again | sent again |
//! | invocations in flight (preview) | fail with `OutcomeUnknown` | fail with `OutcomeUnknown` |
//! | own state in a group, and watches (preview) | still there | set and watched again |
//! | calls not yet sent | wait, within their deadlines | wait, within their deadlines |
//! | fire and forget, not yet written | lost, counted in [`Recovering::unsent`] | lost, counted in [`Disconnected::maybe_lost`] |
//! | groups | still a member | joined again; [`Event::JoinFailed`] if refused |
//!
//! If a recovery fails, the right column applies from there. A Close frame with 1000, 1008 or 1011
//! ends a session at once: the service does not want it back. After 1002, 1003, 1007 or 1009 (we
//! broke a rule) calls in flight fail as [`Refused`](ErrorKind::Refused) and are never sent again.
//! An HTTP error does not end a session: a recovery that is answered by 4xx or 5xx is tried again
//! until the 30 s are over. It needs no access token, so a fixed URL whose token has expired is no
//! obstacle to it.
//!
//! The client gives up ([`Event::Stopped`]) when the service refuses a new connection from a fixed
//! URL (HTTP 4xx, except 408, 425 and 429), or from three URLs of a provider in a row; when it
//! answers with a redirect or does not grant the subprotocol; when the first connection fails
//! (`connect` then returns the error: it makes one attempt); and when
//! [`max_attempts`](Reconnect::max_attempts) is reached or [`reconnect`](ClientBuilder::reconnect)
//! is `None`. HTTP 408, 425, 429, 5xx and network failures are tried again, not before a
//! `Retry-After`.
//!
//! [`SimpleClient`] cannot recover anything. It stops at a loss, unless
//! [`reconnect`](SimpleClientBuilder::reconnect) was asked for.
//!
//! # Errors
//!
//! One type, [`Error`]: cheap to clone, with a [`kind`](Error::kind) that names the step that
//! failed and the cause in `source()`. One lost connection fails many calls, and each gets the same
//! cause.
//!
//! ```
//! # use webpubsub::{Client, ErrorKind};
//! # fn f(client: &Client) -> webpubsub::Result<()> {
//! match client.publish("chat", "hello") {
//!     Ok(_) => {}
//!     Err(e) if e.may_have_been_delivered() => println!("perhaps: {e}"), // timeout after writing …
//!     Err(e) if e.is_refused() => println!("no: {:?}", e.service_error_name()), // "Forbidden", …
//!     Err(e) => println!("certainly not: {e:#}"), // `{:#}` adds the causes
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Time limits
//!
//! Every wait has a limit. Those with a setter can be set on [`ClientBuilder`] and
//! [`SimpleClientBuilder`].
//!
//! | what | default | set by |
//! | --- | --- | --- |
//! | `connect`: one attempt, all steps | 30 s | `connect_timeout` |
//! | each step of it: name look-up, TCP, proxy, TLS, the request for the upgrade (its answer may take all that is left of the 30 s: the service waits for a `connect` event handler), `connected` | 10 s | `connect_step_timeout` |
//! | a call: waiting for a link, writing, the ack, all together | 30 s | `call_timeout`, [`Publish::timeout`] |
//! | `start`: only while too much is [pending](ClientBuilder::max_pending_calls) | the call's limit | the same |
//! | `fire_and_forget`, `SimpleClient::send`: while there is no connection, or it takes no more data | the call's limit | the same |
//! | `ping` | 30 s | `call_timeout` |
//! | `subscribe`, until the group is joined | 30 s | `call_timeout`, [`Subscribe::timeout`] |
//! | `drain`, `wait_connected`, `recv_timeout`, `wait_timeout` | as you say | |
//! | `try_start`, `try_send`, `try_recv`, `try_wait`, `cancel`, `state`, `connect_in_background`, `subscribe_in_background`, every drop | never wait | |
//! | `close` | 2 s, and up to 1 s more on a machine that hangs | `close_timeout` |
//! | silence until a ping is sent; until the peer counts as dead | 10 s; 20 s | [`KeepAlive`] |
//! | writing without any progress: the link is given up | 10 s | |
//! | the last two while an event handler of the app server may run, during which the service answers nothing | the deadline of the event's call, at least 60 s | `call_timeout`, [`Publish::timeout`] |
//! | recovery: in all; from try to try; each try (longer while it brings data, at most 2 min) | 30 s; 1 s; 5 s | [`Recovery`] |
//! | new connections: delay, growing with each failure, at random below the bound | 1 s to 30 s | [`Reconnect`] |
//!
//! `recv` and the iteration over `events()` wait without a limit, until something comes or the
//! client ends; [`Client::close`] from another thread ends them.
//!
//! # Where the URL comes from
//!
//! `connect` takes a string, a [`Url`], or a [`UrlSource`]. The token in a fixed URL expires (often
//! within an hour), and then a new connection is refused; an open one and its recovery are not
//! concerned. So a program that runs for long gives a closure that asks its app server, or, on a
//! trusted machine, a connection string:
//!
//! ```no_run
//! use webpubsub::{Client, ClientAccess, ConnectionString, Role, UrlSource};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # fn ask_the_app_server(limit: std::time::Duration) -> std::io::Result<String> { Ok(String::new()) }
//! // A closure, called for every new connection. It learns how long the client can wait:
//! let source = UrlSource::provider(|attempt| ask_the_app_server(attempt.time_left()));
//! let client = Client::connect(source)?;
//!
//! // Or tokens minted here:
//! let service = ConnectionString::parse(&std::env::var("WEBPUBSUB_CONNECTION_STRING")?)?;
//! let access = ClientAccess::new().user_id("anna").role(Role::join_leave()).role(Role::send());
//! let client = Client::connect(UrlSource::connection_string(service, "chat", access))?;
//! # Ok(())
//! # }
//! ```
//!
//! On the way there, an HTTP proxy is taken from the environment (`HTTPS_PROXY`, `HTTP_PROXY`,
//! `ALL_PROXY`, `NO_PROXY`; never for loopback hosts), unless [`proxy`](ClientBuilder::proxy) says
//! otherwise. Whom a client trusts and which certificate it shows is its [`TlsConfig`], which
//! clients may share; headers and a resolver of your own are settings too.
//!
//! # The emulator
//!
//! With the feature `emulator`, [`Emulator`] is the service inside your process: on a port of
//! 127.0.0.1, with tokens, roles, groups, acks, recovery and the service's limits. Your tests need
//! no account and no network, and can make happen what is rare in the field: a lost ack, a cut
//! link, a refused recovery, a service that accepts and stays silent.
//!
#![cfg_attr(feature = "emulator", doc = "```")]
#![cfg_attr(not(feature = "emulator"), doc = "```ignore")]
//! use webpubsub::Client;
//! use webpubsub::emulator::Emulator;
//!
//! # fn main() -> webpubsub::Result<()> {
//! let emulator = Emulator::start()?;
//! let client = Client::connect(emulator.url("chat"))?;
//!
//! emulator.faults().drop_before_next_ack(1); // executed, but the ack and the link are lost
//! let ack = client.publish("chat", "once")?;
//! assert!(ack.duplicate); // recovered, sent again, and recognised
//! # Ok(())
//! # }
//! ```
//!
//! The first attempt to recover comes at once, but not within a second of the attempt before it. So
//! a test that cuts the link twice in a row waits up to a second at the second cut, unless it asks
//! for less: `recovery(Recovery::new().attempt_interval(Duration::from_millis(10)))`. A new
//! connection (after a Close that ends the session) comes after a random delay of up to 1 s, and
//! further attempts after longer ones; [`Reconnect::backoff`] shortens them.
//!
//! With TLS the client must trust the emulator's root:
//!
#![cfg_attr(all(feature = "emulator", feature = "_tls"), doc = "```")]
#![cfg_attr(all(feature = "emulator", not(feature = "_tls")), doc = "```no_run")]
#![cfg_attr(not(feature = "emulator"), doc = "```ignore")]
//! # use webpubsub::Client;
//! # use webpubsub::emulator::Emulator;
//! # fn main() -> webpubsub::Result<()> {
//! let emulator = Emulator::builder().tls(true).start()?;
//! let client = Client::builder(emulator.url("chat")).tls(emulator.tls_config()).connect()?;
//! # Ok(())
//! # }
//! ```
//!
//! # User interfaces
//!
//! A thread that must never wait can do everything itself, without a forwarding thread:
//! [`connect_in_background`](ClientBuilder::connect_in_background) and
//! [`subscribe_in_background`](Client::subscribe_in_background) return at once,
//! [`try_start`](Client::try_start) sends or returns `WouldBlock`, [`state`](Client::state) is a line
//! for the status bar (no wake-up comes for its seconds), and the closure of
//! [`on_wake`](ClientBuilder::on_wake) wakes the event loop when there is something to look at.
//!
#![cfg_attr(feature = "emulator", doc = "```")]
#![cfg_attr(not(feature = "emulator"), doc = "```ignore")]
//! # use webpubsub::{Client, Publish};
//! # use webpubsub::emulator::Emulator;
//! use webpubsub::crossbeam_channel::bounded;
//!
//! # fn main() -> webpubsub::Result<()> {
//! # let emulator = Emulator::start()?;
//! # let url = emulator.url("chat");
//! // The event loop of a window, here a channel.
//! let (wake, wakes) = bounded(1);
//! let wake = move || {
//!     let _ = wake.try_send(());
//! };
//! let client = Client::builder(url).on_wake(wake).connect_in_background()?;
//! let room = client.subscribe_in_background("room")?;
//! let mut sent = vec![client.try_start(Publish::new("room", "hello"))?];
//! for () in wakes {
//!     // A wake-up may stand for several things, so all is looked at.
//!     println!("{}", client.state());
//!     while let Some(event) = room.try_recv()? {
//!         println!("{event}"); // a message, or what may be missing
//!     }
//!     sent.retain(|call| matches!(call.try_wait(), Ok(None)));
//! #   if sent.is_empty() { break }
//! }
//! # client.close() }
//! ```
//!
//! # From async code
//!
//! Nothing here needs a runtime, and nothing may block one: what blocks belongs on a thread where
//! that is allowed, such as tokio's `spawn_blocking`. Move a receiver there, not a client. A
//! receiver does not keep its client alive, so the loop over it ends when the client is closed or
//! dropped; a clone of the client in the loop would keep both alive, and the runtime would wait for
//! the thread at its end.
//!
//! ```ignore
//! use tokio::task::spawn_blocking;
//!
//! let client = spawn_blocking(move || Client::connect(url)).await??;
//! let events = client.events().clone();
//! let (to_tasks, mut messages) = tokio::sync::mpsc::channel(100);
//! let reading = spawn_blocking(move || {
//!     for event in events {
//!         if to_tasks.blocking_send(event).is_err() {
//!             break;
//!         }
//!     }
//! });
//!
//! let call = client.try_start(Publish::new("chat", "hello"))?; // never waits
//! let ack = spawn_blocking(move || call.wait()).await??;
//! while let Some(event) = messages.recv().await {
//!     // …
//! }
//! spawn_blocking(move || client.close()).await??; // the drop of the last handle does not block
//! reading.await?;
//! ```
//!
//! # Features
//!
//! Features only add.
//!
//! | feature | default | what it adds |
//! | --- | --- | --- |
//! | `native-tls` | yes | `wss` by the platform's TLS library: OpenSSL on Linux, SChannel, Secure Transport |
//! | `native-tls-vendored` | no | the same, with OpenSSL built from source (needs perl and make) |
//! | `rustls` | no | `wss` by rustls with ring, checked by the platform's verifier |
//! | `rustls-bundled-roots` | no | for rustls: Mozilla's roots, see [`Roots::Bundled`] |
//! | `protobuf` | no | the subprotocols [`Protocol`]`::Protobuf` and `ReliableProtobuf`, and typed protobuf payloads (`Payload::pack`) |
//! | `emulator` | no | the module `emulator`, with `wss` too if a TLS feature is on |
//! | `preview` | no | what the service offers as a preview, outside semver: streams, invocations (`Client::invoke`) and group state (`Client::watch_group_state`); `docs/preview.md` |
//!
//! `cargo doc --open` shows this page for the default features, and
//! `cargo doc --features emulator,protobuf,preview --open` all that there is; in a program that
//! depends on the crate `cargo doc -p webpubsub --open` shows what the program has switched on. On
//! docs.rs a badge names the feature that an item needs.
//!
//! With both TLS libraries native-tls is used, unless [`TlsConfig::backend`] says otherwise; both
//! speak TLS 1.2 at least. Without a TLS feature a `wss` URL is an error of [`ErrorKind::Config`]
//! when the client is built.
//!
//! # Logging and secrets
//!
//! The crate logs by the [`log`] facade; your program chooses where to. Targets are module paths,
//! so the filter is `webpubsub`. Each line of a client begins with its
//! [`name`](ClientBuilder::name) or, if it has none, with its hub and the id of its connection:
//! `[chat/2xJ6] recovered; 3 messages replayed`.
//!
//! | level | what |
//! | --- | --- |
//! | `error` | stopped, by anything but the program itself |
//! | `warn` | link lost, disconnected, a group that could not be joined again, frames that could not be read or are of an unknown kind (once a second), a full queue |
//! | `info` | connected, recovered, the next attempt and why, stopped |
//! | `debug` | each attempt, with host and port, and how it failed |
//!
//! The emulator's target is `webpubsub::emulator`: who connects, is refused and why, is closed and
//! why (`info`); groups, publications, events and failed calls (`debug`).
//!
//! No log line or error of this crate holds a payload, an access token, a key or a reconnection
//! token, and no `Debug` output of a client, builder, configuration, source or connection string
//! does (the emulator logs payloads if asked to, see its `log_frames`); URLs are shown as host and
//! port. An error may quote what the service said, and in its causes is what your own URL provider
//! said (it is not logged), or where a JSON payload does not fit. `Debug` of an [`Event`], a
//! [`Payload`] or a [`Request`] shows the data, and so do frames recorded by the emulator. One
//! thing is not in our hands: `tungstenite`, which parses the frames, prints received ones, with
//! payloads and reconnection tokens, at its own target `tungstenite` on level `trace`. Do not
//! enable that in production.
//!
//! # What is missing
//!
//! Not planned: the service's MQTT and Socket.IO endpoints, its REST API for app servers.
//!
//! Built and tested on Linux only. macOS should work; Windows is not supported yet. The minimum
//! Rust version is 1.88, that of the dependencies.
//!
//! # Map of the modules
//!
//! Start with `ARCHITECTURE.md`. Calls go down only, and `protocol` and `session` have no socket,
//! thread, lock or clock.
//!
//! | module | what it is |
//! | --- | --- |
//! | `client` | the handles, and the reader thread: `client/reader.rs`, the one loop |
//! | `session` | pure: the life of a connection, calls and acks, sequence ids, timers; rules at the top of `session/lifecycle.rs` |
//! | `protocol` | pure: the wire messages and their codecs |
//! | `transport` | URL to TCP to TLS to WebSocket, and the link that all callers share |
//! | `auth` | connection strings, tokens, roles |
//! | `emulator` | the service's side, over the same codecs but by its own logic |
//! | `message`, `error`, `secret` | what users hold |
//!
//! `tests/` holds the integration tests, and `tests/vectors.json` frames of the protocol;
//! `docs/defects.md` maps what goes wrong in other clients to the test that it does not here.
//!
// Badges that name the feature of an item; needs a nightly compiler, which docs.rs has.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(feature = "emulator", doc = "[`Emulator`]: emulator::Emulator")]
#![cfg_attr(
    not(feature = "emulator"),
    doc = "[`Emulator`]: https://docs.rs/webpubsub/latest/webpubsub/emulator/struct.Emulator.html"
)]

mod auth;
mod client;
#[cfg(feature = "emulator")]
pub mod emulator;
mod error;
mod message;
mod primitives;
mod protocol;
mod secret;
mod session;
#[cfg(all(test, feature = "emulator"))]
mod simulation;
mod state;
mod sync;
mod transport;

pub use auth::{ClientAccess, ConnectionString, Role};
pub use client::{
    AnyRequest, Attempt, Client, ClientBuilder, FireAndForget, JoinGroup, KeepAlive, LeaveGroup,
    Messages, Overflow, PendingAck, Publish, QueueConfig, Reconnect, Recovery, Request, SendEvent,
    SimpleClient, SimpleClientBuilder, Stats, Subscribe, Subscription, UrlSource,
};
#[cfg(feature = "preview")]
pub use client::{
    ClearGroupState, GroupStateChange, GroupStateMember, GroupStateWatch, Invoke, OpenStream,
    PendingReply, SetGroupState, StreamParts, StreamReader, StreamSubscription, StreamWriter,
    SubscribeStreams,
};
pub use error::{Error, ErrorKind, Result};
pub use message::{
    Ack, Connected, Disconnected, Event, GroupMessage, JoinFailed, Metadata, Payload, RawJson,
    Reconnecting, Recovered, Recovering, ServerMessage, Stopped, Text,
};
#[cfg(feature = "preview")]
pub use message::{Reply, StreamFailure, StreamPart};
pub use protocol::Protocol;
pub use secret::Secret;
pub use state::ClientState;
pub use transport::{Proxy, Roots, TlsBackend, TlsConfig};

pub use bytes::Bytes;
pub use crossbeam_channel;
#[cfg(feature = "protobuf")]
pub use prost;
pub use url::Url;

/// For this package's tests, benchmarks and fuzz target; outside semver. (If the feature made
/// `protocol` itself public, rustdoc would mark `Protocol` as available without the feature only.)
#[cfg(feature = "__codecs")]
#[doc(hidden)]
pub mod __codecs {
    pub use crate::protocol::*;
}

/// The examples of the README, compiled and run with the documentation's.
#[cfg(all(doctest, feature = "emulator"))]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(all(doctest, feature = "emulator", feature = "preview"))]
#[doc = include_str!("../docs/preview.md")]
struct Preview;
