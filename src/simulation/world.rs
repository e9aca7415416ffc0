//! One run: the hub, the clients, the network between them, and the time.

mod actions;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::checker::Checker;
use super::client::{Client, ms};
use super::network::{Link, Up};
use super::schedule::{Action, ClientSetup, Consume, DialFate, Schedule, Setup, What};
use crate::emulator::EventAnswer;
use crate::emulator::virtual_service::{Started, VirtualService};
use crate::error::{Error, ErrorKind};

/// After the last action faults stop, and everything must come to its end within this time.
const SETTLE: Duration = Duration::from_secs(150);
/// Then each client that is connected makes one more call, which must succeed.
const PROBE: Duration = Duration::from_secs(20);
/// More steps than that in one instant are a loop.
const MOST_STEPS: u32 = 10_000;
/// As long as a client tries to recover.
const WINDOW: Duration = Duration::from_secs(30);

/// What a run amounts to.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Summary {
    pub(super) frames: u64,
    pub(super) faults: u64,
    pub(super) sessions: u64,
    pub(super) recoveries: u64,
    pub(super) losses: u64,
    pub(super) time: Duration,
}

pub(super) struct World {
    now: Duration,
    setup: Setup,
    service: VirtualService,
    clients: Vec<Client>,
    /// Event handlers at work: when they end, for which connection.
    handlers: BTreeMap<(Duration, u64), (String, EventAnswer)>,
    handled: u64,
    /// When the last event handler of each connection ends.
    busy_until: BTreeMap<String, Duration>,
    published: u64,
    frames: u64,
    faults: u64,
    check: Checker,
    /// Per client: when its recovery began, and the trouble it had met by then.
    recovering: Vec<Option<(Duration, u64)>>,
    /// Pings were not answered for a while, so a recovery had no proof to come.
    silent: bool,
    settled: bool,
}

/// Runs a schedule; the error says which promise is broken.
pub(super) fn run(schedule: &Schedule) -> Result<Summary, String> {
    let mut world = World::new(&schedule.setup);
    world.live(&schedule.actions);
    match world.check.violation.take() {
        None => Ok(world.summary()),
        Some(what) => Err(format!("after {:?}: {what}", world.now)),
    }
}

impl World {
    fn new(setup: &Setup) -> Self {
        let base = Instant::now();
        let latency = Duration::from_micros(setup.latency.max(20).into());
        let service = VirtualService::new(setup.seed, |m| {
            m.connected_after_recovery = setup.connected_after_recovery;
            m.failed_event_closes_connection = setup.failed_event_closes;
        });
        let client = |(index, setup): (usize, &ClientSetup), seed| {
            Client::new(index, setup.clone(), base, seed, latency)
        };
        let clients: Vec<Client> = setup
            .clients
            .iter()
            .enumerate()
            .map(|one| client(one, setup.seed ^ (one.0 as u64 + 1)))
            .collect();
        Self {
            now: Duration::ZERO,
            service,
            recovering: vec![None; clients.len()],
            clients,
            handlers: BTreeMap::new(),
            handled: 0,
            busy_until: BTreeMap::new(),
            published: 0,
            frames: 0,
            faults: 0,
            check: Checker::new(&setup.clients),
            silent: false,
            settled: false,
            setup: setup.clone(),
        }
    }

    fn summary(&self) -> Summary {
        let stats = self.service.stats();
        Summary {
            frames: self.frames + self.clients.iter().map(|c| c.frames).sum::<u64>(),
            faults: self.faults,
            sessions: stats.connections_opened,
            recoveries: stats.recoveries_accepted,
            losses: self.check.losses,
            time: self.now,
        }
    }

    fn live(&mut self, actions: &[(u32, Action)]) {
        for client in &mut self.clients {
            client.start(self.now, &mut self.check);
        }
        for (at, action) in actions {
            self.pass_until(ms(*at));
            if self.check.violation.is_some() {
                return;
            }
            self.act(*action);
        }
        let last = actions.last().map_or(Duration::ZERO, |(at, _)| ms(*at));
        self.settle(last);
        if self.check.violation.is_none() {
            self.end();
        }
    }

    fn settle(&mut self, last: Duration) {
        self.settled = true;
        self.service.heal();
        for client in &mut self.clients {
            client.fates.clear();
            if let Some(link) = &mut client.link {
                link.heal();
            }
            client.consumer = Consume::Greedy;
        }
        self.pass_until(last + SETTLE);
        for client in 0..self.clients.len() {
            if self.clients[client].session.is_open() {
                self.call(client, What::Join(200), 15_000, true);
            }
        }
        self.pass_until(last + SETTLE + PROBE);
    }

