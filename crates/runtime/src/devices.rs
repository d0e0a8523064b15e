//! Devices: which a container may open, and the nodes it finds in its `/dev`.
//!
//! - [`Rules`] gives the device rules of the OCI spec one meaning: for every right (read, write, make nodes) the last
//!   rule that speaks of it and of the device decides, and what no rule speaks of is refused. It becomes a program
//!   on the container's cgroup2 ([`Rules::program`]), or words for the v1 controller ([`Rules::v1`]).
//! - [`from_option`] and [`all`] turn `--device` and `--privileged` into nodes and rules.

mod host;
mod program;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

pub use host::{DeviceError, HostDevice, all, from_option};
pub use program::Loaded;

/// What the kernel distinguishes (`BPF_DEVCG_DEV_*`, linux/bpf.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Block,
    Character,
}

/// `BPF_DEVCG_ACC_*`.
const MAKE: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ALL: u8 = MAKE | READ | WRITE;

/// One rule; `None` is any.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<Kind>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u8,
}

/// The device rules of a container, in the spec's order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    list: Vec<Rule>,
}

/// A rule that means nothing.
#[derive(Debug, thiserror::Error)]
#[error("device rule {rule:?}: {problem}")]
pub struct RuleError {
    /// The rule, as the v1 controller would write it.
    pub rule: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Rules {
    /// Reads the rules of a spec's `linux.resources.devices`.
    ///
    /// # Errors
    /// A number or a right that does not exist.
    pub fn new(spec: &[LinuxDeviceCgroup]) -> Result<Rules, RuleError> {
        let mut list = Vec::with_capacity(spec.len());
        for rule in spec {
            let wrong = |problem| RuleError {
                rule: rule.to_string(),
                problem,
            };
            let number = |value: Option<i64>| match value {
                None | Some(-1) => Ok(None),
                Some(value) => u32::try_from(value)
                    .map(Some)
                    .map_err(|_| wrong("no such device number")),
            };
            let kind = match rule.typ().unwrap_or_default() {
                LinuxDeviceType::A => None,
                LinuxDeviceType::B => Some(Kind::Block),
                LinuxDeviceType::C | LinuxDeviceType::U => Some(Kind::Character),
                LinuxDeviceType::P => return Err(wrong("a fifo is no device")),
            };
            let mut access = 0;
            for right in rule.access().as_deref().unwrap_or("").chars() {
                access |= match right {
                    'r' => READ,
                    'w' => WRITE,
                    'm' => MAKE,
                    _ => return Err(wrong("rights are of r, w and m")),
                };
            }
            // Without rights all are meant; without a type, as in the v1 controller, the numbers are not looked at.
            let access = if access == 0 { ALL } else { access };
            let (major, minor) = match kind {
                None => (None, None),
                Some(_) => (number(rule.major())?, number(rule.minor())?),
            };
            list.push(Rule {
                allow: rule.allow(),
                kind,
                major,
                minor,
                access,
            });
        }
        Ok(Rules { list })
    }

    /// Whether nothing is refused: then no program is needed. Without any rule nothing is.
    pub fn allow_everything(&self) -> bool {
        let last = self
            .list
            .iter()
            .rposition(|rule| rule.kind.is_none() && rule.access == ALL);
        match last {
            Some(at) => self.list[at..].iter().all(|rule| rule.allow),
            None => self.list.is_empty(),
        }
    }

    /// The rules in the words of the v1 controller, each with the file it is written to. The first refuses everything,
    /// because a v1 cgroup begins with what its parent has.
    pub fn v1(&self) -> Vec<(&'static str, String)> {
        let mut words = vec![("devices.deny", "a".to_owned())];
        for rule in &self.list {
            let file = if rule.allow {
                "devices.allow"
            } else {
                "devices.deny"
            };
            let rights: String = [(READ, 'r'), (WRITE, 'w'), (MAKE, 'm')]
                .iter()
                .filter(|r| rule.access & r.0 != 0)
                .map(|r| r.1)
                .collect();
            let number = |value: Option<u32>| value.map_or("*".to_owned(), |value| value.to_string());
            let kinds: &[&str] = match rule.kind {
                // An `a` line speaks of all rights whatever it says; two lines say the same with the rights kept.
                None if rule.access == ALL => {
                    words.push((file, "a".to_owned()));
                    continue;
                }
                None => &["b", "c"],
                Some(Kind::Block) => &["b"],
                Some(Kind::Character) => &["c"],
            };
            for kind in kinds {
                words.push((
                    file,
                    format!("{kind} {}:{} {rights}", number(rule.major), number(rule.minor)),
                ));
            }
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn rules(text: &str) -> Rules {
        let list: Vec<LinuxDeviceCgroup> = text
            .split(';')
            .filter(|rule| !rule.trim().is_empty())
            .map(|rule| {
                let words: Vec<&str> = rule.split_whitespace().collect();
                let mut spec = LinuxDeviceCgroup::default();
                spec.set_allow(words[0] == "allow").set_typ(words[1].parse().ok());
                if let Some((major, minor)) = words.get(2).and_then(|numbers| numbers.split_once(':')) {
                    spec.set_major(major.parse().ok()).set_minor(minor.parse().ok());
                }
                spec.set_access(words.get(3).map(|access| (*access).to_owned()));
                spec
            })
            .collect();
        Rules::new(&list).unwrap()
    }

    #[test]
    fn when_nothing_is_refused() {
        for (text, all) in [
            ("", true),
            ("allow a *:* rwm", true),
            ("deny a *:* rwm", false),
            ("deny a *:* rwm; allow a *:* rwm", true),
            ("allow a *:* rwm; deny b 8:0 w", false),
            ("deny b 8:0 w; allow a *:* rwm; allow c 1:3 r", true),
            ("allow a *:* rw", false),
            ("allow c 1:3 rwm", false),
        ] {
            assert_eq!(rules(text).allow_everything(), all, "{text}");
        }
    }

    #[test]
    fn words_of_the_old_controller() {
        let words = rules("deny a *:* rwm; allow c 1:3 rw; allow b *:* m; deny a *:* m").v1();
        assert_eq!(
            words,
            [
                ("devices.deny", "a".to_owned()),
                ("devices.deny", "a".to_owned()),
                ("devices.allow", "c 1:3 rw".to_owned()),
                ("devices.allow", "b *:* m".to_owned()),
                ("devices.deny", "b *:* m".to_owned()),
                ("devices.deny", "c *:* m".to_owned()),
            ]
        );
    }

    #[test]
    fn rules_that_mean_nothing() {
        let rule = |typ, major, access: &str| {
            let mut rule = LinuxDeviceCgroup::default();
            rule.set_allow(true)
                .set_typ(Some(typ))
                .set_major(major)
                .set_access(Some(access.to_owned()));
            Rules::new(&[rule])
        };
        assert!(
            rule(LinuxDeviceType::C, Some(-2), "r")
                .unwrap_err()
                .to_string()
                .contains("device number")
        );
        assert!(
            rule(LinuxDeviceType::C, Some(1), "rx")
                .unwrap_err()
                .to_string()
                .contains("rights")
        );
        assert!(rule(LinuxDeviceType::P, Some(1), "r").is_err());
        assert!(rule(LinuxDeviceType::B, None, "").is_ok());
    }
}
