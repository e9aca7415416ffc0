//! Who may connect: the checks between the upgrade request and its answer.

use std::net::SocketAddr;
use std::sync::Arc;

use super::grants::Grants;
use super::http::{Refusal, Request};
use super::server_session::Kind;
use super::service::Handshake;
use crate::auth::claims::{self, Claims};
use crate::protocol::{Protocol, rules};
use crate::secret::Secret;

/// Clocks may differ by this many seconds.
const CLOCK_SKEW: u64 = 300;

/// What the checks need to know of the emulator.
#[derive(Debug)]
pub(super) struct TokenCheck {
    pub(super) key: Secret,
    pub(super) allow_anonymous: bool,
    pub(super) address: SocketAddr,
}

/// A new connection that may come in.
#[derive(Debug)]
pub(super) struct NewConnection {
    pub(super) handshake: Handshake,
    /// The roles of the token.
    pub(super) roles: Vec<String>,
    /// The subprotocol of the answer, as the client spelled it.
    pub(super) subprotocol: Option<String>,
    /// Its id, if that is settled already.
    pub(super) id: Option<Arc<str>>,
}

/// What a request asks for.
#[derive(Debug)]
pub(super) enum Admission {
    New(Box<NewConnection>),
    /// Whether it succeeds is known after the upgrade.
    Recovery {
        hub: Arc<str>,
        connection_id: String,
        token: String,
    },
}

/// The first subprotocol that the service knows, and how the client spelled it.
pub(super) fn negotiate(names: &[String]) -> Option<(Protocol, &str)> {
    names.iter().find_map(|name| Protocol::from_name(name).map(|p| (p, name.as_str())))
}

/// The checks that need no token: 404 and most of the 400s.
pub(super) fn hub(request: &Request) -> Result<Arc<str>, Refusal> {
    let hub = match request.path.strip_prefix("/client/hubs/") {
        Some(hub) if !hub.contains('/') => Some(hub),
        Some(_) => return Err(not_found()),
        None if matches!(request.path.as_str(), "/client" | "/client/") => request.parameter("hub"),
        None => return Err(not_found()),
    };
    if request.key.is_none() {
        return Err(Refusal::new(400, "A WebSocket upgrade request is required."));
    }
    let hub = hub.filter(|hub| is_hub_name(hub));
    let hub = hub.ok_or_else(|| Refusal::new(400, "A valid hub name is required."))?;
    Ok(hub.to_ascii_lowercase().into())
}

/// All other checks.
pub(super) fn admit(
    tokens: &TokenCheck,
    request: &Request,
    hub: Arc<str>,
    now_unix: u64,
) -> Result<Admission, Refusal> {
    if let Some(id) = request.parameter("awps_connection_id").filter(|id| !id.is_empty()) {
        let token = request.parameter("awps_reconnection_token").unwrap_or_default();
        let (connection_id, token) = (id.to_owned(), token.to_owned());
        return Ok(Admission::Recovery { hub, connection_id, token });
    }
    // As at the service the token comes first: who has none learns nothing about the parameters.
    let in_query = request.parameter("access_token").filter(|token| !token.is_empty());
    let token = in_query.or(request.bearer.as_deref()).filter(|token| !token.is_empty());
    let (user, roles, groups) = match token {
        Some(token) => {
            let claims = check_token(tokens, request, &hub, token, now_unix)?;
            (claims.sub, claims.roles, claims.groups)
        }
        None if tokens.allow_anonymous => (None, Vec::new(), Vec::new()),
        None => return Err(Refusal::new(401, "An access token is required.")),
    };
    // A mode that is not known is refused for PubSub clients too.
    let simple = simple_kind(request)?;
    let (kind, subprotocol) = match negotiate(&request.protocols) {
        Some((protocol, name)) => (Kind::PubSub(protocol), Some(name.to_owned())),
        None => (simple, None),
    };
    let (user, grants) = (user.map(Into::into), Grants::new(&roles));
    let handshake = Handshake { hub, user, kind, grants, groups };
    Ok(Admission::New(Box::new(NewConnection { handshake, roles, subprotocol, id: None })))
}

fn check_token(
    tokens: &TokenCheck,
    request: &Request,
    hub: &str,
    token: &str,
    now_unix: u64,
) -> Result<Claims, Refusal> {
    let refused = |e| Refusal::new(401, format!("The access token is not valid: {e}."));
    let claims = claims::verify(&tokens.key, token).map_err(refused)?;
    let mut verdict = Ok(());
    for audience in tokens.audiences(request, hub) {
        verdict = claims.check(&audience, now_unix, CLOCK_SKEW);
        if verdict != Err(claims::TokenError::Audience) {
            break;
        }
    }
    verdict.map_err(refused)?;
    if claims.groups.iter().any(|group| !is_group_name(group)) {
        return Err(Refusal::new(400, "A group name in the access token is not valid."));
    }
    Ok(claims)
}

impl TokenCheck {
    /// A token is good for each name under which the client can reach us.
    fn audiences(&self, request: &Request, hub: &str) -> Vec<String> {
        let port = self.address.port();
        let hosts =
            [format!("127.0.0.1:{port}"), format!("localhost:{port}"), request.host.clone()];
        let schemes = ["http", "https"];
        let all = hosts.iter().flat_map(|host| schemes.map(|scheme| (scheme, host)));
        all.map(|(scheme, host)| format!("{scheme}://{host}/client/hubs/{hub}")).collect()
    }
}

