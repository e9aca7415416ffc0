//! Plays the client's part of a case.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::link::{Defects, Link};
use super::notation::{self, expand};
use super::script::{Answers, Case, Step};
use super::token;

/// How long `listen` takes, at most.
const LISTEN: Duration = Duration::from_millis(300);
/// At most this many frames are sent on a link before their answers are read: fewer than the
/// service queues.
const BURST: usize = 300;

/// Where the service is.
#[derive(Clone)]
pub(super) struct Endpoint {
    /// Host and port.
    pub(super) authority: String,
    key: String,
}

impl Endpoint {
    pub(super) fn parse(connection_string: &str) -> Result<Self, String> {
        let parts = connection_string.split(';').filter_map(|part| part.split_once('='));
        let parts: BTreeMap<_, _> = parts.collect();
        let get = |name| parts.get(name).ok_or(format!("the connection string has no {name}"));
        let authority = get("Endpoint")?.strip_prefix("http://").ok_or("only http is supported")?;
        let authority = authority.trim_end_matches('/').to_owned();
        Ok(Self { authority, key: (*get("AccessKey")?).to_owned() })
    }
}

/// Does all steps and returns what each link heard. An error if the service hangs.
pub(super) fn play(case: &Case, endpoint: &Endpoint) -> Result<Answers, String> {
    let mut player =
        Player { endpoint, links: Vec::new(), last: 0, unsettled: 0, request: BTreeMap::new() };
    for step in &case.steps {
        player.step(step)?;
    }
    player.settle()?;
    for (name, link) in &mut player.links {
        link.settle_finally(|heard| case.is_complete(name, heard))?;
    }
    Ok(player.links.into_iter().map(|(name, link)| (name, link.heard)).collect())
}

struct Player<'a> {
    endpoint: &'a Endpoint,
    /// By name, in the order in which they were opened.
    links: Vec<(String, Link)>,
    /// The index of the link that was used last.
    last: usize,
    /// Frames sent on it since it was settled.
    unsettled: usize,
    /// The lines that change the next upgrade request, by verb.
    request: BTreeMap<String, Vec<String>>,
}

impl Player<'_> {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        let Step { link, verb, rest } = step;
        match &**verb {
            "token" | "query" | "hub" | "path" | "method" | "header" | "sign" | "subprotocol" => {
                self.request.entry(verb.clone()).or_default().push(rest.clone());
                return Ok(());
            }
            ">" | ">>" | "frame" | "close" => return self.send(link, verb, rest),
            _ => self.settle()?,
        }
        match &**verb {
            "open" => self.open(link, rest),
            "recover" => {
                let (old, kind) = rest.split_once(' ').unwrap_or((rest, "reliable-json"));
                self.request.insert("token".to_owned(), vec!["none".to_owned()]);
                let query = format!(
                    "awps_connection_id={{{{{old}.id}}}}&awps_reconnection_token={{{{{old}.token}}}}"
                );
                self.request.insert("query".to_owned(), vec![query]);
                self.open(link, kind)
            }
            "cut" => self.link(link).map(Link::cut),
            "shutdown" => self.link(link).map(Link::shut_down),
            "listen" => self.link(link).map(|link| link.listen(LISTEN)),
            "forget" => self.link(link).map(|link| link.heard.clear()),
            other => Err(format!("unknown step {other}")),
        }
    }

    /// Waits until the service has answered everything: on the last link first, so that what it
    /// published is on its way to the others.
    fn settle(&mut self) -> Result<(), String> {
        self.unsettled = 0;
        if let Some((_, link)) = self.links.get_mut(self.last) {
            link.settle()?;
        }
        self.links.iter_mut().try_for_each(|(_, link)| link.settle())
    }

    fn link(&mut self, name: &str) -> Result<&mut Link, String> {
        let at = self.links.iter().position(|(known, _)| known == name);
        self.last = at.ok_or_else(|| format!("no link {name:?} has been opened"))?;
        Ok(&mut self.links[self.last].1)
    }

    fn send(&mut self, name: &str, verb: &str, rest: &str) -> Result<(), String> {
        let is_other = self.links.get(self.last).is_none_or(|(last, _)| last != name);
        if is_other || self.unsettled == BURST {
            self.settle()?;
        }
        self.unsettled += 1;
        let bytes = |text: &str| expand(text, &|_| None);
        let link = self.link(name)?;
        match verb {
            ">" => link.text(&bytes(rest)),
            ">>" => link.binary(&notation::write(rest)),
            "close" => {
                let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
                let code = code.parse::<u16>().ok().map(u16::to_be_bytes);
                let payload = [code.as_ref().map_or(&[][..], |code| code), reason.as_bytes()];
                link.frame(0x88, &payload.concat(), Defects::default());
            }
            _ => {
                let (first, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                let first = u8::from_str_radix(first.trim_start_matches("0x"), 16);
                let (defects, rest) = defects(rest);
                link.frame(first.map_err(|e| e.to_string())?, &bytes(rest), defects);
            }
        }
        Ok(())
    }

    /// `open [KIND][ CLAIMS]`.
    fn open(&mut self, name: &str, rest: &str) -> Result<(), String> {
        let lines = std::mem::take(&mut self.request);
        let at = rest.find('{').unwrap_or(rest.len());
        let (kind, claims) = rest.split_at(at);
        let request = Request { player: self, lines: &lines, claims };
        let request = request.bytes(kind.trim_end());
        let link = Link::open(&self.endpoint.authority, &request)?;
        self.last = self.links.len();
        self.links.push((name.to_owned(), link));
        self.settle()
    }
}

