//! Options of a mount, as mount(8) spells them: those of the kernel's overlay, and those of `fuse-overlayfs`.
//!
//! Every word is known or refused by name; none is passed over. What a word means to the kernel's own driver is kept
//! beside, so that a caller can choose between the two.

use std::time::Duration;

use overlay::live::{IdRange, Options as Rules, OwnersIn, RedirectDir, Sync};
use overlay::{Prefix, stat_override};
use sys::mount::MountAttrFlags;

/// Why an option is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OptionError {
    /// No such option.
    #[error("unknown option {0:?}")]
    Unknown(String),
    /// An option with a value that it does not have.
    #[error("option {option:?}: {problem}")]
    Value {
        /// The option with its value.
        option: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Two options that exclude each other.
    #[error("options {0:?} and {1:?} exclude each other")]
    Conflict(String, String),
    /// An option that only the kernel's overlay has.
    #[error("option {0:?}: only the kernel's own overlay has it")]
    OfTheKernel(String),
}

/// Options, understood.
#[derive(Debug, Clone)]
pub struct Options {
    /// How the overlay behaves.
    pub rules: Rules,
    /// Attributes of the mount.
    pub attributes: MountAttrFlags,
    /// How long the kernel may believe names and attributes.
    pub timeout: Duration,
    /// Threads that answer; `None` leaves it to the machine.
    pub workers: Option<usize>,
    /// Whether others than the mounting user may use it.
    pub allow_other: bool,
    /// Whether the kernel checks permissions.
    pub default_permissions: bool,
    /// Words that say an SELinux label, which the kernel gives to what is mounted.
    pub labels: Vec<(String, String)>,
    /// Whether POSIX ACLs are left out.
    pub no_acl: bool,
    /// Whether extended attributes are left out.
    pub no_xattrs: bool,
    /// The words that the kernel's overlay takes for the same, without attributes of the mount.
    pub kernel: Vec<String>,
    /// The first word that the kernel's overlay has no equal for.
    pub fuse_only: Option<String>,
    /// The first word that only the kernel's overlay has; it is among `kernel` too.
    pub kernel_only: Option<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            rules: Rules::default(),
            attributes: MountAttrFlags::empty(),
            timeout: Duration::from_secs(86_400),
            workers: None,
            allow_other: true,
            default_permissions: true,
            labels: Vec::new(),
            no_acl: false,
            no_xattrs: false,
            kernel: Vec::new(),
            fuse_only: None,
            kernel_only: None,
        }
    }
}

