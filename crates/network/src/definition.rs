//! [`Network`]: what the user made, one small file each; and [`Catalog`], the directory that holds those of a namespace.
//!
//! A definition is kept beside the store's other files, since it outlives the machine's state; what a network *is* while
//! containers are in it (a bridge, addresses, rules) the kernel and the plug-ins keep, and it goes with the machine.
//!
//! Lock order: this directory's lock comes before any container's. Whoever makes a container that names networks holds it
//! shared until the container's row is there, and whoever makes or removes a network exclusively; so that no container
//! names a network that is gone, and no two networks are given the same addresses.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use serde::{Deserialize, Serialize};
use sys::Dir;

use crate::subnet::Subnet;

/// Version of the file that this code writes; a newer one is refused.
pub const VERSION: u32 = 1;

/// The network that a container is in which asks for `bridge`. It is made when it is first needed.
pub const DEFAULT: &str = "bridge";

/// A definition is a few hundred bytes.
const MAX_FILE: u64 = 1 << 20;

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// [`VERSION`] of the one who wrote it.
    pub version: u32,
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name, unique in its namespace.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// The bridge's interface on the machine.
    pub bridge: String,
    /// Its ranges of addresses: one of IPv4 at most, and one of IPv6 at most.
    pub pools: Vec<Pool>,
    /// No way out of it.
    #[serde(default)]
    pub internal: bool,
    /// What leaves it has the machine's address.
    pub masquerade: bool,
    /// Largest packet of its interfaces, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Options as they were given.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// A range of addresses of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// The range.
    pub subnet: Subnet,
    /// The bridge's own address.
    pub gateway: IpAddr,
    /// Containers that ask for no address get one of this part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<Subnet>,
}

impl Network {
    /// Whether containers in it find each other by name: those that a user made, as docker and podman have it.
    pub fn has_names(&self) -> bool {
        self.name != DEFAULT
    }

    /// Whether it has addresses of IPv6.
    pub fn has_v6(&self) -> bool {
        self.pools.iter().any(|pool| pool.subnet.is_v6())
    }
}

/// Why definitions could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// There is none of that name or id.
    #[error("there is no network {0:?}")]
    NotFound(String),
    /// Several ids begin so.
    #[error("several networks have an id that begins with {0:?}")]
    Ambiguous(String),
    /// The name is taken.
    #[error("there is a network {0:?} already")]
    Exists(String),
    /// A file of the directory.
    #[error("network definition {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// It is no definition.
    #[error("network definition {}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A newer strata wrote it.
    #[error("network definition {} is of a newer strata (version {version})", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version.
        version: u32,
    },
}

/// The definitions of one namespace, in a directory `<root>/<namespace>`.
#[derive(Debug)]
pub struct Catalog {
    root: PathBuf,
    path: PathBuf,
    dir: Dir,
}

