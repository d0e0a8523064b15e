//! Profile files, as `--security-opt seccomp=FILE` takes them: the JSON that docker and podman share.
//!
//! It is an OCI `LinuxSeccomp` whose rules may say for which capabilities, machines and kernels they are
//! (`includes`, `excludes`), and whose `archMap` says which ABIs go with which machine.

use std::collections::HashSet;

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSyscall,
};
use serde::Deserialize;

use super::abi::Abi;
use super::errno;

/// A profile as it stands in its file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    /// Podman's: the name of an error, over `defaultErrnoRet`.
    default_errno: Option<String>,
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<ArchMap>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<std::path::PathBuf>,
    listener_metadata: Option<String>,
    syscalls: Option<Vec<Rule>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    /// Podman's: the name of an error, over `errnoRet`.
    errno: Option<String>,
    args: Option<Vec<LinuxSeccompArg>>,
    includes: Option<Filter>,
    excludes: Option<Filter>,
}

/// For whom a rule is, or is not.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// Not JSON, or not of a profile's form: an action, comparison or architecture that does not exist, too.
    #[error("not a seccomp profile: {0}")]
    Json(#[from] serde_json::Error),
    /// Two ways to say which ABIs.
    #[error("not a seccomp profile: architectures and archMap exclude each other")]
    ArchitecturesTwice,
    /// Two ways to say which calls, or none.
    #[error("not a seccomp profile: rule {0} must have either name or names")]
    Names(usize),
    /// An error with a name that is none.
    #[error("not a seccomp profile: {0:?} is no error's name")]
    Errno(String),
    /// A version that is none.
    #[error("not a seccomp profile: minKernel {0:?} is not of the form 4.8")]
    MinKernel(String),
}

/// What a profile's rules may depend on.
#[derive(Debug, Clone)]
pub struct Circumstances<'a> {
    /// The container's bounding set.
    pub capabilities: &'a HashSet<Capability>,
    /// Major and minor version of the running kernel.
    pub kernel: (u32, u32),
    /// The machine's own ABI.
    pub native: Abi,
}

impl Profile {
    /// Reads a profile.
    ///
    /// # Errors
    /// [`ProfileError`]: the text is no profile. Unknown system calls are not an error; see [`super::compile`](super::compile()).
    pub fn parse(text: &str) -> Result<Profile, ProfileError> {
        let profile: Profile = serde_json::from_str(text)?;
        let listed = |list: &Option<Vec<_>>| list.as_ref().is_some_and(|l| !l.is_empty());
        if listed(&profile.architectures) && profile.arch_map.as_ref().is_some_and(|map| !map.is_empty()) {
            return Err(ProfileError::ArchitecturesTwice);
        }
        for (number, rule) in profile.syscalls.iter().flatten().enumerate() {
            let named = rule.name.as_ref().is_some_and(|name| !name.is_empty());
            let many = rule.names.as_ref().is_some_and(|names| !names.is_empty());
            if named == many {
                return Err(ProfileError::Names(number));
            }
            for filter in [&rule.includes, &rule.excludes].into_iter().flatten() {
                if let Some(version) = filter.min_kernel.as_deref().filter(|v| !v.is_empty()) {
                    kernel_version(version).ok_or_else(|| ProfileError::MinKernel(version.to_owned()))?;
                }
            }
        }
        Ok(profile)
    }

    /// The filter that this profile is under these circumstances.
    ///
    /// # Errors
    /// [`ProfileError::Errno`].
    pub fn resolve(&self, circumstances: &Circumstances<'_>) -> Result<LinuxSeccomp, ProfileError> {
        let errno = |name: &Option<String>, number: Option<u32>| match name.as_deref() {
            None | Some("") => Ok(number),
            Some(name) => errno::number(name)
                .map(Some)
                .ok_or_else(|| ProfileError::Errno(name.to_owned())),
        };
        let architectures = match &self.arch_map {
            None => self.architectures.clone(),
            Some(map) => {
                let own = circumstances.native.arch();
                let entry = map.iter().find(|entry| entry.architecture == own);
                entry.map(|entry| {
                    let below = entry.sub_architectures.iter().flatten().copied();
                    std::iter::once(entry.architecture).chain(below).collect()
                })
            }
        };
        let mut rules = Vec::new();
        for rule in self
            .syscalls
            .iter()
            .flatten()
            .filter(|rule| rule.applies(circumstances))
        {
            let mut syscall = LinuxSyscall::default();
            let names = rule.names.clone().filter(|names| !names.is_empty());
            syscall.set_names(names.unwrap_or_else(|| rule.name.clone().into_iter().collect()));
            syscall
                .set_action(rule.action)
                .set_errno_ret(errno(&rule.errno, rule.errno_ret)?);
            syscall.set_args(rule.args.clone().filter(|args| !args.is_empty()));
            rules.push(syscall);
        }
        let mut seccomp = LinuxSeccomp::default();
        seccomp
            .set_default_action(self.default_action)
            .set_default_errno_ret(errno(&self.default_errno, self.default_errno_ret)?)
            .set_architectures(architectures)
            .set_flags(self.flags.clone())
            .set_listener_path(self.listener_path.clone())
            .set_listener_metadata(self.listener_metadata.clone())
            .set_syscalls(Some(rules));
        Ok(seccomp)
    }
}