    fn end(&mut self) {
        let Self { service, check, clients, .. } = self;
        for client in clients.iter_mut() {
            let index = client.index;
            if client.is_stopped() {
                if !may_stop(client) {
                    check.fail(format!("client {index} stopped: {:?}", client.session.ended()));
                }
                continue;
            }
            let identity = client.session.identity().map(|id| id.connection_id.clone());
            let (Some(id), true) = (identity, client.session.is_open()) else {
                check.fail(format!("client {index} is not connected at the end"));
                continue;
            };
            if client.session.pending() > 0 {
                check.fail(format!("client {index} has calls at the end"));
            }
            let groups: Vec<String> = client.session.groups().map(|g| g.to_string()).collect();
            let due = client.due();
            check.quiet(index, &id, &groups, due, service);
            client.judge_subscriptions(&service.groups_of(&id), check);
        }
        if check.pending() > 0 {
            check.fail(format!("{} calls have no outcome at the end", check.pending()));
        }
        for client in clients.iter_mut().filter(|client| !client.is_stopped()) {
            client.close(self.now, check);
        }
        self.pass_until(self.now + Duration::from_secs(5));
        self.check.end(&self.service);
    }

    // --- time ----------------------------------------------------------------------------------

    fn pass_until(&mut self, until: Duration) {
        let mut steps = 0;
        while steps < MOST_STEPS {
            self.step();
            if self.check.violation.is_some() {
                return;
            }
            match self.next_time() {
                Some(at) if at <= self.now => steps += 1,
                Some(at) if at <= until => (self.now, steps) = (at, 0),
                _ => {
                    self.now = until.max(self.now);
                    return;
                }
            }
        }
        self.check.fail("time stands still");
    }

    fn next_time(&self) -> Option<Duration> {
        let handler = self.handlers.first_key_value().map(|((at, _), _)| *at);
        let clients = self.clients.iter().filter_map(|client| client.next_time(self.now)).min();
        handler.into_iter().chain(clients).min()
    }

    /// Everything that is due now.
    fn step(&mut self) {
        while let Some(entry) = self.handlers.first_entry()
            && entry.key().0 <= self.now
        {
            let (id, answer) = entry.remove();
            let next = self.service.answer(self.now, &id, answer);
            self.started(next);
        }
        for client in 0..self.clients.len() {
            self.serve(client);
        }
        for client in 0..self.clients.len() {
            self.dialed(client);
            let Self { now, check, clients, .. } = self;
            let client = &mut clients[client];
            if let Some(link) = &mut client.link {
                link.fill(*now);
            }
            if client.setup.callers_first {
                client.withdraw(*now, check);
                client.run(*now, check);
            } else {
                client.run(*now, check);
                client.withdraw(*now, check);
            }
            client.consume(*now, check);
            if let Some(link) = &mut client.link {
                link.flush(*now);
                link.fill(*now);
            }
        }
        self.judge();
    }

    /// Lets arrive at the service what is due.
    fn serve(&mut self, index: usize) {
        let mut link = self.clients[index].link.take();
        if let Some(link) = &mut link {
            self.take_in(index, link);
        }
        self.clients[index].link = link;
        let mut old = std::mem::take(&mut self.clients[index].old);
        for link in &mut old {
            self.take_in(index, link);
        }
        old.retain(|link| !link.is_done());
        self.clients[index].old.append(&mut old);
    }

    fn take_in(&mut self, index: usize, link: &mut Link) {
        while let Some(what) = link.next_up(self.now) {
            match what {
                Up::Frame(frame) => {
                    self.frames += 1;
                    let started = self.service.receive(self.now, &link.transport, frame);
                    self.started(started);
                }
                Up::Close(code) => {
                    self.closed_by_client(index, link, code);
                    link.end_down(self.now);
                }
                Up::End => {
                    self.service.end(self.now, &link.transport);
                    link.over = true;
                    return;
                }
            }
        }
    }

    /// A client that goes on must not end its session, by the answer to a Close for example.
    fn closed_by_client(&mut self, index: usize, link: &Link, code: Option<u16>) {
        let id = link.transport.connection_id().unwrap_or_default();
        let lived = self.service.lives(self.now, id);
        self.service.close(self.now, &link.transport, code);
        let client = &self.clients[index];
        let goes_on = client.setup.protocol.is_reliable() && client.session.ended().is_none();
        if goes_on && lived && !self.service.lives(self.now, id) {
            self.check.fail(format!("client {index} ended a session that it could recover"));
        }
    }