impl Catalog {
    /// Opens the directory of a namespace, and makes it where it is missing. `root` holds those of all namespaces; the
    /// directory above it exists.
    ///
    /// # Errors
    /// [`CatalogError::Io`].
    pub fn open(root: &Path, namespace: &str) -> Result<Catalog, CatalogError> {
        let path = root.join(namespace);
        let open = || -> io::Result<Dir> {
            match Dir::open_ambient(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let (Some(above), Some(name)) = (root.parent(), root.file_name()) else {
                        return Err(error);
                    };
                    Dir::open_ambient(above)?.mkdir_all(Path::new(name).join(namespace), Mode::RWXU)
                }
                other => other,
            }
        };
        let dir = open().map_err(|source| io_error(&path, source))?;
        Ok(Catalog {
            root: root.to_owned(),
            path,
            dir,
        })
    }

    /// As [`Catalog::open`], and makes nothing: `None` where no network of the namespace was ever made.
    ///
    /// # Errors
    /// [`CatalogError::Io`].
    pub fn open_existing(root: &Path, namespace: &str) -> Result<Option<Catalog>, CatalogError> {
        let path = root.join(namespace);
        match Dir::open_ambient(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io_error(&path, source)),
            Ok(dir) => Ok(Some(Catalog {
                root: root.to_owned(),
                path,
                dir,
            })),
        }
    }

    /// Keeps networks from being made or removed while the file is open.
    ///
    /// # Errors
    /// [`CatalogError::Io`].
    pub fn lock_shared(&self) -> Result<File, CatalogError> {
        self.lock(FlockOperation::LockShared)
    }

    /// Waits until nobody looks at networks of any namespace, and keeps others from it while the file is open.
    ///
    /// # Errors
    /// [`CatalogError::Io`].
    pub fn lock_exclusive(&self) -> Result<File, CatalogError> {
        self.lock(FlockOperation::LockExclusive)
    }

    fn lock(&self, how: FlockOperation) -> Result<File, CatalogError> {
        let lock = || -> io::Result<File> {
            let dir = Dir::open_ambient(&self.root)?;
            // An open file description of its own: the lock is that one's.
            let file = dir.open_file(".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
            flock(&file, how)?;
            Ok(file)
        };
        lock().map_err(|source| io_error(&self.root, source))
    }

    /// All networks of the namespace, by name.
    ///
    /// # Errors
    /// A file that is no definition, and [`CatalogError::Io`].
    pub fn list(&self) -> Result<Vec<Network>, CatalogError> {
        list(&self.path, &self.dir)
    }

    /// The network of that name, or the one whose id begins so.
    ///
    /// # Errors
    /// None, or several; as [`Catalog::list`].
    pub fn find(&self, name: &str) -> Result<Network, CatalogError> {
        if let Some(network) = self.named(name)? {
            return Ok(network);
        }
        let is_prefix = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut matching = match is_prefix {
            true => self
                .list()?
                .into_iter()
                .filter(|network| network.id.starts_with(name))
                .collect(),
            false => Vec::new(),
        };
        match (matching.pop(), matching.is_empty()) {
            (Some(network), true) => Ok(network),
            (Some(_), false) => Err(CatalogError::Ambiguous(name.to_owned())),
            (None, _) => Err(CatalogError::NotFound(name.to_owned())),
        }
    }

    /// The network of exactly that name, if there is one.
    ///
    /// # Errors
    /// As [`Catalog::list`].
    pub fn named(&self, name: &str) -> Result<Option<Network>, CatalogError> {
        match is_name(name) {
            true => read(&self.path, &self.dir, &file_name(name)),
            false => Ok(None),
        }
    }

    /// The ranges of addresses of the networks of all namespaces.
    ///
    /// # Errors
    /// As [`Catalog::list`].
    pub fn pools_of_all(&self) -> Result<Vec<Subnet>, CatalogError> {
        let all = || -> io::Result<Vec<(PathBuf, Dir)>> {
            let root = Dir::open_ambient(&self.root)?;
            let names = root.entries()?.into_iter().map(|entry| entry.name);
            names
                .map(|name| Ok((self.root.join(&name), root.open_dir(&name)?)))
                .collect()
        };
        let mut pools = Vec::new();
        for (path, dir) in all().map_err(|source| io_error(&self.root, source))? {
            let networks = list(&path, &dir)?.into_iter();
            pools.extend(networks.flat_map(|network| network.pools).map(|pool| pool.subnet));
        }
        Ok(pools)
    }

    /// Keeps a new network: it is there whole, and durably, or not at all.
    ///
    /// # Errors
    /// [`CatalogError::Exists`], [`CatalogError::Io`].
    pub fn add(&self, network: &Network) -> Result<(), CatalogError> {
        let name = file_name(&network.name);
        let path = self.path.join(&name);
        let text = serde_json::to_vec_pretty(network).map_err(|source| CatalogError::Json {
            path: path.clone(),
            source,
        })?;
        let add = || -> io::Result<()> {
            let new = format!("{name}.new");
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
            let mut file = self.dir.open_file(&new, flags, Mode::RUSR | Mode::WUSR)?;
            file.write_all(&text)?;
            file.sync_all()?;
            self.dir.rename_noreplace(&new, &self.dir, &name)?;
            self.dir.sync()
        };
        add().map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => CatalogError::Exists(network.name.clone()),
            _ => io_error(&path, source),
        })
    }

    /// Forgets a network.
    ///
    /// # Errors
    /// [`CatalogError::Io`].
    pub fn remove(&self, network: &Network) -> Result<(), CatalogError> {
        let name = file_name(&network.name);
        let remove = || -> io::Result<()> {
            self.dir.unlink(&name)?;
            self.dir.sync()
        };
        remove().map_err(|source| io_error(&self.path.join(name), source))
    }
}

/// Whether a network may be called so: docker's rule.
pub fn is_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    name.len() <= 128
        && name.bytes().all(good)
        && name
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric())
}

const SUFFIX: &str = ".json";

fn file_name(name: &str) -> String {
    format!("{name}{SUFFIX}")
}

