//! `--filter` of `ps`: docker's keys.

use std::collections::HashSet;

use engine::Engine;
use engine::network::{Port, publish};
use engine::ps::Container;
use engine::state::State;

use crate::failure::Failure;
use crate::render::filter::{Filters, KeyValue};

/// The keys that are known.
const KEYS: [&str; 14] = [
    "id", "name", "label", "label!", "status", "exited", "ancestor", "before", "since", "volume", "health",
    "network", "publish", "expose",
];

/// What `health` can be.
const HEALTH: [&str; 4] = ["starting", "healthy", "unhealthy", "none"];

/// What `status` can be.
const STATES: [&str; 8] = [
    "created",
    "running",
    "paused",
    "restarting",
    "exited",
    "lost",
    "dead",
    "removing",
];

/// Whether those that do not run are asked for too, without `--all`.
pub(super) fn means_all(given: &[KeyValue]) -> bool {
    Filters::new(given, &KEYS).is_ok_and(|filters| ["status", "exited"].iter().any(|key| filters.has(key)))
}

/// Keeps of the containers, which are all there are, those that fit.
pub(super) fn keep(
    engine: &Engine,
    given: &[KeyValue],
    mut containers: Vec<Container>,
) -> Result<Vec<Container>, Failure> {
    let filters = Filters::new(given, &KEYS)?;
    if let Some(word) = filters.values("status").find(|word| !STATES.contains(word)) {
        return Err(
            Failure::user(format!("--filter status={word}: there is no such state"))
                .hint(format!("there are {}", STATES.join(", "))),
        );
    }
    if let Some(word) = filters.values("health").find(|word| !HEALTH.contains(word)) {
        return Err(
            Failure::user(format!("--filter health={word}: there is no such state"))
                .hint(format!("there are {}", HEALTH.join(", "))),
        );
    }
    for code in filters.values("exited") {
        if code.parse::<i32>().is_err() {
            return Err(
                Failure::user(format!("--filter exited={code}: it is no exit code"))
                    .hint("write a number from 0 to 255"),
            );
        }
    }
    for key in ["publish", "expose"] {
        if let Some(word) = filters.values(key).find(|word| publish::expose(word).is_err()) {
            return Err(Failure::user(format!("--filter {key}={word}: it is no port"))
                .hint("write a port or a range, as 80, 53/udp or 8000-8010"));
        }
    }
    // The list has the newest first.
    let place = |key: &str| -> Result<Option<usize>, Failure> {
        let Some(name) = filters.values(key).last() else {
            return Ok(None);
        };
        let found = containers
            .iter()
            .position(|c| c.name == name || c.id.starts_with(name));
        found.map(Some).ok_or_else(|| {
            Failure::user(format!("--filter {key}={name}: there is no container {name:?}"))
                .hint("strata ps -a lists all containers")
        })
    };
    let (before, since) = (place("before")?, place("since")?);
    let mut from = HashSet::new();
    for name in filters.values("ancestor") {
        from.extend(engine.made_from(name)?);
    }
    let mut at = 0;
    containers.retain(|container| {
        at += 1;
        before.is_none_or(|other| at - 1 > other)
            && since.is_none_or(|other| at - 1 < other)
            && fits(&filters, container, &from)
    });
    Ok(containers)
}

fn fits(filters: &Filters<'_>, container: &Container, from: &HashSet<String>) -> bool {
    let status = |word: &str| match word {
        // What docker calls a container that nothing can be done with any more.
        "dead" => container.state == State::Lost,
        word => container.state.word() == word,
    };
    let exited = |code: &str| match container.state {
        State::Exited { code: own, .. } => code.parse() == Ok(own),
        _ => false,
    };
    let volume = |text: &str| {
        let mut mounts = container.mounts.iter();
        mounts.any(|mount| mount.source == text || mount.destination.as_os_str() == text)
    };
    let port = |text: &str, number: fn(&Port) -> Option<u16>| {
        publish::expose(text).is_ok_and(|asked| {
            let fits = |one: u16| (asked.ports.0..=asked.ports.1).contains(&one);
            let mut ports = container
                .ports
                .iter()
                .filter(|port| port.protocol == asked.protocol);
            ports.any(|port| number(port).is_some_and(fits))
        })
    };
    filters.any("id", |id| container.id.starts_with(id))
        && filters.any("name", |name| named(&container.name, name))
        && filters.labels(&container.labels)
        && filters.any("status", status)
        && filters.any("exited", exited)
        && filters.any("ancestor", |_| from.contains(&container.id))
        && filters.any("volume", volume)
        && filters.any("network", |name| {
            container.networks.iter().any(|network| network == name)
        })
        && filters.any("publish", |text| port(text, |port| port.host_port))
        && filters.any("expose", |text| port(text, |port| Some(port.container_port)))
        && filters.any("health", |word| container.health.unwrap_or("none") == word)
}

/// Whether a name holds a text, which may be tied to its beginning (`^`, or docker's `/`) and its end (`$`).
fn named(name: &str, text: &str) -> bool {
    let (begin, text) = match text.strip_prefix('^') {
        Some(text) => (true, text.strip_prefix('/').unwrap_or(text)),
        None => (text.starts_with('/'), text.strip_prefix('/').unwrap_or(text)),
    };
    let (end, text) = text.strip_suffix('$').map_or((false, text), |text| (true, text));
    match (begin, end) {
        (true, true) => name == text,
        (true, false) => name.starts_with(text),
        (false, true) => name.ends_with(text),
        (false, false) => name.contains(text),
    }
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn names_as_scripts_ask_for_them() {
        for (text, fits) in [
            ("we", true),
            ("^web$", true),
            ("^/web$", true),
            ("/web", true),
            ("eb$", true),
            ("^eb", false),
            ("web2", false),
        ] {
            assert_eq!(named("web", text), fits, "{text}");
        }
    }
}