    fn started(&mut self, started: Started) {
        let Some(event) = started else { return };
        let text = event.payload.text().unwrap_or_default();
        let (time, answer) = text.split_once(' ').unwrap_or_default();
        let answer = match answer {
            "Message" => EventAnswer::Message("-".into()),
            "Failure" => EventAnswer::Failure,
            _ => EventAnswer::Nothing,
        };
        let at = self.now + ms(time.parse().unwrap_or(0));
        self.handled += 1;
        self.busy_until.insert(event.connection_id.clone(), at);
        self.handlers.insert((at, self.handled), (event.connection_id, answer));
    }

    /// The end of a dial, if it is due.
    fn dialed(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let due = |at: Duration| at <= self.now && self.now >= client.stalled_until;
        if client.is_stopped() || !client.dialing.as_ref().is_some_and(|dialing| due(dialing.at)) {
            return;
        }
        let Some(dialing) = client.dialing.take() else { return };
        let error = match dialing.fate {
            None | Some(DialFate::Mute) => None,
            Some(DialFate::Fails) => Some(Error::new(ErrorKind::Connect, "no route")),
            Some(DialFate::Hangs) => Some(Error::new(ErrorKind::Timeout, "no answer")),
            Some(DialFate::Refused { status, retry_after }) => Some(
                Error::new(ErrorKind::Upgrade, "refused")
                    .with_http_status(status)
                    .with_retry_after(retry_after.map(|s| Duration::from_secs(s.into()))),
            ),
        };
        if let Some(error) = error {
            return client.dial_failed(self.now, error, &mut self.check);
        }
        let transport = match &dialing.dial.recover {
            None => self.service.connect(Some(client.setup.protocol), None),
            Some(identity) => {
                let token = identity.token.as_ref().map_or("", |token| token.expose());
                self.service.recover(self.now, &identity.connection_id, token)
            }
        };
        if let (None, Some(id)) = (&dialing.dial.recover, transport.connection_id()) {
            self.check.new_connection(index, id);
        }
        let latency = Duration::from_micros(self.setup.latency.max(20).into());
        let setup = &client.setup;
        let mut link = Link::new(transport, self.now, latency, setup.socket, setup.high_water);
        if dialing.fate == Some(DialFate::Mute) {
            link.black_hole(self.now);
        }
        client.linked(self.now, link, dialing.dial.until, &mut self.check);
    }

    // --- judgment ------------------------------------------------------------------------------

    fn judge(&mut self) {
        self.check.judge(&self.service);
        let faulty =
            self.service.stats().max_executions > 1 && !self.clients.iter().any(|c| c.setup.resend);
        if faulty {
            self.check.fail("a request was executed twice on one connection");
        }
        for index in 0..self.clients.len() {
            let client = &mut self.clients[index];
            let over = std::mem::take(&mut client.over);
            let trouble = client.trouble;
            for id in over {
                self.judge_loss(index, &id);
            }
            let recovering = self.clients[index].session.is_recovering();
            let since = &mut self.recovering[index];
            match (recovering, &since) {
                (true, None) => *since = Some((self.now, trouble)),
                (false, Some(_)) => *since = None,
                _ => {}
            }
        }
    }

    /// A client counts a session as over. Could it have been recovered?
    fn judge_loss(&mut self, index: usize, id: &str) {
        let client = &self.clients[index];
        if self.setup.calm {
            self.check.fail(format!("client {index} lost its connection, and nothing was wrong"));
        }
        if !client.setup.protocol.is_reliable()
            || client.redirected
            || !self.service.lives(self.now, id)
        {
            return;
        }
        let excused = self.recovering[index].is_some_and(|(since, trouble)| {
            self.now >= since + WINDOW && (client.trouble > trouble || self.silent)
        });
        // While a handler runs the service answers nothing, so no recovery can be proved.
        let busy =
            self.busy_until.get(id).is_some_and(|at| self.now < *at + Duration::from_secs(10));
        if !excused && !busy {
            self.check.fail(format!("client {index} gave up a session that could be recovered"));
        }
    }
}

fn may_stop(client: &Client) -> bool {
    let setup = &client.setup;
    client.closed_by_program
        || !setup.auto_reconnect
        || client.trouble > 0
        || setup.overflow == crate::client::Overflow::Stop
}
