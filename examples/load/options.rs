//! The options, parsed by hand.

use std::time::Duration;

/// Room for the time stamp and the mark of the run.
pub(crate) const LEAST_SIZE: usize = 32;

pub(crate) const HELP: &str = "\
usage: load [--publishers N] [--subscribers M] [--size BYTES] [--rate MESSAGES_PER_SECOND]
            [--seconds S] [--in-flight N] [--fire] [--plain] [--group NAME] [--json]

  --publishers   clients that publish, each with one thread      (default 1)
  --subscribers  clients that receive                            (default 1)
  --size         bytes of payload, at least 32                   (default 256)
  --rate         messages per second of all publishers together  (default: as fast as possible)
  --seconds      how long                                        (default 10)
  --in-flight    unacknowledged publications of each publisher   (default 64)
  --fire         publish without acks
  --plain        the subprotocol without recovery
  --group        the group                                       (default: load)
  --json         the result as one JSON object

The URL comes from WEBPUBSUB_URL; without it an emulator is started in this process, which then
shares the processors with the clients. As fast as possible, the emulator, like the service, ends
the session of a subscriber that falls 1000 messages behind; such losses are counted.";

/// The command line.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) publishers: u32,
    pub(crate) subscribers: u32,
    pub(crate) size: usize,
    pub(crate) rate: Option<f64>,
    pub(crate) length: Duration,
    pub(crate) in_flight: usize,
    pub(crate) fire: bool,
    pub(crate) plain: bool,
    pub(crate) group: String,
    pub(crate) json: bool,
}

impl Options {
    /// `None`: help was asked for.
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut options = Self {
            publishers: 1,
            subscribers: 1,
            size: 256,
            rate: None,
            length: Duration::from_secs(10),
            in_flight: 64,
            fire: false,
            plain: false,
            group: "load".into(),
            json: false,
        };
        while let Some(flag) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{flag} needs a value"));
            let number = |text: String, least: f64| match text.parse::<f64>() {
                Ok(n) if n.is_finite() && n >= least && n <= 1e9 => Ok(n),
                _ => Err(format!("{flag} needs a number from {least} on, not `{text}`")),
            };
            match flag.as_str() {
                "--publishers" => options.publishers = number(value()?, 0.0)? as u32,
                "--subscribers" => options.subscribers = number(value()?, 0.0)? as u32,
                "--size" => options.size = number(value()?, LEAST_SIZE as f64)? as usize,
                "--rate" => options.rate = Some(number(value()?, 0.001)?),
                "--seconds" => {
                    options.length = Duration::from_secs_f64(number(value()?, 0.1)?);
                }
                "--in-flight" => options.in_flight = number(value()?, 1.0)? as usize,
                "--group" => options.group = value()?,
                "--fire" => options.fire = true,
                "--plain" => options.plain = true,
                "--json" => options.json = true,
                "--help" | "-h" => return Ok(None),
                _ => return Err(format!("{flag}: there is no such option")),
            }
        }
        Ok(Some(options))
    }
}
