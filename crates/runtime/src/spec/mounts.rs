//! The mounts of a container: the default ones, the user's, and files bound over the root's own.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;

use super::{Context, SpecError, defaults};
use crate::options::ContainerOptions;
use crate::options::mounts::MountKind;
use crate::options::namespaces::NamespaceOption;

/// The group of terminals (tty), which devpts is told.
const TERMINALS: u32 = 5;

/// All mounts, in the order in which they are made.
pub(super) fn mounts(options: &ContainerOptions, context: &Context<'_>) -> Result<Vec<Mount>, SpecError> {
    let asked = |path: &Path| options.mounts.iter().any(|mount| mount.destination == path);
    let mut mounts = Vec::new();
    for (destination, kind, source, words) in defaults::MOUNTS {
        let destination = Path::new(destination);
        // The user's own at the same place is instead of it, and over /dev hides what would lie below.
        if asked(destination) || (destination.starts_with("/dev") && asked(Path::new("/dev"))) {
            continue;
        }
        let mut words: Vec<String> = words.split(',').map(str::to_owned).collect();
        if kind == "devpts" && context.host.highest_group() < TERMINALS {
            words.retain(|word| !word.starts_with("gid="));
        }
        // A new one of these is given to the owner of the namespace that it shows. Where that is the machine's, the
        // machine's own is bound, read-only with all beneath it where it was to be so.
        let shown = match kind {
            "sysfs" => &options.network,
            "proc" => &options.pid,
            "mqueue" => &options.ipc,
            _ => &NamespaceOption::Private,
        };
        if context.host.ids.is_some() && *shown == NamespaceOption::Host {
            if kind == "mqueue" && !destination.exists() {
                // The machine shows its queues nowhere.
                continue;
            }
            let read_only = !options.privileged && words.iter().any(|word| word == "ro");
            words.retain(|word| word != "ro");
            words.insert(0, "rbind".to_owned());
            words.extend(read_only.then(|| "rro".to_owned()));
            mounts.push(mount(destination, "bind", destination, words));
            continue;
        }
        let shared = match destination.to_str() {
            // The queues need none of this: a new mount shows those of the namespace that it is made in.
            Some("/dev/shm") => ipc_source(&options.ipc, destination),
            _ => None,
        };
        if let Some(source) = shared {
            words.retain(|word| !word.contains('='));
            words.insert(0, "rbind".to_owned());
            mounts.push(mount(destination, "bind", &source, words));
            continue;
        }
        if destination == Path::new("/dev/shm") {
            words.push(format!("size={}", options.shm_size.unwrap_or(defaults::SHM_SIZE)));
        }
        if options.privileged {
            words.retain(|word| word != "ro");
        }
        mounts.push(mount(destination, kind, Path::new(source), words));
    }
    if options.shm_size.is_some() && !matches!(options.ipc, NamespaceOption::Private) {
        let why = "/dev/shm is then another's";
        return Err(SpecError::Conflict {
            one: "--shm-size".into(),
            other: "--ipc".into(),
            why,
        });
    }

    let first = mounts.len();
    for (source, destination) in context
        .files
        .iter()
        .filter(|(_, destination)| !asked(destination))
    {
        let access = if options.read_only { "ro" } else { "rw" };
        let words = ["rbind", access, "rprivate"].map(str::to_owned).to_vec();
        mounts.push(mount(destination, "bind", source, words));
    }
    for (at, one) in options.mounts.iter().enumerate() {
        if options.mounts[..at]
            .iter()
            .any(|other| other.destination == one.destination)
        {
            return Err(SpecError::MountTwice(one.destination.clone()));
        }
        mounts.push(match &one.kind {
            MountKind::Bind { source } => mount(&one.destination, "bind", source, one.options.clone()),
            MountKind::Tmpfs => mount(&one.destination, "tmpfs", Path::new("tmpfs"), one.options.clone()),
        });
    }
    // A mount lies on the ones above it, so those come first, the user's /etc before our /etc/hosts; the user's order
    // holds among equals.
    mounts[first..].sort_by_key(|mount| mount.destination().components().count());
    Ok(mounts)
}

/// Where the memory that is shared within an IPC namespace is bound from, when that is not the container's own.
fn ipc_source(ipc: &NamespaceOption, destination: &Path) -> Option<PathBuf> {
    match ipc {
        NamespaceOption::Host => Some(destination.to_owned()),
        NamespaceOption::Joined(joined) => {
            let root = joined.root.as_ref()?;
            Some(root.join(destination.strip_prefix("/").unwrap_or(destination)))
        }
        NamespaceOption::Private | NamespaceOption::Container(_) => None,
    }
}

/// A mount that passes mounts on, or takes them from the host, needs a root that lets them through.
pub(super) fn propagation(options: &ContainerOptions) -> Option<String> {
    let any = |words: [&str; 2]| {
        let mut all = options.mounts.iter().flat_map(|mount| &mount.options);
        all.any(|option| words.contains(&option.as_str()))
    };
    match (any(["shared", "rshared"]), any(["slave", "rslave"])) {
        (true, _) => Some("rshared".to_owned()),
        (false, true) => Some("rslave".to_owned()),
        (false, false) => None,
    }
}

fn mount(destination: &Path, kind: &str, source: &Path, options: Vec<String>) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.to_owned())
        .set_typ(Some(kind.to_owned()));
    mount
        .set_source(Some(source.to_owned()))
        .set_options(Some(options));
    mount
}
