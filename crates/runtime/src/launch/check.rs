//! What this launcher does not do is refused by name before anything is made: no field of a spec is passed over in
//! silence.

use oci_spec::runtime::{Process, Spec};
use sys::process::namespaces as kind;

use super::fault::{About, Fault, Result};
use super::namespaces::Namespaces;
use super::{apparmor, listener, memory_policy, net_devices, selinux};
use crate::control::Concern;

/// Refuses what cannot be done, and specs that contradict themselves.
pub(super) fn check(spec: &Spec, namespaces: &Namespaces) -> Result<()> {
    let refuse = |what: &str| Err(Fault::new(format!("{what} is not supported")));
    if spec.vm().is_some() || spec.windows().is_some() || spec.solaris().is_some() || spec.zos().is_some() {
        return refuse("a configuration for another platform (vm, windows, solaris, zos)");
    }
    if !spec.version().starts_with("1.") {
        return refuse(&format!("ociVersion {:?}", spec.version()));
    }
    if let Some(process) = spec.process() {
        check_process(process)?;
    }
    for (what, kind, given) in [
        ("hostname", kind::UTS, spec.hostname().is_some()),
        ("domainname", kind::UTS, spec.domainname().is_some()),
    ] {
        if given && !namespaces.has(kind) {
            return Err(Fault::new(format!(
                "{what} is set, but the container shares the host's uts namespace"
            )));
        }
    }
    let Some(linux) = spec.linux() else {
        return Ok(());
    };
    if linux.intel_rdt().is_some() {
        return refuse("linux.intelRdt");
    }
    memory_policy::check(linux)?;
    net_devices::check(spec, namespaces)?;
    if let Some(label) = selinux::of_mounts(Some(linux)) {
        selinux::check("linux.mountLabel", label)?;
    }
    if let Some(seccomp) = linux.seccomp() {
        listener::check(seccomp)?;
        if listener::notifies(seccomp) && super::wants_init(spec) {
            return refuse("a seccomp filter that notifies beside an init process (--init)");
        }
    }
    let mapped = linux.uid_mappings().as_ref().is_some_and(|maps| !maps.is_empty());
    if mapped && !namespaces.makes(kind::USER) {
        return Err(Fault::new("linux.uidMappings without a new user namespace"));
    }
    if namespaces.makes(kind::USER) && !mapped {
        return Err(Fault::new("a new user namespace without linux.uidMappings"));
    }
    if linux.time_offsets().is_some() && !namespaces.makes(kind::TIME) {
        return Err(Fault::new("linux.timeOffsets without a new time namespace"));
    }
    if let Some(propagation) = linux.rootfs_propagation()
        && super::options::propagation(propagation).is_none()
    {
        return Err(Fault::new(format!("rootfsPropagation {propagation:?} is none")));
    }
    Ok(())
}

/// What can be told of a process by itself.
pub(super) fn check_process(process: &Process) -> Result<()> {
    if !process.cwd().is_absolute() {
        let text = format!("working directory {:?} is not absolute", process.cwd().display());
        return Err(Fault::new(text).about(Concern::Directory));
    }
    if let Some(label) = selinux::wanted(process) {
        selinux::check("process.selinuxLabel", label)?;
    }
    if let Some(profile) = apparmor::wanted(process) {
        apparmor::check(profile).about(Concern::Apparmor)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<()> {
        let spec: Spec = serde_json::from_str(text).unwrap();
        check(&spec, &Namespaces::of(&spec).unwrap())
    }

    #[test]
    fn what_is_not_done_is_refused() {
        let spec = |linux: &str, rest: &str| {
            format!(r#"{{"ociVersion":"1.2.0","linux":{{"namespaces":[{{"type":"mount"}}]{linux}}}{rest}}}"#)
        };
        checked(&spec("", "")).unwrap();
        for (linux, rest, says) in [
            (r#","intelRdt":{}"#, "", "intelRdt"),
            (
                r#","memoryPolicy":{"mode":"MPOL_BIND","nodes":"x"}"#,
                "",
                "memoryPolicy",
            ),
            (r#","netDevices":{"eth1":{}}"#, "", "netDevices"),
            (r#","rootfsPropagation":"sideways""#, "", "sideways"),
            (
                r#","uidMappings":[{"hostID":1,"containerID":0,"size":1}]"#,
                "",
                "user namespace",
            ),
            ("", r#","hostname":"x""#, "uts"),
            (
                "",
                r#","process":{"cwd":"tmp","user":{"uid":0,"gid":0}}"#,
                "absolute",
            ),
        ] {
            let fault = checked(&spec(linux, rest)).unwrap_err();
            assert!(fault.text.contains(says), "{fault}");
        }
        assert!(checked(r#"{"ociVersion":"2.0.0","linux":{"namespaces":[{"type":"mount"}]}}"#).is_err());
    }
}
