//! The service side in this process: an emulator of Azure Web PubSub for tests, and a laboratory
//! for what goes wrong in the field.
//!
//! It listens on 127.0.0.1 only. Any number can run at once, each on a port of its own; sockets
//! and threads are gone when the [`Emulator`] is dropped. It follows the service's protocol
//! (limits, names of errors, close codes, roles, tokens, recovery) by its own logic and shares only
//! the codecs and the WebSocket transport with the client, so that it can disagree with it.
//!
//! ```
//! use webpubsub::emulator::Emulator;
//!
//! # fn main() -> webpubsub::Result<()> {
//! let emulator = Emulator::start()?;
//! let url = emulator.url("chat"); // with a token for any group
//! assert!(url.starts_with("ws://127.0.0.1:"));
//! // … connect the program under test with that URL, then:
//! emulator.send_to_all("chat", "hello")?;
//! emulator.faults().drop_connections();
//! assert_eq!(emulator.stats().currently_open, 0);
//! # Ok(())
//! # }
//! ```
//!
//! What is there: simple clients in both modes, all subprotocols of this build
//! ([`Protocol::ALL`](crate::Protocol::ALL)), groups, events, acks, metadata, recovery;
//! [`Faults`]; counters ([`Stats`]); a recording of frames; a clock that you can move forward, by
//! which a message whose `ttlSeconds` are over is neither sent again nor counted as unacknowledged
//! (an assumption: the service's own emulator only checks the number); `/negotiate`, if asked for
//! ([`EmulatorBuilder::negotiate`]). What is missing: no REST (requests under `/api/` get HTTP 501),
//! no webhooks: call the methods here, and pass closures as event handlers. Without one events fail,
//! as at the service.
//!
//! The service's preview features are there too: invocations go to the event handler
//! ([`EmulatedEvent::invocation_id`]), streams of clients are passed on to groups, members set and
//! follow group state. Much about them is documented nowhere. The choices made here: the session of
//! an invocation waits for its answer, as with events; a stream that cannot start gets
//! `streamClosed`; it is acknowledged after 16 fragments or 20 ms
//! ([`Limits::stream_ack_every`]); its idle time runs on while its publisher's link is lost; if that
//! session ends, subscribers get an end of the name `Cancelled`; group state is bounded by 512 bytes
//! of keys and values, and a snapshot by 200 members.
//!
//! It logs by the [`log`] facade, target `webpubsub::emulator`: who connects, is refused and why, is
//! closed and why, overflows, ends (level `info`), and groups, publications, events and failed
//! calls (`debug`). No line holds a payload, unless [`EmulatorBuilder::log_frames`] asks for frames.
//!
//! Invariants: the service's logic (`service`, `inbound`, `receive`, `delivery`, `server_session`,
//! `invocations`, `streams`, `group_state`)
//! has no socket and no clock; no lock is held across I/O or a closure of the program; see `server`
//! for the lock order.

mod admission;
mod builder;
#[cfg(feature = "_tls")]
mod certificate;
mod clock;
mod closing;
mod connect;
mod connection;
mod delivery;
mod events;
mod executions;
mod faults;
mod grants;
mod group_state;
mod http;
mod inbound;
mod invocations;
mod live;
mod notes;
mod outbox;
mod preview_faults;
mod receive;
mod record;
mod reports;
mod server;
mod server_session;
mod service;
mod slow_write;
mod stats;
mod streams;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod virtual_service;
mod web;
mod writer;

pub use builder::{EmulatorBuilder, Limits};
pub use connect::{ConnectAnswer, ConnectRequest};
pub use events::{EmulatedEvent, EventAnswer};
pub use faults::{Faults, StallAt};
pub use grants::Permission;
pub use record::{Direction, RecordedFrame};
pub use server_session::ConnectionInfo;
pub use stats::Stats;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use delivery::Delivery;
use server::Server;

use crate::auth::{ClientAccess, Role};
use crate::error::{Error, Result};
use crate::message::{Metadata, Payload};
use crate::protocol::rules;
use crate::secret::Secret;
use crate::transport::{Roots, TlsConfig};

