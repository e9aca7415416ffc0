//! What an error says: each text names the cause where a person would look for it, and what to do.

use std::io::Write as _;
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use webpubsub::{
    Client, ClientAccess, ErrorKind, Event, GroupMessage, Payload, Proxy, Reconnect, Recovery, Role,
};

use crate::support::{
    Fake, WATCHDOG, client, emulator, next_event, protocols, read_head, shown, within,
};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A port on which nobody listens.
fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address").port()
}

fn says(error: &webpubsub::Error, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {error:#}");
    }
    assert!(!shown(error).contains("SECRET"), "{error:?}");
}

// --- proxies -----------------------------------------------------------------------------------

#[test]
fn a_proxy_that_cannot_be_reached_is_named_with_the_setting_that_chose_it() {
    let emulator = emulator();
    let port = closed_port();
    let at_port = format!("127.0.0.1:{port}");
    for (url, host, kind) in [
        (format!("http://u:SECRET@{at_port}"), at_port.as_str(), ErrorKind::Connect),
        ("no-such-proxy.invalid:3128".into(), "no-such-proxy.invalid:3128", ErrorKind::NameLookup),
    ] {
        let proxy = Proxy::new(url).expect("a proxy");
        let error = Client::builder(emulator.url("hub")).proxy(Some(proxy)).connect();
        let error = error.expect_err("no proxy there");
        assert_eq!(error.kind(), kind);
        says(&error, &["proxy", host, "`ClientBuilder::proxy`"]);
        assert!(std::error::Error::source(&error).is_some(), "why: {error:#}");
    }
}

#[test]
fn a_proxys_refusal_names_the_setting_that_chose_it() {
    let refusing = Fake::start(|mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n");
    });
    let proxy = Proxy::new(format!("127.0.0.1:{}", refusing.port)).expect("a proxy");
    let builder = Client::builder(emulator().url("hub")).proxy(Some(proxy));
    let error = builder.connect().expect_err("refused");
    assert_eq!((error.kind(), error.http_status()), (ErrorKind::Proxy, Some(403)));
    says(&error, &["proxy", "`ClientBuilder::proxy`", "does not allow"]);
}

const CHILD: &str = "WEBPUBSUB_TEST_MESSAGES_URL";

#[test]
fn a_proxy_of_the_environment_is_named_with_its_variable() {
    let (closed, none) = (format!("127.0.0.1:{}", closed_port()), "no-such-proxy.invalid:3128");
    let ws = "ws://service.test/client/hubs/hub?access_token=SECRET";
    let wss = "wss://service.test/client/hubs/hub?access_token=SECRET";
    let mut cases = vec![
        (ws, "http_proxy", format!("http://u:SECRET@{closed}"), closed.as_str()),
        (ws, "HTTP_PROXY", closed.clone(), &closed),
        (ws, "ALL_PROXY", none.to_owned(), none),
    ];
    if cfg!(feature = "_tls") {
        cases.push((wss, "HTTPS_PROXY", none.to_owned(), none));
        cases.push((wss, "all_proxy", closed.clone(), &closed));
    }
    for (url, variable, value, host) in cases {
        let said = in_a_process(url, variable, value);
        let line = said.lines().find(|line| line.contains("proxy")).unwrap_or(&said);
        for part in [host, &format!("`{variable}`"), "environment variable"] {
            assert!(line.contains(part), "{variable}: no {part:?} in: {said}");
        }
        assert!(!said.contains("SECRET"), "{said}");
    }
}

/// The error of a `connect` in a process of its own, where this variable is set and no other proxy.
fn in_a_process(url: &'static str, variable: &'static str, value: String) -> String {
    let done = within(WATCHDOG, move || {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["messages::child", "--exact", "--nocapture", "--test-threads=1"]);
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
            command.env_remove(name).env_remove(name.to_ascii_lowercase());
        }
        command.env(CHILD, url).env(variable, value).output().expect("started")
    });
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{}\n{said}", done.status);
    said
}

/// Does nothing unless it is started by [`in_a_process`].
#[test]
fn child() {
    let Ok(url) = std::env::var(CHILD) else { return };
    println!("{}", Client::connect(url).expect_err("no proxy there"));
}

// --- TLS ---------------------------------------------------------------------------------------

#[cfg(feature = "_tls")]
mod tls {
    use std::io::Read as _;

    use webpubsub::{Error, TlsConfig};

    use super::*;
    use crate::tls::BACKENDS;

    fn failures(url: &str) -> impl Iterator<Item = Error> {
        BACKENDS.iter().map(move |backend| {
            let builder = Client::builder(url).tls(TlsConfig::new().backend(*backend));
            let error = builder.connect().expect_err("no trusted TLS there");
            assert_eq!(error.kind(), ErrorKind::Tls, "{backend:?}: {error:?}");
            error
        })
    }

    #[test]
    fn wss_to_a_port_without_tls_says_so() {
        let emulator = emulator();
        let http = Fake::start(|mut stream| {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            crate::support::hold(stream);
        });
        for url in [emulator.url("hub"), http.url()] {
            for error in failures(&url.replace("ws://", "wss://")) {
                says(&error, &["no TLS", "`ws://`"]);
                assert!(!error.to_string().contains("certificate"), "{error}");
            }
        }
    }

