//! The peer of a measurement: this program once more, in a process of its own.
//!
//! It is not the emulator: it keeps no state, looks only at the beginning of a frame, answers a
//! whole read with one write, and sends frames that it made before.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Deref;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread;

use native_tls::{Certificate, Identity, TlsAcceptor, TlsConnector};

use super::Transport;
use super::serve::serve;

/// Tells the second process what it is.
const ROLE: &str = "WEBPUBSUB_BENCH_PEER";

/// How to reach a peer.
pub(crate) struct Target {
    pub(crate) transport: Transport,
    pub(crate) port: u16,
    /// With `wss`: the certificate to trust.
    pub(crate) pem: String,
    /// Reading the system's trust store takes much longer than a handshake: once is enough.
    connector: OnceLock<TlsConnector>,
}

impl Target {
    pub(crate) fn new(transport: Transport, port: u16, pem: String) -> Self {
        Self { transport, port, pem, connector: OnceLock::new() }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://127.0.0.1:{}/client/hubs/bench", self.transport.name(), self.port)
    }

    pub(crate) fn connector(&self) -> &TlsConnector {
        self.connector.get_or_init(|| {
            let root = Certificate::from_pem(self.pem.as_bytes()).expect("a certificate");
            TlsConnector::builder().add_root_certificate(root).build().expect("a connector")
        })
    }
}

/// A running peer; it ends when this is dropped, and with this process in any case.
pub(crate) struct Peer {
    child: Child,
    orders: ChildStdin,
    target: Target,
}

impl Deref for Peer {
    type Target = Target;
    fn deref(&self) -> &Target {
        &self.target
    }
}

impl Peer {
    pub(crate) fn start(transport: Transport) -> Self {
        let mut child = Command::new(env::current_exe().expect("the path of this program"))
            .env(ROLE, transport.name())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the peer");
        let orders = child.stdin.take().expect("the peer's stdin");
        let mut lines = BufReader::new(child.stdout.take().expect("the peer's stdout")).lines();
        let port = lines.next().expect("a line").expect("the peer's port");
        let mut pem = String::new();
        for line in lines.map_while(Result::ok).take_while(|line| line != "ready") {
            pem.extend([line.as_str(), "\n"]);
        }
        let target = Target::new(transport, port.parse().expect("a port"), pem);
        Self { child, orders, target }
    }

    /// From now on acks are kept back, until `release`.
    pub(crate) fn hold(&mut self) {
        self.orders.write_all(b"hold\n").expect("an order to the peer");
    }

    pub(crate) fn release(&mut self) {
        self.orders.write_all(b"release\n").expect("an order to the peer");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether acks are kept back.
#[derive(Default)]
pub(crate) struct Gate {
    held: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, held: bool) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
        self.changed.notify_all();
    }

    pub(crate) fn pass(&self) {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_while(held, |held| *held));
    }
}

/// Every bench calls this first: in the second process it does not return.
pub(crate) fn be_the_peer_if_asked() {
    let Ok(role) = env::var(ROLE) else { return };
    let acceptor = (role == Transport::Wss.name()).then(acceptor);
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    println!("{}", listener.local_addr().expect("an address").port());
    if let Some((_, pem)) = &acceptor {
        print!("{pem}");
    }
    println!("ready");
    let gate = Arc::new(Gate::default());
    let for_orders = Arc::clone(&gate);
    thread::spawn(move || obey(&for_orders));
    let acceptor = acceptor.map(|(acceptor, _)| Arc::new(acceptor));
    for socket in listener.incoming() {
        let Ok(socket) = socket else { continue };
        let (gate, acceptor) = (Arc::clone(&gate), acceptor.clone());
        // A small stack: there may be a thousand of them.
        let thread = thread::Builder::new().stack_size(256 * 1024);
        // A client that goes away in the middle is how most measurements end.
        let spawned = thread.spawn(move || drop(connection(socket, acceptor.as_deref(), &gate)));
        spawned.expect("a thread");
    }
}

fn obey(gate: &Gate) {
    for order in io::stdin().lines() {
        match order.as_deref() {
            Ok("hold") => gate.set(true),
            Ok("release") => gate.set(false),
            _ => break,
        }
    }
    std::process::exit(0);
}

fn connection(socket: TcpStream, acceptor: Option<&TlsAcceptor>, gate: &Gate) -> io::Result<()> {
    socket.set_nodelay(true)?;
    match acceptor {
        None => serve(socket, gate),
        Some(acceptor) => serve(acceptor.accept(socket).map_err(io::Error::other)?, gate),
    }
}

fn acceptor() -> (TlsAcceptor, String) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".into(), "localhost".into()]);
    let made = made.expect("a certificate");
    let (pem, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let identity = Identity::from_pkcs8(pem.as_bytes(), key.as_bytes()).expect("an identity");
    (TlsAcceptor::new(identity).expect("an acceptor"), pem)
}
