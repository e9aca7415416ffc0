//! Opens links for the reader: asks for the URL, makes a target of it, dials.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, bounded};

use super::attempt::Attempt;
use super::label::Label;
use super::shared::{Shared, internal};
use super::source::{Kind, Provider, Shape, UrlSource, hub_of, provider_error};
use crate::error::{Error, ErrorKind, Result};
use crate::secret::Secret;
use crate::session::Dial;
use crate::transport::{
    DialOptions, Helper, HelperError, Link, LinkOptions, LinkReader, Lookup, Resolver, Role, Stop,
    Target, dial,
};

/// How a client connects.
pub(super) struct Setup {
    pub(super) source: UrlSource,
    pub(super) shape: Shape,
    pub(super) dial: DialOptions,
    pub(super) resolver: Option<Arc<Resolver>>,
    pub(super) link: LinkOptions,
    pub(super) label: Arc<Label>,
}

/// A link that is up.
pub(super) struct Opened {
    pub(super) half: Box<LinkReader>,
    /// The limit of the attempt that opened it.
    pub(super) until: Instant,
}

/// At its end the reader waits this long for a dial that is being cut short.
const LAST_WAIT: Duration = Duration::from_millis(500);

/// The dials of a client, one at a time: on the reader's own thread, or on a helper that wakes it.
pub(super) struct Dials {
    /// Locked while a dial is under way.
    dialer: Arc<Mutex<Dialer>>,
    label: Arc<Label>,
    running: Option<Receiver<Result<Opened>>>,
}

impl Dials {
    pub(super) fn new(setup: Setup) -> Self {
        let label = Arc::clone(&setup.label);
        Self { dialer: Arc::new(Mutex::new(Dialer::new(setup))), label, running: None }
    }

    /// What log lines begin with.
    pub(super) fn label(&self) -> &Arc<Label> {
        &self.label
    }

    /// Opens a link on this thread; see [`Dialer::open`].
    pub(super) fn open(&mut self, plan: &Dial, shared: &Shared) -> Result<Opened> {
        self.dialer.lock().unwrap_or_else(PoisonError::into_inner).open(plan, shared)
    }

    /// Opens a link on a helper thread, which wakes the reader at its end.
    pub(super) fn start(&mut self, plan: Dial, shared: &Arc<Shared>) -> Result<()> {
        let (sender, outcome) = bounded(1);
        let (dialer, shared) = (Arc::clone(&self.dialer), Arc::clone(shared));
        let dial = move || {
            // Dropped last, and on a panic too: by then the channel says what there is to know.
            let _wake = WakeAtEnd(Arc::clone(&shared));
            // A local, because what a closure has captured outlives its locals on a panic.
            let sender = sender;
            let mut dialer = dialer.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = sender.send(dialer.open(&plan, &shared));
            drop(sender);
        };
        let thread = thread::Builder::new().name("webpubsub-dial".into()).spawn(dial);
        thread.map_err(no_thread)?;
        self.running = Some(outcome);
        Ok(())
    }

    /// The outcome of the dial on the helper, once it is there.
    pub(super) fn outcome(&mut self) -> Option<Result<Opened>> {
        let outcome = match self.running.as_ref()?.try_recv() {
            Ok(outcome) => outcome,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => Err(internal()),
        };
        self.running = None;
        Some(outcome)
    }

    /// Waits for a helper that a stop is cutting short, so that it does not outlive the client.
    pub(super) fn end(&mut self) {
        if let Some(running) = self.running.take() {
            let _ = running.recv_timeout(LAST_WAIT);
        }
    }
}

struct WakeAtEnd(Arc<Shared>);

impl Drop for WakeAtEnd {
    fn drop(&mut self) {
        self.0.waker.wake();
    }
}

fn no_thread(e: io::Error) -> Error {
    Error::new(ErrorKind::Connect, "no thread could be started to connect with").with_source(e)
}

struct Dialer {
    setup: Setup,
    lookup: Lookup,
    provider: Helper<Result<Secret>>,
    /// The URL of the present connection, for its recovery.
    url: Option<Secret>,
}

impl Dialer {
    fn new(setup: Setup) -> Self {
        let lookup = Lookup::new(setup.resolver.clone());
        Self { setup, lookup, provider: Helper::new("webpubsub-url"), url: None }
    }

    /// Opens a link as planned; blocks at most until the plan's limit, and ends on stop.
    fn open(&mut self, plan: &Dial, shared: &Shared) -> Result<Opened> {
        let stop = &shared.stop;
        let mut target = self.target(plan, stop)?;
        for (_, value) in &self.setup.dial.headers {
            target.hide(value.clone());
        }
        let kind = if plan.recover.is_some() { "to recover" } else { "anew" };
        let label = &self.setup.label;
        log::debug!("{label} connecting {kind} to {}:{}", target.host, target.port);
        let (wire, leftover) = dial(&target, &self.setup.dial, &mut self.lookup, plan.until, stop)?;
        let waker = Arc::clone(&shared.waker);
        let (_, half) =
            Link::open(wire, leftover, Role::Client, &self.setup.link, waker).map_err(|e| {
                Error::new(ErrorKind::Connect, "the new connection failed at once").with_source(e)
            })?;
        Ok(Opened { half: Box::new(half), until: plan.until })
    }

    fn target(&mut self, plan: &Dial, stop: &Stop) -> Result<Target> {
        if let (Some(identity), Some(url)) = (&plan.recover, &self.url) {
            return self.setup.shape.recovery(url.expose(), identity);
        }
        let url = self.new_url(plan.until, stop)?;
        let target = self.setup.shape.new_connection(url.expose())?;
        self.setup.label.hub(hub_of(url.expose()));
        self.url = Some(url);
        Ok(target)
    }

    fn new_url(&mut self, deadline: Instant, stop: &Stop) -> Result<Secret> {
        match &self.setup.source.0 {
            Kind::Fixed(url) => Ok(url.clone()),
            Kind::Minted { from, hub, access } => from.client_access_url(hub, access),
            Kind::Provider(provider) => {
                let provider = Arc::clone(provider);
                // A URL that comes too late for one attempt serves the next. A failure does not: it
                // may be that the earlier attempt's time was up.
                let is_left_over = self.provider.is_running();
                match self.ask(&provider, deadline, stop) {
                    Err(_) if is_left_over && !stop.is_stopped() => {
                        self.ask(&provider, deadline, stop)
                    }
                    outcome => outcome,
                }
            }
        }
    }

    fn ask(&mut self, provider: &Arc<Provider>, deadline: Instant, stop: &Stop) -> Result<Secret> {
        let provider = Arc::clone(provider);
        let attempt = Attempt::until(deadline, stop);
        let ask = move || {
            provider(&attempt).map_err(|e| {
                provider_error("the URL provider of the program failed").with_source(e)
            })
        };
        self.provider.run(ask, deadline, stop).map_err(|e| match e {
            HelperError::Stopped => Error::closed(),
            HelperError::TimedOut => provider_error(
                "the URL provider of the program returned no URL within the time limit",
            ),
            HelperError::Died => provider_error("the URL provider of the program panicked"),
        })?
    }
}
