//! The play, once for each subprotocol: connect everybody, publish through the faults, let all become
//! calm, publish a little more, drain, close, and judge.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use webpubsub::emulator::{Emulator, Stats};
use webpubsub::{
    Client, ClientAccess, KeepAlive, Overflow, Protocol, QueueConfig, Reconnect, Recovery, Result,
    Role,
};

use super::check::{Entry, Sent, lost_session};
use super::faults::{
    DEAD_AFTER, HUB, KINDS, Lab, PING, QUEUE, RECOVERY_ATTEMPT, Scene, drops_messages, is_robust,
};
use super::invocations::{self, Caller};
use super::listener::{Ended, Gate, Listener, Pauses, Seen};
use super::publisher::{GROUP, Handler, Publisher};
use super::report::Report;
use super::streams::{self, IDLE, Published, Record, Streamer};
use super::verdict::judge;

/// For what takes milliseconds once the faults are off.
const WATCHDOG: Duration = Duration::from_secs(20);

/// How often is looked how far behind the subscribers are.
const LOOK: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(crate) struct Settings {
    /// Of all subprotocols together.
    pub(crate) time: Duration,
    pub(crate) seed: u64,
    pub(crate) publishers: usize,
    pub(crate) subscribers: usize,
    pub(crate) fault_every: Duration,
    /// One after the other.
    pub(crate) protocols: Vec<Protocol>,
}

impl Settings {
    /// How long each subprotocol has.
    pub(crate) fn share(&self) -> Duration {
        self.time / self.protocols.len().max(1) as u32
    }

    /// The shortest and the longest pause of a consumer: 0.5 to 40 s if there is the time.
    pub(crate) fn pauses(&self) -> (Duration, Duration) {
        let longest = (self.share() / 4).min(Duration::from_secs(40));
        ((longest / 8).min(Duration::from_millis(500)), longest)
    }
}

/// What the run of one subprotocol leaves behind.
pub(crate) struct Material {
    pub(crate) protocol: Protocol,
    /// How long was published under faults.
    pub(crate) time: Duration,
    /// By publisher: publications, and events.
    pub(crate) sent: Vec<Sent>,
    pub(crate) events: Vec<Sent>,
    /// By client: the publishers, then the subscribers.
    pub(crate) logs: Vec<Vec<Entry>>,
    pub(crate) clients: Vec<webpubsub::Stats>,
    pub(crate) emulator: Stats,
    pub(crate) ordered: [u64; KINDS.len()],
    pub(crate) hits: [u64; KINDS.len()],
    /// The sessions that clients reported as over, those apart that a fault wanted to end.
    pub(crate) unordered: Vec<Ended>,
    pub(crate) pauses: u64,
    pub(crate) longest_pause: Duration,
    /// By publisher: the invocations that may have been lost with a session.
    pub(crate) invocations_lost: Vec<u64>,
    /// Of invocations and streams; each must have happened.
    pub(crate) preview: Vec<(&'static str, u64)>,
}

/// Who sends: each publisher's client also streams and invokes.
struct Senders<'a> {
    publishers: Vec<Publisher<'a>>,
    streamers: Vec<Streamer<'a>>,
    callers: Vec<Caller<'a>>,
}

/// Runs it all.
///
/// # Panics
/// If the emulator cannot be started, or a client cannot connect to it before any fault.
pub(crate) fn run(settings: &Settings) -> Report {
    let columns = settings.protocols.iter().map(|protocol| {
        let (material, violations) = play(settings, *protocol);
        judge(settings, &material, violations)
    });
    Report::new(settings, columns.collect())
}

