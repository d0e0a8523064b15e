//! Names between containers of one network: lines of `/etc/hosts`, kept while they run.
//!
//! The plug-ins that Debian has resolve no names, and a server that does is a daemon a network. So each container's
//! `/etc/hosts` has a block for each of its networks, with a line for every container in it; whoever brings a container
//! in or takes one out writes the blocks of the others anew. What else stands in a file stays, so that a container may
//! write to its own.
//!
//! A file is written in place, since it is bound into its container: at once where it does not shrink. A directory holds, for
//! each network, one file a container with its lines; a lock on it orders who reads these and writes blocks.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use sys::Dir;

/// No hosts file is longer; a longer one is a container's own doing, and left alone.
const MAX_FILE: u64 = 4 << 20;

/// Who is in which network of a namespace, by name.
#[derive(Debug)]
pub struct Names {
    dir: PathBuf,
    /// The directory of bundles, each with its `hosts`.
    bundles: PathBuf,
}

impl Names {
    /// Those kept in `dir`, which is made where it is missing, for the containers with these bundles.
    pub fn new(dir: PathBuf, bundles: PathBuf) -> Names {
        Names { dir, bundles }
    }

    /// Makes a container known in a network by these names; and the others' to it.
    ///
    /// # Errors
    /// What is known cannot be read or written.
    pub fn announce(&self, network: &str, id: &str, addresses: &[IpAddr], names: &[&str]) -> io::Result<()> {
        let (dir, _lock) = self.lock()?;
        let members = dir.mkdir_all(network, Mode::RWXU)?;
        write(&members, id, lines(addresses, names).as_bytes())?;
        self.tell(network, &members)
    }

    /// Makes a container's names in a network unknown.
    ///
    /// # Errors
    /// As those of [`Names::announce`]; a container that is not known is none.
    pub fn withdraw(&self, network: &str, id: &str) -> io::Result<()> {
        let (dir, _lock) = match self.lock() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let members = match dir.open_dir(network) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        match members.unlink(id) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        // It may still run, in other networks.
        self.replace(id, network, "")?;
        self.tell(network, &members)
    }

    /// Writes the network's block into the files of all that are in it.
    fn tell(&self, network: &str, members: &Dir) -> io::Result<()> {
        let mut ids = Vec::new();
        let mut lines = String::new();
        let mut entries = members.entries()?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for entry in entries {
            let Ok(id) = entry.name.into_string() else {
                continue;
            };
            members
                .open_file(&id, OFlags::RDONLY, Mode::empty())?
                .read_to_string(&mut lines)?;
            ids.push(id);
        }
        ids.iter().try_for_each(|id| self.replace(id, network, &lines))
    }

