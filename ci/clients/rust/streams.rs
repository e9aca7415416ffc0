//! This crate's side of the checks of streams: publishes one, or reads those of a group. A program of
//! another language starts it and talks to it over its standard input and output, in lines of JSON.
//!
//! `streams publish GROUP ID` sends a fragment for each line, `{"text": …}`, `{"json": …}` or
//! `{"binary": [BYTE, …]}`. The line `{"abort": MESSAGE, "code": CODE}` aborts the stream, the end of
//! standard input finishes it. `{"ready": true}` says that the stream is open, and
//! `{"published": true, "recoveries": N}` that its end is confirmed.
//!
//! `streams read GROUP` prints `{"ready": true}`, then for each part the same lines with `stream` and
//! `from` added, and behind the last one `"end": true` or `"error": NAME, "code": CODE`. At the end
//! of standard input it prints `{"recoveries": N}` and leaves.
//!
//! The client access URL is in the variable `WEBPUBSUB_URL`.

use std::error::Error;
use std::io::{BufRead as _, Write as _};
use std::{env, io, thread};

use serde_json::{Value, json};
use webpubsub::{Client, Payload, StreamReader};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let url = env::var("WEBPUBSUB_URL")?;
    let client = Client::builder(url).connect()?;
    let arguments: Vec<_> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["publish", group, id] => publish(&client, group, id),
        ["read", group] => read(&client, group),
        _ => Err("usage: streams publish GROUP ID | streams read GROUP".into()),
    }
}

fn say(line: &Value) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

fn publish(client: &Client, group: &str, id: &str) -> Result<()> {
    let mut stream = client.open_stream(webpubsub::OpenStream::new(group).stream_id(id))?;
    say(&json!({"ready": true}))?;
    for line in io::stdin().lock().lines() {
        let line: Value = serde_json::from_str(&line?)?;
        if let Some(message) = line["abort"].as_str() {
            stream.abort(message, line["code"].as_str().unwrap_or_default())?;
            return Ok(client.close()?);
        }
        stream.send(payload(&line)?)?;
    }
    stream.finish()?;
    say(&json!({"published": true, "recoveries": client.stats().recoveries}))?;
    Ok(client.close()?)
}

fn payload(line: &Value) -> Result<Payload> {
    Ok(match line {
        _ if line["text"].is_string() => Payload::from(line["text"].as_str().unwrap_or_default()),
        _ if line["binary"].is_array() => {
            Payload::from(serde_json::from_value::<Vec<u8>>(line["binary"].clone())?)
        }
        _ => Payload::from_json(&line["json"])?,
    })
}

fn read(client: &Client, group: &str) -> Result<()> {
    let streams = client.subscribe_streams(group)?;
    say(&json!({"ready": true}))?;
    let closer = client.clone();
    let closing = thread::spawn(move || -> io::Result<u64> {
        io::copy(&mut io::stdin().lock(), &mut io::sink())?;
        let recoveries = closer.stats().recoveries;
        // Ends the loop below.
        let _ = closer.close();
        Ok(recoveries)
    });
    for mut stream in &streams {
        print_all(&mut stream)?;
    }
    let recoveries = closing.join().map_err(|_| "the reader of standard input panicked")??;
    say(&json!({"recoveries": recoveries}))
}

fn print_all(stream: &mut StreamReader) -> Result<()> {
    let (id, from) = (stream.stream_id().to_owned(), stream.from_user_id().map(str::to_owned));
    let print = |key: &str, value: Value| {
        say(&json!({"stream": id.as_str(), "from": from.as_deref(), key: value}))
    };
    loop {
        match stream.recv() {
            Ok(Some(Payload::Text(text))) => print("text", text.as_str().into())?,
            Ok(Some(Payload::Json(json))) => print("json", serde_json::from_str(json.as_str())?)?,
            Ok(Some(other)) => print("binary", other.as_bytes().into())?,
            Ok(None) => return print("end", true.into()),
            Err(error) => {
                let name = error.service_error_name().map(str::to_owned);
                let name = name.unwrap_or_else(|| format!("{:?}", error.kind()));
                return say(&json!({"stream": id.as_str(), "from": from.as_deref(), "error": name,
                    "code": error.user_error_code()}));
            }
        }
    }
}
