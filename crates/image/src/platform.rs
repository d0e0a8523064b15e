//! Which of an image's builds suits a machine: operating system, architecture and its variant.
//!
//! Names and their order of preference are those of the OCI image index and of containerd's `platforms` package.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A platform as an index or a configuration names it, in its normal form (`x86_64` is `amd64`, `arm64/v8` is
/// `arm64`, `arm` without a variant is `arm/v7`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// Go's name of the architecture: `amd64`, `arm64`, `riscv64`, …
    pub architecture: String,
    /// `v6`, `v7`, …; empty where the architecture has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// A string that names no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlatformError {
    /// It has not the form os/architecture or os/architecture/variant.
    #[error("invalid platform {given:?}: write os/architecture or os/architecture/variant, like linux/arm64")]
    Form {
        /// What was given.
        given: String,
    },
    /// A word by itself that is neither an operating system nor an architecture.
    #[error("platform {given:?}: no architecture is called so; write os/architecture, like linux/arm64")]
    Unknown {
        /// What was given.
        given: String,
    },
    /// Not an operating system whose containers run here.
    #[error("platform {given:?}: only linux containers can run here")]
    Os {
        /// What was given.
        given: String,
    },
}

/// What Go calls the architectures that Linux runs on. A word by itself must be one of them, since it may as well be a
/// mistake for anything else; after `linux/` any word is taken.
const ARCHITECTURES: [&str; 15] = [
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le",
    "riscv", "riscv64", "s390x", "sparc64",
];

impl Platform {
    /// A platform in its normal form.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let (os, architecture, variant) = (
            os.to_ascii_lowercase(),
            architecture.to_ascii_lowercase(),
            variant.to_ascii_lowercase(),
        );
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("x86_64" | "x86-64" | "amd64", "" | "v1") => ("amd64", ""),
            ("x86_64" | "x86-64" | "amd64", v) => ("amd64", v),
            ("i386" | "i486" | "i586" | "i686" | "x86" | "386", _) => ("386", ""),
            ("aarch64" | "arm64", "" | "8" | "v8") => ("arm64", ""),
            ("aarch64" | "arm64", v) => ("arm64", v),
            ("armhf", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("arm", "" | "7") => ("arm", "v7"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "6") => ("arm", "v6"),
            ("arm", "8") => ("arm", "v8"),
            (architecture, variant) => (architecture, variant),
        };
        Self {
            os,
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        }
    }

    /// The platform that this program was built for.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "loongarch64" => "loong64",
            "mips64" if cfg!(target_endian = "little") => "mips64le",
            other => other,
        };
        Self::new("linux", architecture, "")
    }

    /// What runs on this machine, the best first: on `amd64` also `386`, on `arm64` also 32-bit `arm`, on
    /// `arm/v7` also its older variants. A variant above what was asked for is never taken.
    pub fn runs(&self) -> Vec<Self> {
        let mut out = vec![self.clone()];
        let mut push = |architecture: &str, variant: &str| {
            out.push(Self {
                os: self.os.clone(),
                architecture: architecture.to_owned(),
                variant: variant.to_owned(),
            });
        };
        let below = |variant: &str| -> u8 {
            variant
                .strip_prefix('v')
                .and_then(|v| v.parse().ok())
                .unwrap_or(0)
        };
        match self.architecture.as_str() {
            "amd64" => {
                for v in (2..below(&self.variant)).rev() {
                    push("amd64", &format!("v{v}"));
                }
                if !self.variant.is_empty() {
                    push("amd64", "");
                }
                push("386", "");
            }
            "arm64" => {
                if !self.variant.is_empty() {
                    push("arm64", "");
                }
                for v in ["v8", "v7", "v6", "v5"] {
                    push("arm", v);
                }
            }
            "arm" => {
                for v in (5..below(&self.variant)).rev() {
                    push("arm", &format!("v{v}"));
                }
            }
            _ => {}
        }
        out
    }

    /// Whether what is built for `other` is what was asked for by this one. A variant that `other` does not name
    /// is no contradiction: many configurations leave it out.
    pub fn accepts(&self, other: &Self) -> bool {
        self.os == other.os
            && self.architecture == other.architecture
            && (self.variant == other.variant || other.variant.is_empty())
    }
}

/// The platform of the processor at hand: on `amd64` with the level of the x86-64 psABI that it has, since an
/// image may be built for one of those.
fn machine() -> Platform {
    let host = Platform::host();
    Platform {
        variant: if host.variant.is_empty() {
            level().to_owned()
        } else {
            host.variant
        },
        ..host
    }
}

#[cfg(target_arch = "x86_64")]
fn level() -> &'static str {
    macro_rules! has {
        ($($feature:tt),*) => { $(std::is_x86_feature_detected!($feature))&&* };
    }
    if !has!("sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "cmpxchg16b") {
        return "";
    }
    if !has!("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt", "movbe") {
        return "v2";
    }
    if has!("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl") {
        "v4"
    } else {
        "v3"
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn level() -> &'static str {
    ""
}

/// What an image is wanted for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Whatever runs best on this machine.
    Host,
    /// This platform and no other.
    Exactly(Platform),
}

