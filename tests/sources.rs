//! Where client access URLs come from: connection strings, closures that fail, expired tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use webpubsub::crossbeam_channel::bounded;
use webpubsub::emulator::Emulator;
use webpubsub::{
    Client, ClientAccess, ClientBuilder, ConnectionString, ErrorKind, Event, Publish, Reconnect,
    Recovery, Role, SimpleClient, UrlSource,
};

use crate::support::{WATCHDOG, emulator, eventually, next_event};

fn quick(source: impl Into<UrlSource>) -> ClientBuilder {
    Client::builder(source).reconnect(Some(
        Reconnect::new().backoff(Duration::from_millis(1), Duration::from_millis(10)),
    ))
}

fn lifecycle_until_connected(client: &Client) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let event = next_event(client);
        let done = matches!(&event, Event::Connected(c) if c.gap_possible);
        events.push(event);
        if done {
            return events;
        }
    }
}

#[test]
fn a_connection_string_mints_a_fresh_token_for_each_new_connection() {
    let emulator = emulator();
    let service = ConnectionString::parse(&emulator.connection_string()).expect("good");
    let access = ClientAccess::new()
        .user_id("anna")
        .role(Role::send_to_groups("room-*"))
        .group("room-1")
        .lifetime(Duration::from_secs(120));
    let source = UrlSource::connection_string(service.clone(), "hub", access.clone());
    let client = quick(source).connect().expect("connect");
    assert_eq!(client.user_id().as_deref(), Some("anna"));
    assert!(matches!(next_event(&client), Event::Connected(_)));
    client.publish("room-1", "x").expect("allowed by the pattern");
    assert!(matches!(next_event(&client), Event::GroupMessage(_)), "joined by the token");
    let error = client.publish("hall", "x").expect_err("not allowed");
    assert_eq!(error.service_error_name(), Some("Forbidden"));
    emulator.faults().close_connections(1008, "");
    lifecycle_until_connected(&client);
    client.publish("room-1", "x").expect("a new token, the same rights");

    let simple = UrlSource::connection_string(service, "hub", access);
    SimpleClient::connect(simple).expect("connect");
}

#[test]
fn what_is_wrong_with_a_connection_string_hub_or_role_is_said_before_anything_is_sent() {
    let emulator = emulator();
    let service = ConnectionString::parse(&emulator.connection_string()).expect("good");
    let any = ClientAccess::new;
    for (hub, access, part) in [
        ("", any(), "hub"),
        ("1hub", any(), "hub"),
        ("hub", any().role(Role::send_to_group(" ")), "role"),
        ("hub", any().role(Role::join_leave_groups("******")), "role"),
        ("hub", any().group(""), "group"),
        ("hub", any().lifetime(Duration::ZERO), "lifetime"),
    ] {
        let source = UrlSource::connection_string(service.clone(), hub, access);
        let error = Client::connect(source).expect_err(part);
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(part), "{error}");
    }
    for bad in ["", "Endpoint=;AccessKey=k", "Endpoint=http://h", "AccessKey=k", "nonsense"] {
        let error = ConnectionString::parse(bad).expect_err(bad);
        assert_eq!(error.kind(), ErrorKind::Config, "{bad}");
    }
    assert_eq!(emulator.stats().tcp_accepted, 0);
}

#[test]
fn a_provider_is_asked_for_each_new_connection_and_not_for_recoveries() {
    let emulator = emulator();
    let asked = Arc::new(AtomicU32::new(0));
    let (count, url) = (Arc::clone(&asked), emulator.url("hub"));
    let client = quick(UrlSource::provider(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        Ok::<_, String>(url.clone())
    }));
    let client = client.connect().expect("connect");
    emulator.faults().drop_connections();
    eventually("recovered", || client.stats().recoveries == 1);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    emulator.faults().close_connections(1008, "");
    eventually("connected anew", || client.stats().reconnects == 1);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[test]
fn j04_a_provider_that_fails_hangs_or_panics_is_asked_again_with_backoff() {
    let emulator = emulator();
    let asked = Arc::new(AtomicU32::new(0));
    let (count, url) = (Arc::clone(&asked), emulator.url("hub"));
    let source = UrlSource::provider(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        1 => Err("the app server is down"),
        2 => panic!("on purpose"),
        3 => {
            std::thread::sleep(Duration::from_millis(4000));
            Ok(url.clone())
        }
        4 => Ok("not a URL".to_owned()),
        _ => Ok(url.clone()),
    });
    let client = quick(source).connect_timeout(Duration::from_secs(2)).connect();
    let client = client.expect("connect");
    assert!(matches!(next_event(&client), Event::Connected(_)));
    emulator.faults().close_connections(1008, "");
    let events = lifecycle_until_connected(&client);
    let causes: Vec<String> = events
        .iter()
        .filter_map(|e| match e {
            Event::Reconnecting(r) => Some(r.cause.to_string()),
            _ => None,
        })
        .collect();
    for (i, part) in ["code 1008", "failed", "panicked", "time limit"].iter().enumerate() {
        assert!(causes[i].contains(part), "{causes:?}");
    }
    client.join_group("g").expect("usable");
}

