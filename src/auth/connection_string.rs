//! The connection string of a service, and the client access URLs that it can mint.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use url::Url;

use super::access::ClientAccess;
use super::token;
use crate::error::{Error, ErrorKind, Result};
use crate::secret::Secret;

/// Address and key of a service, as the Azure portal shows them:
/// `Endpoint=https://NAME.webpubsub.azure.com;AccessKey=KEY;Version=1.0;`
///
/// Whoever holds it can do anything with the service, so it belongs on a server or a developer's
/// machine; give clients the URLs it mints. `Debug` does not show the key.
///
/// ```
/// use webpubsub::{ClientAccess, ConnectionString, Role};
///
/// # fn main() -> webpubsub::Result<()> {
/// let service: ConnectionString =
///     "Endpoint=https://demo.webpubsub.azure.com;AccessKey=0123456789;Version=1.0;".parse()?;
/// let access = ClientAccess::new().user_id("anna").role(Role::join_leave());
/// let url = service.client_access_url("chat", &access)?;
/// assert!(url.expose().starts_with("wss://demo.webpubsub.azure.com/client/hubs/chat?"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ConnectionString {
    endpoint: Url,
    key: Secret,
}

impl ConnectionString {
    /// Reads a connection string.
    ///
    /// `Endpoint` and `AccessKey` are required; `Port` replaces the endpoint's port; other names
    /// are ignored. Names may be in any letter case, parts in any order. An endpoint without a
    /// scheme is `https`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`], naming the field and what is wrong with it, never the key.
    pub fn parse(text: &str) -> Result<Self> {
        let fields = Fields::split(text)?;
        let mut endpoint = parse_endpoint(required("Endpoint", fields.endpoint)?)?;
        let key = Secret::new(required("AccessKey", fields.key)?);
        if let Some(port) = fields.port {
            let port = port
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(|| wrong("`Port` must be a number from 1 to 65535"))?;
            endpoint.set_port(Some(port)).map_err(|()| wrong("`Endpoint` cannot have a port"))?;
        }
        Ok(Self { endpoint, key })
    }

    /// The service's address: scheme, host, port.
    #[must_use]
    pub fn endpoint(&self) -> &Url {
        &self.endpoint
    }

    /// A URL with which one client can connect to the hub, valid from now for the lifetime set.
    ///
    /// The URL holds an access token, so it is a [`Secret`]. Each call mints a new token, so this is what
    /// a URL provider calls. The clock of this machine should be right to some minutes.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if a value breaks a rule. A hub name is a letter, followed by up to
    /// 127 letters, digits and `_` `,` `.` `[` `]` `` ` `` (ASCII); for the rest see [`ClientAccess`]
    /// and [`Role`](crate::Role).
    pub fn client_access_url(&self, hub: &str, access: &ClientAccess) -> Result<Secret> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_err(|e| Error::config("the system clock is before 1970").with_source(e))?;
        let url = self.client_access_url_at(hub, access, now.as_secs())?;
        Ok(Secret::new(url.as_str()))
    }

    pub(crate) fn client_access_url_at(
        &self,
        hub: &str,
        access: &ClientAccess,
        now: u64,
    ) -> Result<Url> {
        check_hub(hub)?;
        // The service compares the audience with the hub as it was named, not percent-encoded,
        // and with the http scheme although clients come by ws.
        let audience =
            format!("{}/client/hubs/{hub}", self.endpoint.origin().ascii_serialization());
        let token = token::sign(&self.key, &access.claims(audience, now)?)?;

        let scheme = if self.endpoint.scheme() == "http" { "ws" } else { "wss" };
        let mut url = self.endpoint.clone();
        url.set_scheme(scheme).map_err(|()| {
            Error::new(ErrorKind::Internal, "the endpoint does not turn into a WebSocket URL")
        })?;
        url.set_path(&format!("/client/hubs/{hub}"));
        url.set_query(Some(&format!("access_token={}", token.expose())));
        Ok(url)
    }
}

impl FromStr for ConnectionString {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl fmt::Debug for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionString")
            .field("endpoint", &self.endpoint.as_str())
            .field("key", &self.key)
            .finish()
    }
}

/// The values of a connection string that matter, untouched.
#[derive(Default)]
struct Fields<'a> {
    endpoint: Option<&'a str>,
    key: Option<&'a str>,
    port: Option<&'a str>,
}

impl<'a> Fields<'a> {
    fn split(text: &'a str) -> Result<Self> {
        let mut fields = Self::default();
        for (i, part) in text.split(';').enumerate() {
            if part.trim().is_empty() {
                continue;
            }
            // At the first `=`, because keys end with some. A part without one may be a key that
            // lost its name, so the error counts parts and shows none.
            let (name, value) = part
                .split_once('=')
                .ok_or_else(|| wrong(format!("part {} is not of the form NAME=VALUE", i + 1)))?;
            fields.set(name.trim(), value.trim())?;
        }
        Ok(fields)
    }

