//! `strata logs`: what a container printed.

use std::io::{self, ErrorKind, Write};

use clap::Args;
use engine::logs::{LogsOptions, Stream};
use jiff::Timestamp;

use super::{Context, Outcome};
use crate::failure::Failure;
use crate::render::time;

/// Show what a container printed
///
/// What it printed on its standard error goes to standard error.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The container, by name, id or the beginning of an id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Go on with what it prints, until it ends
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines (all for every one)
    #[arg(short = 'n', long, value_name = "NUMBER", default_value = "all")]
    tail: String,
    /// Nothing of before: a time (2026-01-31T12:00:00Z, seconds since 1970) or how long ago (10m)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Nothing of after
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Put the time before each line
    #[arg(short, long)]
    timestamps: bool,
}

pub(crate) fn run(context: &Context, args: LogsArgs) -> Outcome {
    let now = Timestamp::now();
    let at = |flag: &str, text: &Option<String>| {
        text.as_deref()
            .map(|text| time::moment(flag, text, now))
            .transpose()
    };
    let options = LogsOptions {
        follow: args.follow,
        tail: match args.tail.as_str() {
            "all" | "-1" => None,
            number => Some(number.parse().map_err(|_| {
                Failure::user(format!("--tail {number:?}: no number")).hint("write a number of lines, or all")
            })?),
        },
        since: at("--since", &args.since)?,
        until: at("--until", &args.until)?,
    };
    let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
    // Whether the last entry of a stream was the end of a line.
    let mut ended = [true, true];
    context.engine()?.logs(&args.container, &options, |entry| {
        let (to, ended): (&mut dyn Write, _) = match entry.stream {
            Stream::Out => (&mut out, &mut ended[0]),
            Stream::Err => (&mut err, &mut ended[1]),
        };
        let stamp = args.timestamps && *ended;
        *ended = entry.text.ends_with(b"\n");
        let mut write = || -> io::Result<()> {
            if stamp {
                write!(to, "{:.9} ", entry.at)?;
            }
            to.write_all(&entry.text)?;
            to.flush()
        };
        match write() {
            // A reader that has gone away is no failure.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
            other => other.map(|()| true),
        }
    })?;
    Ok(0)
}
