//! Addresses that the plug-in `host-local` keeps track of: a directory a network, a file an address, which begins with the
//! id of the container that has it.

use std::io::{self, ErrorKind, Read};
use std::net::IpAddr;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use sys::Dir;

/// Frees what a container has of a network's addresses, where the plug-in is not there to do it.
///
/// # Errors
/// The directory cannot be read, or a file in it not removed.
pub(crate) fn free(network: &Path, container: &str) -> io::Result<()> {
    let dir = match Dir::open_ambient(network) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in dir.entries()? {
        // Beside them are a lock and what was given last.
        let is_address = entry
            .name
            .to_str()
            .is_some_and(|name| name.parse::<IpAddr>().is_ok());
        if !is_address {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
        let mut owner = vec![0; container.len()];
        let read = dir
            .open_file(&entry.name, flags, Mode::empty())
            .and_then(|mut file| file.read_exact(&mut owner));
        if read.is_ok() && owner == container.as_bytes() {
            dir.unlink(&entry.name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_own_addresses_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let network = temp.path().join("net");
        free(&network, "one").unwrap();
        std::fs::create_dir(&network).unwrap();
        for (name, text) in [
            ("10.62.0.2", "one\r\neth0"),
            ("fd00::2", "one\r\neth0"),
            ("10.62.0.3", "two\r\neth0"),
            ("10.62.0.4", "on"),
            ("last_reserved_ip.0", "one"),
            ("lock", ""),
        ] {
            std::fs::write(network.join(name), text).unwrap();
        }
        free(&network, "one").unwrap();
        let left = std::fs::read_dir(&network).unwrap();
        let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["10.62.0.3", "10.62.0.4", "last_reserved_ip.0", "lock"]);
    }
}