fn play(settings: &Settings, protocol: Protocol) -> (Material, Vec<String>) {
    // The same alone as among others, so that a failure can be repeated without them.
    let index = Protocol::ALL.iter().position(|other| *other == protocol).unwrap_or(0) as u64;
    let seed = settings.seed.wrapping_mul(Protocol::ALL.len() as u64).wrapping_add(index);
    let handler = Arc::new(Handler::default());
    let handles = Arc::clone(&handler);
    // The service may greet a recovered client with a second `connected`, or not.
    let emulator = Emulator::builder()
        .record_frames(0)
        .connected_after_recovery(settings.seed.wrapping_add(index / 2) % 2 == 1)
        .event_handler(move |event| handles.handle(event))
        .start()
        .expect("emulator");
    let clients: Vec<Client> = (0..settings.publishers + settings.subscribers)
        .map(|place| connect(&emulator, protocol, settings, place).expect("connect"))
        .collect();
    let gates: Vec<Gate> = clients.iter().map(|_| Gate::new(settings.publishers)).collect();
    let seen = Seen::default();
    let scene = Scene {
        emulator: &emulator,
        handler: &handler,
        clients: &clients,
        gates: &gates,
        publishers: settings.publishers,
        reliable: protocol.is_reliable(),
        seen: &seen,
    };
    let behind = AtomicUsize::new(0);
    let places = || clients[..settings.publishers].iter().enumerate();
    let count = settings.publishers;
    let mut senders = Senders {
        publishers: places()
            .map(|(at, client)| Publisher::new(client, at, seed, &behind))
            .collect(),
        streamers: places()
            .map(|(at, client)| Streamer::new(client, (at, count), seed, &behind))
            .collect(),
        callers: places().map(|(at, client)| Caller::new(client, at, seed)).collect(),
    };
    let mut lab = Lab::new(scene, seed);
    let (heard, time) = perform(settings, seed, &mut lab, &mut senders, &behind);
    collect(protocol, lab, senders, heard, time)
}

/// All log entries of each client, and how it paused; and what each subscriber saw of streams.
type Heard = (Vec<(Vec<Entry>, Option<Pauses>)>, Vec<Vec<Record>>);

/// From the first message to the end of all clients.
fn perform(
    settings: &Settings,
    seed: u64,
    lab: &mut Lab<'_>,
    senders: &mut Senders<'_>,
    behind: &AtomicUsize,
) -> (Heard, Duration) {
    let scene = lab.scene;
    let calm = &AtomicBool::new(false);
    thread::scope(|scope| {
        let listeners: Vec<_> = (0..scene.clients.len())
            .map(|client| {
                let pauses = (client >= scene.publishers)
                    .then(|| Pauses::new(seed.wrapping_add(client as u64), settings.pauses()));
                let events = scene.clients[client].events().clone();
                let listener = Listener { client, scene, events, pauses, calm };
                scope.spawn(move || listener.listen())
            })
            .collect();
        for client in &scene.clients[scene.publishers..] {
            client.join_group(GROUP).expect("join");
        }
        let readers: Vec<_> = scene.clients[scene.publishers..]
            .iter()
            .enumerate()
            .map(|(place, client)| {
                let subscription = streams::subscribe(client, place).expect("subscribe");
                scope.spawn(move || streams::read(&subscription))
            })
            .collect();
        let start = Instant::now();
        thread::scope(|scope| {
            for publisher in &mut senders.publishers {
                scope.spawn(|| publisher.publish_until(calm));
            }
            for streamer in &mut senders.streamers {
                scope.spawn(|| streamer.publish_until(calm));
            }
            for caller in &mut senders.callers {
                scope.spawn(|| caller.call_until(calm));
            }
            let faults = scene.emulator.faults();
            scope.spawn(move || streams::torment(&faults, seed, calm));
            scope.spawn(|| {
                while !calm.load(SeqCst) {
                    behind.store(furthest_behind(&scene), SeqCst);
                    thread::sleep(LOOK);
                }
            });
            lab.torment(settings.share(), settings.fault_every);
            calm.store(true, SeqCst);
        });
        let time = start.elapsed();
        finish(&mut senders.publishers, lab);
        let heard = listeners.into_iter().map(|one| one.join().expect("listener")).collect();
        let records = readers.into_iter().map(|one| one.join().expect("reader")).collect();
        ((heard, records), time)
    })
}

