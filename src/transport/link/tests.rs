use super::*;
use socket2::SockRef;
use std::io::Read;
use std::net::TcpListener;

fn pair() -> (Arc<Link>, TcpStream) {
    let (link, _reader, peer) = both_halves();
    (link, peer)
}

fn both_halves() -> (Arc<Link>, LinkReader, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let ours = TcpStream::connect(listener.local_addr().expect("addr")).expect("connect");
    let (theirs, _) = listener.accept().expect("accept");
    SockRef::from(&ours).set_send_buffer_size(64 * 1024).expect("size");
    let wire = Wire::plain(ours);
    let waker = Arc::new(Waker::new().expect("waker"));
    let link = Link::open(wire, Vec::new(), Role::Server, &LinkOptions::default(), waker);
    let (link, reader) = link.expect("open");
    (link, reader, theirs)
}

fn soon(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

#[test]
fn a_writer_leaves_at_its_deadline_and_the_next_one_goes_on() {
    let (link, mut peer) = pair();
    let big = vec![7u8; 16 << 20];
    link.append(Op::Binary, &big);
    assert_eq!(link.flush(soon(10)), Flushed::Rest);
    assert!(link.has_rest());
    assert!(link.wait_for_room(soon(10)).is_err());
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        peer.read_to_end(&mut all).map(|_| all)
    });
    assert_eq!(link.flush(soon(60_000)), Flushed::All);
    link.append_call(Op::Text, b"x", true, None);
    assert_eq!(link.unsent(), 1);
    assert_eq!(link.flush(soon(60_000)), Flushed::All);
    assert_eq!(link.unsent(), 0);
    link.shutdown();
    let all = reader.join().expect("joined").expect("read");
    assert_eq!(all.len(), 10 + big.len() + 3);
    assert!(all[10..10 + big.len()].iter().all(|b| *b == 7));
}

#[test]
fn the_reader_goes_on_with_a_rest_that_it_left_itself() {
    let (link, reader, mut peer) = both_halves();
    let len = 16 << 20;
    link.append(Op::Binary, &vec![7u8; len]);
    link.write_later();
    let (looked, look) = std::sync::mpsc::channel();
    let unwritten = Arc::clone(&link);
    let reading = std::thread::spawn(move || {
        // Nothing comes in and nothing else is due, so only room for the rest can wake it.
        loop {
            unwritten.flush_now();
            looked.send(!unwritten.has_rest()).expect("somebody looks");
            if reader.wait(true, None).expect("wait").ended {
                return;
            }
        }
    });
    let watchdog = Duration::from_secs(60);
    assert_eq!(look.recv_timeout(watchdog), Ok(false));
    assert!(link.has_rest());
    let all = std::thread::spawn(move || {
        let mut all = Vec::new();
        peer.read_to_end(&mut all).map(|_| all.len())
    });
    while !look.recv_timeout(watchdog).expect("the reader goes on") {}
    link.shutdown();
    reading.join().expect("joined");
    assert_eq!(all.join().expect("joined").expect("read"), 10 + len);
}

#[test]
fn a_failed_link_takes_no_memory_and_counts_what_it_drops() {
    let (link, _peer) = pair();
    link.append_call(Op::Text, b"before", true, None);
    link.fail(Error::closed());
    for _ in 0..1000 {
        link.append_call(Op::Binary, &[7; 1000], true, None);
        assert_eq!(link.flush(soon(1000)), Flushed::Failed);
    }
    assert_eq!(link.unsent(), 1001);
    assert!(link.out.lock().pending.len() < 100);
    assert!(link.has_room());
}

#[test]
fn nothing_leaves_after_a_close_frame() {
    let (link, mut peer) = pair();
    link.append_close(1000, &"é".repeat(80));
    assert!(link.drain(soon(10_000)));
    link.append_call(Op::Text, b"late", true, None);
    assert!(!link.drain(soon(10_000)), "what came too late is lost");
    assert_eq!(link.unsent(), 1);
    link.shutdown();
    let mut all = Vec::new();
    peer.read_to_end(&mut all).expect("read");
    assert_eq!(all[..4], [0x88, 2 + 122, 3, 232]);
}

#[cfg(any(target_os = "android", target_os = "linux"))]
#[test]
fn a_peer_that_may_run_an_event_handler_may_take_nothing_for_longer() {
    let (link, mut peer) = pair();
    let limit = || SockRef::from(&link.socket).tcp_user_timeout().expect("limit");
    let before = limit();
    let patience = Instant::now() + Duration::from_secs(60);
    link.append_call(Op::Binary, &vec![7u8; 16 << 20], false, Some(patience));
    assert_eq!(link.flush(soon(10)), Flushed::Rest);
    assert!(limit().is_some_and(|limit| limit > Duration::from_secs(50)), "{:?}", limit());
    assert_eq!(link.rest(), Some(patience), "neither do we give it up before");
    let reader = std::thread::spawn(move || io::copy(&mut peer, &mut io::sink()));
    assert_eq!(link.flush(soon(60_000)), Flushed::All);
    assert_ne!(limit(), before, "the usual limit of a dialed connection");
    assert!(limit().is_some_and(|limit| limit < Duration::from_secs(30)), "{:?}", limit());
    link.shutdown();
    reader.join().expect("joined").expect("read");
}