#[test]
fn a_provider_that_keeps_the_limit_of_one_attempt_does_not_fail_the_next() {
    let emulator = emulator();
    let (url, asked) = (emulator.url("hub"), AtomicU32::new(0));
    let source = UrlSource::provider(move |attempt| match asked.fetch_add(1, Ordering::SeqCst) {
        1 => {
            // As a request with this time limit does, a little later than the client.
            std::thread::sleep(attempt.time_left() + Duration::from_millis(200));
            Err("the app server did not answer in time")
        }
        _ => Ok(url.clone()),
    });
    let client = quick(source).connect_timeout(Duration::from_secs(2)).connect().expect("connect");
    assert!(matches!(next_event(&client), Event::Connected(_)));
    emulator.faults().close_connections(1008, "");
    let events = lifecycle_until_connected(&client);
    let attempts = events.iter().filter(|e| matches!(e, Event::Reconnecting(_))).count();
    assert_eq!(attempts, 2, "the first in vain, and the second: {events:?}");
}

#[test]
fn an_expired_token_stops_a_fixed_url_and_is_renewed_by_a_provider() {
    let emulator = Arc::new(emulator());
    let access = ClientAccess::new().lifetime(Duration::from_secs(60));
    let mint = {
        let emulator = Arc::clone(&emulator);
        move || emulator.url_for("hub", &access)
    };
    let fixed = quick(mint().expect("url")).connect().expect("connect");
    let renewed = quick(UrlSource::provider(move |_| mint())).connect().expect("connect");
    emulator.advance_clock(Duration::from_secs(3600));
    // An open connection and its recovery do not mind.
    let pause = Duration::from_millis(50);
    assert!(
        fixed.recv_timeout(pause).is_ok()
            && fixed.state().is_connected()
            && renewed.state().is_connected()
    );
    emulator.faults().drop_connections();
    eventually("recovered", || fixed.stats().recoveries == 1 && renewed.stats().recoveries == 1);
    emulator.faults().close_connections(1008, "");
    let stopped = fixed.events().iter().find_map(|event| match event {
        Event::Stopped(stopped) => Some(stopped.cause),
        _ => None,
    });
    assert_eq!(stopped.expect("stopped").http_status(), Some(401));
    // So do calls that come later.
    for later in [fixed.publish("g", "x").map(drop), fixed.recv().map(drop)] {
        assert_eq!(later.expect_err("the client has ended").http_status(), Some(401));
    }
    assert_eq!(fixed.connection_id(), None);
    lifecycle_until_connected(&renewed);
}

#[test]
fn a_provider_whose_urls_are_refused_three_times_in_a_row_is_given_up() {
    let emulator = emulator();
    let url = emulator.url("hub");
    let first = AtomicU32::new(0);
    let source = UrlSource::provider(move |_| {
        let good = first.fetch_add(1, Ordering::SeqCst) == 0;
        Ok::<_, String>(if good { url.clone() } else { format!("{url}x") })
    });
    let client = quick(source).connect().expect("connect");
    emulator.faults().close_connections(1008, "");
    let events: Vec<Event> = client.events().iter().collect();
    let attempts = events.iter().filter(|e| matches!(e, Event::Reconnecting(_))).count();
    assert_eq!(attempts, 3);
    let Some(Event::Stopped(stopped)) = events.last() else { panic!("{events:?}") };
    assert_eq!(stopped.cause.http_status(), Some(401));
}

