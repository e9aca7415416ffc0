//! Where the service is: from the flags, or else from the environment.

use std::env;
use std::time::Duration;

use clap::Args;
use webpubsub::{ClientAccess, ConnectionString, Role, Secret, UrlSource};

use crate::Failure;

const URL: &str = "WEBPUBSUB_URL";
const CONNECTION_STRING: &str = "WEBPUBSUB_CONNECTION_STRING";
const HUB: &str = "WEBPUBSUB_HUB";

/// The flags of all commands that connect.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The client access URL, such as wss://NAME.webpubsub.azure.com/client/hubs/HUB?access_token=…
    /// [default: the variable WEBPUBSUB_URL, which no list of processes shows]
    #[arg(long, conflicts_with_all = ["connection_string", "hub"], hide_default_value = true)]
    url: Option<Secret>,

    /// The connection string of the service, from which a token is made for each connection
    /// [default: the variable WEBPUBSUB_CONNECTION_STRING]
    #[arg(long, value_name = "STRING")]
    connection_string: Option<Secret>,

    /// The hub, with a connection string [default: the variable WEBPUBSUB_HUB]
    #[arg(long)]
    hub: Option<String>,

    /// Gives up after this many seconds in all, with exit code 1
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) timeout: Option<Duration>,

    /// Prints one JSON object a line on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

impl Target {
    /// Flags win over variables, and a URL over a connection string. `--hub` asks for a connection
    /// string. The roles are what a token made here grants.
    pub(crate) fn source(&self, roles: &[Role]) -> Result<UrlSource, Failure> {
        if let Some(url) = &self.url {
            return Ok(url.clone().into());
        }
        if self.connection_string.is_none()
            && self.hub.is_none()
            && let Some(url) = variable(URL)?
        {
            return Ok(url.into());
        }
        let Some(text) = flag_or_variable(
            self.connection_string.as_ref().map(Secret::expose),
            CONNECTION_STRING,
        )?
        else {
            return Err(Failure::usage(if self.hub.is_some() {
                "--hub needs a connection string: --connection-string or the variable \
                 WEBPUBSUB_CONNECTION_STRING"
            } else {
                "where is the service? Give --url, or --connection-string and --hub, or one of the \
                 variables WEBPUBSUB_URL and WEBPUBSUB_CONNECTION_STRING (with WEBPUBSUB_HUB)"
            }));
        };
        let Some(hub) = flag_or_variable(self.hub.as_deref(), HUB)? else {
            return Err(Failure::usage(
                "a connection string names no hub: give --hub or the variable WEBPUBSUB_HUB",
            ));
        };
        let access = ClientAccess::new().roles(roles.iter().cloned());
        Ok(UrlSource::connection_string(ConnectionString::parse(&text)?, hub, access))
    }
}

fn flag_or_variable(flag: Option<&str>, name: &str) -> Result<Option<String>, Failure> {
    flag.map_or_else(|| variable(name), |value| Ok(Some(value.to_owned())))
}

/// One that is empty counts as not set.
fn variable(name: &str) -> Result<Option<String>, Failure> {
    match env::var(name) {
        Ok(value) if !value.trim().is_empty() => Ok(Some(value)),
        Ok(_) | Err(env::VarError::NotPresent) => Ok(None),
        // Its text would repeat the value, which may hold a token.
        Err(env::VarError::NotUnicode(_)) => {
            Err(Failure::usage(format!("the variable {name} is not UTF-8")))
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds is expected".to_owned())?;
    let limit = Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())?;
    if limit.is_zero() { Err("it must be more than 0".into()) } else { Ok(limit) }
}
