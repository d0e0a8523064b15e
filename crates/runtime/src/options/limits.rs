//! `--memory`, `--shm-size`, `--cpus`, `--cpuset-cpus`, `--pids-limit`, `--ulimit` and the like: amounts.

use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};

use super::{Flag, Result};

const SIZE_FORM: &str = "write a size in bytes or with a unit b, k, m, g, t, as 512m";
const CPUS_FORM: &str = "write a number of CPUs, as 1.5";
const ULIMIT_FORM: &str = "write NAME=SOFT[:HARD], as nofile=1024:2048; -1 is unlimited";

/// The period of a CPU quota, in microseconds: what docker and podman use for `--cpus`.
pub const CPU_PERIOD: u64 = 100_000;

/// The least memory a container may be given, in bytes, as docker has it: with less the kernel kills the process before
/// it has become the container's.
pub const MEMORY_MIN: i64 = 6 << 20;

/// Parses `--memory`, in bytes; `-1` and `0` mean unlimited.
///
/// # Errors
/// Not a size, or less than [`MEMORY_MIN`].
pub fn memory(value: &str) -> Result<i64> {
    let flag = Flag::new("--memory", value, SIZE_FORM);
    match amount(&flag)? {
        1..MEMORY_MIN => Err(flag.instead(
            "less than a container needs to start",
            "give at least 6m, or 0 for no limit",
        )),
        limit => Ok(limit),
    }
}

/// Parses `--memory-swap`, memory and swap together in bytes; `-1` means unlimited.
///
/// # Errors
/// Not a size.
pub fn memory_swap(value: &str) -> Result<i64> {
    size("--memory-swap", value)
}

/// Parses `--memory-reservation`, in bytes; 0 means none.
///
/// # Errors
/// Not a size.
pub fn memory_reservation(value: &str) -> Result<i64> {
    size("--memory-reservation", value)
}

/// Parses a size of `flag`, in bytes; `-1` means unlimited.
///
/// # Errors
/// Not a size.
pub fn size(flag: &'static str, value: &str) -> Result<i64> {
    amount(&Flag::new(flag, value, SIZE_FORM))
}

/// A size, or `-1`.
fn amount(flag: &Flag<'_>) -> Result<i64> {
    if flag.value.trim() == "-1" {
        return Ok(-1);
    }
    i64::try_from(bytes(flag, flag.value)?).map_err(|_| flag.wrong("more than the kernel can count"))
}

/// Parses `--shm-size`, in bytes; docker's default is 64 MiB.
///
/// # Errors
/// Not a size, or zero, which the kernel reads as "no limit".
pub fn shm_size(value: &str) -> Result<u64> {
    let flag = Flag::new("--shm-size", value, SIZE_FORM);
    match bytes(&flag, value)? {
        0 => Err(flag.wrong("the size must be more than zero")),
        size => Ok(size),
    }
}

/// Parses `--storage-opt size=SIZE`, the only option there is, into bytes.
///
/// # Errors
/// Another option, not a size, or zero.
pub fn storage_opt(value: &str) -> Result<u64> {
    let flag = Flag::new("--storage-opt", value, "write size=SIZE, as size=10g");
    match value.split_once('=') {
        Some(("size", size)) => match bytes(&flag, size)? {
            0 => Err(flag.wrong("the size must be more than zero")),
            size => Ok(size),
        },
        Some((key, _)) => Err(flag.wrong(format!("{key:?} is not known"))),
        None => Err(flag.wrong("there is no =")),
    }
}

/// Parses `--cpus` into a quota in microseconds per [`CPU_PERIOD`]; 0 means no limit.
///
/// # Errors
/// Not a decimal number, or less than 0.01, the kernel's smallest quota.
pub fn cpus(value: &str) -> Result<i64> {
    let flag = Flag::new("--cpus", value, CPUS_FORM);
    let decimal = value.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let number: f64 = match value.parse() {
        Ok(number) if decimal => number,
        _ => return Err(flag.wrong(format!("{value:?} is not a number of CPUs"))),
    };
    if number == 0.0 {
        return Ok(0);
    }
    let quota = (number * CPU_PERIOD as f64).round();
    if quota < 1000.0 {
        return Err(flag.wrong("the least share is 0.01 of a CPU"));
    }
    if quota > 1e12 {
        return Err(flag.wrong("no machine has that many"));
    }
    Ok(quota as i64)
}

