//! The one place where a thread waits for a socket: a `poll` of the non-blocking socket and of a
//! [`Waker`], limited by the earliest timer.
//!
//! A timeout of the socket itself would be 8 ms late, could not be changed while it is waited for,
//! and on Windows loses count of what was sent.

use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::sync::WakeFlag;

/// Ends the wait of one thread, from any other.
#[derive(Debug)]
pub(crate) struct Waker {
    signal: Signal,
    flag: WakeFlag,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { signal: Signal::new()?, flag: WakeFlag::new() })
    }

    /// Wakes the thread that waits, or the next one that would. What was stored before this call
    /// is seen by the woken thread.
    pub(crate) fn wake(&self) {
        self.flag.raise(|| self.signal.raise());
    }

    /// A wake-up is under way; the next wait returns at once.
    pub(crate) fn is_raised(&self) -> bool {
        self.flag.is_raised()
    }
}

/// What the wait is to end for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Interest {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

/// Why the wait ended; nothing of it at the time limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) read: bool,
    pub(crate) write: bool,
    /// The peer ended the stream, perhaps behind data that is not read yet, or the connection
    /// failed. (Where the system cannot report the first, only once the data is read.)
    pub(crate) ended: bool,
    pub(crate) woken: bool,
}

#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
const STREAM_ENDED: PollFlags = PollFlags::RDHUP;
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
const STREAM_ENDED: PollFlags = PollFlags::empty();

/// Waits for the socket, for the waker, or until the given instant (`None`: without a limit).
pub(crate) fn wait(
    socket: Option<(&TcpStream, Interest)>,
    waker: &Waker,
    until: Option<Instant>,
) -> io::Result<Ready> {
    let wake = PollFd::new(&waker.signal.receiver, PollFlags::IN);
    let mut ready = match socket {
        Some((socket, interest)) => {
            let mut both = [wake, PollFd::new(socket, flags(interest))];
            poll_until(&mut both, until)?;
            let found = both[1].revents();
            Ready { woken: !both[0].revents().is_empty(), ..ready_for(found) }
        }
        None => {
            let mut one = [wake];
            poll_until(&mut one, until)?;
            Ready { woken: !one[0].revents().is_empty(), ..Ready::default() }
        }
    };
    ready.woken = waker.flag.take(ready.woken, || waker.signal.clear());
    Ok(ready)
}

/// Waits until the socket takes more data, has failed, or the time is up.
pub(crate) fn wait_to_write(socket: &TcpStream, limit: Duration) -> io::Result<()> {
    let interest = Interest { write: true, read: false };
    let mut one = [PollFd::new(socket, flags(interest) - STREAM_ENDED)];
    poll_until(&mut one, Instant::now().checked_add(limit))
}

/// Waits until the socket has data, has ended, or the time is up.
#[cfg(feature = "emulator")]
pub(crate) fn wait_to_read(socket: &TcpStream, limit: Option<Duration>) -> io::Result<()> {
    let interest = Interest { read: true, write: false };
    let mut one = [PollFd::new(socket, flags(interest))];
    poll_until(&mut one, limit.and_then(|limit| Instant::now().checked_add(limit)))
}

/// Whether the peer has ended the stream or reset the connection, without reading. (Where the
/// system cannot report the first, not while there is data that is not read yet.)
#[cfg(feature = "emulator")]
pub(crate) fn has_ended(socket: &TcpStream) -> bool {
    let mut one = [PollFd::new(socket, flags(Interest { read: true, write: false }))];
    if poll_until(&mut one, Some(Instant::now())).is_err() {
        return true;
    }
    let ready = ready_for(one[0].revents());
    // With something to read this does not block.
    ready.ended || (ready.read && !matches!(socket.peek(&mut [0]), Ok(1)))
}

fn flags(interest: Interest) -> PollFlags {
    let mut flags = STREAM_ENDED;
    flags.set(PollFlags::IN, interest.read);
    flags.set(PollFlags::OUT, interest.write);
    flags
}

fn ready_for(found: PollFlags) -> Ready {
    Ready {
        read: found.contains(PollFlags::IN),
        write: found.contains(PollFlags::OUT),
        ended: found.intersects(PollFlags::HUP | PollFlags::ERR | STREAM_ENDED),
        woken: false,
    }
}

fn poll_until(fds: &mut [PollFd<'_>], until: Option<Instant>) -> io::Result<()> {
    loop {
        let limit = until.map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            // A limit that the system cannot express is a long one.
            Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 86_400, tv_nsec: 0 })
        });
        match poll(fds, limit.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            done => return done.map(drop).map_err(Into::into),
        }
    }
}

/// One descriptor, which counts.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[derive(Debug)]
struct Signal {
    receiver: std::fs::File,
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl Signal {
    fn new() -> io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { receiver: fd.into() })
    }

    fn raise(&self) {
        // It fails only where the count would overflow, and then it is raised already.
        let _ = io::Write::write(&mut &self.receiver, &1u64.to_ne_bytes());
    }

    fn clear(&self) {
        let _ = io::Read::read(&mut &self.receiver, &mut [0; 8]);
    }
}

/// A pair of connected sockets.
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
#[derive(Debug)]
struct Signal {
    receiver: std::os::unix::net::UnixStream,
    sender: std::os::unix::net::UnixStream,
}