    #[test]
    fn a_peer_that_hangs_up_in_the_handshake_is_not_blamed_for_its_certificate() {
        let deaf = Fake::start(|mut stream| drop(stream.read(&mut [0; 64])));
        for error in failures(&deaf.url().replace("ws://", "wss://")) {
            says(&error, &["closed the connection", "TLS"]);
            assert!(!error.to_string().contains("certificate"), "{error}");
        }
    }

    #[test]
    fn a_self_signed_certificate_leads_to_the_setting_that_trusts_it() {
        let emulator =
            webpubsub::emulator::Emulator::builder().tls(true).start().expect("emulator");
        for error in failures(&emulator.url("hub")) {
            says(&error, &["certificate", "`TlsConfig::root_certificate_pem`"]);
        }
    }
}

// --- refusals ----------------------------------------------------------------------------------

#[test]
fn a_missing_role_is_named() {
    for protocol in protocols() {
        let emulator = emulator();
        let url = emulator.url_for("hub", &ClientAccess::new()).expect("url");
        let client = Client::builder(url).protocol(protocol).connect().expect("connect");
        let join = ["`webpubsub.joinLeaveGroup.chat`", "`Role::join_leave_group`"];
        says(&client.join_group("chat").expect_err("no role"), &join);
        says(&client.leave_group("chat").expect_err("no role"), &join);
        says(&client.subscribe("chat").expect_err("no role"), &join);
        let error = client.publish("a \"b\"", Payload::from(vec![0; 9])).expect_err("no role");
        says(&error, &["`webpubsub.sendToGroup.a \"b\"`", "`Role::send_to_group`"]);
        assert_eq!(error.service_error_name(), Some("Forbidden"));
        // The role that the text names is the one that is missing.
        let roles = [Role::join_leave_group("chat"), Role::send_to_group("chat")];
        let url = emulator.url_for("hub", &ClientAccess::new().roles(roles)).expect("url");
        let client = Client::builder(url).protocol(protocol).connect().expect("connect");
        client.join_group("chat").expect("allowed");
        client.publish("chat", "x").expect("allowed");
    }
}

#[test]
fn a_recovery_that_meets_404_says_what_that_means() {
    let emulator = emulator();
    let client = Client::builder(emulator.url("hub"))
        .recovery(Recovery::new().give_up_after(ms(1500)).attempt_interval(ms(200)))
        .reconnect(Some(Reconnect::new().backoff(ms(1), ms(20))))
        .connect()
        .expect("connect");
    let Event::Connected(first) = next_event(&client) else { panic!("not connected") };
    emulator.faults().refuse_recoveries(100, 404);
    emulator.faults().drop_connections();
    let Event::Recovering(lost) = next_event(&client) else { panic!("not lost") };
    assert_eq!(lost.connection_id, first.connection_id);
    let Event::Disconnected(over) = next_event(&client) else { panic!("not over") };
    assert_eq!(over.connection_id, first.connection_id);
    says(&over.cause, &["could not be recovered", "HTTP 404", "when the connection was made"]);
    assert!(!over.cause.to_string().contains("host and hub"), "{}", over.cause);
}

// --- what a program hands over -----------------------------------------------------------------

#[test]
fn what_is_no_client_access_url_is_recognised() {
    for (url, parts) in [
        ("", &["is empty", "negotiate", "`UrlSource::connection_string`"][..]),
        (" \n", &["is empty"]),
        (
            "demo.webpubsub.azure.com/client/hubs/chat?access_token=SECRET",
            &["no scheme", "`wss://"],
        ),
        ("//demo/client/hubs/chat?access_token=SECRET", &["no scheme", "`wss://"]),
        ("https://demo.webpubsub.azure.com", &["not `https:`", "endpoint", "token"]),
        ("http://localhost:7071/api/negotiate?code=SECRET", &["not `http:`", "negotiate"]),
        ("https://demo/client/hubs/chat?access_token=SECRET", &["not `https:`", "`wss://`"]),
    ] {
        let error = Client::connect(url).expect_err("no URL");
        assert_eq!(error.kind(), ErrorKind::Config, "{url}");
        says(&error, parts);
    }
}

#[test]
fn json_that_was_sent_as_text_says_how_to_read_it() {
    let emulator = emulator();
    let client = client(&emulator);
    client.join_group("g").expect("join");
    client.publish("g", r#"{"n":1}"#).expect("send");
    let message: GroupMessage = crate::support::next_group_message(&client);
    let error = message.json::<serde_json::Value>().expect_err("text");
    assert_eq!(error.kind(), ErrorKind::Payload);
    says(&error, &["is text, not JSON", "`text()`", "serde_json", "`Payload::from_json`"]);
    let value: serde_json::Value = serde_json::from_str(message.text().expect("text")).expect("ok");
    assert_eq!(value["n"], 1);
}
