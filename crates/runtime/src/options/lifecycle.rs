//! `--restart`, `--log-driver`, `--log-opt`: what becomes of a container, and of what it prints.

use super::{Flag, Result, limits};
use crate::control::Restart;
use crate::log::Limits;

/// Parses `--restart`.
///
/// # Errors
/// No policy.
pub fn restart(value: &str) -> Result<Restart> {
    let flag = Flag::new(
        "--restart",
        value,
        "write no, always, unless-stopped or on-failure[:TIMES]",
    );
    Ok(match value.split_once(':') {
        None if value.is_empty() || value == "no" || value == "never" => Restart::No,
        None if value == "always" => Restart::Always,
        None if value == "unless-stopped" => Restart::UnlessStopped,
        None if value == "on-failure" => Restart::OnFailure { most: None },
        Some(("on-failure", times)) => {
            let times = times
                .parse()
                .map_err(|_| flag.wrong(format!("{times:?} is no number of times")))?;
            // As docker has it, none is no limit.
            Restart::OnFailure {
                most: Some(times).filter(|times| *times > 0),
            }
        }
        _ => return Err(flag.wrong(format!("{value:?} is no policy"))),
    })
}

/// Parses `--log-driver` and all of `--log-opt`: how much is kept, nothing for `none`.
///
/// # Errors
/// A driver that is another engine's; an option that is not known, or that the driver does not take.
pub fn log(driver: &str, options: &[String]) -> Result<Option<Limits>> {
    let form = "strata keeps k8s-file, which kubelet and crictl read too, or none";
    match driver {
        // Of podman too, for docker's scripts, another name of the same.
        "k8s-file" | "json-file" | "" => {}
        "none" => {
            return match options.first() {
                None => Ok(None),
                Some(option) => Err(Flag::new(
                    "--log-opt",
                    option,
                    "leave it out, or choose --log-driver k8s-file",
                )
                .wrong("nothing is kept by --log-driver none")),
            };
        }
        other => return Err(Flag::new("--log-driver", driver, form).wrong(format!("there is no {other:?}"))),
    }
    let mut kept = Limits::default();
    for option in options {
        let flag = Flag::new(
            "--log-opt",
            option,
            "write max-size=SIZE, as 10m, or max-file=NUMBER",
        );
        match option.split_once('=') {
            Some(("max-size", size)) => {
                kept.size = match limits::bytes(&flag, size)? {
                    0 => return Err(flag.wrong("the size must be more than zero")),
                    size => size,
                };
            }
            Some(("max-file", number)) => {
                let number = number.parse().ok().filter(|number| (1..=1000).contains(number));
                kept.files = number.ok_or_else(|| flag.wrong("it is no number from 1 to 1000"))?;
            }
            _ => return Err(flag.wrong("the log has no such option")),
        }
    }
    Ok(Some(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        assert_eq!(restart("no").unwrap(), Restart::No);
        assert_eq!(restart("unless-stopped").unwrap(), Restart::UnlessStopped);
        assert_eq!(
            restart("on-failure:3").unwrap(),
            Restart::OnFailure { most: Some(3) }
        );
        assert_eq!(
            restart("on-failure:0").unwrap(),
            Restart::OnFailure { most: None }
        );
        for bad in ["sometimes", "always:3", "on-failure:x", "on-failure:-1"] {
            assert_eq!(restart(bad).unwrap_err().value, bad);
        }
    }

    #[test]
    fn logs() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        for driver in ["k8s-file", "json-file", ""] {
            assert_eq!(log(driver, &[]).unwrap(), Some(Limits::default()));
        }
        assert_eq!(log("none", &[]).unwrap(), None);
        let limits = log("k8s-file", &words(&["max-size=1m", "max-file=2"])).unwrap();
        assert_eq!(
            limits,
            Some(Limits {
                size: 1 << 20,
                files: 2
            })
        );
        assert_eq!(log("journald", &[]).unwrap_err().flag, "--log-driver");
        for bad in ["max-size=0", "max-size=x", "max-file=0", "labels=x", "max-size"] {
            assert_eq!(log("k8s-file", &words(&[bad])).unwrap_err().value, bad);
        }
        assert!(log("none", &words(&["max-size=1m"])).is_err());
    }
}
