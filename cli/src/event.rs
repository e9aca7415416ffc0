//! `wps event`: one event for the app server, and what it answers.

use clap::Args;
use webpubsub::Event;

use crate::ending::Ending;
use crate::target::Target;
use crate::{Failure, output};

#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// The event's name
    name: String,

    /// The event's data, as text
    #[arg(default_value = "", hide_default_value = true)]
    data: String,

    #[command(flatten)]
    target: Target,
}

pub(crate) fn run(flags: &Flags) -> Result<(), Failure> {
    let ending = Ending::new(flags.target.timeout)?;
    ending.settle(event(flags, &ending))
}

fn event(flags: &Flags, ending: &Ending) -> Result<(), Failure> {
    let client = ending.connect(flags.target.source(&[])?)?;
    // Asked for before the event is sent, or the answer would not be kept.
    let events = client.events();
    let ack = client.send_event(&flags.name, flags.data.as_str())?;
    // What the app server answers has come before the ack.
    let answers = events.try_iter().filter_map(|event| match event {
        Event::ServerMessage(message) => Some(message.payload),
        _ => None,
    });
    if flags.target.json {
        let answers: Vec<String> =
            answers.map(|data| format!("{{{}}}", output::json_members(&data))).collect();
        let (id, name) = (ack.ack_id, output::string(&flags.name));
        let answers = answers.join(",");
        output::print(format!("{{\"event\":{name},\"ackId\":{id},\"answers\":[{answers}]}}"))?;
    } else {
        for data in answers {
            if !output::print(output::text(&data).into_owned())? {
                break;
            }
        }
    }
    let _ = client.close();
    Ok(())
}
