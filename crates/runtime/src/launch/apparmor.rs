//! AppArmor: `process.apparmorProfile`, looked for before anything is made, taken on when the program is executed; and what
//! the machine has of it.

use oci_spec::runtime::Process;

use super::fault::{During, Fault, Result};
use super::sysctl::Proc;

const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";

/// Lines `NAME (MODE)`: every profile of the machine's own policy. There only where securityfs is mounted.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";

/// Whether the kernel confines by profiles.
pub fn is_enabled() -> bool {
    std::fs::read_to_string(ENABLED).is_ok_and(|text| text.trim() == "Y")
}

/// Whether the kernel is seen to have the profile of that name.
pub fn is_loaded(profile: &str) -> bool {
    std::fs::read_to_string(LOADED).is_ok_and(|loaded| lists(&loaded, profile))
}

/// The profile that the process is to be under; none where the spec names none.
pub(super) fn wanted(process: &Process) -> Option<&str> {
    let profile = process.apparmor_profile().as_deref();
    profile.filter(|profile| !profile.is_empty())
}

/// Refuses a profile that the kernel does not have. Where its list cannot be read, [`at_exec`] finds out.
pub(super) fn check(profile: &str) -> Result<()> {
    if !is_enabled() {
        return Err(Fault::new(format!(
            "AppArmor profile {profile:?}: AppArmor is not enabled on this machine"
        )));
    }
    match std::fs::read_to_string(LOADED) {
        Ok(loaded) if is_plain(profile) && !lists(&loaded, profile) => Err(not_loaded(profile)),
        _ => Ok(()),
    }
}

/// Whether it is the name of one profile, which the list holds if it is loaded: neither the word for none, nor a
/// profile of another policy namespace (`:ns:name`), nor a stack of several (`a//&b`).
fn is_plain(profile: &str) -> bool {
    profile != "unconfined" && !profile.starts_with([':', '&']) && !profile.contains("//&")
}

fn lists(loaded: &str, profile: &str) -> bool {
    // A name may itself have a parenthesis in it.
    loaded
        .lines()
        .any(|line| line.rsplit_once(" (").map_or(line, |(name, _)| name) == profile)
}

fn not_loaded(profile: &str) -> Fault {
    Fault::new(format!(
        "AppArmor profile {profile:?} is not loaded (apparmor_parser -r FILE loads one)"
    ))
}

/// Sets the profile that the next exec changes to.
pub(super) fn at_exec(proc: &Proc, profile: &str) -> Result<()> {
    write(proc, "exec", "exec", profile)
}

/// Changes the calling process to the profile, without an exec.
pub(super) fn now(proc: &Proc, profile: &str) -> Result<()> {
    write(proc, "current", "changeprofile", profile)
}

/// Writes through the host's procfs, opened and checked before anything of the container's could be in its place
/// (CVE-2025-52881).
fn write(proc: &Proc, file: &str, command: &str, profile: &str) -> Result<()> {
    let value = format!("{command} {profile}");
    let written = match proc.write(&format!("thread-self/attr/apparmor/{file}"), &value) {
        // Kernels before 5.8 have the file that all security modules share.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            proc.write(&format!("thread-self/attr/{file}"), &value)
        }
        other => other,
    };
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(not_loaded(profile)),
        other => other.during(|| format!("AppArmor profile {profile:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_names_profiles_and_modes() {
        let loaded = "lsb_release (enforce)\nodd (name) (complain)\n/usr/bin/man//filter (enforce)\n";
        for name in ["lsb_release", "odd (name)", "/usr/bin/man//filter"] {
            assert!(lists(loaded, name), "{name}");
        }
        for name in ["lsb", "enforce", "odd", ""] {
            assert!(!lists(loaded, name), "{name}");
        }
    }

    #[test]
    fn what_no_list_holds_is_left_to_the_kernel() {
        assert!(is_plain("a//b"));
        for name in ["unconfined", ":ns:a", "a//&b", "&b"] {
            assert!(!is_plain(name), "{name}");
        }
    }
}
