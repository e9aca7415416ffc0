//! Where client access URLs come from, and what is made of them for one connection.

use std::fmt;
use std::sync::Arc;

use url::{ParseError, Url, form_urlencoded};

use super::attempt::Attempt;
use crate::auth::{ClientAccess, ConnectionString};
use crate::error::{Error, ErrorKind, Result};
use crate::secret::Secret;
use crate::session::Identity;
use crate::transport::Target;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(super) type Provider = dyn Fn(&Attempt) -> Result<Secret, BoxError> + Send + Sync;

/// Where a client gets its client access URL from.
///
/// A string or a [`Url`] is used for every connection: when its token has expired, a new
/// connection is refused (an open one and its recovery are not). A
/// [provider](UrlSource::provider) or a [connection string](UrlSource::connection_string) returns a
/// fresh token for each new connection. `Debug` shows no URL.
///
/// ```
/// use webpubsub::{ClientAccess, ConnectionString, UrlSource};
///
/// # fn main() -> webpubsub::Result<()> {
/// # fn ask_the_app_server(limit: std::time::Duration) -> std::io::Result<String> { Ok(String::new()) }
/// let fixed = UrlSource::from("wss://demo.webpubsub.azure.com/client/hubs/chat?access_token=…");
/// let asked = UrlSource::provider(|attempt| ask_the_app_server(attempt.time_left()));
/// let service = ConnectionString::parse(
///     "Endpoint=https://demo.webpubsub.azure.com;AccessKey=0123456789;Version=1.0;",
/// )?;
/// let minted = UrlSource::connection_string(service, "chat", ClientAccess::new());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct UrlSource(pub(super) Kind);

#[derive(Clone)]
pub(super) enum Kind {
    Fixed(Secret),
    Provider(Arc<Provider>),
    Minted { from: ConnectionString, hub: String, access: ClientAccess },
}

impl UrlSource {
    /// Asks a closure for the URL of every new connection (not for recoveries, which need none).
    ///
    /// The closure may block: it runs on a thread of its own, at most one at a time, and counts
    /// into the time of the attempt. The [`Attempt`] says how much of that is left, and whether the
    /// client has been closed meanwhile; `close` does not wait for the closure. If it fails or
    /// panics, the attempt has failed, and the next one comes after a backoff.
    pub fn provider<F, U, E>(f: F) -> Self
    where
        F: Fn(&Attempt) -> Result<U, E> + Send + Sync + 'static,
        U: Into<Secret>,
        E: Into<BoxError>,
    {
        let provider = move |attempt: &Attempt| f(attempt).map(Into::into).map_err(Into::into);
        Self(Kind::Provider(Arc::new(provider)))
    }

    /// Mints a token for every new connection, as an app server does.
    #[must_use]
    pub fn connection_string(
        from: ConnectionString,
        hub: impl Into<String>,
        access: ClientAccess,
    ) -> Self {
        Self(Kind::Minted { from, hub: hub.into(), access })
    }

    /// The URL can be another one next time.
    pub(super) fn is_renewable(&self) -> bool {
        !matches!(self.0, Kind::Fixed(_))
    }
}

impl fmt::Debug for UrlSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Fixed(_) => "UrlSource(fixed)",
            Kind::Provider(_) => "UrlSource(provider)",
            Kind::Minted { .. } => "UrlSource(connection string)",
        })
    }
}

impl From<&str> for UrlSource {
    fn from(url: &str) -> Self {
        Self(Kind::Fixed(Secret::new(url)))
    }
}

impl From<String> for UrlSource {
    fn from(url: String) -> Self {
        Self(Kind::Fixed(Secret::new(url)))
    }
}

impl From<Secret> for UrlSource {
    fn from(url: Secret) -> Self {
        Self(Kind::Fixed(url))
    }
}

impl From<&String> for UrlSource {
    fn from(url: &String) -> Self {
        url.as_str().into()
    }
}

impl From<Url> for UrlSource {
    fn from(url: Url) -> Self {
        Self(Kind::Fixed(Secret::new(url.as_str())))
    }
}

/// What a URL is turned into, the same for every connection of a client.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) subprotocol: Option<&'static str>,
    /// Send the token as `Authorization: Bearer` instead of in the query.
    pub(super) token_in_header: bool,
    pub(super) raw: Raw,
}

/// What only the simple client has.
#[derive(Debug, Clone, Default)]
pub(super) struct Raw {
    /// It publishes what it sends to this group.
    pub(super) group: Option<String>,
    /// And gets nothing of that itself.
    pub(super) no_echo: bool,
}

impl Shape {
    /// The target of a new connection.
    pub(super) fn new_connection(&self, url: &str) -> Result<Target> {
        let url = parse(url)?;
        let mut query = Query::of(&url);
        if let Some(group) = &self.raw.group {
            query.remove("webpubsub_mode");
            query.remove("group");
            query.add("webpubsub_mode", "sendToGroup");
            query.add("group", group);
        }
        if self.raw.no_echo {
            query.remove("noEcho");
            query.add("noEcho", "true");
        }
        let token = if self.token_in_header { query.remove("access_token") } else { None };
        if token.as_deref().is_some_and(|t| !t.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(Error::config(
                "the access token must consist of visible ASCII characters to go into a header",
            ));
        }
        let mut target = Target::new(&url, Some(&query.0), self.subprotocol)?;
        target.bearer = token.map(Secret::new);
        Ok(target)
    }

