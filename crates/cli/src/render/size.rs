//! Sizes for people: decimal units, three significant digits, as docker and podman print them.

/// `bytes` as `0B`, `532B`, `4.27MB`, `1.03GB`.
pub(crate) fn human(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes}B");
    }
    let mut value = bytes as f64;
    let mut unit = 0;
    // 999.5 would be printed as 1000: the next unit takes it.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    let text = format!("{value:.digits$}");
    let text = if digits > 0 {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text}{}", UNITS[unit])
}

/// A size as people write it: `20GB`, `1.5g`, `512MiB`. Units are decimal, as [`human`] prints them, but for those
/// with an `i`.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    const WRONG: &str = "write a size such as 20GB, 512MiB or a number of bytes";
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| WRONG)?;
    let unit = unit.trim().to_ascii_lowercase();
    let (base, prefix) = match unit.strip_suffix("ib") {
        Some(prefix) => (1024_f64, prefix),
        None => (1000_f64, unit.strip_suffix('b').unwrap_or(&unit)),
    };
    let power = match prefix {
        "" if base == 1000.0 => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(WRONG.to_owned()),
    };
    Ok((number * base.powi(power)) as u64)
}

/// `bytes` in binary units, as docker prints memory: `0B`, `1.5MiB`, `7.77GiB`.
pub(crate) fn binary(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = match value {
        value if value < 10.0 => 3,
        value if value < 100.0 => 2,
        value if value < 1000.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    let text = match digits {
        0 => text.as_str(),
        _ => text.trim_end_matches('0').trim_end_matches('.'),
    };
    format!("{text}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::{binary, human, parse};

    #[test]
    fn sizes_are_read_as_they_are_printed() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("17B", 17),
            ("1.5kB", 1500),
            ("20GB", 20_000_000_000),
            ("2g", 2_000_000_000),
            ("1KiB", 1024),
            ("1.5 MiB", 1_572_864),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "GB", "-1", "1x", "1ib", "1.2.3", "1 GBs"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn powers_of_two() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1KiB"),
            (1536, "1.5KiB"),
            (1_632_256, "1.557MiB"),
            (512 << 20, "512MiB"),
            (8_345_000_000, "7.772GiB"),
            (u64::MAX, "16EiB"),
        ] {
            assert_eq!(binary(bytes), text);
        }
    }

    #[test]
    fn three_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1536, "1.54kB"),
            (4_270_000, "4.27MB"),
            (77_800_000, "77.8MB"),
            (999_499_999, "999MB"),
            (999_500_000, "1GB"),
            (9_995_000, "10MB"),
            (123_456_789_012, "123GB"),
            (u64::MAX, "18.4EB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }
}
