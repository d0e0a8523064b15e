//! Settings: a flag goes before the environment, that before the configuration file, that before the default.
//!
//! The keys are described in `docs/configuration.md`.

use std::io::ErrorKind;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use engine::network::{Networking, Plugins};
use engine::policy::Policy;
use runtime::options::userns;
use serde::Deserialize;

use crate::args::Global;
use crate::failure::Failure;
use crate::rootless::Places;

/// Where root's configuration file lies unless a flag or the environment names another.
pub(crate) const FILE: &str = "/etc/strata/config.toml";

/// The configuration file.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    root: Option<PathBuf>,
    state: Option<PathBuf>,
    namespace: Option<String>,
    runtime: Option<PathBuf>,
    default_network: Option<String>,
    cni_plugin_dirs: Option<Vec<PathBuf>>,
    userns_ids: Option<String>,
    #[serde(default)]
    registries: Registries,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    store: Keep,
}

/// `[store]`: what is kept, and how.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keep {
    keep_blobs: Option<bool>,
    keep_bytes: Option<String>,
    dedup: Option<bool>,
}

impl Keep {
    fn policy(&self, path: &Path) -> Result<Policy, Failure> {
        let wrong = |error| {
            let text = format!("configuration file {}: keep_bytes: {error}", path.display());
            Failure::user(text).hint("keep_bytes = \"20GB\" keeps the images to so much")
        };
        let bytes = self.keep_bytes.as_deref().map(crate::render::size::parse);
        let default = Policy::default();
        Ok(Policy {
            keep_blobs: self.keep_blobs.unwrap_or(default.keep_blobs),
            keep_bytes: bytes.transpose().map_err(wrong)?,
            dedup: self.dedup.unwrap_or(default.dedup),
        })
    }
}

/// `[limits]`: what a layer may do to the machine that unpacks it.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    layer_bytes: Option<u64>,
    layer_entries: Option<u64>,
    inflate_ratio: Option<u64>,
    layers_at_once: Option<NonZeroUsize>,
}

impl Limits {
    fn over(self, mut limits: engine::Limits) -> engine::Limits {
        limits.bytes = self.layer_bytes.unwrap_or(limits.bytes);
        limits.entries = self.layer_entries.unwrap_or(limits.entries);
        limits.ratio = self.inflate_ratio.unwrap_or(limits.ratio);
        limits.at_once = self.layers_at_once.map(NonZeroUsize::get);
        limits
    }
}

/// `[registries]`: how registries are spoken to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Registries {
    /// Registries (`host` or `host:port`) that may be spoken to without TLS.
    #[serde(default)]
    pub(crate) plain_http: Vec<String>,
    /// The directory in which `<registry>/hosts.toml` names mirrors.
    pub(crate) hosts: Option<PathBuf>,
}

/// Every setting, resolved.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The store.
    pub(crate) root: PathBuf,
    /// Bundles and sockets.
    pub(crate) state: PathBuf,
    /// Namespace of containers and images.
    pub(crate) namespace: String,
    /// An OCI runtime used instead of strata's own.
    pub(crate) runtime: Option<PathBuf>,
    /// How networks are made.
    pub(crate) networking: Networking,
    /// The ids of containers that have some of their own.
    pub(crate) ids: Option<(u32, u32)>,
    /// How registries are spoken to.
    pub(crate) registries: Registries,
    /// What a layer may do to the machine that unpacks it.
    pub(crate) limits: engine::Limits,
    /// What the store keeps.
    pub(crate) policy: Policy,
    /// The file that was read, if there was one.
    pub(crate) file: Option<PathBuf>,
    /// Where it is looked for.
    pub(crate) config: PathBuf,
    /// The user outside of any namespace that is entered later.
    pub(crate) user: u32,
}