/// Parses `--cpu-quota`, in microseconds per period; 0 and -1 mean no limit.
///
/// # Errors
/// Not a whole number, or less than the kernel's smallest, 1000.
pub fn cpu_quota(value: &str) -> Result<i64> {
    let flag = Flag::new(
        "--cpu-quota",
        value,
        "write microseconds, at least 1000, or 0 for no limit",
    );
    match value.parse::<i64>() {
        Ok(-1 | 0) => Ok(0),
        Ok(quota) if quota >= 1000 => Ok(quota),
        _ => Err(flag.wrong(format!("{value:?} is no quota"))),
    }
}

/// Parses `--cpu-period`, in microseconds.
///
/// # Errors
/// Not a whole number from 1000 to 1000000, which are the kernel's bounds.
pub fn cpu_period(value: &str) -> Result<u64> {
    let flag = Flag::new("--cpu-period", value, "write microseconds from 1000 to 1000000");
    let period = value
        .parse()
        .ok()
        .filter(|period| (1000..=1_000_000).contains(period));
    period.ok_or_else(|| flag.wrong(format!("{value:?} is no period")))
}

/// Parses `--cpu-shares`; 0 means the ordinary ones, 1024.
///
/// # Errors
/// Not 0, and not from 2 to 262144, which are the kernel's bounds.
pub fn cpu_shares(value: &str) -> Result<u64> {
    let flag = Flag::new(
        "--cpu-shares",
        value,
        "write a number from 2 to 262144; 1024 is the ordinary one",
    );
    let fits = |shares: &u64| matches!(shares, 0 | 2..=262_144);
    let shares = value.parse().ok().filter(fits);
    shares.ok_or_else(|| flag.wrong(format!("{value:?} are no shares")))
}

/// Parses `--cpuset-cpus` and `--cpuset-mems`: a list of numbers and ranges, `0-2,4`.
///
/// # Errors
/// Not of that form.
pub fn cpuset(flag: &'static str, value: &str) -> Result<String> {
    let said = Flag::new(flag, value, "write numbers and ranges, as 0-2,4");
    let number = |text: &str| text.parse::<u32>().ok();
    let fits = |part: &str| match part.split_once('-') {
        Some((first, last)) => number(first)
            .zip(number(last))
            .is_some_and(|(first, last)| first <= last),
        None => number(part).is_some(),
    };
    match value.split(',').find(|part| !fits(part)) {
        Some(part) => Err(said.wrong(format!("{part:?} is neither a number nor a range"))),
        None => Ok(value.to_owned()),
    }
}

/// Parses `--blkio-weight`; 0 means the ordinary one.
///
/// # Errors
/// Not 0, and not from 10 to 1000.
pub fn blkio_weight(value: &str) -> Result<u16> {
    let flag = Flag::new(
        "--blkio-weight",
        value,
        "write a number from 10 to 1000, or 0 for the ordinary one",
    );
    let fits = |weight: &u16| matches!(weight, 0 | 10..=1000);
    let weight = value.parse().ok().filter(fits);
    weight.ok_or_else(|| flag.wrong(format!("{value:?} is no weight")))
}

/// Parses `--oom-score-adj`.
///
/// # Errors
/// Not a whole number from -1000 to 1000.
pub fn oom_score_adj(value: &str) -> Result<i32> {
    let flag = Flag::new("--oom-score-adj", value, "write a number from -1000 to 1000");
    let score = value.parse().ok().filter(|score| (-1000..=1000).contains(score));
    score.ok_or_else(|| flag.wrong(format!("{value:?} is no score")))
}

/// Parses `--pids-limit`; unlimited, which is written `-1` or `0`, is -1.
///
/// # Errors
/// Not a whole number.
pub fn pids_limit(value: &str) -> Result<i64> {
    let flag = Flag::new("--pids-limit", value, "write a whole number, or -1 for no limit");
    match value.parse::<i64>() {
        Ok(-1 | 0) => Ok(-1),
        Ok(limit) if limit > 0 => Ok(limit),
        _ => Err(flag.wrong(format!("{value:?} is not a count"))),
    }
}