    fn set(&mut self, name: &str, value: &'a str) -> Result<()> {
        let fields = [
            ("Endpoint", &mut self.endpoint),
            ("AccessKey", &mut self.key),
            ("Port", &mut self.port),
        ];
        for (known, field) in fields {
            if known.eq_ignore_ascii_case(name) && field.replace(value).is_some() {
                return Err(wrong(format!("`{known}` is given twice")));
            }
        }
        Ok(())
    }
}

fn required<'a>(name: &str, value: Option<&'a str>) -> Result<&'a str> {
    match value {
        None => Err(wrong(format!("`{name}` is missing"))),
        Some("") => Err(wrong(format!("`{name}` is empty"))),
        Some(value) => Ok(value),
    }
}

fn parse_endpoint(text: &str) -> Result<Url> {
    let with_scheme;
    let text = if text.contains("://") {
        text
    } else {
        with_scheme = format!("https://{text}");
        &with_scheme
    };
    let url = Url::parse(text).map_err(|e| wrong("`Endpoint` is not a URL").with_source(e))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("`Endpoint` must begin with https:// or http://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("`Endpoint` must not hold a user name or password"));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("`Endpoint` must be only scheme, host and port"));
    }
    Ok(url)
}

fn check_hub(hub: &str) -> Result<()> {
    let mut bytes = hub.bytes();
    let good = bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
        && hub.len() <= 128
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_,.[]`".contains(&b));
    if good {
        return Ok(());
    }
    Err(Error::config(
        "the hub name must be a letter, followed by up to 127 letters, digits and `_` `,` `.` `[` \
         `]` or backticks",
    ))
}

fn wrong(what: impl fmt::Display) -> Error {
    Error::config(format!("connection string: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Role;
    use crate::auth::claims::verify;

    const KEY: &str = "abc+/def==";

    fn report(error: &Error) -> String {
        let source = std::error::Error::source(error).map(|e| format!("{e} {e:?}"));
        format!("{error} {error:?} {source:?}")
    }

    #[test]
    fn all_forms_are_read() {
        for (text, endpoint) in [
            ("Endpoint=https://a.b;AccessKey=abc+/def==;Version=1.0;", "https://a.b/"),
            ("Endpoint=https://a.b;AccessKey=abc+/def==", "https://a.b/"),
            ("AccessKey=abc+/def==;Endpoint=https://a.b/", "https://a.b/"),
            ("endpoint=HTTPS://A.B;ACCESSKEY=abc+/def==", "https://a.b/"),
            ("Endpoint=a.b;AccessKey=abc+/def==", "https://a.b/"),
            ("Endpoint=a.b:8443;AccessKey=abc+/def==", "https://a.b:8443/"),
            ("Endpoint=https://a.b;AccessKey=abc+/def==;Port=8080", "https://a.b:8080/"),
            ("Port=81;Endpoint=http://a.b:82;AccessKey=abc+/def==", "http://a.b:81/"),
            ("Endpoint=http://a.b;AccessKey=abc+/def==;port=80", "http://a.b/"),
            ("Endpoint=http://[::1]:9;AccessKey=abc+/def==", "http://[::1]:9/"),
            ("Endpoint=https://a.b;AccessKey=abc+/def==;New=1;New=2;Version=", "https://a.b/"),
            (" Endpoint = https://a.b ;; AccessKey = abc+/def== ;\r\n", "https://a.b/"),
        ] {
            let service: ConnectionString = text.parse().unwrap();
            assert_eq!(service.endpoint().as_str(), endpoint, "{text}");
            assert_eq!(service.key.expose(), KEY, "{text}");
        }
    }

    #[test]
    fn bad_strings_name_the_field_and_never_the_key() {
        for (text, says) in [
            ("", "`Endpoint` is missing"),
            ("AccessKey=abc+/def==", "`Endpoint` is missing"),
            ("Endpoint=;AccessKey=abc+/def==", "`Endpoint` is empty"),
            ("Endpoint=a;Endpoint=a;AccessKey=abc+/def==", "`Endpoint` is given twice"),
            ("Endpoint=https://a", "`AccessKey` is missing"),
            ("Endpoint=https://a;AccessKey=", "`AccessKey` is empty"),
            ("Endpoint=https://a;AccessKey= ;", "`AccessKey` is empty"),
            ("AccessKey=abc+/def==;Endpoint=a;accesskey=abc+/def==", "`AccessKey` is given twice"),
            ("Endpoint=https://a;abc+/def", "part 2 is not of the form NAME=VALUE"),
            ("Endpoint=a;AccessKey=abc+/def==;Port=", "`Port` must be a number"),
            ("Endpoint=a;AccessKey=abc+/def==;Port=0", "`Port` must be a number"),
            ("Endpoint=a;AccessKey=abc+/def==;Port=65536", "`Port` must be a number"),
            ("Endpoint=a;AccessKey=abc+/def==;Port=x", "`Port` must be a number"),
            ("Endpoint=a;AccessKey=abc+/def==;Port=1;Port=1", "`Port` is given twice"),
            ("Endpoint=https://;AccessKey=abc+/def==", "`Endpoint` is not a URL"),
            ("Endpoint=a b;AccessKey=abc+/def==", "`Endpoint` is not a URL"),
            ("Endpoint=wss://a;AccessKey=abc+/def==", "`Endpoint` must begin with https://"),
            ("Endpoint=file:///a;AccessKey=abc+/def==", "`Endpoint` must begin with https://"),
            ("Endpoint=https://u:abc+@a;AccessKey=abc+/def==", "user name or password"),
            ("Endpoint=https://a/abc+;AccessKey=abc+/def==", "only scheme, host and port"),
            ("Endpoint=https://a?abc+;AccessKey=abc+/def==", "only scheme, host and port"),
            ("Endpoint=https://a#abc+;AccessKey=abc+/def==", "only scheme, host and port"),
        ] {
            let error = ConnectionString::parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            let all = report(&error);
            assert!(all.contains(says), "{text}: {all}");
            assert!(!all.contains("abc+"), "{all}");
        }
    }

    fn service(endpoint: &str) -> ConnectionString {
        format!("Endpoint={endpoint};AccessKey={KEY}").parse().unwrap()
    }

    #[test]
    fn urls_have_the_token_of_their_audience() {
        for (endpoint, url, audience) in [
            ("https://a.b", "wss://a.b/client/hubs/Chat", "https://a.b/client/hubs/Chat"),
            ("https://a.b:443", "wss://a.b/client/hubs/Chat", "https://a.b/client/hubs/Chat"),
            ("https://a:80", "wss://a:80/client/hubs/Chat", "https://a:80/client/hubs/Chat"),
            ("http://a:8080", "ws://a:8080/client/hubs/Chat", "http://a:8080/client/hubs/Chat"),
            ("http://a", "ws://a/client/hubs/Chat", "http://a/client/hubs/Chat"),
            ("http://[::1]:9", "ws://[::1]:9/client/hubs/Chat", "http://[::1]:9/client/hubs/Chat"),
        ] {
            let access = ClientAccess::new().user_id("u").role(Role::send()).group("g");
            let minted = service(endpoint).client_access_url_at("Chat", &access, 1000).unwrap();
            let (base, token) = minted.as_str().split_once("?access_token=").unwrap();
            assert_eq!(base, url);
            let claims = verify(&Secret::new(KEY), token).unwrap();
            assert_eq!(claims.aud, [audience]);
            assert_eq!((claims.iat, claims.exp), (Some(1000), Some(4600)));
            assert_eq!(claims.sub.as_deref(), Some("u"));
            assert_eq!(claims.roles, ["webpubsub.sendToGroup"]);
            assert_eq!(claims.groups, ["g"]);
            assert!(claims.other.is_empty());
        }
    }

    #[test]
    fn the_public_way_uses_the_clock() {
        let url = service("a").client_access_url("chat", &ClientAccess::new()).unwrap();
        assert_eq!(format!("{url:?}"), "***");
        let url = Url::parse(url.expose()).unwrap();
        let (_, token) = url.query_pairs().next().unwrap();
        let claims = verify(&Secret::new(KEY), &token).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        claims.check("https://a/client/hubs/chat", now, 0).unwrap();
    }

    #[test]
    fn odd_hub_names_keep_their_text_in_the_audience() {
        let hub = "a_,.[]`9";
        let url = service("a").client_access_url_at(hub, &ClientAccess::new(), 1).unwrap();
        // The backtick is percent-encoded in any URL, as browsers do.
        assert_eq!(url.path(), "/client/hubs/a_,.[]%609");
        let (_, token) = url.query_pairs().next().unwrap();
        let claims = verify(&Secret::new(KEY), &token).unwrap();
        assert_eq!(claims.aud, [format!("https://a/client/hubs/{hub}")]);
    }

    #[test]
    fn hub_names_follow_the_rule() {
        let long = "a".repeat(128);
        for hub in ["a", "Z9", "chat_1", &long] {
            check_hub(hub).unwrap();
        }
        let longer = "a".repeat(129);
        for hub in ["", "1a", "_a", "a b", "a/b", "a-b", "a?b", "é", "aé", "a%20", &longer] {
            let error = service("a").client_access_url(hub, &ClientAccess::new()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{hub}");
            assert!(error.to_string().contains("hub name"));
        }
    }

    #[test]
    fn the_key_is_never_shown() {
        let service = service("https://a.b");
        let shown = format!("{service:?} {service:#?}");
        assert!(shown.contains("https://a.b/") && !shown.contains("abc+"), "{shown}");
        let bad = ClientAccess::new().role(Role::send_to_group(""));
        let error = service.client_access_url("chat", &bad).unwrap_err();
        assert!(!report(&error).contains("abc+"));
    }
}
