//! `wps listen`: the messages of groups, one a line.

use clap::Args;
use webpubsub::{Event, GroupMessage, Role};

use crate::ending::Ending;
use crate::target::Target;
use crate::{Failure, output, status};

#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// The groups to join
    #[arg(required = true, value_name = "GROUP")]
    groups: Vec<String>,

    /// Ends after this many messages, with exit code 0
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    #[command(flatten)]
    target: Target,
}

pub(crate) fn run(flags: &Flags) -> Result<(), Failure> {
    let ending = Ending::new(flags.target.timeout)?;
    ending.settle(listen(flags, &ending))
}

fn listen(flags: &Flags, ending: &Ending) -> Result<(), Failure> {
    let client = ending.connect(flags.target.source(&[Role::join_leave()])?)?;
    for group in &flags.groups {
        let joined = client.join_group(group);
        joined.map_err(|e| Failure::from(e).about(&format!("joining the group {group:?}")))?;
    }
    eprintln!("wps: listening to {}; Ctrl-C ends it", flags.groups.join(", "));

    let mut left = flags.count;
    for event in client.events() {
        match event {
            Event::GroupMessage(message) => {
                if !output::print(line(&message, flags.target.json))? {
                    break;
                }
                left = left.map(|n| n - 1);
                if left == Some(0) {
                    break;
                }
            }
            Event::JoinFailed(failed) => {
                let what = format!("joining the group {:?} again", failed.group);
                return Err(Failure::from(failed.error).about(&what));
            }
            Event::Stopped(stopped) => return Err(stopped.cause.into()),
            other => status::print(&other),
        }
    }
    // All is printed that was asked for: how the goodbye goes changes nothing.
    let _ = client.close();
    Ok(())
}

fn line(message: &GroupMessage, json: bool) -> String {
    if !json {
        return output::text(&message.payload).into_owned();
    }
    let from = message.from_user_id.as_deref().map_or("null".into(), output::string);
    let group = output::string(&message.group);
    let data = output::json_members(&message.payload);
    format!("{{\"group\":{group},\"fromUserId\":{from},{data}}}")
}