impl Options {
    /// Reads a list of options, without those that name directories.
    pub fn parse(words: &[String]) -> Result<Options, OptionError> {
        let mut options = Options::default();
        for word in words {
            let (key, value) = match word.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (word.as_str(), None),
            };
            let known = match value {
                None => options.attribute(key) || options.flag(key),
                Some(value) => options.shared(word, key, value)? || options.own(word, key, value)?,
            };
            if !known {
                return Err(OptionError::Unknown(word.clone()));
            }
        }
        Ok(options)
    }

    /// What `fuse-overlayfs` does without being asked, `words` being what was: it reads whiteouts of the named kind, which
    /// podman unpacks for it, and owners in attributes; it writes nothing that it would not read, so directories of
    /// lower layers are not renamed; and a user needs no word to mount in a user namespace.
    pub fn like_fuse_overlayfs(&mut self, words: &[String]) {
        self.rules.named_whiteouts = true;
        self.rules.foreign_attributes = true;
        if self.rules.owners == OwnersIn::Inodes {
            self.rules.owners = OwnersIn::AttributesOfLayers;
        }
        if !words.iter().any(|word| word.starts_with("redirect_dir=")) {
            self.rules.redirect_dir = RedirectDir::Follow;
        }
        if !crate::namespace::is_first_of_users() {
            self.rules.prefix = Prefix::User;
        }
    }

    /// Whether a server of ours can do this, `writable` saying whether there is an upper directory. What excludes each other
    /// for the kernel's overlay (`ovl_fs_params_verify` in `fs/overlayfs/params.c`) does so here; but for redirects
    /// with `userxattr`, which are kept.
    pub fn check(&self, writable: bool) -> Result<(), OptionError> {
        if let Some(word) = &self.kernel_only {
            return Err(OptionError::OfTheKernel(word.clone()));
        }
        let said = |key: &str| self.kernel.iter().rev().find(|word| word.starts_with(key));
        let Some(metacopy) = said("metacopy=").filter(|_| self.rules.metacopy) else {
            return Ok(());
        };
        // Without an upper directory nothing is done with redirects but following them.
        let enough = match self.rules.redirect_dir {
            RedirectDir::On => true,
            RedirectDir::Follow => !writable,
            RedirectDir::NoFollow => false,
        };
        let other = match said("redirect_dir=") {
            Some(redirect) if !enough => Some(redirect),
            _ => said("userxattr"),
        };
        match other {
            None => Ok(()),
            Some(other) => Err(OptionError::Conflict(metacopy.clone(), other.clone())),
        }
    }

    fn kernel_too(&mut self, word: &str) {
        self.kernel.push(word.to_owned());
    }

    fn fuse_only(&mut self, word: &str) {
        self.fuse_only.get_or_insert_with(|| word.to_owned());
    }

    /// What only the kernel's overlay does.
    fn kernel_only(&mut self, word: &str) {
        self.kernel_only.get_or_insert_with(|| word.to_owned());
        self.kernel_too(word);
    }

    /// Attributes of a mount, which mean the same to every file system: mount(8), "filesystem-independent mount options".
    fn attribute(&mut self, word: &str) -> bool {
        use MountAttrFlags as A;
        let no_devices = A::MOUNT_ATTR_NOSUID | A::MOUNT_ATTR_NODEV;
        let (set, clear) = match word {
            "ro" => (A::MOUNT_ATTR_RDONLY, A::empty()),
            "rw" => (A::empty(), A::MOUNT_ATTR_RDONLY),
            "nosuid" => (A::MOUNT_ATTR_NOSUID, A::empty()),
            "suid" => (A::empty(), A::MOUNT_ATTR_NOSUID),
            "nodev" => (A::MOUNT_ATTR_NODEV, A::empty()),
            "dev" => (A::empty(), A::MOUNT_ATTR_NODEV),
            "noexec" => (A::MOUNT_ATTR_NOEXEC, A::empty()),
            "exec" => (A::empty(), A::MOUNT_ATTR_NOEXEC),
            "nosymfollow" => (A::MOUNT_ATTR_NOSYMFOLLOW, A::empty()),
            "symfollow" => (A::empty(), A::MOUNT_ATTR_NOSYMFOLLOW),
            "nodiratime" => (A::MOUNT_ATTR_NODIRATIME, A::empty()),
            "diratime" => (A::empty(), A::MOUNT_ATTR_NODIRATIME),
            // One field of three values, of which `relatime` is 0.
            "noatime" => (A::MOUNT_ATTR_NOATIME, A::MOUNT_ATTR__ATIME),
            "strictatime" => (A::MOUNT_ATTR_STRICTATIME, A::MOUNT_ATTR__ATIME),
            "relatime" | "atime" | "nostrictatime" => (A::empty(), A::MOUNT_ATTR__ATIME),
            // Who may mount and unmount is mount(8)'s to decide; what it means for the mount is not.
            "user" | "users" => (no_devices | A::MOUNT_ATTR_NOEXEC, A::empty()),
            "owner" | "group" => (no_devices, A::empty()),
            // What holds anyway, and what only mount(8) heeds. Neither driver has warnings that `silent` would keep back.
            "async" | "defaults" | "auto" | "noauto" | "nofail" | "_netdev" | "nouser" | "norelatime"
            | "nolazytime" | "noiversion" | "nomand" | "loud" | "silent" => return true,
            word if word.starts_with("x-") => return true,
            _ => return false,
        };
        self.attributes = (self.attributes - clear) | set;
        true
    }

    /// Whether `userxattr` is missing: in a user namespace there are no attributes of the other kind.
    pub fn lacks_userxattr(&self) -> bool {
        self.rules.prefix == Prefix::Trusted && !crate::namespace::is_first_of_users()
    }

    /// The words for the attributes of the mount.
    pub fn attribute_words(&self) -> impl Iterator<Item = &'static str> {
        use MountAttrFlags as A;
        let attributes = self.attributes;
        [
            (A::MOUNT_ATTR_RDONLY, "ro"),
            (A::MOUNT_ATTR_NOSUID, "nosuid"),
            (A::MOUNT_ATTR_NODEV, "nodev"),
            (A::MOUNT_ATTR_NOEXEC, "noexec"),
            (A::MOUNT_ATTR_NOSYMFOLLOW, "nosymfollow"),
            (A::MOUNT_ATTR_NODIRATIME, "nodiratime"),
            (A::MOUNT_ATTR_NOATIME, "noatime"),
            (A::MOUNT_ATTR_STRICTATIME, "strictatime"),
        ]
        .into_iter()
        .filter(move |(flag, _)| attributes.contains(*flag))
        .map(|(_, word)| word)
    }

    /// Whether the file system itself is read-only.
    pub fn read_only(&self) -> bool {
        self.attributes.contains(MountAttrFlags::MOUNT_ATTR_RDONLY)
    }

    /// Words without a value.
    fn flag(&mut self, word: &str) -> bool {
        match word {
            "userxattr" => {
                self.rules.prefix = Prefix::User;
                self.kernel_too(word);
            }
            "volatile" => {
                self.rules.sync = Sync::Volatile;
                self.kernel_too(word);
            }
            "default_permissions" => {
                self.default_permissions = true;
                self.kernel_too(word);
            }
            "sync" | "dirsync" | "lazytime" | "override_creds" | "nooverride_creds" => self.kernel_only(word),
            // As root everybody may use it; `allow_root` asks for less than that.
            "allow_other" | "allow_root" => {}
            // Each worker has its own descriptor anyway, and a server's end ends its mount.
            "clone_fd" | "auto_unmount" => {}
            "squash_to_root" => {
                self.rules.ids.squash_uid.get_or_insert(0);
                self.rules.ids.squash_gid.get_or_insert(0);
                self.fuse_only(word);
            }
            "static_nlink" => {
                self.rules.static_nlink = true;
                self.fuse_only(word);
            }
            "noacl" => {
                self.no_acl = true;
                self.fuse_only(word);
            }
            "noxattrs" => {
                self.no_xattrs = true;
                self.fuse_only(word);
            }
            _ => return false,
        }
        true
    }

    /// Words with a value that the kernel's overlay has too.
    fn shared(&mut self, word: &str, key: &str, value: &str) -> Result<bool, OptionError> {
        let refuse = |problem| {
            Err(OptionError::Value {
                option: word.to_owned(),
                problem,
            })
        };
        match (key, value) {
            ("redirect_dir", "on") => self.rules.redirect_dir = RedirectDir::On,
            ("redirect_dir", "follow") => self.rules.redirect_dir = RedirectDir::Follow,
            // The kernel follows redirects when they are off too, unless it was built not to.
            ("redirect_dir", "off") => self.rules.redirect_dir = RedirectDir::Follow,
            ("redirect_dir", "nofollow") => self.rules.redirect_dir = RedirectDir::NoFollow,
            ("redirect_dir", _) => return refuse("on, off, follow or nofollow"),
            ("index", "on" | "1") => self.rules.index = true,
            ("index", "off" | "0") => self.rules.index = false,
            ("metacopy", "on" | "1") => self.rules.metacopy = true,
            ("metacopy", "off" | "0") => self.rules.metacopy = false,
            ("index" | "metacopy", _) => return refuse("on or off"),
            // Inode numbers are unique and stable in every case.
            ("xino", "on" | "off" | "auto") => {}
            ("xino", _) => return refuse("on, off or auto"),
            ("nfs_export" | "verity", "off") | ("uuid", "null" | "auto") => {}
            ("nfs_export", "on") | ("verity", "on" | "require") | ("uuid", "on" | "off") => {
                self.kernel_only(word);
                return Ok(true);
            }
            ("context" | "fscontext" | "defcontext" | "rootcontext", _) => {
                self.labels.push((key.to_owned(), value.to_owned()));
            }
            ("nfs_export", _) => return refuse("on or off"),
            ("verity", _) => return refuse("on, off or require"),
            ("uuid", _) => return refuse("on, off, null or auto"),
            ("fsync", "volatile" | "0") => {
                self.rules.sync = Sync::Volatile;
                self.kernel_too("volatile");
                return Ok(true);
            }
            ("fsync", "auto" | "1") => {
                self.rules.sync = Sync::Auto;
                return Ok(true);
            }
            ("fsync", "strict") => {
                self.rules.sync = Sync::Strict;
                self.fuse_only(word);
                return Ok(true);
            }
            ("fsync", _) => return refuse("volatile, auto or strict"),
            _ => return Ok(false),
        }
        self.kernel_too(word);
        Ok(true)
    }

    /// Words with a value that only this driver has.
    fn own(&mut self, word: &str, key: &str, value: &str) -> Result<bool, OptionError> {
        let refuse = |problem| {
            Err(OptionError::Value {
                option: word.to_owned(),
                problem,
            })
        };
        let number = || value.parse::<u32>();
        match key {
            // mount(8) tells its helpers who mounts.
            "user" => return Ok(self.attribute(key)),
            "uidmapping" | "gidmapping" => {
                let Some(ranges) = ranges(value) else {
                    return refuse("ranges are written LAYER:VIEW:COUNT, with a colon between them");
                };
                match key {
                    "uidmapping" => self.rules.ids.uids = ranges,
                    _ => self.rules.ids.gids = ranges,
                }
            }
            "squash_to_uid" | "squash_to_gid" => {
                let Ok(id) = number() else {
                    return refuse("a number is needed");
                };
                match key {
                    "squash_to_uid" => self.rules.ids.squash_uid = Some(id),
                    _ => self.rules.ids.squash_gid = Some(id),
                }
            }
            "noxattrs" | "static_nlink" => {
                let on = match value {
                    "0" => false,
                    "1" => true,
                    _ => return refuse("0 or 1"),
                };
                match key {
                    "noxattrs" => self.no_xattrs = on,
                    _ => self.rules.static_nlink = on,
                }
            }
            // Numbers are unique and lasting at no cost, and writes are never gathered.
            "fast_ino" | "writeback" => match (key, value) {
                (_, "0") | ("fast_ino", "1") => {}
                ("fast_ino", _) => return refuse("0 or 1"),
                _ => return refuse("writes are not gathered: 0"),
            },
            "timeout" => match value.parse::<f64>() {
                Ok(seconds) if (0.0..1e9).contains(&seconds) => {
                    self.timeout = Duration::from_secs_f64(seconds)
                }
                _ => return refuse("seconds are needed"),
            },
            "xattr_permissions" => {
                self.rules.owners = match value {
                    "0" => OwnersIn::AttributesOfLayers,
                    "1" => OwnersIn::Attribute(stat_override::PRIVILEGED),
                    "2" => OwnersIn::Attribute(stat_override::CONTAINERS),
                    _ => return refuse("0, 1 or 2"),
                };
                self.no_acl |= value != "0";
            }
            "threaded" => match value {
                "0" => self.workers = Some(1),
                "1" => self.workers = None,
                _ => return refuse("0 or 1"),
            },
            "workers" | "max_threads" => match value.parse::<usize>() {
                Ok(count @ 1..=256) => self.workers = Some(count),
                _ => return refuse("a number from 1 to 256 is needed"),
            },
            // Idle workers cost nothing and never end.
            "max_idle_threads" => {
                if value.parse::<i64>().is_err() {
                    return refuse("a number is needed");
                }
            }
            _ => return Ok(false),
        }
        self.fuse_only(word);
        Ok(true)
    }
}