/// What is left behind, and what was found wrong on the way.
fn collect(
    protocol: Protocol,
    lab: Lab<'_>,
    senders: Senders<'_>,
    (heard, records): Heard,
    time: Duration,
) -> (Material, Vec<String>) {
    let (scene, mut violations) = (lab.scene, lab.violations);
    let Senders { mut publishers, mut streamers, mut callers } = senders;
    for publisher in &mut publishers {
        violations.append(&mut publisher.errors);
        violations.extend(scene.handler.check(publisher.place, &publisher.events));
    }
    for caller in &mut callers {
        violations.append(&mut caller.errors);
        violations.extend(caller.check(scene.handler));
    }
    for streamer in &mut streamers {
        violations.append(&mut streamer.errors);
    }
    let published = streamers.into_iter().flat_map(|streamer| streamer.published).collect();
    for (i, (records, (log, _))) in records.iter().zip(&heard[scene.publishers..]).enumerate() {
        let wrong = streams::check(records, &published, lost_session(log));
        violations.extend(wrong.iter().map(|why| format!("subscriber {i}: {why}")));
    }
    let named = std::mem::take(&mut *scene.seen.codes.lock().expect("the codes"));
    let unsent = named.difference(&lab.sent_codes);
    violations.extend(unsent.map(|code| format!("nobody sent the close code {code}")));
    let ended = std::mem::take(&mut *scene.seen.ended.lock().expect("the list"));
    let pauses = || heard.iter().filter_map(|(_, pauses)| pauses.as_ref());
    let material = Material {
        protocol,
        time,
        unordered: ended.into_iter().filter(|ended| !lab.doomed.contains(&ended.id)).collect(),
        pauses: pauses().map(|pauses| pauses.count).sum(),
        longest_pause: pauses().map(|pauses| pauses.most).max().unwrap_or_default(),
        invocations_lost: callers.iter().map(Caller::maybe_lost).collect(),
        preview: preview(&scene.emulator.stats(), &callers, &published, &records),
        clients: scene.clients.iter().map(Client::stats).collect(),
        emulator: scene.emulator.stats(),
        ordered: lab.ordered,
        hits: lab.hits,
        events: publishers.iter_mut().map(|p| std::mem::take(&mut p.events)).collect(),
        sent: publishers.into_iter().map(|publisher| publisher.sent).collect(),
        logs: heard.into_iter().map(|(log, _)| log).collect(),
    };
    (material, violations)
}