fn list(path: &Path, dir: &Dir) -> Result<Vec<Network>, CatalogError> {
    let entries = dir.entries().map_err(|source| io_error(path, source))?;
    let names = entries.iter().filter_map(|entry| entry.name.to_str());
    let mut networks = Vec::new();
    for name in names.filter(|name| name.ends_with(SUFFIX)) {
        // One that is removed just now is none.
        networks.extend(read(path, dir, name)?);
    }
    networks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(networks)
}

fn read(path: &Path, dir: &Dir, name: &str) -> Result<Option<Network>, CatalogError> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let path = path.join(name);
    let read = || -> io::Result<Vec<u8>> {
        let file = dir.open_file(name, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty())?;
        let mut text = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut text)?;
        Ok(text)
    };
    let text = match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|source| io_error(&path, source))?,
    };
    let json = |source| CatalogError::Json {
        path: path.clone(),
        source,
    };
    let Version { version } = serde_json::from_slice(&text).map_err(json)?;
    if version > VERSION {
        return Err(CatalogError::Newer { path, version });
    }
    serde_json::from_slice(&text).map(Some).map_err(json)
}

fn io_error(path: &Path, source: io::Error) -> CatalogError {
    CatalogError::Io {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn network(name: &str, subnets: &[&str]) -> Network {
        let pool = |text: &&str| {
            let subnet: Subnet = text.parse().unwrap();
            Pool {
                subnet,
                gateway: subnet.first(),
                range: None,
            }
        };
        Network {
            version: VERSION,
            id: format!("{:0<64}", "abc"),
            name: name.to_owned(),
            created: Timestamp::UNIX_EPOCH,
            bridge: "st-0".to_owned(),
            pools: subnets.iter().map(pool).collect(),
            internal: false,
            masquerade: true,
            mtu: None,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
        }
    }

    #[test]
    fn nothing_is_made_to_look() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("networks");
        assert!(Catalog::open_existing(&root, "default").unwrap().is_none());
        assert!(!root.exists());
        Catalog::open(&root, "default").unwrap();
        assert!(Catalog::open_existing(&root, "default").unwrap().is_some());
    }

    #[test]
    fn networks_are_kept_and_found() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("networks");
        let catalog = Catalog::open(&root, "default").unwrap();
        let (one, mut two) = (network("one", &["10.1.0.0/16"]), network("two", &["fd00::/64"]));
        two.id = format!("{:0<64}", "abd");
        catalog.add(&one).unwrap();
        catalog.add(&two).unwrap();
        assert!(matches!(catalog.add(&one), Err(CatalogError::Exists(name)) if name == "one"));
        assert_eq!(catalog.find("one").unwrap(), one);
        assert_eq!(catalog.find("abd").unwrap(), two);
        assert!(matches!(catalog.find("ab"), Err(CatalogError::Ambiguous(_))));
        for missing in ["three", "", "../default/one", "f"] {
            assert!(
                matches!(catalog.find(missing), Err(CatalogError::NotFound(_))),
                "{missing}"
            );
        }
        let other = Catalog::open(&root, "other").unwrap();
        assert_eq!(
            (other.list().unwrap().len(), other.pools_of_all().unwrap().len()),
            (0, 2)
        );
        assert_eq!(catalog.list().unwrap(), [one.clone(), two]);
        catalog.remove(&one).unwrap();
        assert!(catalog.named("one").unwrap().is_none());
    }

    #[test]
    fn a_newer_or_broken_definition_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&temp.path().join("networks"), "default").unwrap();
        let file = temp.path().join("networks/default/n.json");
        std::fs::write(&file, "{\"version\":2}").unwrap();
        assert!(matches!(
            catalog.list(),
            Err(CatalogError::Newer { version: 2, .. })
        ));
        std::fs::write(&file, "{\"version\":1").unwrap();
        assert!(catalog.list().unwrap_err().to_string().contains("n.json"));
    }

    #[test]
    fn names_are_dockers() {
        for good in ["a", "my-net_1.x", "0"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".", "-a", "a/b", "a b", "ä", &"a".repeat(129)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn who_makes_one_waits_for_who_looks() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("networks");
        let (one, other) = (
            Catalog::open(&root, "a").unwrap(),
            Catalog::open(&root, "b").unwrap(),
        );
        let shared = one.lock_shared().unwrap();
        drop(other.lock_shared().unwrap());
        let second = other.lock(FlockOperation::NonBlockingLockExclusive);
        assert!(matches!(second, Err(CatalogError::Io { .. })));
        drop(shared);
        other.lock_exclusive().unwrap();
    }
}