/// `0:1000:1:1:110000:65536`: triples, all separated by colons.
fn ranges(text: &str) -> Option<Vec<IdRange>> {
    let numbers = text
        .split(':')
        .map(|part| part.parse().ok())
        .collect::<Option<Vec<u32>>>()?;
    let (triples, []) = numbers.as_chunks::<3>() else {
        return None;
    };
    let fits = |[layer, view, count]: &[u32; 3]| {
        *count > 0 && layer.checked_add(count - 1).is_some() && view.checked_add(count - 1).is_some()
    };
    triples.iter().all(fits).then(|| {
        let range = |[layer, view, count]: &[u32; 3]| IdRange {
            layer: *layer,
            view: *view,
            count: *count,
        };
        triples.iter().map(range).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options, OptionError> {
        Options::parse(&text.split(',').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn words_of_the_kernel_s_overlay() {
        let options =
            parse("ro,nosuid,redirect_dir=nofollow,index=on,userxattr,fsync=volatile,xino=auto").unwrap();
        assert!(options.read_only() && options.rules.index && options.fuse_only.is_none());
        assert_eq!(options.rules.redirect_dir, RedirectDir::NoFollow);
        assert_eq!(
            (options.rules.prefix, options.rules.sync),
            (Prefix::User, Sync::Volatile)
        );
        assert!(options.attribute_words().eq(["ro", "nosuid"]));
        let kernel = [
            "redirect_dir=nofollow",
            "index=on",
            "userxattr",
            "volatile",
            "xino=auto",
        ];
        assert_eq!(options.kernel, kernel);
    }

    #[test]
    fn words_of_fuse_overlayfs() {
        let options =
            parse("uidmapping=0:1000:1:1:110000:65536,squash_to_gid=7,squash_to_root,timeout=0.5,threaded=0")
                .unwrap();
        let second = IdRange {
            layer: 1,
            view: 110_000,
            count: 65_536,
        };
        assert_eq!(options.rules.ids.uids[1], second);
        assert_eq!(
            (options.rules.ids.squash_uid, options.rules.ids.squash_gid),
            (Some(0), Some(7))
        );
        assert_eq!((options.timeout.as_millis(), options.workers), (500, Some(1)));
        assert_eq!(
            options.fuse_only.as_deref(),
            Some("uidmapping=0:1000:1:1:110000:65536")
        );
    }

    #[test]
    fn nothing_is_passed_over() {
        for text in [
            "nonsense",
            "plugins=x",
            "index=maybe",
            "uidmapping=1:2",
            "timeout=never",
            "nfs_export=perhaps",
            "iversion",
            "mand",
            "X-mount.mkdir",
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
        assert!(parse("uidmapping=4294967295:0:2").is_err());
    }

    #[test]
    fn the_last_word_holds() {
        let options = parse("ro,nodev,rw,dev,noatime,nodiratime,diratime,atime").unwrap();
        assert!(!options.read_only() && options.attributes.is_empty());
        let words = |text| parse(text).unwrap().attribute_words().collect::<Vec<_>>();
        assert_eq!(words("noatime,strictatime"), ["strictatime"]);
        assert_eq!(words("nosuid,users,exec"), ["nosuid", "nodev"]);
        assert_eq!(
            words("user=somebody,suid,dev,nosymfollow"),
            ["noexec", "nosymfollow"]
        );
    }

    #[test]
    fn words_that_only_the_kernel_s_overlay_has() {
        for word in ["nfs_export=on", "verity=require", "uuid=off", "sync", "lazytime"] {
            let options = parse(word).unwrap();
            assert_eq!(options.kernel, [word]);
            let error = options.check(true).unwrap_err();
            assert_eq!(error, OptionError::OfTheKernel(word.to_owned()));
        }
        parse("nfs_export=off,verity=off,uuid=auto")
            .unwrap()
            .check(true)
            .unwrap();
    }
}