/// The figures of invocations and streams.
fn preview(
    service: &Stats,
    callers: &[Caller<'_>],
    published: &BTreeMap<usize, Published>,
    records: &[Vec<Record>],
) -> Vec<(&'static str, u64)> {
    let fates = || callers.iter().flat_map(|caller| &caller.fates);
    let calls = |fits: fn(&invocations::Fate) -> bool| fates().filter(|fate| fits(fate)).count();
    let ends = |fate| published.values().filter(|stream| stream.fate == fate).count();
    let seen = || records.iter().flatten();
    let numbers = [
        ("invocations", fates().count()),
        ("  answered", calls(|fate| matches!(fate, invocations::Fate::Answered))),
        ("  outcome unknown", calls(|fate| matches!(fate, invocations::Fate::Unknown(_)))),
        ("  never sent", calls(|fate| matches!(fate, invocations::Fate::NotSent))),
        ("streams", published.len()),
        ("  finished", ends(streams::Fate::Finished)),
        ("  finish failed", ends(streams::Fate::MaybeFinished)),
        ("  given up", ends(streams::Fate::GivenUp)),
        ("fragments", published.values().map(|stream| stream.sent).sum()),
        ("  acked", published.values().map(|stream| stream.acked).sum()),
        ("  nacks", service.stream_nacks as usize),
        ("streams read", seen().count()),
        ("  in order, from the start", seen().filter(|record| record.is_whole()).count()),
        ("  fragments", seen().map(Record::fragments).sum::<u64>() as usize),
    ];
    numbers.map(|(label, n)| (label, n as u64)).to_vec()
}

/// The faults are off and every call has ended. Soon all are connected, and members again; then comes
/// the farewell, and nothing of it may be lost.
fn finish(publishers: &mut [Publisher<'_>], lab: &mut Lab<'_>) {
    let scene = lab.scene;
    let (emulator, subscribers) = (scene.emulator, &scene.clients[scene.publishers..]);
    if !lab.calm(WATCHDOG) {
        lab.violations.push("not everybody came back after the faults".to_owned());
    }
    let joined = || {
        let known = emulator.connections(HUB);
        subscribers.iter().all(|client| {
            let id = client.connection_id();
            known.iter().any(|info| {
                id.as_deref() == Some(info.id.as_str())
                    && info.groups.iter().any(|group| group == GROUP)
            })
        })
    };
    if !emulator.wait_until(WATCHDOG, |_| joined()) {
        lab.violations.push("not every subscriber is a member again after the faults".to_owned());
    }
    // What a publisher could not end any more ends by its idle time.
    let ended = || {
        let stats = emulator.stats();
        stats.streams_opened == stats.streams_closed
    };
    if !emulator.wait_until(WATCHDOG + IDLE, |_| ended()) {
        lab.violations.push("not every stream has ended after the faults".to_owned());
    }
    let dropped: Vec<u64> = scene.clients.iter().map(|client| client.stats().dropped).collect();
    for publisher in &mut *publishers {
        publisher.farewell();
    }
    // The last message of each publisher has come, or was dropped and will be reported so.
    let arrived = |place: usize| {
        let next = &scene.gates[place].next;
        let all = publishers.iter().all(|p| next[p.place].load(SeqCst) >= p.sent.fates.len());
        all || scene.clients[place].stats().dropped > dropped[place]
    };
    if !lab.soon(WATCHDOG, |_| (scene.publishers..scene.clients.len()).all(arrived)) {
        lab.violations.push("not all that was published in the end has come".to_owned());
    }
    // A client acknowledges what has entered its event queue.
    let drained = || {
        let known = emulator.connections(HUB);
        known.iter().filter(|info| info.is_open).all(|info| info.unacked == 0)
    };
    if !emulator.wait_until(WATCHDOG, |_| drained()) {
        lab.violations.push("not all that was published was acknowledged in the end".to_owned());
    }
    for client in scene.clients {
        if let Err(error) = client.close() {
            lab.violations.push(format!("close: {error}"));
        }
    }
}

/// The most messages that a subscriber which must keep its session has left unacknowledged.
fn furthest_behind(scene: &Scene<'_>) -> usize {
    let known = scene.emulator.connections(HUB);
    let robust = (scene.publishers..scene.clients.len()).filter(|place| is_robust(*place));
    let ids: Vec<_> = robust.filter_map(|place| scene.clients[place].connection_id()).collect();
    let theirs = known.iter().filter(|info| ids.iter().any(|id| **id == info.id));
    theirs.map(|info| info.unacked).max().unwrap_or(0)
}

fn connect(
    emulator: &Emulator,
    protocol: Protocol,
    settings: &Settings,
    place: usize,
) -> Result<Client> {
    // Good for longer than the faults move the emulator's clock.
    let access = ClientAccess::new()
        .role(Role::join_leave())
        .role(Role::send())
        .lifetime(Duration::from_secs(30 * 86_400));
    let mut builder = Client::builder(emulator.url_for(HUB, &access)?)
        .protocol(protocol)
        .keep_alive(Some(KeepAlive::new().ping_after(PING).dead_after(DEAD_AFTER)))
        .recovery(
            Recovery::new()
                .attempt_interval(Duration::from_millis(20))
                .attempt_timeout(RECOVERY_ATTEMPT),
        )
        .reconnect(Some(
            Reconnect::new().backoff(Duration::from_millis(10), Duration::from_millis(100)),
        ));
    if place >= settings.publishers {
        let queue = QueueConfig::new().max_messages(QUEUE).max_messages_during_calls(QUEUE);
        let overflow = if drops_messages(place) { Overflow::DropNewest } else { Overflow::Wait };
        builder = builder.event_queue(Some(queue.overflow(overflow)));
    }
    builder.connect()
}
