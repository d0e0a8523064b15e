//! AppArmor's default profile: a second wall behind capabilities, filter, and hidden and read-only paths.
//!
//! A profile is text that `apparmor_parser` compiles for the running kernel. The first container that needs it has it
//! loaded; it stays until the machine goes down.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use runtime::apparmor;

use super::ConfineError;

/// Where the compiler lies (Debian's package `apparmor`).
const PARSERS: [&str; 2] = ["/usr/sbin/apparmor_parser", "/sbin/apparmor_parser"];

/// What says which of the newer kernels' rules a text that names none of them is silent about, and which it denies.
const ABI: &str = "/etc/apparmor.d/abi/3.0";

/// Where the kernel takes policy, if securityfs is mounted: in a container that has a machine's rights it often is not.
const POLICY: &str = "/sys/kernel/security/apparmor";

/// Another text has another name: one that is loaded is not looked into.
const NAME: &str = concat!("strata-default-", env!("CARGO_PKG_VERSION"));

/// Everything is allowed but what is not said, and what is denied: mounting; the kernel's own files in /proc and /sys but
/// those of processes, of the network's, message queues' and shared memory's values, and of cgroups; to signal and trace
/// processes that are under no such profile. Alternatives begin with the letters that no allowed name begins with.
const RULES: &str = "\
  file,
  capability,
  network,
  unix,
  signal (receive),
  signal (send) peer=@NAME@,
  ptrace (readby, tracedby),
  ptrace (read, trace) peer=@NAME@,

  deny mount,
  deny remount,
  deny umount,
  deny pivot_root,
  deny /proc/{[^0-9s],s[^y],sy[^s],sys[^/]}** wkl,
  deny /proc/sys/{[^kn],n[^e],k[^e],ke[^r],kernel/[^sm],kernel/s[^eh],kernel/se[^m],kernel/m[^s]}** wkl,
  deny /sys/{[^f],f[^s],fs/[^c],fs/c[^g]}** wkl,
  deny /proc/{kcore,kmem,mem} r,
  deny /sys/firmware/** r,
  deny /sys/kernel/security/** r,
";

/// The profile of a container that asks for none; none where the kernel has no AppArmor, where its policy is not this
/// caller's to load (an ordinary user's, or securityfs is not mounted), or where nothing on the machine compiles one.
pub(super) fn default_profile() -> Result<Option<String>, ConfineError> {
    if !apparmor::is_enabled() || !may_load() || !Path::new(POLICY).exists() {
        return Ok(None);
    }
    if !apparmor::is_loaded(NAME) {
        let Some(program) = parser() else {
            return Ok(None);
        };
        load(program)?;
    }
    Ok(Some(NAME.to_owned()))
}

/// Which containers have it.
pub(super) fn tells() -> &'static str {
    match (may_load(), parser()) {
        (true, Some(_)) => "containers have a profile; others can be asked for",
        (true, None) => "profiles can be asked for; none by default without apparmor_parser",
        (false, _) => "profiles can be asked for; none by default, which only root can load",
    }
}

fn parser() -> Option<&'static Path> {
    PARSERS.map(Path::new).into_iter().find(|path| path.exists())
}

fn may_load() -> bool {
    let machines = sys::ids::Ids::own().is_ok_and(|ids| ids.are_the_machines());
    machines
        && sys::caps::current().is_ok_and(|own| own.effective.names().any(|name| name == "CAP_MAC_ADMIN"))
}

fn load(program: &Path) -> Result<(), ConfineError> {
    let run = || -> io::Result<_> {
        let mut parser = Command::new(program)
            .args(["--replace", "--skip-cache"])
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = parser.stdin.take() {
            stdin.write_all(text(Path::new(ABI).exists()).as_bytes())?;
        }
        parser.wait_with_output()
    };
    let output = run().map_err(|source| ConfineError::Program {
        program: program.to_owned(),
        source,
    })?;
    if output.status.success() {
        return Ok(());
    }
    let says = String::from_utf8_lossy(&output.stderr);
    Err(ConfineError::Profile {
        program: program.to_owned(),
        says: says.split_whitespace().collect::<Vec<_>>().join(" "),
    })
}

fn text(has_abi: bool) -> String {
    let abi = if has_abi { "abi <abi/3.0>,\n" } else { "" };
    let rules = RULES.replace("@NAME@", NAME);
    format!("{abi}profile {NAME} flags=(attach_disconnected, mediate_deleted) {{\n{rules}}}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel is not asked: AppArmor's own compiler reads the text.
    #[test]
    fn apparmor_parser_reads_it() {
        let program = parser().expect("apparmor_parser (package apparmor)");
        for has_abi in [false, true] {
            let mut parser = Command::new(program)
                .args(["--skip-kernel-load", "--skip-cache", "--names"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdin = parser.stdin.take().unwrap();
            stdin.write_all(text(has_abi).as_bytes()).unwrap();
            drop(stdin);
            let output = parser.wait_with_output().unwrap();
            assert!(output.status.success(), "{output:?}");
            assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{NAME}\n"));
        }
    }
}