impl Wanted {
    /// The acceptable platforms, the best first.
    pub fn candidates(&self) -> Vec<Platform> {
        match self {
            Self::Host => machine().runs(),
            Self::Exactly(platform) => vec![platform.clone()],
        }
    }

    /// The place in `offers` of the one that suits best; equal ones: the first.
    pub fn choose(&self, offers: &[Option<Platform>]) -> Option<usize> {
        let candidates = self.candidates();
        let exact = candidates
            .iter()
            .find_map(|want| offers.iter().position(|o| o.as_ref() == Some(want)));
        exact.or_else(|| {
            candidates.iter().find_map(|want| {
                offers
                    .iter()
                    .position(|o| o.as_ref().is_some_and(|o| want.accepts(o)))
            })
        })
    }

    /// Whether an image built for `built` may be taken.
    pub fn allows(&self, built: &Platform) -> bool {
        // Hardly an image asks for more than the architecture; what more the processor can takes long to ask in a
        // virtual machine.
        let plainly = *self == Self::Host && Platform::host().accepts(built);
        plainly || self.candidates().iter().any(|want| want.accepts(built))
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_str() {
            "" => Ok(()),
            variant => write!(f, "/{variant}"),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => Platform::host().fmt(f),
            Self::Exactly(platform) => platform.fmt(f),
        }
    }
}

/// `linux/arm64/v8`, or an architecture alone.
impl FromStr for Platform {
    type Err = PlatformError;
    fn from_str(s: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = s.split('/').collect();
        let word = |p: &&str| {
            !p.is_empty()
                && p.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        if !parts.iter().all(word) {
            return Err(PlatformError::Form { given: s.to_owned() });
        }
        let platform = match parts[..] {
            ["linux"] => Self::host(),
            [architecture] => {
                let platform = Self::new("linux", architecture, "");
                if !ARCHITECTURES.contains(&platform.architecture.as_str()) {
                    return Err(PlatformError::Unknown { given: s.to_owned() });
                }
                platform
            }
            [os, architecture] => Self::new(os, architecture, ""),
            [os, architecture, variant] => Self::new(os, architecture, variant),
            _ => return Err(PlatformError::Form { given: s.to_owned() }),
        };
        match platform.os.as_str() {
            "linux" => Ok(platform),
            _ => Err(PlatformError::Os { given: s.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(s: &str) -> Platform {
        s.parse().unwrap()
    }

    #[test]
    fn normal_forms() {
        for (given, normal) in [
            ("linux/amd64", "linux/amd64"),
            ("x86_64", "linux/amd64"),
            ("linux/x86-64/v1", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm64/v9", "linux/arm64/v9"),
            ("arm", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("Linux/I386", "linux/386"),
            ("riscv64", "linux/riscv64"),
        ] {
            assert_eq!(p(given).to_string(), normal);
        }
        for bad in ["", "/", "linux/", "linux/a/b/c", "a b", "linux/am\nd64"] {
            assert!(
                matches!(bad.parse::<Platform>(), Err(PlatformError::Form { .. })),
                "{bad:?}"
            );
        }
        for bad in ["amd46", "debian", "windows"] {
            assert!(
                matches!(bad.parse::<Platform>(), Err(PlatformError::Unknown { .. })),
                "{bad:?}"
            );
        }
        assert_eq!(p("linux/amd46").to_string(), "linux/amd46");
        assert!(matches!(
            "windows/amd64".parse::<Platform>(),
            Err(PlatformError::Os { .. })
        ));
    }

    #[test]
    fn the_best_is_chosen() {
        let offers = |list: &[&str]| -> Vec<Option<Platform>> {
            list.iter().map(|s| (!s.is_empty()).then(|| p(s))).collect()
        };
        let want = |s: &str| Wanted::Exactly(p(s));
        let many = offers(&[
            "linux/386",
            "",
            "linux/arm/v6",
            "linux/arm/v7",
            "linux/arm64",
            "linux/amd64",
        ]);
        assert_eq!(want("linux/arm64/v8").choose(&many), Some(4));
        assert_eq!(want("linux/arm/v6").choose(&many), Some(2));
        assert_eq!(want("linux/amd64").choose(&many), Some(5));
        assert_eq!(want("linux/s390x").choose(&many), None);
        assert_eq!(
            want("linux/amd64").choose(&offers(&["linux/386"])),
            None,
            "exactly what was asked for"
        );
        let host = Platform::new("linux", "amd64", "");
        assert!(host.runs().contains(&p("386")));
        assert!(!host.runs().contains(&p("linux/amd64/v3")));
        assert_eq!(
            p("linux/amd64/v3").runs(),
            [
                p("linux/amd64/v3"),
                p("linux/amd64/v2"),
                p("linux/amd64"),
                p("linux/386")
            ]
        );
        assert!(!p("linux/arm/v6").runs().contains(&p("linux/arm/v7")));
        assert_eq!(
            p("linux/arm/v7").runs(),
            [p("linux/arm/v7"), p("linux/arm/v6"), p("linux/arm/v5")]
        );
        assert!(Wanted::Host.allows(&Platform::host()));
    }
}