#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
impl Signal {
    fn new() -> io::Result<Self> {
        let (receiver, sender) = std::os::unix::net::UnixStream::pair()?;
        receiver.set_nonblocking(true)?;
        sender.set_nonblocking(true)?;
        Ok(Self { receiver, sender })
    }

    fn raise(&self) {
        let _ = io::Write::write(&mut &self.sender, &[1]);
    }

    fn clear(&self) {
        let _ = io::Read::read(&mut &self.receiver, &mut [0; 8]);
    }
}

/// A loopback socket that sends to itself.
#[cfg(windows)]
#[derive(Debug)]
struct Signal {
    receiver: std::net::UdpSocket,
}

#[cfg(windows)]
impl Signal {
    fn new() -> io::Result<Self> {
        let receiver = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
        receiver.connect(receiver.local_addr()?)?;
        receiver.set_nonblocking(true)?;
        Ok(Self { receiver })
    }

    fn raise(&self) {
        let _ = self.receiver.send(&[1]);
    }

    fn clear(&self) {
        let _ = self.receiver.recv(&mut [0; 8]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;
    use std::sync::Arc;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let ours = TcpStream::connect(listener.local_addr().expect("addr")).expect("connect");
        let (theirs, _) = listener.accept().expect("accept");
        ours.set_nonblocking(true).expect("non-blocking");
        (ours, theirs)
    }

    const READ: Interest = Interest { read: true, write: false };
    const NOTHING: Interest = Interest { read: false, write: false };

    fn far() -> Option<Instant> {
        Some(Instant::now() + Duration::from_secs(60))
    }

    #[test]
    fn a_wake_up_counts_whether_it_comes_before_or_during_the_wait() {
        let waker = Arc::new(Waker::new().expect("waker"));
        waker.wake();
        waker.wake();
        assert!(wait(None, &waker, far()).expect("wait").woken);
        let soon = Instant::now() + Duration::from_millis(5);
        assert_eq!(wait(None, &waker, Some(soon)).expect("wait"), Ready::default(), "only once");
        let other = Arc::clone(&waker);
        let thread = std::thread::spawn(move || other.wake());
        assert!(wait(None, &waker, far()).expect("wait").woken);
        thread.join().expect("joined");
    }

    #[test]
    fn a_time_limit_is_kept_to_a_few_milliseconds() {
        let waker = Waker::new().expect("waker");
        let (ours, _theirs) = pair();
        // The machine may be busy, so the best of some.
        let late = (0..5).map(|_| {
            let at = Instant::now() + Duration::from_millis(3);
            wait(Some((&ours, READ)), &waker, Some(at)).expect("wait");
            at.elapsed()
        });
        assert!(late.min().expect("five") < Duration::from_millis(3));
    }

    #[test]
    fn data_and_its_end_are_told_apart() {
        let waker = Waker::new().expect("waker");
        let (ours, mut theirs) = pair();
        theirs.write_all(b"x").expect("write");
        let ready = wait(Some((&ours, READ)), &waker, far()).expect("wait");
        assert!(ready.read && !ready.ended && !ready.woken);
        drop(theirs);
        let ready = wait(Some((&ours, READ)), &waker, far()).expect("wait");
        assert!(ready.read, "the data is still there");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_end_behind_unread_data_is_seen_without_reading() {
        let waker = Waker::new().expect("waker");
        let (ours, mut theirs) = pair();
        theirs.write_all(b"x").expect("write");
        let soon = Instant::now() + Duration::from_millis(5);
        let ready = wait(Some((&ours, NOTHING)), &waker, Some(soon)).expect("wait");
        assert_eq!(ready, Ready::default());
        drop(theirs);
        assert!(wait(Some((&ours, NOTHING)), &waker, far()).expect("wait").ended);
    }

    #[cfg(feature = "emulator")]
    #[test]
    fn an_end_and_a_reset_are_seen_without_waiting() {
        let (ours, mut theirs) = pair();
        assert!(!has_ended(&ours));
        theirs.write_all(b"x").expect("write");
        wait_to_read(&ours, Some(Duration::from_secs(60))).expect("wait");
        assert!(!has_ended(&ours));
        io::Read::read(&mut &ours, &mut [0]).expect("read");
        theirs.shutdown(std::net::Shutdown::Write).expect("shut down");
        wait_to_read(&ours, Some(Duration::from_secs(60))).expect("wait");
        assert!(has_ended(&ours));

        let (ours, theirs) = pair();
        socket2::SockRef::from(&theirs).set_linger(Some(Duration::ZERO)).expect("linger");
        drop(theirs);
        wait_to_read(&ours, Some(Duration::from_secs(60))).expect("wait");
        assert!(has_ended(&ours));
    }

    #[test]
    fn a_full_socket_is_waited_for() {
        let (ours, theirs) = pair();
        let full = loop {
            if let Err(e) = (&ours).write_all(&[0; 65536]) {
                break e;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let start = Instant::now();
        wait_to_write(&ours, Duration::from_millis(20)).expect("wait");
        assert!(start.elapsed() >= Duration::from_millis(20));
        let reader = std::thread::spawn(move || {
            let mut theirs = theirs;
            io::copy(&mut theirs, &mut io::sink())
        });
        wait_to_write(&ours, Duration::from_secs(60)).expect("wait");
        assert!((&ours).write_all(b"x").is_ok());
        drop(ours);
        reader.join().expect("joined").expect("read");
    }
}
