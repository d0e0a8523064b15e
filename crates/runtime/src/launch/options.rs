//! Options of a mount, as the OCI runtime spec lists them ("Linux mount options"), taken apart.

use oci_spec::runtime::Mount;
use rustix::mount::MountAttrFlags;
use sys::mount::SetAttr;

/// The bits of the access-time mode, to be cleared when another is set.
const ATIME: u64 = MountAttrFlags::MOUNT_ATTR__ATIME.bits() as u64;
const RDONLY: u64 = MountAttrFlags::MOUNT_ATTR_RDONLY.bits() as u64;
const NOSUID: u64 = MountAttrFlags::MOUNT_ATTR_NOSUID.bits() as u64;
pub(super) const NODEV: u64 = MountAttrFlags::MOUNT_ATTR_NODEV.bits() as u64;
const NOEXEC: u64 = MountAttrFlags::MOUNT_ATTR_NOEXEC.bits() as u64;
const NOATIME: u64 = MountAttrFlags::MOUNT_ATTR_NOATIME.bits() as u64;
const STRICTATIME: u64 = MountAttrFlags::MOUNT_ATTR_STRICTATIME.bits() as u64;
const NODIRATIME: u64 = MountAttrFlags::MOUNT_ATTR_NODIRATIME.bits() as u64;
const NOSYMFOLLOW: u64 = 0x0020_0000;

/// Options of a file system as a whole, which the kernel takes for any. A bind mount has none of its own: as with mount(2), they
/// change nothing there.
const SUPERBLOCK: [&str; 7] = [
    "async",
    "dirsync",
    "lazytime",
    "mand",
    "nolazytime",
    "nomand",
    "sync",
];

/// The same that some take by these names, and others do or do not whatever is said.
const ACCESS_LISTS: [&str; 2] = ["acl", "noacl"];

/// File systems that know no such names.
const WITHOUT_ACCESS_LISTS: [&str; 7] = ["tmpfs", "proc", "sysfs", "mqueue", "devpts", "cgroup", "cgroup2"];

/// What the options of one mount add up to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options<'s> {
    /// A bind mount; with the mounts beneath it if true.
    pub(super) bind: Option<bool>,
    /// What is mounted there already is changed.
    pub(super) remount: bool,
    /// The mount has an id mapping; with the mounts beneath it if true.
    pub(super) id_mapped: Option<bool>,
    /// Attributes of the mount itself.
    pub(super) own: Attributes,
    /// Attributes of it and all beneath it (`rro`, …).
    pub(super) recursive: Attributes,
    /// Propagation of the mount itself: `MS_PRIVATE`, …
    pub(super) propagation: u64,
    /// Propagation of it and all beneath it.
    pub(super) recursive_propagation: u64,
    /// The mounted-over directory's contents are copied into the new tmpfs.
    pub(super) copy_up: bool,
    /// What is for the file system: `size=64m`, `newinstance`.
    pub(super) data: Vec<&'s str>,
}

/// Attributes turned on and off.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) set: u64,
    pub(super) clear: u64,
}

impl Attributes {
    pub(super) fn turn(&mut self, bits: u64, on: bool) {
        if on {
            self.set |= bits;
            self.clear &= !bits;
        } else {
            self.clear |= bits;
            self.set &= !bits;
        }
    }

    /// The access-time modes exclude each other.
    fn access_time(&mut self, mode: u64) {
        self.clear |= ATIME;
        self.set = self.set & !ATIME | mode;
    }

    /// As `mount_setattr` takes them, with a new propagation; `None` where there is nothing to change.
    pub(super) fn change(self, propagation: u64) -> Option<SetAttr<'static>> {
        let nothing = self == Attributes::default() && propagation == 0;
        (!nothing).then_some(SetAttr {
            set: self.set,
            clear: self.clear,
            propagation,
            idmap: None,
        })
    }
}

/// Reads the name of a propagation type: its `MS_*` bit, and whether it is recursive.
pub(super) fn propagation(name: &str) -> Option<(u64, bool)> {
    let (name, recursive) = match name.strip_prefix('r') {
        Some(rest) => (rest, true),
        None => (name, false),
    };
    let bit = match name {
        "private" => rustix::mount::MountPropagationFlags::PRIVATE,
        "shared" => rustix::mount::MountPropagationFlags::SHARED,
        "slave" => rustix::mount::MountPropagationFlags::DOWNSTREAM,
        "unbindable" => rustix::mount::MountPropagationFlags::UNBINDABLE,
        _ => return None,
    };
    Some((bit.bits().into(), recursive))
}

/// Reads the options of a mount, without those that mean nothing where it is of this type.
pub(super) fn of(mount: &Mount) -> Options<'_> {
    let mut parsed = parse(mount.options().as_deref().unwrap_or_default());
    let kind = mount.typ().as_deref().unwrap_or("none");
    let binds = parsed.bind.is_some() || kind == "bind";
    parsed.data.retain(|option| {
        let whole = SUPERBLOCK.contains(option) && binds;
        let lists = ACCESS_LISTS.contains(option) && (binds || WITHOUT_ACCESS_LISTS.contains(&kind));
        !whole && !lists
    });
    parsed
}

