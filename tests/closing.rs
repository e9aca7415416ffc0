//! How connections end: Close codes that must not be on the wire, Close frames that get lost, and
//! what `close()` reports.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use webpubsub::emulator::{Emulator, Permission};
use webpubsub::{Client, ErrorKind, Event, KeepAlive, Publish, Reconnect, Recovery};

use crate::support::{Fake, WATCHDOG, eventually, hold, next_event, peer, within};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn close_codes_that_must_not_be_on_the_wire_lead_to_a_recovery() {
    for code in [0, 999, 1004, 1005, 1006, 1014, 1015, 2999, 5000, 65535] {
        let fake = Fake::start(move |mut stream| {
            if peer::upgrade(&mut stream) {
                stream.write_all(&peer::pong()).expect("write");
            } else {
                stream.write_all(&peer::connected()).expect("write");
                stream.write_all(&peer::close(code)).expect("write");
            }
            hold(stream);
        });
        let client = Client::connect(fake.url()).expect("connect");
        assert!(matches!(next_event(&client), Event::Connected(_)));
        let event = next_event(&client);
        let Event::Recovering(lost) = event else { panic!("{code}: {event:?}") };
        assert_eq!(lost.cause.close_code(), None, "{code}: nobody sent another one");
        let text = lost.cause.to_string();
        assert!(!text.contains("1002"), "{code}: {text}");
        assert!(matches!(next_event(&client), Event::Recovered(_)), "{code}");
    }
}

/// What a program finds after its link was lost.
#[derive(Debug, PartialEq)]
struct Found {
    same_connection: bool,
    groups: Vec<String>,
    executions: u32,
    duplicate: bool,
    sessions: u64,
}

/// Between a client and the emulator: hands everything on, but ends the client's side by a reset
/// as soon as the emulator closes. `close_too`: the Close frame is sent just before it.
fn relay_with_reset(port: u16, close_too: Arc<AtomicU16>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let own = listener.local_addr().expect("address").port();
    thread::spawn(move || {
        for outside in listener.incoming().flatten() {
            let inside = TcpStream::connect(("127.0.0.1", port)).expect("emulator");
            let (from, to) =
                (outside.try_clone().expect("clone"), inside.try_clone().expect("clone"));
            thread::spawn(move || pump(from, to));
            let code = Arc::clone(&close_too);
            thread::spawn(move || down(inside, outside, &code));
        }
    });
    own
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(std::net::Shutdown::Write);
}

/// Every read is a frame or more; a Close frame is the last one and is told by its four bytes.
fn down(mut inside: TcpStream, mut outside: TcpStream, resets: &AtomicU16) {
    let mut buf = [0; 4096];
    while let Ok(n @ 1..) = inside.read(&mut buf) {
        let code = resets.load(SeqCst);
        let close = peer::close(code);
        let _ = outside.write_all(&buf[..n]);
        if code != 0 && buf[..n].ends_with(&close) {
            resets.store(0, SeqCst);
            return peer::reset(outside);
        }
    }
    let _ = outside.shutdown(std::net::Shutdown::Write);
}

fn after_close(code: u16, by_reset: bool) -> Found {
    let emulator = Emulator::builder().allow_anonymous(true).start().expect("emulator");
    let resets = Arc::new(AtomicU16::new(0));
    let port = relay_with_reset(emulator.port(), Arc::clone(&resets));
    let url = format!("ws://127.0.0.1:{port}/client/hubs/hub");
    let client = Client::builder(url)
        .reconnect(Some(Reconnect::new().backoff(ms(10), ms(50))))
        .recovery(Recovery::new().attempt_interval(ms(20)))
        .connect()
        .expect("connect");
    let id = client.connection_id().expect("id");
    for permission in [Permission::JoinLeaveGroup, Permission::SendToGroup] {
        assert!(emulator.grant("hub", &id, permission, "g"));
    }
    client.join_group("g").expect("join");
    emulator.faults().hold_acks(true);
    let call = client.start(Publish::new("g", "once").timeout(WATCHDOG)).expect("start");
    assert!(emulator.wait_until(WATCHDOG, |s| s.publications == 1));
    if by_reset {
        resets.store(code, SeqCst);
    }
    emulator.faults().close_connections(code, "");
    emulator.faults().hold_acks(false);
    let ack = call.wait().expect("ack");
    eventually("recovered", || client.stats().recoveries == 1);
    Found {
        same_connection: client.connection_id().as_deref() == Some(&*id),
        groups: client.groups().iter().map(ToString::to_string).collect(),
        executions: emulator.executions(&id, ack.ack_id),
        duplicate: ack.duplicate,
        sessions: emulator.stats().connections_opened,
    }
}

#[test]
fn a_close_that_never_arrives_leads_to_the_same_as_one_that_does() {
    for code in [1001, 1012, 4000] {
        let arrived = after_close(code, false);
        let lost = after_close(code, true);
        assert_eq!(arrived, lost, "{code}");
        assert!(lost.same_connection && lost.executions == 1, "{code}: {lost:?}");
    }
}

/// A peer that reads nothing until it is told to; then it says whether a Close has reached it. Its
/// buffer is as small as the system allows.
fn deaf_peer() -> (String, mpsc::Sender<()>, mpsc::Receiver<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    socket2::SockRef::from(&listener).set_recv_buffer_size(1).expect("buffer");
    let port = listener.local_addr().expect("address").port();
    let (end, ended) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        peer::open(&mut stream);
        let _ = ended.recv_timeout(WATCHDOG);
        let mut frames = std::iter::from_fn(|| peer::read_frame(&mut stream));
        let _ = tell.send(frames.any(|(opcode, _)| opcode == 8));
    });
    (format!("ws://127.0.0.1:{port}/client/hubs/hub"), end, told)
}

#[test]
fn close_reports_the_loss_of_what_the_program_sent_and_of_nothing_else() {
    for program in [false, true] {
        let (url, end, told) = deaf_peer();
        // So many pings that they fill the connection.
        let client = Client::builder(url)
            .socket_buffer_size(1)
            .keep_alive(Some(
                KeepAlive::new()
                    .ping_after(Duration::from_micros(50))
                    .dead_after(Duration::from_secs(60)),
            ))
            .close_timeout(ms(300))
            .connect()
            .expect("connect");
        if program {
            let body = "x".repeat(1_000_000);
            let fired = client.fire_and_forget(Publish::new("g", body).timeout(ms(100)));
            fired.expect("appended");
        } else {
            thread::sleep(ms(1000));
        }
        let start = Instant::now();
        let closer = client.clone();
        let closed = within(WATCHDOG, move || closer.close());
        assert!(start.elapsed() < ms(1500), "{:?}", start.elapsed());
        match program {
            false => closed.expect("nothing of the program was lost"),
            true => assert_eq!(closed.expect_err("lost").kind(), ErrorKind::Timeout),
        }
        drop((client, end));
        assert!(!told.recv_timeout(WATCHDOG).expect("told"), "the connection was not full");
    }
}
