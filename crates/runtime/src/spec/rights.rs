//! What a container may do: capabilities, the system call filter, hidden paths, kernel parameters.

use std::collections::HashMap;

use oci_spec::runtime::{Capability, LinuxCapabilities, LinuxSeccomp};

use super::{Capabilities, Host, SpecError, defaults};
use crate::options::ContainerOptions;
use crate::options::container::{SeccompChoice, Unmask};
use crate::options::namespaces::NamespaceOption;
use crate::options::security::CapabilityOption;
use crate::seccomp::{Circumstances, Profile, default_profile, keep_project};

/// The capabilities of a container, and those among them that the user named.
pub(super) struct Granted {
    pub(super) granted: Capabilities,
    named: Capabilities,
}

/// Docker's rule: `--cap-add ALL` begins with all that there are and `--cap-drop ALL` with none, otherwise the default
/// ones; those dropped go, those added come.
pub(super) fn capabilities(options: &ContainerOptions, host: &Host) -> Result<Granted, SpecError> {
    let all = |list: &[CapabilityOption]| list.contains(&CapabilityOption::All);
    let one = |list: &[CapabilityOption]| -> Capabilities {
        let each = list.iter().filter_map(|option| match option {
            CapabilityOption::All => None,
            CapabilityOption::One(capability) => Some(*capability),
        });
        each.collect()
    };
    let (mut named, dropped) = (one(&options.cap_add), one(&options.cap_drop));
    if let Some(missing) = named
        .iter()
        .find(|capability| !host.capabilities.contains(capability))
    {
        return Err(SpecError::CapabilityMissing(*missing));
    }
    if let Some(both) = named.intersection(&dropped).next() {
        let why = "the same capability is added and dropped";
        let (one, other) = (format!("--cap-add {both}"), format!("--cap-drop {both}"));
        return Err(SpecError::Conflict { one, other, why });
    }
    let mut granted: Capabilities = if all(&options.cap_add) {
        named = host.capabilities.clone();
        host.capabilities.clone()
    } else if all(&options.cap_drop) {
        Capabilities::new()
    } else if options.privileged {
        host.capabilities.clone()
    } else {
        defaults::CAPABILITIES
            .into_iter()
            .filter(|capability| host.capabilities.contains(capability))
            .collect()
    };
    granted.extend(&named);
    let keep = |capability: &Capability| !dropped.contains(capability);
    granted.retain(keep);
    named.retain(keep);
    Ok(Granted { granted, named })
}

impl Granted {
    /// The five sets. Root has all of them at once. Another user has, as with podman, those that were asked for by name,
    /// ambient so that they survive the start of a program; the others it can gain by set-user-ID programs alone.
    /// Nothing is inheritable for root, so that a file's inheritable capabilities give nothing (CVE-2022-24769).
    pub(super) fn sets(&self, root: bool) -> LinuxCapabilities {
        let (now, ambient) = if root {
            (&self.granted, Capabilities::new())
        } else {
            (&self.named, self.named.clone())
        };
        let mut sets = LinuxCapabilities::default();
        sets.set_bounding(Some(self.granted.clone()))
            .set_effective(Some(now.clone()))
            .set_permitted(Some(now.clone()))
            .set_inheritable(Some(ambient.clone()))
            .set_ambient(Some(ambient));
        sets
    }
}

/// The filter of a container whose bounding set is `bounding`.
pub(super) fn seccomp(
    options: &ContainerOptions,
    host: &Host,
    bounding: &Capabilities,
) -> Result<Option<LinuxSeccomp>, SpecError> {
    let profile = match &options.seccomp {
        SeccompChoice::Unconfined => return Ok(None),
        SeccompChoice::Default if options.privileged => return Ok(None),
        SeccompChoice::Default | SeccompChoice::Always => None,
        SeccompChoice::Profile { path, text } => Some((path, text)),
    };
    let native = host.abi.ok_or(SpecError::UnknownMachine)?;
    let Some((path, text)) = profile else {
        let mut profile = default_profile(bounding);
        if options.storage_size.is_some() {
            keep_project(&mut profile);
        }
        return Ok(Some(profile));
    };
    let circumstances = Circumstances {
        capabilities: bounding,
        kernel: host.kernel,
        native,
    };
    let resolved = Profile::parse(text).and_then(|profile| profile.resolve(&circumstances));
    resolved.map(Some).map_err(|source| SpecError::Seccomp {
        path: path.clone(),
        source,
    })
}

/// The paths that are masked, and those that are read-only.
pub(super) fn hidden_paths(options: &ContainerOptions, host: &Host) -> (Vec<String>, Vec<String>) {
    let mut masked: Vec<String> = defaults::MASKED.map(str::to_owned).to_vec();
    masked.extend(host.thermal.iter().cloned());
    let mut readonly: Vec<String> = defaults::READONLY.map(str::to_owned).to_vec();
    match &options.unmask {
        _ if options.privileged => {
            masked.clear();
            readonly.clear();
        }
        Unmask::Everything => {
            masked.clear();
            readonly.clear();
        }
        Unmask::Nothing => {}
        Unmask::Paths(paths) => {
            let stays = |hidden: &String| {
                !paths
                    .iter()
                    .any(|path| std::path::Path::new(hidden).starts_with(path))
            };
            masked.retain(stays);
            readonly.retain(stays);
        }
    }
    masked.extend(options.mask.iter().cloned());
    (masked, readonly)
}

/// The kernel parameters, each judged by the namespace it belongs to: the host's own are not to be changed.
pub(super) fn sysctls(options: &ContainerOptions, host: &Host) -> Result<HashMap<String, String>, SpecError> {
    let own = |namespace: &NamespaceOption| !matches!(namespace, NamespaceOption::Host);
    let mut sysctls = HashMap::new();
    if matches!(options.network, NamespaceOption::Private) {
        let (key, value) = defaults::LOW_PORTS;
        sysctls.insert(key.to_owned(), value.to_owned());
        // As far as there are groups: the kernel takes no other.
        let groups = format!("0 {}", host.highest_group().min(defaults::LAST_GROUP));
        sysctls.insert(defaults::PING_GROUPS.to_owned(), groups);
    }
    for (key, value) in &options.sysctls {
        let wrong = |problem| SpecError::Sysctl {
            key: key.clone(),
            problem,
        };
        if key.starts_with("net.") {
            if !own(&options.network) {
                return Err(wrong("it belongs to the network namespace, which is the host's"));
            }
        } else if defaults::IPC_SYSCTLS.contains(&key.as_str()) || key.starts_with("fs.mqueue.") {
            if !own(&options.ipc) {
                return Err(wrong("it belongs to the IPC namespace, which is the host's"));
            }
        } else if key == "kernel.domainname" {
            if !own(&options.uts) {
                return Err(wrong("it belongs to the UTS namespace, which is the host's"));
            }
        } else if key == "kernel.hostname" {
            return Err(wrong("use --hostname"));
        } else {
            return Err(wrong(
                "the kernel has it once for the whole machine, not per container",
            ));
        }
        sysctls.insert(key.clone(), value.clone());
    }
    Ok(sysctls)
}