impl Settings {
    /// Resolves the settings; `global` holds flags and environment already (clap orders these).
    ///
    /// # Errors
    /// A file that was named and is missing, or that cannot be read or understood; a namespace that is no name.
    pub(crate) fn resolve(global: &Global) -> Result<Settings, Failure> {
        let [root, state, config] = [&global.root, &global.state, &global.config]
            .map(|path| path.clone().filter(|path| !path.as_os_str().is_empty()));
        let places = Places::own()?;
        let path = config.as_deref().unwrap_or(&places.config);
        let (file, read) = match std::fs::read_to_string(path) {
            Ok(text) => (parse(&text, path)?, Some(path.to_owned())),
            Err(e) if e.kind() == ErrorKind::NotFound && config.is_none() => (File::default(), None),
            Err(e) => {
                return Err(
                    Failure::user(format!("configuration file {}: {e}", path.display()))
                        .hint("name a file that exists with --config or STRATA_CONFIG, or leave both out"),
                );
            }
        };
        let namespace = global
            .namespace
            .clone()
            .filter(|name| !name.is_empty())
            .or(file.namespace)
            .unwrap_or_else(|| "default".to_owned());
        check_namespace(&namespace)?;
        let policy = file.store.policy(path)?;
        let ids = file
            .userns_ids
            .as_deref()
            .map(|value| userns::range("userns_ids", value));
        let ids = ids.transpose().map_err(|error| {
            Failure::user(format!("configuration file {}: {error}", path.display()))
                .hint("userns_ids = \"1000000:10000000\": the first, and how many")
        })?;
        Ok(Settings {
            policy,
            root: absolute(root.or(file.root).unwrap_or(places.root))?,
            state: absolute(state.or(file.state).unwrap_or(places.state))?,
            namespace,
            runtime: file.runtime,
            networking: Networking {
                plugins: file.cni_plugin_dirs.map(Plugins).unwrap_or_default(),
                default: file.default_network,
                unprivileged: crate::rootless::is_ordinary(),
            },
            ids,
            registries: file.registries,
            limits: file.limits.over(engine::Limits::default()),
            file: read,
            config: path.to_owned(),
            user: rustix::process::geteuid().as_raw(),
        })
    }
}

impl Settings {
    /// The file, or one without a word in it: for whoever could not tell any more where it is looked for.
    pub(crate) fn file_or_none(&self) -> &Path {
        self.file.as_deref().unwrap_or(Path::new("/dev/null"))
    }
}

fn parse(text: &str, path: &Path) -> Result<File, Failure> {
    let file: File = toml::from_str(text).map_err(|e| {
        let line = e
            .span()
            .map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        Failure::user(format!(
            "configuration file {}, line {line}: {}",
            path.display(),
            e.message().replace('\n', "; ")
        ))
        .hint("the keys are root, state, namespace, runtime, default_network, cni_plugin_dirs, userns_ids, [registries] plain_http, hosts, [limits] layer_bytes, layer_entries, inflate_ratio, layers_at_once and [store] keep_blobs, keep_bytes, dedup")
    })?;
    let paths = [("root", &file.root), ("state", &file.state)];
    let paths = paths
        .iter()
        .filter_map(|(key, path)| Some((*key, path.as_ref()?)));
    let plugins = file
        .cni_plugin_dirs
        .iter()
        .flatten()
        .map(|path| ("cni_plugin_dirs", path));
    for (key, value) in paths.chain(plugins) {
        if value.is_relative() {
            return Err(Failure::user(format!(
                "configuration file {}: {key} must be an absolute path",
                path.display()
            )));
        }
    }
    Ok(file)
}

fn absolute(path: PathBuf) -> Result<PathBuf, Failure> {
    std::path::absolute(&path).map_err(|e| Failure::user(format!("directory {}: {e}", path.display())))
}