/// Parses `--ulimit NAME=SOFT[:HARD]`.
///
/// # Errors
/// An unknown name, a value that is no number, a soft limit above the hard one.
pub fn ulimit(value: &str) -> Result<PosixRlimit> {
    let flag = Flag::new("--ulimit", value, ULIMIT_FORM);
    let (name, amounts) = value.split_once('=').ok_or_else(|| flag.wrong("there is no ="))?;
    let plain = name.to_ascii_lowercase();
    let plain = plain.strip_prefix("rlimit_").unwrap_or(&plain);
    let typ = RLIMITS
        .iter()
        .find(|(known, _)| *known == plain)
        .map(|(_, typ)| *typ)
        .ok_or_else(|| flag.wrong(format!("{name:?} is no limit; there are {}", names())))?;
    let amount = |text: &str| match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        text => text
            .parse::<u64>()
            .map_err(|_| flag.wrong(format!("{text:?} is not a number"))),
    };
    let (soft, hard) = match amounts.split_once(':') {
        Some((soft, hard)) => (amount(soft)?, amount(hard)?),
        None => (amount(amounts)?, amount(amounts)?),
    };
    if soft > hard {
        return Err(flag.wrong("the soft limit is above the hard one"));
    }
    let limit = PosixRlimitBuilder::default()
        .typ(typ)
        .soft(soft)
        .hard(hard)
        .build();
    limit.map_err(|error| flag.wrong(error.to_string()))
}

const RLIMITS: [(&str, PosixRlimitType); 16] = [
    ("as", PosixRlimitType::RlimitAs),
    ("core", PosixRlimitType::RlimitCore),
    ("cpu", PosixRlimitType::RlimitCpu),
    ("data", PosixRlimitType::RlimitData),
    ("fsize", PosixRlimitType::RlimitFsize),
    ("locks", PosixRlimitType::RlimitLocks),
    ("memlock", PosixRlimitType::RlimitMemlock),
    ("msgqueue", PosixRlimitType::RlimitMsgqueue),
    ("nice", PosixRlimitType::RlimitNice),
    ("nofile", PosixRlimitType::RlimitNofile),
    ("nproc", PosixRlimitType::RlimitNproc),
    ("rss", PosixRlimitType::RlimitRss),
    ("rtprio", PosixRlimitType::RlimitRtprio),
    ("rttime", PosixRlimitType::RlimitRttime),
    ("sigpending", PosixRlimitType::RlimitSigpending),
    ("stack", PosixRlimitType::RlimitStack),
];

fn names() -> String {
    RLIMITS.map(|(name, _)| name).join(", ")
}