    /// The target of a recovery: no access token is needed, and a token that is not sent can
    /// neither have expired nor leak.
    pub(super) fn recovery(&self, url: &str, identity: &Identity) -> Result<Target> {
        let url = parse(url)?;
        let mut query = Query::of(&url);
        query.remove("access_token");
        query.add("awps_connection_id", &identity.connection_id);
        if let Some(token) = &identity.token {
            query.add("awps_reconnection_token", token.expose());
        }
        let mut target = Target::new(&url, Some(&query.0), self.subprotocol)?;
        if let Some(token) = &identity.token {
            target.hide(token.clone());
        }
        target.recovers = true;
        Ok(target)
    }
}

fn parse(url: &str) -> Result<Url> {
    if url.trim_start().to_ascii_lowercase().starts_with("endpoint=") {
        return Err(Error::config(
            "this is a connection string, not a client access URL; parse it as a \
             `ConnectionString` and give that to `UrlSource::connection_string`",
        ));
    }
    if url.trim().is_empty() {
        return Err(Error::config(
            "the client access URL is empty; an app server returns one (often at `negotiate`), the \
             portal shows one, and `UrlSource::connection_string` mints them",
        ));
    }
    // The parser's error names the fault and does not repeat the text, which holds a token.
    let url = Url::parse(url.trim()).map_err(|e| {
        let what = match e {
            ParseError::RelativeUrlWithoutBase => "has no scheme",
            _ => "cannot be parsed",
        };
        Error::config(format!(
            "the client access URL {what}; it looks like \
             `wss://NAME.webpubsub.azure.com/client/hubs/HUB?access_token=…`",
        ))
        .with_source(e)
    })?;
    if matches!(url.scheme(), "http" | "https") && !url.path().contains("/client") {
        return Err(Error::config(format!(
            "the client access URL must begin with `wss://` or `ws://`, not `{}:`; this looks like \
             the endpoint of the service, or like the `negotiate` address of an app server, which \
             returns a client access URL with a token in it",
            url.scheme(),
        )));
    }
    if url.path().trim_matches('/').is_empty() && matches!(url.scheme(), "ws" | "wss") {
        return Err(Error::config(
            "the client access URL has no path; it looks like \
             `wss://NAME.webpubsub.azure.com/client/hubs/HUB?access_token=…`",
        ));
    }
    Ok(url)
}

/// The hub that a client access URL names, in either of its forms.
pub(super) fn hub_of(url: &str) -> Option<String> {
    let url = Url::parse(url.trim()).ok()?;
    let in_path = url.path_segments()?.skip_while(|part| *part != "hubs").nth(1).map(str::to_owned);
    let in_query = || url.query_pairs().find(|(name, _)| name == "hub").map(|(_, hub)| hub.into());
    // What is no hub name is not for a log line.
    in_path.or_else(in_query).filter(|hub: &String| {
        !hub.is_empty() && hub.len() <= 128 && hub.bytes().all(|b| b.is_ascii_graphic())
    })
}

/// A raw query, edited by whole parameters, so that the others stay as they were written.
struct Query(String);

impl Query {
    fn of(url: &Url) -> Self {
        Self(url.query().unwrap_or("").to_owned())
    }

    /// Removes a parameter and returns its decoded value.
    fn remove(&mut self, name: &str) -> Option<String> {
        let mut found = None;
        let mut kept = Vec::new();
        for part in self.0.split('&').filter(|p| !p.is_empty()) {
            match form_urlencoded::parse(part.as_bytes()).next() {
                Some((key, value)) if key == name => found = Some(value.into_owned()),
                _ => kept.push(part),
            }
        }
        self.0 = kept.join("&");
        found
    }

    fn add(&mut self, name: &str, value: &str) {
        let mut part = form_urlencoded::Serializer::new(String::new());
        part.append_pair(name, value);
        if !self.0.is_empty() {
            self.0.push('&');
        }
        // A form's `+` is not everybody's space.
        self.0.push_str(&part.finish().replace('+', "%20"));
    }
}

pub(super) fn provider_error(text: &'static str) -> Error {
    Error::new(ErrorKind::UrlProvider, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_the_url_survive_an_edit() {
        let url = parse("ws://h/client/hubs/a?x=%2F&access_token=T%2E&y").expect("url");
        let mut query = Query::of(&url);
        assert_eq!(query.remove("access_token").as_deref(), Some("T."));
        query.add("group", "a b/é");
        assert_eq!(query.0, "x=%2F&y&group=a%20b%2F%C3%A9");
    }

    #[test]
    fn the_hub_is_found_in_both_forms_of_the_url() {
        for (url, hub) in [
            ("wss://h/client/hubs/chat?access_token=T", Some("chat")),
            ("wss://h/client/?hub=chat&access_token=T", Some("chat")),
            ("wss://h/prefix/client/hubs/chat/", Some("chat")),
            ("wss://h/client/hubs/", None),
            ("wss://h/client/?hub=a%0ab", None),
            ("wss://h/client", None),
            ("nonsense", None),
        ] {
            assert_eq!(hub_of(url).as_deref(), hub, "{url}");
        }
    }

    #[test]
    fn a_token_cannot_smuggle_a_header() {
        let shape = Shape { subprotocol: None, token_in_header: true, raw: Raw::default() };
        let url = "ws://h/client/hubs/a?access_token=abc%0d%0aX-Injected:%20yes";
        let e = shape.new_connection(url).expect_err("not a token");
        assert_eq!(e.kind(), ErrorKind::Config);
    }

    #[test]
    fn bad_urls_are_refused_without_being_repeated() {
        for bad in ["", "not a url SECRET", "wss://h?access_token=SECRET", "wss:///x"] {
            let shape = Shape { subprotocol: None, token_in_header: false, raw: Raw::default() };
            let e = shape.new_connection(bad).expect_err(bad);
            assert_eq!(e.kind(), ErrorKind::Config);
            assert!(!format!("{e:?} {e}").contains("SECRET"));
        }
    }
}
