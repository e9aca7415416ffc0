//! HTTP proxies: the tunnel, credentials, refusals, and a real proxy where one is installed.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use webpubsub::emulator::Emulator;
use webpubsub::{Client, ErrorKind, Event, Proxy, Reconnect};

use crate::support::{Fake, header, hold, next_event, next_group_message, read_head, shown};

/// A proxy that tunnels to anywhere, for those who know the password if it has one.
pub(crate) fn tunnelling(credentials: Option<&'static str>) -> Fake {
    Fake::start(move |mut client| {
        let head = read_head(&mut client);
        let Some(target) = head.strip_prefix("CONNECT ").and_then(|h| h.split(' ').next()) else {
            let _ = client.write_all(b"HTTP/1.1 405 No\r\n\r\n");
            return;
        };
        if header(&head, "Proxy-Authorization") != credentials {
            let _ = client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
            return;
        }
        let Ok(server) = TcpStream::connect(target) else {
            let _ = client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n");
            return;
        };
        let _ = client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n");
        let copy = |mut from: TcpStream, mut to: TcpStream| {
            let mut buf = [0; 4096];
            while let Ok(n) = from.read(&mut buf) {
                if n == 0 || to.write_all(&buf[..n]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Write);
        };
        let (c, s) = (client.try_clone().expect("clone"), server.try_clone().expect("clone"));
        let up = thread::spawn(move || copy(client, server));
        copy(s, c);
        let _ = up.join();
    })
}

fn through(proxy: &str, emulator: &Emulator) -> webpubsub::Result<Client> {
    Client::builder(emulator.url("hub"))
        .proxy(Some(Proxy::new(proxy)?))
        .connect_step_timeout(Duration::from_secs(2))
        .reconnect(Some(
            Reconnect::new().backoff(Duration::from_millis(1), Duration::from_millis(20)),
        ))
        .tls(emulator.tls_config())
        .connect()
}

/// Publishes, receives, recovers, reconnects.
fn works(client: &Client, emulator: &Emulator) {
    client.join_group("g").expect("join");
    client.publish("g", "through").expect("send");
    assert_eq!(next_group_message(client).text().expect("text"), "through");
    emulator.faults().drop_connections();
    assert!(matches!(next_event(client), Event::Recovering(_)));
    assert!(matches!(next_event(client), Event::Recovered(_)));
    client.close().expect("close");
}

#[test]
fn everything_works_through_a_tunnel() {
    let with_password = tunnelling(Some("Basic dXM6cEB3"));
    let open = tunnelling(None);
    for tls in [false, cfg!(feature = "_tls")] {
        let emulator = Emulator::builder().tls(tls).start().expect("emulator");
        let url = format!("http://127.0.0.1:{}", open.port);
        works(&through(&url, &emulator).expect("connect"), &emulator);
        let url = format!("http://us:p%40w@127.0.0.1:{}/", with_password.port);
        works(&through(&url, &emulator).expect("connect"), &emulator);
    }
}

#[test]
fn a_proxys_refusal_is_told_apart_from_the_services() {
    let emulator = Emulator::start().expect("emulator");
    let locked = tunnelling(Some("Basic c29tZWJvZHk6ZWxzZQ=="));
    for (credentials, hint) in [("", "wants credentials"), ("u:SECRET@", "does not take these")] {
        let url = format!("http://{credentials}127.0.0.1:{}", locked.port);
        let error = through(&url, &emulator).expect_err("refused");
        assert_eq!((error.kind(), error.http_status()), (ErrorKind::Proxy, Some(407)));
        assert!(error.to_string().contains(hint), "{error}");
        assert!(!shown(&error).contains("SECRET"));
    }
    for (status, hint) in [(403, "does not allow"), (502, "does not reach")] {
        let refusing = Fake::start(move |mut stream| {
            read_head(&mut stream);
            let _ = stream.write_all(format!("HTTP/1.1 {status} No\r\n\r\n").as_bytes());
        });
        let url = format!("127.0.0.1:{}", refusing.port);
        let error = through(&url, &emulator).expect_err("refused");
        assert_eq!((error.kind(), error.http_status()), (ErrorKind::Proxy, Some(status)));
        assert!(error.to_string().contains(hint), "{error}");
    }
    for (answer, hint) in
        [(&b""[..], "without an answer"), (b"220 smtp\r\n\r\n", "not answer in HTTP")]
    {
        let strange = Fake::start(move |mut stream| {
            read_head(&mut stream);
            let _ = stream.write_all(answer);
        });
        let url = format!("http://127.0.0.1:{}", strange.port);
        let error = through(&url, &emulator).expect_err("strange");
        assert_eq!(error.kind(), ErrorKind::Proxy);
        assert!(error.to_string().contains(hint), "{error}");
    }
    let silent = Fake::start(hold);
    let url = format!("http://127.0.0.1:{}", silent.port);
    let error = through(&url, &emulator).expect_err("silent");
    assert!(
        error.kind() == ErrorKind::Proxy && error.to_string().contains("time limit"),
        "{error}"
    );
    assert_eq!(emulator.stats().tcp_accepted, 0);
}

#[test]
fn wrong_proxy_urls_are_refused() {
    for url in ["", "socks5://u:SECRET@h:1", "https://h", "http://h/p?SECRET", "http://:1"] {
        let error = Proxy::new(url).expect_err(url);
        assert_eq!(error.kind(), ErrorKind::Config, "{url}");
        assert!(error.to_string().contains("proxy URL") && !shown(&error).contains("SECRET"));
    }
}

#[test]
fn a_real_proxy() {
    let Ok(address) = std::env::var("WEBPUBSUB_TEST_PROXY") else {
        println!("skipped: WEBPUBSUB_TEST_PROXY names no proxy (CI starts tinyproxy)");
        return;
    };
    for tls in [false, cfg!(feature = "_tls")] {
        let emulator = Emulator::builder().tls(tls).start().expect("emulator");
        works(&through(&address, &emulator).expect("connect"), &emulator);
    }
}