/// A size as docker's `RAMInBytes` reads it: a decimal number, then an optional unit of 1024-steps in either case,
/// with or without `b` or `ib` (`512m`, `512MB`, `1.5GiB`).
pub(super) fn bytes(flag: &Flag<'_>, text: &str) -> Result<u64> {
    let bad = || flag.wrong(format!("{text:?} is not a size"));
    let text = text.trim();
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.trim_start().to_ascii_lowercase();
    let shift = match unit
        .strip_suffix("ib")
        .or(unit.strip_suffix('b'))
        .unwrap_or(&unit)
    {
        "" if unit == "ib" => return Err(bad()),
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(bad()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        let size = whole.checked_mul(1 << shift);
        return size.ok_or_else(|| flag.wrong(format!("{text:?} is more than the kernel can count")));
    }
    let decimal: f64 = number.parse().map_err(|_| bad())?;
    let size = decimal * (1u64 << shift) as f64;
    if size >= u64::MAX as f64 {
        return Err(flag.wrong(format!("{text:?} is more than the kernel can count")));
    }
    Ok(size as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage() {
        assert_eq!(storage_opt("size=10G").unwrap(), 10 << 30);
        for text in ["", "10g", "size=", "size=0", "size=-1", "inodes=5"] {
            assert!(storage_opt(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, size) in [
            ("0", 0),
            ("100", 100),
            ("100b", 100),
            ("4k", 4096),
            ("512m", 512 << 20),
            ("512MB", 512 << 20),
            ("512 MiB", 512 << 20),
            ("1.5g", 3 << 29),
            ("2T", 2 << 40),
            ("-1", -1),
        ] {
            assert_eq!(memory_swap(text).unwrap(), size, "{text}");
        }
        for text in [
            "",
            "m",
            "1x",
            "1mm",
            "-5",
            "1.2.3",
            "ib",
            "99999999p",
            "9e3",
            "1,5g",
            "0x10",
        ] {
            let error = memory_swap(text).unwrap_err().to_string();
            assert!(
                error.starts_with("--memory-swap") && error.ends_with("as 512m"),
                "{text}: {error}"
            );
        }
        for (text, size) in [("6m", MEMORY_MIN), ("0", 0), ("-1", -1)] {
            assert_eq!(memory(text).unwrap(), size, "{text}");
        }
        for text in ["1", "100k", "6291455", "x"] {
            let error = memory(text).unwrap_err().to_string();
            assert!(error.starts_with("--memory \""), "{error}");
        }
        assert_eq!(shm_size("64m").unwrap(), 64 << 20);
        assert!(shm_size("0").is_err());
    }

    #[test]
    fn cpu_counts() {
        for (text, quota) in [
            ("1.5", 150_000),
            ("2", 200_000),
            (".5", 50_000),
            ("0", 0),
            ("0.01", 1000),
        ] {
            assert_eq!(cpus(text).unwrap(), quota, "{text}");
        }
        for text in [
            "",
            "-1",
            "two",
            "0.001",
            "nan",
            "inf",
            "1e3",
            "1,5",
            "99999999999",
        ] {
            assert!(cpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bounds_are_the_kernel_s() {
        for (text, fits) in [
            ("0", true),
            ("2", true),
            ("262144", true),
            ("1", false),
            ("262145", false),
            ("", false),
        ] {
            assert_eq!(cpu_shares(text).is_ok(), fits, "{text}");
        }
        for (text, fits) in [
            ("1000", true),
            ("1000000", true),
            ("999", false),
            ("1000001", false),
            ("x", false),
        ] {
            assert_eq!(cpu_period(text).is_ok(), fits, "{text}");
        }
        for (text, quota) in [
            ("0", Some(0)),
            ("-1", Some(0)),
            ("1000", Some(1000)),
            ("999", None),
            ("1.5", None),
        ] {
            assert_eq!(cpu_quota(text).ok(), quota, "{text}");
        }
        for (text, fits) in [
            ("0", true),
            ("10", true),
            ("1000", true),
            ("9", false),
            ("1001", false),
        ] {
            assert_eq!(blkio_weight(text).is_ok(), fits, "{text}");
        }
        for (text, score) in [
            ("-1000", Some(-1000)),
            ("1000", Some(1000)),
            ("1001", None),
            ("", None),
        ] {
            assert_eq!(oom_score_adj(text).ok(), score, "{text}");
        }
        for (text, fits) in [
            ("0", true),
            ("0-2,4", true),
            ("2-1", false),
            ("0,", false),
            ("", false),
            ("a", false),
        ] {
            assert_eq!(cpuset("--cpuset-cpus", text).is_ok(), fits, "{text}");
        }
    }

    #[test]
    fn pids_limits() {
        assert_eq!(pids_limit("100").unwrap(), 100);
        assert_eq!(pids_limit("-1").unwrap(), -1);
        assert_eq!(pids_limit("0").unwrap(), -1);
        assert!(pids_limit("-2").is_err());
        assert!(pids_limit("many").is_err());
    }

    #[test]
    fn ulimits() {
        for (text, typ, soft, hard) in [
            ("nofile=1024:2048", PosixRlimitType::RlimitNofile, 1024, 2048),
            ("nproc=100", PosixRlimitType::RlimitNproc, 100, 100),
            ("core=-1", PosixRlimitType::RlimitCore, u64::MAX, u64::MAX),
            ("RLIMIT_STACK=0:-1", PosixRlimitType::RlimitStack, 0, u64::MAX),
        ] {
            let limit = ulimit(text).unwrap();
            assert_eq!(
                (limit.typ(), limit.soft(), limit.hard()),
                (typ, soft, hard),
                "{text}"
            );
        }
        for (text, says) in [
            ("nofile", "no ="),
            ("files=1", "\"files\" is no limit"),
            ("nofile=abc", "\"abc\""),
            ("nofile=", "\"\""),
            ("nofile=2:1", "above"),
            ("nofile=-1:5", "above"),
            ("nofile=1:2:3", "\"2:3\""),
        ] {
            let error = ulimit(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
