//! `strata events`: what happens, as it happens.

use std::io::{self, ErrorKind, Write};

use clap::Args;
use engine::events::{Event, EventsOptions};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Context, Outcome};
use crate::failure::Failure;
use crate::render::filter::{Filters, KeyValue};
use crate::render::plain;
use crate::render::template::ValueFormat;
use crate::render::time;

/// Show what happens to containers, images, volumes and networks, as it happens
///
/// Until it is interrupted, or until the time that --until says. Events are kept as long as the machine is up, and no more
/// than some thousands of them.
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// What happened since then too: a time (2026-01-31T12:00:00Z, seconds since 1970) or how long ago (10m)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Nothing after it: a time, or how long ago
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only what fits: type=, event=, container=, image=, volume=, network=, label=KEY[=VALUE]
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<KeyValue>,
    /// Form of the output: json, or fields such as '{{.Type}} {{.Action}} {{.Actor.ID}}' [default: a line each]
    #[arg(long, value_name = "FORM")]
    format: Option<ValueFormat>,
}

const KEYS: [&str; 8] = [
    "type",
    "event",
    "container",
    "image",
    "volume",
    "network",
    "label",
    "label!",
];

pub(crate) fn run(context: &Context, args: EventsArgs) -> Outcome {
    let filters = Filters::new(&args.filter, &KEYS)?;
    let now = Timestamp::now();
    let at = |flag: &str, text: &Option<String>| {
        text.as_deref()
            .map(|text| time::moment(flag, text, now))
            .transpose()
    };
    let options = EventsOptions {
        since: at("--since", &args.since)?,
        until: at("--until", &args.until)?,
    };
    let mut out = io::stdout().lock();
    let mut failed = None;
    context
        .engine()?
        .events(options, |event| {
            if !fits(event, &filters) {
                return Ok(true);
            }
            let line = match &args.format {
                None => Ok(line(event)),
                Some(ValueFormat::Json) => Ok(plain::json(&docker(event).to_string()).into_owned()),
                Some(ValueFormat::Template(template)) => template.text(&docker(event)),
            };
            let line = match line {
                Ok(line) => line,
                Err(failure) => {
                    failed = Some(failure);
                    return Ok(false);
                }
            };
            match writeln!(out, "{line}").and_then(|()| out.flush()) {
                // A reader that has gone away is no failure.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
                other => other.map(|()| true),
            }
        })
        .map_err(|error| Failure::user(format!("events: {error}")))?;
    failed.map_or(Ok(0), Err)
}

fn fits(event: &Event, filters: &Filters<'_>) -> bool {
    let attribute = |key: &str| event.attributes.get(key).map(String::as_str).unwrap_or_default();
    let of = |kind: &str, text: &str| {
        event.kind == kind && (event.id.starts_with(text) || attribute("name") == text)
    };
    // `busybox` is all its tags.
    let image = |name: &str, text: &str| {
        name == text || name.strip_prefix(text).is_some_and(|tag| tag.starts_with(':'))
    };
    filters.any("type", |kind| kind == event.kind)
        && filters.any("event", |action| {
            action == event.action
                || event
                    .action
                    .strip_prefix(action)
                    .is_some_and(|rest| rest.starts_with(':'))
        })
        && filters.any("container", |text| of("container", text))
        && filters.any("volume", |text| of("volume", text))
        && filters.any("network", |text| of("network", text))
        && filters.any("image", |text| {
            image(attribute("image"), text) || (event.kind == "image" && image(&event.id, text))
        })
        && filters.labels(&event.attributes)
}

fn moment(event: &Event) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(event.time)).unwrap_or_default()
}

/// As docker writes it.
fn line(event: &Event) -> String {
    let pairs: Vec<String> = event
        .attributes
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let line = format!(
        "{:.9} {} {} {} ({})",
        moment(event),
        event.kind,
        event.action,
        event.id,
        pairs.join(", ")
    );
    // One event a line, whatever a label says.
    plain::plain(&line).into_owned()
}

/// In docker's shape.
fn docker(event: &Event) -> Value {
    json!({
        "status": event.action,
        "id": event.id,
        "from": event.attributes.get("image"),
        "Type": event.kind,
        "Action": event.action,
        "Actor": { "ID": event.id, "Attributes": event.attributes },
        "scope": "local",
        "time": moment(event).as_second(),
        "timeNano": event.time,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_are_shown_and_how() {
        let event = Event {
            time: 1_700_000_000_000_000_001,
            kind: "container".into(),
            action: "health_status: healthy".into(),
            id: "abc".into(),
            attributes: [("name", "web"), ("image", "busybox:1"), ("tier", "x\n\x1b")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        };
        assert_eq!(
            line(&event),
            "2023-11-14T22:13:20.000000001Z container health_status: healthy abc (image=busybox:1, name=web, tier=x\\n\\u{1b})"
        );
        for (filters, shown) in [
            (&["type=container", "event=health_status"][..], true),
            (&["event=start", "event=health_status: healthy"], true),
            (&["container=web"], true),
            (&["container=ab"], true),
            (&["image=busybox", "label=tier"], true),
            (&["image=busy"], false),
            (&["volume=web"], false),
            (&["type=image"], false),
        ] {
            let given: Vec<KeyValue> = filters.iter().map(|filter| filter.parse().unwrap()).collect();
            assert_eq!(
                fits(&event, &Filters::new(&given, &KEYS).unwrap()),
                shown,
                "{filters:?}"
            );
        }
    }
}