/// Reads the options of a mount.
pub(super) fn parse(options: &[String]) -> Options<'_> {
    let mut parsed = Options::default();
    for option in options.iter().map(String::as_str) {
        if let Some((bit, recursive)) = propagation(option) {
            let place = if recursive {
                &mut parsed.recursive_propagation
            } else {
                &mut parsed.propagation
            };
            *place = bit;
            continue;
        }
        if attribute(&mut parsed.own, option) {
            continue;
        }
        if let Some(rest) = option.strip_prefix('r')
            && attribute(&mut parsed.recursive, rest)
        {
            continue;
        }
        match option {
            "bind" => parsed.bind = parsed.bind.or(Some(false)),
            "rbind" => parsed.bind = Some(true),
            // How much the kernel logs of a mount, and whether a file system counts changes of inodes, is not to be told by the
            // calls that mount here.
            "defaults" | "" | "silent" | "loud" | "iversion" | "noiversion" => {}
            "tmpcopyup" => parsed.copy_up = true,
            "remount" => parsed.remount = true,
            "idmap" => parsed.id_mapped = parsed.id_mapped.or(Some(false)),
            "ridmap" => parsed.id_mapped = Some(true),
            data => parsed.data.push(data),
        }
    }
    parsed
}

/// Applies one option without its `r`; false when it is no attribute. The names of mount(8).
fn attribute(attributes: &mut Attributes, option: &str) -> bool {
    match option {
        "ro" => attributes.turn(RDONLY, true),
        "rw" => attributes.turn(RDONLY, false),
        "nosuid" => attributes.turn(NOSUID, true),
        "suid" => attributes.turn(NOSUID, false),
        "nodev" => attributes.turn(NODEV, true),
        "dev" => attributes.turn(NODEV, false),
        "noexec" => attributes.turn(NOEXEC, true),
        "exec" => attributes.turn(NOEXEC, false),
        "nosymfollow" => attributes.turn(NOSYMFOLLOW, true),
        "symfollow" => attributes.turn(NOSYMFOLLOW, false),
        "nodiratime" => attributes.turn(NODIRATIME, true),
        "diratime" => attributes.turn(NODIRATIME, false),
        "noatime" => attributes.access_time(NOATIME),
        "strictatime" | "norelatime" => attributes.access_time(STRICTATIME),
        "relatime" | "atime" | "nostrictatime" => attributes.access_time(0),
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(options: &[&str]) -> Vec<String> {
        options.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_peers_write() {
        let options = strings(&[
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "gid=5",
            "rprivate",
        ]);
        let parsed = parse(&options);
        assert_eq!(parsed.data, ["newinstance", "ptmxmode=0666", "gid=5"]);
        assert_eq!(parsed.own.set, NOSUID | NOEXEC);
        assert_eq!(parsed.recursive_propagation, 1 << 18);
        assert_eq!((parsed.bind, parsed.propagation), (None, 0));
    }

    #[test]
    fn the_last_one_counts() {
        let options = strings(&["rbind", "ro", "rw", "noatime", "relatime", "rro", "bind"]);
        let parsed = parse(&options);
        assert_eq!(parsed.bind, Some(true));
        assert_eq!((parsed.own.set, parsed.own.clear), (0, RDONLY | ATIME));
        assert_eq!(
            parsed.recursive,
            Attributes {
                set: RDONLY,
                clear: 0
            }
        );
    }

    #[test]
    fn words_that_begin_with_r() {
        let options = strings(&["rw", "relatime", "rnosuid", "rsize=5", "runbindable"]);
        let parsed = parse(&options);
        assert_eq!(parsed.recursive.set, NOSUID);
        assert_eq!(parsed.data, ["rsize=5"]);
        assert_eq!(parsed.recursive_propagation, 1 << 17);
    }

    #[test]
    fn what_a_whole_file_system_has() {
        let read = |kind: &str, options: &[&str]| {
            let mount = serde_json::json!({"destination": "/x", "type": kind, "options": options});
            let mount: Mount = serde_json::from_value(mount).unwrap();
            of(&mount).data.join(",")
        };
        let all = [
            &SUPERBLOCK[..],
            &ACCESS_LISTS,
            &["silent", "loud", "iversion", "noiversion", "size=1"],
        ]
        .concat();
        let whole = "async,dirsync,lazytime,mand,nolazytime,nomand,sync";
        assert_eq!(read("tmpfs", &all), format!("{whole},size=1"));
        assert_eq!(read("ext4", &all), format!("{whole},acl,noacl,size=1"));
        assert_eq!(read("bind", &all), "size=1");
        assert_eq!(read("none", &[&["rbind"][..], &all].concat()), "size=1");
    }

    #[test]
    fn words_that_are_not_the_file_systems() {
        let options = strings(&["remount", "ridmap", "idmap", "defaults", "tmpcopyup"]);
        let parsed = parse(&options);
        assert_eq!(
            (parsed.remount, parsed.id_mapped, parsed.copy_up),
            (true, Some(true), true)
        );
        assert!(parsed.data.is_empty());
    }
}