/// A namespace is a directory's name: containerd's rule, `[A-Za-z0-9]` with single `.`, `_` or `-` between.
fn check_namespace(name: &str) -> Result<(), Failure> {
    let good = !name.is_empty()
        && name.len() <= 76
        && name
            .split(['.', '_', '-'])
            .all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric()));
    if good {
        Ok(())
    } else {
        Err(Failure::user(format!("{name:?} is no name of a namespace"))
            .hint("letters and digits, with single dots, dashes or underscores between, at most 76"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_gives_way_to_flags() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(
            &path,
            "root = \"/a\"\nstate = \"/b\"\n[registries]\nplain_http = [\"r:5000\"]\n[limits]\nlayer_entries = 5\nlayers_at_once = 3\n",
        )
        .unwrap();
        let global = Global {
            root: Some("/flag".into()),
            config: Some(path.clone()),
            ..Global::default()
        };
        let settings = Settings::resolve(&global).unwrap();
        assert_eq!(settings.root, Path::new("/flag"));
        assert_eq!(settings.state, Path::new("/b"));
        assert_eq!(settings.namespace, "default");
        assert_eq!(settings.registries.plain_http, ["r:5000"]);
        let bytes = engine::Limits::default().bytes;
        assert_eq!((settings.limits.entries, settings.limits.bytes), (5, bytes));
        assert_eq!(settings.limits.at_once, Some(3));
        assert_eq!(settings.file, Some(path));
    }

    #[test]
    fn what_the_store_keeps() {
        let policy =
            |text: &str| parse(text, Path::new("/c")).and_then(|file| file.store.policy(Path::new("/c")));
        assert_eq!(policy("").unwrap(), Policy::default());
        let told = policy("[store]\nkeep_blobs = false\nkeep_bytes = \"20GB\"\ndedup = true\n").unwrap();
        assert_eq!(
            (told.keep_blobs, told.keep_bytes, told.dedup),
            (false, Some(20_000_000_000), true)
        );
        assert!(
            policy("[store]\nkeep_bytes = \"much\"")
                .unwrap_err()
                .to_string()
                .contains("keep_bytes")
        );
    }

    /// Whatever stands in the file, it is understood or refused with its line.
    #[test]
    fn files_changed_at_random() {
        const WHOLE: &str = "root = \"/a\"\nnamespace = \"b\"\nruntime = \"/c\"\ndefault_network = \"d\"\ncni_plugin_dirs = [\"/e\"]\n[registries]\nplain_http = [\"r:1\"]\n\
            [limits]\nlayer_bytes = 5\n[store]\nkeep_blobs = false\nkeep_bytes = \"1GB\"\n";
        let mut random = testkit::random::Random::new(1);
        for _ in 0..3000 {
            let mut text: Vec<char> = WHOLE.chars().collect();
            for _ in 0..=random.below(4) {
                let at = random.below(text.len() as u64) as usize;
                match random.below(3) {
                    0 if text.len() > 1 => drop(text.remove(at)),
                    1 => text.insert(
                        at,
                        *random.choose(&['"', '[', ']', '=', '\n', '\0', 'é', '-', '9', '{', '.']),
                    ),
                    _ => text.truncate(at.max(1)),
                }
            }
            let text: String = text.into_iter().collect();
            match parse(&text, Path::new("/c")) {
                Ok(file) => drop(file.store.policy(Path::new("/c"))),
                Err(error) => assert!(error.to_string().contains("/c"), "{text:?}: {error}"),
            }
        }
    }

    #[test]
    fn mistakes_name_their_line() {
        let error = parse("root = \"/a\"\n\nrot = \"/b\"\n", Path::new("/c")).unwrap_err();
        assert!(error.to_string().contains("/c, line 3"), "{error}");
        assert!(error.to_string().contains("rot"), "{error}");
        assert!(parse("root = \"a\"", Path::new("/c")).is_err());
        assert!(parse("root = 1", Path::new("/c")).is_err());
        assert!(parse("cni_plugin_dirs = [\"cni\"]", Path::new("/c")).is_err());
    }

    #[test]
    fn a_named_file_must_exist() {
        let global = Global {
            config: Some("/nonexistent/c.toml".into()),
            ..Global::default()
        };
        assert!(
            Settings::resolve(&global)
                .unwrap_err()
                .to_string()
                .contains("/nonexistent/c.toml")
        );
    }

    #[test]
    fn namespaces_are_directory_names() {
        for good in ["default", "k8s.io", "a-b_c"] {
            assert!(check_namespace(good).is_ok(), "{good}");
        }
        for wrong in ["", ".", "..", "a/b", "-a", "a..b", "ä"] {
            assert!(check_namespace(wrong).is_err(), "{wrong}");
        }
    }
}
