//! Times for people: how long ago, in docker's words.

use jiff::{SignedDuration, Timestamp};

use crate::failure::Failure;

/// A span of `seconds` in docker's words: `About a minute`, `3 hours`, `2 weeks`.
fn span(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    match seconds {
        i64::MIN..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..MINUTE => format!("{seconds} seconds"),
        MINUTE..120 => "About a minute".to_owned(),
        120..HOUR => format!("{} minutes", seconds / MINUTE),
        HOUR..7200 => "About an hour".to_owned(),
        7200..172_800 => format!("{} hours", seconds / HOUR),
        172_800..1_209_600 => format!("{} days", seconds / DAY),
        1_209_600..5_184_000 => format!("{} weeks", seconds / (7 * DAY)),
        5_184_000..63_072_000 => format!("{} months", seconds / (30 * DAY)),
        _ => format!("{} years", seconds / (365 * DAY)),
    }
}

/// The time from `then` to `now`, in docker's words.
pub(crate) fn since(then: Timestamp, now: Timestamp) -> String {
    span(now.duration_since(then).as_secs())
}

/// How long before `now` the moment `then` was; `N/A` for none.
pub(crate) fn ago(then: Option<Timestamp>, now: Timestamp) -> String {
    match then {
        Some(then) => format!("{} ago", since(then, now)),
        None => "N/A".to_owned(),
    }
}

/// A time as it is written, or so long before `now`.
pub(crate) fn moment(flag: &str, text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    let seconds = || {
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits: String = part.chars().chain(std::iter::repeat('0')).take(9).collect();
        Timestamp::new(whole.parse().ok()?, digits.parse().ok()?).ok()
    };
    let ago = || now.checked_sub(text.parse::<SignedDuration>().ok()?).ok();
    let written = || text.parse::<Timestamp>().ok();
    written().or_else(seconds).or_else(ago).ok_or_else(|| {
        Failure::user(format!("{flag} {text:?}: neither a time nor how long ago"))
            .hint("write 2026-01-31T12:00:00Z, seconds since 1970, or a duration as 10m or 1h30m")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_docker() {
        for (seconds, words) in [
            (-5, "Less than a second"),
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (120, "2 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (14 * 86400, "2 weeks"),
            (60 * 86400, "2 months"),
            (730 * 86400, "2 years"),
        ] {
            assert_eq!(span(seconds), words);
        }
        let now = Timestamp::from_second(100).unwrap();
        assert_eq!(ago(Timestamp::from_second(98).ok(), now), "2 seconds ago");
        assert_eq!(ago(None, now), "N/A");
    }

    #[test]
    fn moments() {
        let now: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        let read = |text: &str| moment("--since", text, now).map(|time| time.to_string()).ok();
        assert_eq!(read("10m").as_deref(), Some("2026-01-31T11:50:00Z"));
        assert_eq!(read("1h30m").as_deref(), Some("2026-01-31T10:30:00Z"));
        assert_eq!(
            read("2026-01-01T00:00:00+01:00").as_deref(),
            Some("2025-12-31T23:00:00Z")
        );
        assert_eq!(read("1700000000.5").as_deref(), Some("2023-11-14T22:13:20.5Z"));
        assert_eq!(read("yesterday"), None);
    }
}
