//! The byte stream of a connection while it has one user: handshakes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::tls::Engine;

/// What a TLS record can hold, and a fair piece for a read.
pub(super) const CHUNK: usize = 16 * 1024;

/// A buffer of that size. On the heap: a handshake would make the stack of each reader thread that
/// much larger for good.
pub(super) fn chunk() -> Vec<u8> {
    vec![0; CHUNK]
}

/// A TCP connection, with TLS on it or not. Blocking, every call with a deadline.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(super) socket: TcpStream,
    pub(super) tls: Option<Engine>,
}

impl Wire {
    pub(crate) fn plain(socket: TcpStream) -> Self {
        Self { socket, tls: None }
    }

    /// Reads what is there, at least one byte; 0 at the end of the stream.
    pub(crate) fn read_some(&mut self, buf: &mut [u8], deadline: Instant) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return read_socket(&self.socket, buf, deadline);
        };
        let mut cipher = chunk();
        loop {
            match tls.read(buf) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                done => return done,
            }
            flush_engine(&self.socket, tls, deadline)?;
            let n = read_socket(&self.socket, &mut cipher, deadline)?;
            tls.feed(&cipher[..n]);
        }
    }

    pub(crate) fn write_all(&mut self, data: &[u8], deadline: Instant) -> io::Result<()> {
        match &mut self.tls {
            None => write_socket(&self.socket, data, deadline),
            Some(tls) => {
                let mut left = data;
                while !left.is_empty() {
                    match tls.write(left)? {
                        0 => return Err(ErrorKind::WriteZero.into()),
                        n => left = &left[n..],
                    }
                }
                flush_engine(&self.socket, tls, deadline)
            }
        }
    }
}

fn flush_engine(socket: &TcpStream, tls: &mut Engine, deadline: Instant) -> io::Result<()> {
    let mut out = Vec::new();
    tls.take_output(&mut out)?;
    write_socket(socket, &out, deadline)
}

pub(super) fn read_socket(
    mut socket: &TcpStream,
    buf: &mut [u8],
    deadline: Instant,
) -> io::Result<usize> {
    loop {
        socket.set_read_timeout(Some(time_left(deadline)?))?;
        match socket.read(buf) {
            Err(e) if retry(&e) => {}
            done => return done,
        }
    }
}

pub(super) fn write_socket(
    mut socket: &TcpStream,
    mut data: &[u8],
    deadline: Instant,
) -> io::Result<()> {
    while !data.is_empty() {
        socket.set_write_timeout(Some(time_left(deadline)?))?;
        match socket.write(data) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => data = &data[n..],
            Err(e) if retry(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// For a socket that does not block. (A `TimedOut` there is TCP's own verdict on a dead network.)
pub(super) fn would_block(e: &io::Error) -> bool {
    e.kind() == ErrorKind::WouldBlock
}

/// A timed-out socket call reports `WouldBlock` on Unix and `TimedOut` on Windows.
pub(super) fn is_timeout(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn retry(e: &io::Error) -> bool {
    e.kind() == ErrorKind::Interrupted || is_timeout(e)
}

fn time_left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::Error::new(ErrorKind::TimedOut, "the time limit of this step passed"));
    }
    // A timeout below a millisecond may round to zero, which would mean "for ever".
    Ok(left.max(Duration::from_millis(1)))
}
