//! Devices of the host, for `--device` and `--privileged`.

use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};
use rustix::fs::{FileType, Stat};

use crate::options::devices::DeviceOption;

/// A device node of the host, as it is to be in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    /// The node that is made.
    pub node: LinuxDevice,
    /// The right to use it.
    pub rule: LinuxDeviceCgroup,
}

/// Why a device cannot be given to a container.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// It cannot be looked at.
    #[error("--device {path}: {source}")]
    Stat {
        /// On the host.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It is something else.
    #[error("--device {path}: not a device, nor a directory that holds some")]
    NotADevice {
        /// On the host.
        path: PathBuf,
    },
}

/// The devices of one `--device`: the node itself, links followed, or all nodes below a directory.
///
/// # Errors
/// The path does not exist, is no device, or is a directory without any.
pub fn from_option(option: &DeviceOption) -> Result<Vec<HostDevice>, DeviceError> {
    let fail = |source| DeviceError::Stat {
        path: option.host.clone(),
        source,
    };
    let stat = rustix::fs::stat(&option.host).map_err(|error| fail(error.into()))?;
    let devices = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        let mut found = Vec::new();
        below(&option.host, &option.container, &option.access, &[], &mut found).map_err(fail)?;
        found
    } else {
        device(&stat, option.container.clone(), &option.access)
            .into_iter()
            .collect()
    };
    if devices.is_empty() {
        return Err(DeviceError::NotADevice {
            path: option.host.clone(),
        });
    }
    Ok(devices)
}

/// Every device in the host's `/dev`, for a privileged container, which is allowed all anyway. Left out are those
/// that a container has of its own.
///
/// # Errors
/// `/dev` cannot be read.
pub fn all() -> io::Result<Vec<HostDevice>> {
    // Mounts of their own in a container, and what other managers keep there.
    const OWN: [&str; 9] = [
        "pts",
        "shm",
        "fd",
        "mqueue",
        "console",
        ".lxc",
        ".lxd-mounts",
        ".udev",
        "hugepages",
    ];
    let mut found = Vec::new();
    below(Path::new("/dev"), Path::new("/dev"), "rwm", &OWN, &mut found)?;
    Ok(found)
}

fn below(
    host: &Path,
    container: &Path,
    access: &str,
    skip: &[&str],
    found: &mut Vec<HostDevice>,
) -> io::Result<()> {
    let mut entries = std::fs::read_dir(host)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        if skip.iter().any(|skipped| name == *skipped) {
            continue;
        }
        // A node may go while we look.
        let Ok(stat) = rustix::fs::lstat(entry.path()) else {
            continue;
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => below(&entry.path(), &container.join(&name), access, &[], found)?,
            _ => found.extend(device(&stat, container.join(&name), access)),
        }
    }
    Ok(())
}

fn device(stat: &Stat, path: PathBuf, access: &str) -> Option<HostDevice> {
    let typ = match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => LinuxDeviceType::B,
        FileType::CharacterDevice => LinuxDeviceType::C,
        _ => return None,
    };
    let (major, minor) = (
        i64::from(rustix::fs::major(stat.st_rdev)),
        i64::from(rustix::fs::minor(stat.st_rdev)),
    );
    let mut node = LinuxDevice::default();
    node.set_path(path).set_typ(typ).set_major(major).set_minor(minor);
    node.set_file_mode(Some(stat.st_mode & 0o7777))
        .set_uid(Some(stat.st_uid))
        .set_gid(Some(stat.st_gid));
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(true)
        .set_typ(Some(typ))
        .set_major(Some(major))
        .set_minor(Some(minor));
    rule.set_access(Some(access.to_owned()));
    Some(HostDevice { node, rule })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::devices;

    #[test]
    fn a_device_keeps_its_numbers_and_takes_its_new_place() {
        let found = from_option(&devices::device("/dev/null:/dev/nothing:rw").unwrap()).unwrap();
        let [HostDevice { node, rule }] = found.as_slice() else {
            panic!("{found:?}")
        };
        assert_eq!(node.path(), Path::new("/dev/nothing"));
        assert_eq!(
            (node.typ(), node.major(), node.minor()),
            (LinuxDeviceType::C, 1, 3)
        );
        assert_eq!(rule.to_string(), "c 1:3 rw");
    }

    #[test]
    fn what_is_no_device_is_refused() {
        let fail = |value: &str| {
            from_option(&devices::device(value).unwrap())
                .unwrap_err()
                .to_string()
        };
        assert!(fail("/etc/passwd").contains("/etc/passwd: not a device"));
        assert!(fail("/no/such/device").contains("/no/such/device: No such file"));
        let empty = tempfile::tempdir().unwrap();
        assert!(fail(empty.path().to_str().unwrap()).contains("not a device"));
    }

    #[test]
    fn everything_has_the_usual_ones_and_no_terminals() {
        let paths: Vec<PathBuf> = all()
            .unwrap()
            .into_iter()
            .map(|device| device.node.path().clone())
            .collect();
        assert!(paths.contains(&"/dev/null".into()));
        assert!(!paths.iter().any(|path| path.starts_with("/dev/pts")));
    }
}