#[test]
fn the_end_of_the_client_cancels_its_provider_and_does_not_wait_for_it() {
    const LIMIT: Duration = Duration::from_secs(60);
    for way in ["close", "drop"] {
        let emulator = emulator();
        let (url, asked) = (emulator.url("hub"), AtomicU32::new(0));
        let (began, begins) = bounded(1);
        let (cancelled, is_cancelled) = bounded(1);
        // Held open until the client has ended: a provider that does not return by itself.
        let (release, held) = bounded::<()>(0);
        let (returned, returns) = bounded(1);
        let source = UrlSource::provider(move |attempt| {
            if asked.fetch_add(1, Ordering::SeqCst) == 0 {
                assert!(!attempt.is_cancelled());
                return Ok(url.clone());
            }
            began.send(attempt.time_left()).expect("the test waits");
            while !attempt.is_cancelled() && !attempt.time_left().is_zero() {
                std::thread::sleep(Duration::from_millis(1));
            }
            cancelled.send(attempt.is_cancelled()).expect("the test waits");
            let _ = held.recv_timeout(WATCHDOG);
            returned.send(()).expect("the test waits");
            Err("nobody wants a URL any more")
        });
        let builder = quick(source).connect_timeout(LIMIT).close_timeout(WATCHDOG);
        let client = builder.connect().expect("connect");
        emulator.faults().close_connections(1008, "");
        let left = begins.recv_timeout(WATCHDOG).expect("asked again");
        assert!(left <= LIMIT && left > LIMIT / 2, "{left:?}");
        let events = client.events().clone();
        if way == "close" {
            client.close().expect("close");
        }
        drop(client);
        assert!(matches!(events.iter().last(), Some(Event::Stopped(_))), "{way}");
        assert!(is_cancelled.recv_timeout(WATCHDOG).expect("in time"), "{way}");
        assert!(returns.is_empty(), "{way} did not wait for the provider");
        drop(release);
        returns.recv_timeout(WATCHDOG).expect("released");
    }
}

#[test]
fn a_minted_url_is_a_secret_that_a_source_takes() {
    let emulator = emulator();
    let service = ConnectionString::parse(&emulator.connection_string()).expect("good");
    let access = ClientAccess::new().user_id("anna");
    let url = service.client_access_url("hub", &access).expect("good");
    assert_eq!(format!("{url:?} {url}"), "*** ***");
    let client = Client::connect(url).expect("connect");
    assert_eq!(client.user_id().as_deref(), Some("anna"));
    let source = UrlSource::provider(move |_| service.client_access_url("hub", &access));
    assert_eq!(Client::connect(source).expect("connect").user_id().as_deref(), Some("anna"));
}

#[test]
fn extra_headers_and_the_user_agent_go_with_the_upgrade() {
    use std::io::Write;
    let fake = crate::support::Fake::start(|mut stream| {
        let head = crate::support::read_head(&mut stream);
        let header = |name| crate::support::header(&head, name);
        let good = header("X-Gateway") == Some("a b") && header("User-Agent") == Some("me/1");
        let status = if good { 418 } else { 500 };
        let _ = stream.write_all(format!("HTTP/1.1 {status} X\r\n\r\n").as_bytes());
    });
    let client = Client::builder(fake.url()).header("X-Gateway", "a b").user_agent("me/1");
    assert_eq!(client.connect().expect_err("refused").http_status(), Some(418));
    for (name, value) in [("", "v"), ("a b", "v"), ("X", "v\r\nY: z"), ("Host", "v")] {
        let error = Client::builder(fake.url()).header(name, value).connect().expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("`header`"), "{error}");
    }
    let error = Client::builder(fake.url()).user_agent("a\nb").connect().expect_err("bad");
    assert!(error.to_string().contains("user_agent"));
}

#[test]
fn the_emulator_is_reachable_by_both_forms_of_the_hub() {
    let emulator = Emulator::builder().allow_anonymous(true).start().expect("emulator");
    let base = emulator.endpoint().replace("http", "ws");
    for url in [format!("{base}/client/hubs/hub"), format!("{base}/client/?hub=hub&keep=1")] {
        Client::connect(url).expect("connect");
    }
}

#[test]
fn a_token_alone_and_a_ttl_are_modelled_by_the_emulators_clock() {
    let emulator = emulator();
    let token = emulator.token("hub", &ClientAccess::new().role(Role::send())).expect("token");
    let url = format!(
        "{}/client/hubs/hub?access_token={}",
        emulator.endpoint().replace("http", "ws"),
        token.expose()
    );
    let sender = Client::connect(url).expect("connect");
    let receiver = quick(emulator.url("hub"))
        .recovery(Recovery::new().attempt_interval(Duration::from_millis(20)))
        .connect()
        .expect("connect");
    receiver.join_group("g").expect("join");
    emulator.faults().refuse_recoveries(1_000_000, 502);
    let id = receiver.connection_id().expect("connected");
    assert!(emulator.faults().drop_connection(&id));
    sender.call(Publish::new("g", "short").ttl_seconds(5)).expect("send");
    sender.call(Publish::new("g", "long").ttl_seconds(300)).expect("send");
    sender.call(Publish::new("g", "unlimited")).expect("send");
    emulator.advance_clock(Duration::from_secs(10));
    emulator.faults().clear();
    for expected in ["long", "unlimited"] {
        let message = crate::support::next_group_message(&receiver);
        assert_eq!(message.text().expect("text"), expected);
    }
}