impl Rule {
    /// Docker's order: excluded when anything of `excludes` fits; otherwise all of `includes` must.
    fn applies(&self, circumstances: &Circumstances<'_>) -> bool {
        let machine = circumstances.native.goarch();
        let new_enough =
            |version: &String| kernel_version(version).is_some_and(|v| circumstances.kernel >= v);
        let versions = |filter: &Filter| filter.min_kernel.clone().filter(|v| !v.is_empty());
        if let Some(out) = &self.excludes
            && (out.arches.iter().flatten().any(|arch| arch == machine)
                || out.caps.iter().flatten().any(|cap| holds(circumstances, cap))
                || versions(out).is_some_and(|version| new_enough(&version)))
        {
            return false;
        }
        let Some(only) = &self.includes else { return true };
        let arches = only.arches.as_ref().filter(|arches| !arches.is_empty());
        arches.is_none_or(|arches| arches.iter().any(|arch| arch == machine))
            && only.caps.iter().flatten().all(|cap| holds(circumstances, cap))
            && versions(only).is_none_or(|version| new_enough(&version))
    }
}

/// A capability that has no name here is held by nobody.
fn holds(circumstances: &Circumstances<'_>, name: &str) -> bool {
    let plain = name.strip_prefix("CAP_").unwrap_or(name);
    plain
        .parse()
        .is_ok_and(|capability: Capability| circumstances.capabilities.contains(&capability))
}

/// `4.8` → (4, 8).
fn kernel_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str, caps: &[Capability]) -> LinuxSeccomp {
        let capabilities = caps.iter().copied().collect();
        let circumstances = Circumstances {
            capabilities: &capabilities,
            kernel: (6, 1),
            native: Abi::X86_64,
        };
        Profile::parse(text).unwrap().resolve(&circumstances).unwrap()
    }

    fn names(seccomp: &LinuxSeccomp) -> Vec<&str> {
        seccomp
            .syscalls()
            .iter()
            .flatten()
            .flat_map(|rule| rule.names())
            .map(String::as_str)
            .collect()
    }

    const CONDITIONAL: &str = r#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "defaultErrno": "EPERM",
        "archMap": [
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}],
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "", "includes": {}, "excludes": {}},
            {"name": "write", "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "errno": "EINVAL"},
            {"names": ["chroot"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_CHROOT"]}},
            {"names": ["both"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_CHROOT", "CAP_CHOWN"]}},
            {"names": ["nochroot"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_SYS_CHROOT", "CAP_CHOWN"]}},
            {"names": ["arm"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm", "arm64"]}},
            {"names": ["notamd"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["amd64"]}},
            {"names": ["old"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["new"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.10"}},
            {"names": ["future"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_FLY"]}}
        ]}"#;

    #[test]
    fn rules_apply_by_capability_machine_and_kernel() {
        let without = resolve(CONDITIONAL, &[]);
        assert_eq!(names(&without), ["read", "write", "nochroot", "old"]);
        assert_eq!(
            names(&resolve(CONDITIONAL, &[Capability::SysChroot])),
            ["read", "write", "chroot", "old"]
        );
        let both = [Capability::SysChroot, Capability::Chown];
        assert_eq!(
            names(&resolve(CONDITIONAL, &both)),
            ["read", "write", "chroot", "both", "old"]
        );
        let wanted = [Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32];
        assert_eq!(without.architectures().as_deref(), Some(wanted.as_slice()));
        assert_eq!(without.default_errno_ret(), Some(1));
        assert_eq!(without.syscalls().as_ref().unwrap()[1].errno_ret(), Some(22));
    }

    #[test]
    fn a_plain_oci_filter_is_a_profile() {
        let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [{"names": ["kill"], "action": "SCMP_ACT_KILL", "args": [{"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}]}]}"#;
        let seccomp = resolve(text, &[]);
        assert_eq!(serde_json::from_str::<LinuxSeccomp>(text).unwrap(), seccomp);
    }

    #[test]
    fn bad_profiles_are_refused() {
        for (text, says) in [
            ("", "not a seccomp profile"),
            ("[]", "not a seccomp profile"),
            (r#"{"syscalls": []}"#, "defaultAction"),
            (r#"{"defaultAction": "SCMP_ACT_EXPLODE"}"#, "SCMP_ACT_EXPLODE"),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "MAYBE"}]}"#,
                "MAYBE",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_KILL"}]}"#,
                "rule 0",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "a", "names": ["b"], "action": "SCMP_ACT_KILL"}]}"#,
                "rule 0",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "archMap": [{"architecture": "SCMP_ARCH_X86"}]}"#,
                "exclude",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "a", "action": "SCMP_ACT_KILL", "includes": {"minKernel": "new"}}]}"#,
                "minKernel",
            ),
        ] {
            let error = Profile::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        let profile =
            Profile::parse(r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "EWHAT"}"#).unwrap();
        let none = HashSet::new();
        let circumstances = Circumstances {
            capabilities: &none,
            kernel: (6, 1),
            native: Abi::X86_64,
        };
        assert!(
            profile
                .resolve(&circumstances)
                .unwrap_err()
                .to_string()
                .contains("EWHAT")
        );
    }
}