/// `[unmasked ][length=N ]`, and what follows.
fn defects(mut rest: &str) -> (Defects, &str) {
    let mut defects = Defects::default();
    if let Some(behind) = rest.strip_prefix("unmasked ") {
        (defects.unmasked, rest) = (true, behind);
    }
    if let Some(length) = rest.strip_prefix("length=") {
        (defects.length, rest) = (length.parse().ok(), "");
    }
    (defects, rest)
}

/// An upgrade request in the making.
struct Request<'a> {
    player: &'a Player<'a>,
    lines: &'a BTreeMap<String, Vec<String>>,
    /// JSON, or nothing.
    claims: &'a str,
}

impl Request<'_> {
    fn bytes(&self, kind: &str) -> Vec<u8> {
        let subprotocol = match kind {
            "json" => "json.webpubsub.azure.v1",
            "reliable-json" => "json.reliable.webpubsub.azure.v1",
            "protobuf" => "protobuf.webpubsub.azure.v1",
            "reliable-protobuf" => "protobuf.reliable.webpubsub.azure.v1",
            "simple" | "" => "",
            other => panic!("unknown kind of client: {other}"),
        };
        let subprotocol = self.last("subprotocol").unwrap_or_else(|| subprotocol.to_owned());
        let key = data_encoding::BASE64.encode(&rand::random::<[u8; 16]>());
        let mut headers = vec![
            ("Host", self.player.endpoint.authority.clone()),
            ("Connection", "Upgrade".to_owned()),
            ("Upgrade", "websocket".to_owned()),
            ("Sec-WebSocket-Version", "13".to_owned()),
            ("Sec-WebSocket-Key", key),
            ("Sec-WebSocket-Protocol", subprotocol),
        ];
        for line in self.lines.get("header").into_iter().flatten() {
            let (name, value) = line.split_once(':').expect("NAME: VALUE");
            headers.retain(|(known, _)| *known != name);
            headers.push((name, self.expand(value.trim_start())));
        }
        let method = self.last("method").unwrap_or_else(|| "GET".to_owned());
        let path = self.last("path").unwrap_or_else(|| self.path());
        let headers = headers.iter().filter(|(_, value)| !value.is_empty());
        let headers: String = headers.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{method} {path} HTTP/1.1\r\n{headers}\r\n").into_bytes()
    }

    /// The usual path, with the token and then the further parameters as query.
    fn path(&self) -> String {
        let token = match self.last("token").as_deref() {
            Some("none") => None,
            Some(token) => Some(token.to_owned()),
            None => Some(self.token()),
        };
        let token = token.map(|token| format!("access_token={token}"));
        let query: Vec<_> = token.into_iter().chain(self.last("query")).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        format!("/client/hubs/{}{mark}{}", self.hub(), query.join("&"))
    }

    fn hub(&self) -> String {
        self.last("hub").unwrap_or_else(|| "chat".to_owned())
    }

    fn last(&self, verb: &str) -> Option<String> {
        Some(self.expand(self.lines.get(verb)?.last()?))
    }

    fn expand(&self, text: &str) -> String {
        String::from_utf8(expand(text, &|name| self.value(name))).expect("UTF-8")
    }

    fn value(&self, name: &str) -> Option<String> {
        let authority = &self.player.endpoint.authority;
        match name {
            "authority" => return Some(authority.clone()),
            "port" => return Some(authority.rsplit_once(':')?.1.to_owned()),
            "token" => return Some(self.token()),
            _ => {}
        }
        if let Some(offset) = name.strip_prefix("now") {
            return Some((now() + offset.parse::<i64>().ok()?).to_string());
        }
        let (link, what) = name.split_once('.')?;
        let (_, link) = self.player.links.iter().find(|(known, _)| known == link)?;
        let text = if what == "id" { &link.id } else { &link.token };
        Some(url::form_urlencoded::byte_serialize(text.as_bytes()).collect())
    }

    /// A token with the usual claims, but for those of the case; `null` takes one away.
    fn token(&self) -> String {
        let mut claims = Map::from_iter([
            ("iat".to_owned(), json!(now())),
            ("exp".to_owned(), json!(now() + 3600)),
            ("role".to_owned(), json!(["webpubsub.joinLeaveGroup", "webpubsub.sendToGroup"])),
        ]);
        let hub = format!("http://{}/client/hubs/{}", self.player.endpoint.authority, self.hub());
        claims.insert("aud".to_owned(), Value::from(hub));
        if !self.claims.is_empty() {
            let text = self.expand(self.claims);
            let own: Map<String, Value> =
                serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
            claims.extend(own);
        }
        claims.retain(|_, value| !value.is_null());
        let sign = self.last("sign").unwrap_or_else(|| "HS256".to_owned());
        let (algorithm, key) = sign.split_once(' ').unwrap_or((&sign, &self.player.endpoint.key));
        token::sign(algorithm, key, &claims)
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_secs()).expect("before the end of time")
}