    fn replace(&self, id: &str, network: &str, lines: &str) -> io::Result<()> {
        let open = || -> io::Result<File> {
            Dir::open_ambient(self.bundles.join(id))?.open_file(
                "hosts",
                OFlags::RDWR | OFlags::NOFOLLOW,
                Mode::empty(),
            )
        };
        let mut file = match open() {
            // It has just ended, or is not that far yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let size = file.metadata()?.len();
        if size > MAX_FILE {
            return Ok(());
        }
        let mut old = Vec::new();
        file.read_to_end(&mut old)?;
        // What a container wrote there may be anything.
        let new = with_block(&String::from_utf8_lossy(&old), network, lines);
        if new.as_bytes() != old {
            file.write_all_at(new.as_bytes(), 0)?;
            if (new.len() as u64) < size {
                file.set_len(new.len() as u64)?;
            }
        }
        Ok(())
    }

    fn lock(&self) -> io::Result<(Dir, File)> {
        let dir = match Dir::open_ambient(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                use std::os::unix::fs::DirBuilderExt;
                std::fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(&self.dir)?;
                Dir::open_ambient(&self.dir)?
            }
            other => other?,
        };
        let lock = dir.open_file(".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        flock(&lock, FlockOperation::LockExclusive)?;
        Ok((dir, lock))
    }
}

fn write(dir: &Dir, name: &str, text: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
    let file = dir.open_file(name, flags, Mode::RUSR | Mode::WUSR)?;
    file.write_all_at(text, 0)
}

fn lines(addresses: &[IpAddr], names: &[&str]) -> String {
    let mut text = String::new();
    for address in addresses {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{address}\t{}", names.join(" "));
    }
    text
}

/// The text with the network's block replaced, added or, where there are no lines, taken out.
fn with_block(text: &str, network: &str, lines: &str) -> String {
    let (begin, end) = (
        format!("# network {network}"),
        format!("# end of network {network}"),
    );
    let mut new = String::with_capacity(text.len() + lines.len());
    let mut within = false;
    for line in text.lines() {
        match within {
            false if line == begin => within = true,
            false => {
                new.push_str(line);
                new.push('\n');
            }
            true => within = line != end,
        }
    }
    if !lines.is_empty() {
        // Writing to a string cannot fail.
        let _ = write!(new, "{begin}\n{lines}{end}\n");
    }
    new
}

/// The path of a container's hosts file beneath its bundle.
pub fn hosts(bundle: &Path) -> PathBuf {
    bundle.join("hosts")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_replaced_and_the_rest_stays() {
        let text = with_block("127.0.0.1\tlocalhost\n", "a", "10.0.0.2\tdb\n");
        assert_eq!(
            text,
            "127.0.0.1\tlocalhost\n# network a\n10.0.0.2\tdb\n# end of network a\n"
        );
        let text = with_block(&text, "b", "10.1.0.2\tweb\n") + "9.9.9.9\tmine\n";
        let text = with_block(&text, "a", "10.0.0.3\tdb\n");
        assert_eq!(
            text,
            "127.0.0.1\tlocalhost\n# network b\n10.1.0.2\tweb\n# end of network b\n9.9.9.9\tmine\n\
             # network a\n10.0.0.3\tdb\n# end of network a\n"
        );
        let text = with_block(&with_block(&text, "a", ""), "b", "");
        assert_eq!(text, "127.0.0.1\tlocalhost\n9.9.9.9\tmine\n");
    }

    #[test]
    fn who_comes_and_goes_is_known_to_the_others_in_the_same_file() {
        let temp = tempfile::tempdir().unwrap();
        let bundles = temp.path().join("bundles");
        for id in ["one", "two"] {
            std::fs::create_dir_all(bundles.join(id)).unwrap();
            std::fs::write(hosts(&bundles.join(id)), "# mine\n").unwrap();
        }
        let names = Names::new(temp.path().join("names"), bundles.clone());
        let read = |id: &str| std::fs::read_to_string(hosts(&bundles.join(id))).unwrap();
        // As a container has it: bound, and so always the same file.
        let bound = File::open(hosts(&bundles.join("one"))).unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        names
            .announce("n", "one", &[ip("10.0.0.2"), ip("fd00::2")], &["web", "www"])
            .unwrap();
        names.announce("n", "two", &[ip("10.0.0.3")], &["db"]).unwrap();
        names.announce("n", "gone", &[ip("10.0.0.4")], &["x"]).unwrap();
        let block = "# network n\n10.0.0.4\tx\n10.0.0.2\tweb www\nfd00::2\tweb www\n10.0.0.3\tdb\n# end of network n\n";
        assert_eq!(read("two"), format!("# mine\n{block}"));
        assert_eq!(read("one"), read("two"));
        names.withdraw("n", "gone").unwrap();
        names.withdraw("n", "two").unwrap();
        names.withdraw("n", "two").unwrap();
        names.withdraw("other", "two").unwrap();
        assert_eq!(read("two"), "# mine\n");
        let mut text = vec![0; bound.metadata().unwrap().len() as usize];
        bound.read_exact_at(&mut text, 0).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "# mine\n# network n\n10.0.0.2\tweb www\nfd00::2\tweb www\n# end of network n\n"
        );
    }
}
