//! What a connection is opened to, and what of it must not be shown.

use url::Url;

use crate::error::{Error, Result};
use crate::secret::Secret;

/// Where to connect to, and what to ask for.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: bool,
    /// Path and query; the query holds the token.
    pub(super) path: Secret,
    /// What must not show in a refusal's text, should the peer echo it.
    secrets: Vec<Secret>,
    pub(crate) subprotocol: Option<&'static str>,
    pub(crate) bearer: Option<Secret>,
    /// It asks for a connection that the service has made before.
    pub(crate) recovers: bool,
}

impl Target {
    /// Takes a `ws` or `wss` URL apart. `query` is the query to use instead of the URL's own.
    pub(crate) fn new(
        url: &Url,
        query: Option<&str>,
        subprotocol: Option<&'static str>,
    ) -> Result<Self> {
        let tls = match url.scheme() {
            "ws" => false,
            "wss" => true,
            other => {
                return Err(Error::config(format!(
                    "the client access URL must begin with `wss://` or `ws://`, not `{other}:`"
                )));
            }
        };
        if tls && !cfg!(feature = "_tls") {
            return Err(Error::config(
                "a `wss` URL needs TLS, but this build of webpubsub has none; enable the feature \
                 `native-tls` or `rustls`",
            ));
        }
        let host = url
            .host_str()
            .filter(|h| !h.is_empty())
            .ok_or_else(|| Error::config("the client access URL has no host"))?;
        let mut path = url.path().to_owned();
        if let Some(query) = query.or(url.query()).filter(|q| !q.is_empty()) {
            path.push('?');
            path.push_str(query);
        }
        // Decoded and as it was written: a peer may echo either.
        let decoded = url.query_pairs().filter(|(name, _)| name == "access_token");
        let raw =
            url.query().unwrap_or("").split('&').filter_map(|p| p.strip_prefix("access_token="));
        let secrets =
            decoded.map(|(_, token)| Secret::new(token)).chain(raw.map(Secret::new)).collect();
        Ok(Self {
            host: host.to_owned(),
            port: url.port_or_known_default().unwrap_or(if tls { 443 } else { 80 }),
            tls,
            path: Secret::new(path),
            secrets,
            subprotocol,
            bearer: None,
            recovers: false,
        })
    }

    /// Another secret that a refusal's text must not show.
    pub(crate) fn hide(&mut self, secret: Secret) {
        self.secrets.push(secret);
    }

    pub(super) fn authority(&self) -> String {
        let default = if self.tls { 443 } else { 80 };
        if self.port == default {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Replaces every secret of this target in a text that came from outside.
    pub(super) fn scrub(&self, mut text: String) -> String {
        let path_query = self.path.expose().split_once('?').map(|(_, query)| query);
        let secrets = self.secrets.iter().chain(&self.bearer).map(Secret::expose);
        for secret in secrets.chain(path_query).filter(|s| s.len() > 3) {
            text = text.replace(secret, "***");
            // A peer may cut what it echoes.
            if let Some(start) = secret.get(..8).filter(|_| secret.len() >= 16) {
                text = blank(&text, start, 0);
            }
        }
        for name in ["access_token=", "awps_reconnection_token="] {
            text = blank(&text, name, name.len());
        }
        text
    }
}

/// Replaces what begins with `start` (but for its first `keep` bytes) and reads like a token.
fn blank(text: &str, start: &str, keep: usize) -> String {
    let in_token = |c: char| c.is_ascii_alphanumeric() || "-._~+/=%".contains(c);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(start) {
        let (before, found) = rest.split_at(at + keep);
        let end = found.find(|c| !in_token(c)).unwrap_or(found.len());
        out.push_str(before);
        out.push_str("***");
        // At least the start itself, of whatever characters it consists.
        rest = &found[end.max(start.len() - keep)..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_cut_token_is_no_more_shown_than_the_whole() {
        let url = "ws://h/client/hubs/a?access_token=eyJhbGciOiJ9.payload.signature";
        let t = Target::new(&Url::parse(url).expect("url"), None, None).expect("target");
        for echo in [
            "GET /client/hubs/a?access_token=eyJhbGciOiJ9.pay... HTTP/1.1",
            "<p>/a?access_token=other.token&amp;x=1</p>",
            "Bearer eyJhbGciOiJ9.paylo",
        ] {
            let shown = t.scrub(echo.to_owned());
            assert!(shown.contains("***"), "{shown}");
            for part in ["eyJ", "pay", "other", "token&amp"] {
                assert!(!shown.contains(part), "{shown}");
            }
        }
        assert_eq!(t.scrub("x=1 é".to_owned()), "x=1 é");
    }
}