/// A running emulator of the service; see the [module](self).
pub struct Emulator {
    server: Server,
}

impl Emulator {
    /// Starts one with the default options.
    ///
    /// # Errors
    /// [`ErrorKind::Connect`](crate::ErrorKind::Connect) if no port or thread can be had.
    pub fn start() -> Result<Self> {
        Self::builder().start()
    }

    /// Options.
    pub fn builder() -> EmulatorBuilder {
        EmulatorBuilder::new()
    }

    fn launch(builder: EmulatorBuilder) -> Result<Self> {
        Ok(Self { server: Server::start(builder)? })
    }

    // --- how to reach it ---------------------------------------------------------------------

    /// The TCP port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.server.shared.address().port()
    }

    /// `http://127.0.0.1:PORT`, or `https` with TLS.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.server.shared.endpoint()
    }

    /// Endpoint and access key, for a client that mints its own tokens.
    #[must_use]
    pub fn connection_string(&self) -> String {
        self.server.shared.connection_string()
    }

    /// A client access URL: no user id, all roles for groups (also those for group state), valid for
    /// an hour of the emulator's clock.
    ///
    /// # Panics
    /// If the hub name breaks the rule for hub names; see [`Emulator::url_for`].
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn url(&self, hub: &str) -> String {
        let state = [Role::set_group_state(), Role::get_group_state()];
        let access = ClientAccess::new().role(Role::join_leave()).role(Role::send()).roles(state);
        self.url_for(hub, &access).expect("a valid hub name")
    }

    /// A client access URL whose token grants just that.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if a value breaks a rule.
    pub fn url_for(&self, hub: &str, access: &ClientAccess) -> Result<String> {
        self.server.shared.url_for(hub, access)
    }

    /// Just the token of such a URL, as the service's `:generateToken` returns it.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if a value breaks a rule.
    pub fn token(&self, hub: &str, access: &ClientAccess) -> Result<Secret> {
        let url = self.url_for(hub, access)?;
        Ok(Secret::new(url.split_once("access_token=").map_or("", |(_, token)| token)))
    }

    /// The root certificate that a client has to trust, with TLS only.
    #[must_use]
    pub fn root_certificate_pem(&self) -> Option<String> {
        #[cfg(feature = "_tls")]
        return self.server.shared.certificate.as_ref().map(|c| c.root_pem.clone());
        #[cfg(not(feature = "_tls"))]
        None
    }

    /// What a client trusts that connects to this emulator: with TLS its root certificate and
    /// nothing else, without the defaults.
    ///
    /// ```
    /// # use webpubsub::Client;
    /// # use webpubsub::emulator::Emulator;
    /// # fn main() -> webpubsub::Result<()> {
    /// let emulator = Emulator::builder().tls(cfg!(feature = "native-tls")).start()?;
    /// let client = Client::builder(emulator.url("chat")).tls(emulator.tls_config()).connect()?;
    /// # client.close() }
    /// ```
    pub fn tls_config(&self) -> TlsConfig {
        match self.root_certificate_pem() {
            Some(pem) => TlsConfig::new().roots(Roots::AddedOnly).root_certificate_pem(pem),
            None => TlsConfig::new(),
        }
    }

    /// A certificate and its key (PEM) that the emulator accepts from clients, with TLS only.
    #[must_use]
    pub fn client_certificate_pem(&self) -> Option<(String, Secret)> {
        #[cfg(feature = "_tls")]
        return self.server.shared.certificate.as_ref().map(|c| c.client_pem.clone());
        #[cfg(not(feature = "_tls"))]
        None
    }

    // --- the app server's side ---------------------------------------------------------------

    /// Sends to every connection of the hub; returns how many. Like all `send_to_…` it does not
    /// wait: a client that falls behind its limits loses its session, as at the service. To pace
    /// a burst, look at [`ConnectionInfo::unacked`] in [`Emulator::wait_until`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`](crate::ErrorKind::InvalidRequest) if the payload is larger than
    /// [`Limits::message_size`] (1 MiB). Nothing is sent then.
    pub fn send_to_all(&self, hub: &str, payload: impl Into<Payload>) -> Result<usize> {
        let delivery = Delivery::from_server(payload.into());
        self.send(hub, &delivery, |service, hub, now| service.send_to_all(now, hub, &delivery))
    }

    /// Publishes to a group, without a user; returns to how many.
    ///
    /// # Errors
    /// As [`Emulator::send_to_all`], also for a group name that the service does not take.
    pub fn send_to_group(
        &self,
        hub: &str,
        group: &str,
        payload: impl Into<Payload>,
    ) -> Result<usize> {
        self.publish(hub, group, payload.into(), Metadata::default())
    }

    /// Publishes to a group, with metadata; returns to how many.
    ///
    /// # Errors
    /// As [`Emulator::send_to_group`].
    pub fn send_to_group_with_metadata(
        &self,
        hub: &str,
        group: &str,
        payload: impl Into<Payload>,
        metadata: Metadata,
    ) -> Result<usize> {
        self.publish(hub, group, payload.into(), metadata)
    }

    fn publish(
        &self,
        hub: &str,
        group: &str,
        payload: Payload,
        metadata: Metadata,
    ) -> Result<usize> {
        rules::group(group).map_err(Error::invalid)?;
        let delivery = Delivery { metadata, ..Delivery::to_group(group.into(), None, payload) };
        self.send(hub, &delivery, |service, hub, now| service.publish(now, hub, &delivery, None))
    }

    /// Sends to every connection of a user; returns how many.
    ///
    /// # Errors
    /// As [`Emulator::send_to_all`].
    pub fn send_to_user(
        &self,
        hub: &str,
        user_id: &str,
        payload: impl Into<Payload>,
    ) -> Result<usize> {
        let delivery = Delivery::from_server(payload.into());
        self.send(hub, &delivery, |service, hub, now| {
            service.send_to_user(now, hub, user_id, &delivery)
        })
    }

    /// Sends to one connection; false if it does not exist.
    ///
    /// # Errors
    /// As [`Emulator::send_to_all`].
    pub fn send_to_connection(
        &self,
        hub: &str,
        connection_id: &str,
        payload: impl Into<Payload>,
    ) -> Result<bool> {
        let delivery = Delivery::from_server(payload.into());
        let sent = self.send(hub, &delivery, |service, hub, now| {
            service.send_to_connection(now, hub, connection_id, &delivery)
        })?;
        Ok(sent > 0)
    }

    fn send(
        &self,
        hub: &str,
        delivery: &Delivery,
        f: impl FnOnce(&mut service::Service, &str, Duration) -> usize,
    ) -> Result<usize> {
        let (size, most) = (delivery.payload_size(), self.server.shared.message_size);
        if size > most {
            let text = format!("the payload has {size} bytes; the service takes at most {most}");
            return Err(Error::invalid(text));
        }
        Ok(self.hub_at(hub, f))
    }

    /// Closes a connection: `disconnected`, Close 1000, session over. False if it does not exist.
    pub fn close_connection(&self, hub: &str, connection_id: &str, reason: Option<&str>) -> bool {
        self.hub(hub, |service, hub| service.close_by_app(hub, connection_id, reason))
    }

    /// Sends every open reliable connection a second `connected` message, with a new reconnection
    /// token, as the service does now and then; returns how many. Earlier tokens stay valid (the last
    /// 64 of each connection), as a signed one would.
    pub fn refresh_tokens(&self) -> usize {
        self.server.shared.with(None, |service, _| service.refresh_tokens())
    }

    /// Adds a connection to a group; false if it does not exist or the name is not valid.
    pub fn add_to_group(&self, hub: &str, group: &str, connection_id: &str) -> bool {
        rules::group(group).is_ok()
            && self.hub(hub, |service, hub| {
                service.is_member(hub, connection_id) && service.join(connection_id, group)
            })
    }

    /// Takes a connection out of a group; false if it does not exist or the name is not valid.
    pub fn remove_from_group(&self, hub: &str, group: &str, connection_id: &str) -> bool {
        rules::group(group).is_ok()
            && self.hub(hub, |service, hub| {
                service.is_member(hub, connection_id) && service.leave(connection_id, group)
            })
    }

    /// Allows a connection one group, by its literal name. False if the connection does not exist,
    /// the name is not valid, or 1000 single groups are allowed already.
    pub fn grant(
        &self,
        hub: &str,
        connection_id: &str,
        permission: Permission,
        group: &str,
    ) -> bool {
        rules::group(group).is_ok()
            && self.hub(hub, |service, hub| {
                service.change_grants(hub, connection_id, |grants| grants.grant(permission, group))
            })
    }

    /// Denies a connection one group, by its literal name, until it is granted: also if a role of
    /// the connection covers the group. A member stays a member and cannot leave any more. False if
    /// the connection does not exist, the name is not valid, or 1000 single groups are denied
    /// already.
    pub fn revoke(
        &self,
        hub: &str,
        connection_id: &str,
        permission: Permission,
        group: &str,
    ) -> bool {
        rules::group(group).is_ok()
            && self.hub(hub, |service, hub| {
                service.change_grants(hub, connection_id, |grants| grants.revoke(permission, group))
            })
    }

    /// All sessions of a hub, those that wait for recovery included, by connection id.
    #[must_use]
    pub fn connections(&self, hub: &str) -> Vec<ConnectionInfo> {
        self.hub_at(hub, |service, hub, now| service.connections(now, hub))
    }

    /// The states in a group, by connection id (preview).
    #[must_use]
    pub fn group_states(
        &self,
        hub: &str,
        group: &str,
    ) -> BTreeMap<String, BTreeMap<String, String>> {
        self.hub(hub, |service, hub| service.group_states(hub, group))
    }

    /// Hub names are the same in any letter case.
    fn hub<R>(&self, hub: &str, f: impl FnOnce(&mut service::Service, &str) -> R) -> R {
        self.hub_at(hub, |service, hub, _| f(service, hub))
    }

    fn hub_at<R>(
        &self,
        hub: &str,
        f: impl FnOnce(&mut service::Service, &str, Duration) -> R,
    ) -> R {
        let hub = hub.to_ascii_lowercase();
        self.server.shared.with(None, |service, now| f(service, &hub, now))
    }

    // --- the laboratory ----------------------------------------------------------------------

    /// What can be made to go wrong.
    #[must_use]
    pub fn faults(&self) -> Faults {
        Faults { shared: Arc::clone(&self.server.shared) }
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.server.shared.stats()
    }

    /// Waits until the condition holds, looking whenever a counter, a membership or a session
    /// changes; false if the time is up. The closure may ask the emulator anything.
    #[must_use]
    pub fn wait_until(&self, limit: Duration, condition: impl Fn(&Stats) -> bool) -> bool {
        let shared = &self.server.shared;
        shared.counters.wait_until(limit, || shared.stats(), condition)
    }

    /// How often the request with this ack id was carried out (refused ones were not).
    #[must_use]
    pub fn executions(&self, connection_id: &str, ack_id: u64) -> u32 {
        self.server.shared.with(None, |service, _| service.executions.get(connection_id, ack_id))
    }

    /// The recorded frames, oldest first; see [`EmulatorBuilder::record_frames`].
    #[must_use]
    pub fn frames(&self) -> Vec<RecordedFrame> {
        self.server.shared.recorder.frames()
    }

    /// Forgets the recorded frames.
    pub fn clear_frames(&self) {
        self.server.shared.recorder.clear();
    }

    /// Moves the clock forward: lost sessions end after their 30 s, idle streams after their time;
    /// tokens expire (5 minutes late, as at the service), and messages with `ttlSeconds`. Sockets and
    /// timers of clients are not concerned, nor the clock by which a connection string mints tokens: those
    /// are expired from the start then. [`url_for`](Self::url_for) mints by this clock.
    pub fn advance_clock(&self, by: Duration) {
        self.server.shared.clock.advance(by);
        // The thread that looks at the clock computed its wait before.
        self.server.shared.with(None, |service, _| service.reports.look_again());
        self.server.shared.counters.notify();
    }
}

impl std::fmt::Debug for Emulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Emulator").field("endpoint", &self.endpoint()).finish_non_exhaustive()
    }
}