/// What a simple client with these parameters is; of a repeated one the last counts.
pub(super) fn simple_kind(request: &Request) -> Result<Kind, Refusal> {
    let mode = request.last_parameter("webpubsub_mode").unwrap_or_default();
    if mode.is_empty() || mode.eq_ignore_ascii_case("sendEvent") {
        return Ok(Kind::SimpleEvents);
    }
    if !mode.eq_ignore_ascii_case("sendToGroup") {
        return Err(Refusal::new(400, "The value of webpubsub_mode is not known."));
    }
    let group = request.last_parameter("group").filter(|group| is_group_name(group));
    let group = group.ok_or_else(|| Refusal::new(400, "The mode sendToGroup needs a group."))?;
    let no_echo = match request.last_parameter("noEcho") {
        None => false,
        Some(on) if on.eq_ignore_ascii_case("true") => true,
        Some(off) if off.eq_ignore_ascii_case("false") => false,
        Some(_) => return Err(Refusal::new(400, "The value of noEcho is not true or false.")),
    };
    Ok(Kind::SimpleGroup { group: group.into(), no_echo })
}

fn not_found() -> Refusal {
    Refusal::new(404, "There is nothing at this path.")
}

fn is_hub_name(name: &str) -> bool {
    name.len() <= 128
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_,.[]`".contains(c))
}

pub(super) fn is_group_name(name: &str) -> bool {
    rules::group(name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &str, query: &[(&str, &str)]) -> Request {
        Request {
            path: path.into(),
            query: query.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect(),
            key: Some("k".into()),
            ..Request::default()
        }
    }

    fn tokens(allow_anonymous: bool) -> TokenCheck {
        let address = ([127, 0, 0, 1], 80).into();
        TokenCheck { key: Secret::new("key"), allow_anonymous, address }
    }

    #[test]
    fn both_url_forms_name_the_hub() {
        assert_eq!(&*hub(&request("/client/hubs/Chat", &[])).unwrap(), "chat");
        assert_eq!(&*hub(&request("/client/", &[("hub", "a.b")])).unwrap(), "a.b");
        for (path, query, status) in [
            ("/clients/mqtt/hubs/chat", None, 404),
            ("/", None, 404),
            ("/client/hubs/a/b", None, 404),
            ("/client/", None, 400),
            ("/client/hubs/", None, 400),
            ("/client/hubs/1a", None, 400),
            ("/client/", Some(("hub", "a-b")), 400),
        ] {
            let found = hub(&request(path, query.as_slice()));
            assert_eq!(found.unwrap_err().status, status, "{path}");
        }
        let plain = Request { key: None, ..request("/client/hubs/chat", &[]) };
        assert_eq!(hub(&plain).unwrap_err().status, 400);
    }

    #[test]
    fn the_token_is_checked_before_the_parameters() {
        for query in [
            &[][..],
            &[("access_token", "nonsense")],
            &[("webpubsub_mode", "x")],
            &[("webpubsub_mode", "x"), ("access_token", "nonsense")],
        ] {
            let got = admit(&tokens(false), &request("", query), "h".into(), 0);
            assert_eq!(got.unwrap_err().status, 401, "{query:?}");
        }
    }

    #[test]
    fn modes_are_checked_for_every_kind_of_client() {
        const TO_GROUP: (&str, &str) = ("webpubsub_mode", "sendToGroup");
        for query in [
            &[("webpubsub_mode", "x")][..],
            &[("webpubsub_mode", "sendEvent"), ("webpubsub_mode", "x")],
            &[TO_GROUP],
            &[TO_GROUP, ("group", " ")],
            &[TO_GROUP, ("group", "a"), ("group", "")],
            &[TO_GROUP, ("group", "a"), ("noEcho", "1")],
            &[TO_GROUP, ("group", "a"), ("noEcho", "true"), ("noEcho", "")],
        ] {
            for protocols in [&[][..], &["json.webpubsub.azure.v1".to_owned()]] {
                let asked = Request { protocols: protocols.to_vec(), ..request("", query) };
                let got = admit(&tokens(true), &asked, "h".into(), 0);
                assert_eq!(got.unwrap_err().status, 400, "{query:?}");
            }
        }
    }

    #[test]
    fn of_a_repeated_parameter_the_last_value_counts() {
        let group = |no_echo| Kind::SimpleGroup { group: "b".into(), no_echo };
        for (query, kind) in [
            (&[("webpubsub_mode", "")][..], Kind::SimpleEvents),
            (&[("webpubsub_mode", "x"), ("webpubsub_mode", "SENDEVENT")], Kind::SimpleEvents),
            (&[("webpubsub_mode", "sendTOgroup"), ("group", "a"), ("group", "b")], group(false)),
            (
                &[
                    ("webpubsub_mode", "sendToGroup"),
                    ("group", "b"),
                    ("noEcho", "FALSE"),
                    ("noEcho", "True"),
                ],
                group(true),
            ),
        ] {
            let got = admit(&tokens(true), &request("", query), "h".into(), 0).unwrap();
            assert!(matches!(got, Admission::New(n) if n.handshake.kind == kind), "{query:?}");
        }
    }

    #[test]
    fn the_first_known_subprotocol_is_taken_as_spelled() {
        let names = ["mqtt", "JSON.webpubsub.azure.v1", "json.reliable.webpubsub.azure.v1"];
        let names = names.map(String::from);
        assert_eq!(negotiate(&names), Some((Protocol::Json, "JSON.webpubsub.azure.v1")));
        assert_eq!(negotiate(&names[..1]), None);
    }
}
