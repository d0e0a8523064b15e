//! `sysctl`: kernel parameters of the container's own namespaces, written through the host's /proc, which nobody in
//! the container can have touched.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use sys::process::namespaces as kind;

use super::fault::{During, Fault, Result};
use super::namespaces::Namespaces;
use super::root;

/// The host's procfs, known to be one.
#[derive(Debug)]
pub(super) struct Proc(OwnedFd);

impl AsFd for Proc {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Proc {
    /// Opens /proc and looks that it is what it says.
    pub(super) fn open() -> Result<Proc> {
        Proc::at(Path::new("/proc"))
    }

    fn at(place: &Path) -> Result<Proc> {
        let doing = || format!("the host's {}", place.display());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, place, flags, Mode::empty()).during(doing)?;
        if !root::is_all_of_proc(fd.as_fd()).during(doing)? {
            return Err(Fault::new(format!("{} is not a procfs", place.display())));
        }
        Ok(Proc(fd))
    }

    /// Writes a file of it. Nothing mounted over a part of /proc is ever written to.
    pub(super) fn write(&self, path: &str, value: &str) -> std::io::Result<()> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat2(&self.0, path, flags, Mode::empty(), resolve)?;
        // One call, even of nothing: an empty value takes some back.
        match rustix::io::write(&fd, value.as_bytes())? {
            all if all == value.len() => Ok(()),
            _ => Err(std::io::ErrorKind::WriteZero.into()),
        }
    }
}

/// The namespace that a parameter belongs to, `None` for one of the whole machine.
fn namespace_of(name: &str) -> Option<u64> {
    if crate::spec::IPC_SYSCTLS.contains(&name) || name.starts_with("fs.mqueue.") {
        Some(kind::IPC)
    } else if name.starts_with("net.") {
        Some(kind::NETWORK)
    } else if name == "kernel.domainname" || name == "kernel.hostname" {
        Some(kind::UTS)
    } else if name.starts_with("user.") {
        Some(kind::USER)
    } else {
        None
    }
}

/// Where a parameter lies beneath /proc/sys. As in sysctl(8), the first separator met tells which of `.` and `/` is
/// the separator; the other is then part of a name (`net/ipv4/conf/eth0.1/…`).
fn file_of(name: &str) -> Option<PathBuf> {
    let slashes = name
        .find(['.', '/'])
        .is_some_and(|at| name.as_bytes()[at] == b'/');
    let path: String = match slashes {
        true => name.to_owned(),
        false => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
    };
    let plain = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    plain.then(|| PathBuf::from(path))
}

/// Refuses a parameter that is not the container's own before anything is started.
pub(super) fn check(sysctls: &HashMap<String, String>, namespaces: &Namespaces) -> Result<()> {
    for name in sysctls.keys() {
        let dotted = match file_of(name) {
            Some(path) => path.to_string_lossy().replace('/', "."),
            None => return Err(Fault::new(format!("sysctl {name:?} is not a name"))),
        };
        match namespace_of(&dotted) {
            Some(kind) if namespaces.has(kind) => {}
            Some(_) => {
                return Err(Fault::new(format!(
                    "sysctl {name}: the container shares the namespace it belongs to with the host"
                )));
            }
            None => {
                return Err(Fault::new(format!(
                    "sysctl {name} belongs to the whole machine, not to a container"
                )));
            }
        }
    }
    Ok(())
}

/// Whether a parameter belongs to a network namespace.
pub(super) fn is_of_network(name: &str) -> bool {
    let dotted = file_of(name).map(|path| path.to_string_lossy().replace('/', "."));
    dotted.is_some_and(|name| namespace_of(&name) == Some(kind::NETWORK))
}

/// Sets those of the parameters that are `due`, from within the container's namespaces.
pub(super) fn set(proc: &Proc, sysctls: &HashMap<String, String>, due: impl Fn(&str) -> bool) -> Result<()> {
    for (name, value) in sysctls.iter().filter(|(name, _)| due(name)) {
        let path = file_of(name).ok_or_else(|| Fault::new(format!("sysctl {name:?} is not a name")))?;
        proc.write(&format!("sys/{}", path.display()), value)
            .during(|| format!("sysctl {name}={value}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CVE-2019-16884 and its siblings: what is written to in the place of /proc would do as its maker likes.
    #[test]
    fn a_procfs_is_one_and_whole() {
        assert!(Proc::at(Path::new("/proc")).is_ok());
        let fake = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(fake.path().join("self/attr")).unwrap();
        let link = fake.path().join("link");
        std::os::unix::fs::symlink("/proc", &link).unwrap();
        // None at all; a part of one, as a bind mount has it; and not where it is said to be.
        for (place, says) in [
            (fake.path(), "is not a procfs"),
            (Path::new("/proc/sys"), "is not a procfs"),
            (&link, "Not a directory"),
        ] {
            let fault = Proc::at(place).unwrap_err();
            assert!(fault.text.ends_with(says), "{fault}");
        }
    }

    #[test]
    fn names_and_files() {
        let path = |name| file_of(name).map(|path| path.display().to_string());
        assert_eq!(path("net.ipv4.ip_forward").unwrap(), "net/ipv4/ip_forward");
        assert_eq!(
            path("net/ipv4/conf/eth0.1/forwarding").unwrap(),
            "net/ipv4/conf/eth0.1/forwarding"
        );
        assert_eq!(
            path("net.ipv4.conf.eth0/1.forwarding").unwrap(),
            "net/ipv4/conf/eth0.1/forwarding"
        );
        for bad in ["", ".", "net..x", "net/../../etc", "/etc/passwd", "net./."] {
            assert_eq!(path(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_the_containers_own() {
        let namespaces = Namespaces {
            new: kind::IPC,
            ..Namespaces::default()
        };
        let one = |name: &str| check(&HashMap::from([(name.to_owned(), "1".to_owned())]), &namespaces);
        one("kernel.shmmax").unwrap();
        one("fs/mqueue/msg_max").unwrap();
        assert!(one("net.ipv4.ip_forward").unwrap_err().text.contains("shares"));
        assert!(
            one("kernel.core_pattern")
                .unwrap_err()
                .text
                .contains("whole machine")
        );
        assert!(
            one("fs/mqueue/../../kernel/core_pattern")
                .unwrap_err()
                .text
                .contains("not a name")
        );
    }
}
