//! Opens links for the reader: asks for the URL, makes a target of it, dials.

use std::sync::Arc;
use std::time::Instant;

use super::source::{Kind, Shape, UrlSource, provider_error};
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
}

pub(super) struct Dialer {
    setup: Setup,
    lookup: Lookup,
    provider: Helper<Result<String>>,
    /// The URL of the present connection, for its recovery.
    url: Option<Secret>,
}

impl Dialer {
    pub(super) fn new(setup: Setup) -> Self {
        let lookup = Lookup::new(setup.resolver.clone());
        Self { setup, lookup, provider: Helper::new("webpubsub-url"), url: None }
    }

    /// Opens a link as planned; blocks at most until the plan's limit, and ends on stop.
    pub(super) fn open(&mut self, plan: &Dial, stop: &Stop) -> Result<(Arc<Link>, LinkReader)> {
        let mut target = self.target(plan, stop)?;
        for (_, value) in &self.setup.dial.headers {
            target.hide(value.clone());
        }
        let kind = if plan.recover.is_some() { "to recover" } else { "anew" };
        log::debug!("connecting {kind} to {}:{}", target.host, target.port);
        let (wire, leftover) = dial(&target, &self.setup.dial, &mut self.lookup, plan.until, stop)?;
        Link::open(wire, leftover, Role::Client, &self.setup.link).map_err(|e| {
            Error::new(ErrorKind::Connect, "the new connection failed at once").with_source(e)
        })
    }

    fn target(&mut self, plan: &Dial, stop: &Stop) -> Result<Target> {
        if let (Some(identity), Some(url)) = (&plan.recover, &self.url) {
            return self.setup.shape.recovery(url.expose(), identity);
        }
        let url = self.new_url(plan.until, stop)?;
        let target = self.setup.shape.new_connection(url.expose())?;
        self.url = Some(url);
        Ok(target)
    }

    fn new_url(&mut self, deadline: Instant, stop: &Stop) -> Result<Secret> {
        match &self.setup.source.0 {
            Kind::Fixed(url) => Ok(url.clone()),
            Kind::Minted { from, hub, access } => {
                from.client_access_url(hub, access).map(|url| Secret::new(url.as_str()))
            }
            Kind::Provider(provider) => {
                let provider = Arc::clone(provider);
                let ask = move || {
                    provider().map_err(|e| {
                        provider_error("the URL provider of the program failed").with_source(e)
                    })
                };
                let url = self.provider.run(ask, deadline, stop).map_err(|e| match e {
                    HelperError::Stopped => Error::closed(),
                    HelperError::TimedOut => provider_error(
                        "the URL provider of the program gave no URL within the time limit",
                    ),
                    HelperError::Died => provider_error("the URL provider of the program panicked"),
                })?;
                url.map(Secret::new)
            }
        }
    }
}
