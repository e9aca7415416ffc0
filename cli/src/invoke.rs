//! `wps invoke`: one call of the app server, and its answer.

use clap::Args;
use webpubsub::Invoke;

use crate::ending::Ending;
use crate::target::Target;
use crate::{Failure, output};

#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// The name of the event handler
    name: String,

    /// The call's data, as text
    #[arg(default_value = "", hide_default_value = true)]
    data: String,

    #[command(flatten)]
    target: Target,
}

pub(crate) fn run(flags: &Flags) -> Result<(), Failure> {
    let ending = Ending::new(flags.target.timeout)?;
    ending.settle(invoke(flags, &ending))
}

fn invoke(flags: &Flags, ending: &Ending) -> Result<(), Failure> {
    let client = ending.connect(flags.target.source(&[])?)?;
    let mut invoke = Invoke::new(&flags.name, flags.data.as_str());
    if let Some(limit) = flags.target.timeout {
        // The call's own limit may be shorter. This one began earlier, so it ends the command first.
        invoke = invoke.timeout(limit);
    }
    let answer = client.call(invoke)?.payload;
    let line = if flags.target.json {
        let members = answer.map(|data| format!("{{{}}}", output::json_members(&data)));
        let (name, answer) = (output::string(&flags.name), members.unwrap_or("null".into()));
        format!("{{\"event\":{name},\"answer\":{answer}}}")
    } else {
        answer.map(|data| output::text(&data).into_owned()).unwrap_or_default()
    };
    output::print(line)?;
    let _ = client.close();
    Ok(())
}
