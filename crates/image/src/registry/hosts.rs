//! `hosts.toml`: by which hosts a registry's content may be had, in the form that users of containerd know
//! (containerd's `docs/hosts.md`).
//!
//! `<directory>/<registry>/hosts.toml`, or that of `_default`, lists hosts that are asked in their order, and last the
//! registry itself (`server`). A key that is not known is an error: what it wants would not be done.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use serde::Deserialize;
use toml::Spanned;
use ureq::http::{HeaderName, HeaderValue};

use super::error::RegistryError;
use super::host_of;
use super::url::{Url, is_loopback, split_port};

/// What a host is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Capability {
    /// What has a digest.
    Pull,
    /// What a tag stands for.
    Resolve,
    /// To take something.
    Push,
}

const ALL: [Capability; 3] = [Capability::Pull, Capability::Resolve, Capability::Push];

/// How a connection is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Dial {
    /// Certificates in PEM form that are trusted besides all others.
    pub(crate) ca: Vec<PathBuf>,
    /// Any certificate will do.
    pub(crate) skip_verify: bool,
    /// Files in PEM form with the certificate and the key that the client shows; none, one or two.
    pub(crate) client: Vec<PathBuf>,
    /// How long may pass until it is made, where another time than usual.
    pub(crate) timeout: Option<Duration>,
}

/// One host, and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Up to and with `/v2`, as a rule.
    pub(crate) base: Url,
    /// The registry itself, not one that stands in for it.
    pub(crate) own: bool,
    capabilities: Vec<Capability>,
    pub(crate) headers: Vec<(HeaderName, String)>,
    pub(crate) dial: Arc<Dial>,
}

impl Endpoint {
    /// The registry itself, when nothing is said of it.
    pub(crate) fn own(base: Url) -> Endpoint {
        Endpoint {
            base,
            own: true,
            capabilities: ALL.to_vec(),
            headers: Vec::new(),
            dial: Arc::default(),
        }
    }

    pub(crate) fn can(&self, capability: Capability) -> bool {
        self.capabilities.contains(&capability)
    }

    /// The address of something beneath it, for the registry `domain`: one that stands in for several is told for
    /// which.
    pub(crate) fn url(&self, path: &str, domain: &str) -> Url {
        let mut url = self.base.clone();
        url.path = format!("{}/{path}", url.path.trim_end_matches('/'));
        if !self.own {
            let separator = if url.path.contains('?') { '&' } else { '?' };
            url.path.push_str(&format!("{separator}ns={domain}"));
        }
        url
    }
}

/// What a `hosts.toml` says of the registry itself, and of each host.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Host {
    capabilities: Option<Vec<Capability>>,
    ca: Option<OneOrMore>,
    #[serde(default)]
    skip_verify: bool,
    client: Option<Client>,
    dial_timeout: Option<String>,
    #[serde(default)]
    header: BTreeMap<String, OneOrMore>,
    #[serde(default)]
    override_path: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    server: Option<String>,
    #[serde(default)]
    host: BTreeMap<String, Spanned<Host>>,
    capabilities: Option<Vec<Capability>>,
    ca: Option<OneOrMore>,
    #[serde(default)]
    skip_verify: bool,
    client: Option<Client>,
    dial_timeout: Option<String>,
    #[serde(default)]
    header: BTreeMap<String, OneOrMore>,
    #[serde(default)]
    override_path: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// What the client shows: files with a certificate and its key each, or pairs of files.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Client {
    Files(OneOrMore),
    Pairs(Vec<Vec<String>>),
}

impl Client {
    /// The files of the one certificate; `None` where there are several, of which none is said to be the right one.
    fn files(&self) -> Option<Vec<&String>> {
        match self {
            Client::Files(files) => match files.list() {
                [file] => Some(vec![file]),
                _ => None,
            },
            Client::Pairs(pairs) => match pairs.as_slice() {
                [pair] if (1..=2).contains(&pair.len()) => {
                    Some(pair.iter().filter(|file| !file.is_empty()).collect())
                }
                _ => None,
            },
        }
    }
}

impl OneOrMore {
    fn list(&self) -> &[String] {
        match self {
            OneOrMore::One(one) => std::slice::from_ref(one),
            OneOrMore::More(more) => more,
        }
    }
}

/// The hosts of a registry in the order in which they are asked; `None` where no file speaks of it. The first
/// directory that has one counts.
///
/// # Errors
/// A file that cannot be read or understood, by its name.
pub(crate) fn read(dirs: &[PathBuf], domain: &str) -> Result<Option<Vec<Endpoint>>, RegistryError> {
    // A colon may not be liked in the name of a directory.
    let plain = domain.replace(':', "_");
    let with_port = format!("{plain}_");
    let mut names = vec![domain];
    if plain != domain {
        names.push(&with_port);
    }
    names.push("_default");
    for dir in dirs {
        for name in &names {
            let path = dir.join(name).join("hosts.toml");
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(unusable(&path, error)),
            };
            return parse(&text, &path, domain).map(Some);
        }
    }
    Ok(None)
}

/// The addresses at which a `hosts.toml` with this text, in the file `path`, has a registry asked, in their order.
///
/// # Errors
/// What cannot be understood, by the file's name.
pub fn addresses(text: &str, path: &Path, domain: &str) -> Result<Vec<String>, RegistryError> {
    let hosts = parse(text, path, domain)?;
    Ok(hosts.iter().map(|host| host.base.to_string()).collect())
}

fn parse(text: &str, path: &Path, domain: &str) -> Result<Vec<Endpoint>, RegistryError> {
    let file: File = toml::from_str(text).map_err(|error| unusable(path, error))?;
    endpoints(file, path, domain)
}

fn unusable(path: &Path, why: impl std::fmt::Display) -> RegistryError {
    RegistryError::Setup(format!("{}: {}", path.display(), why.to_string().trim_end()))
}

fn endpoints(file: File, path: &Path, domain: &str) -> Result<Vec<Endpoint>, RegistryError> {
    let mut hosts: Vec<(String, Spanned<Host>)> = file.host.into_iter().collect();
    hosts.sort_by_key(|(_, host)| host.span().start);
    let mut out = Vec::new();
    for (address, host) in hosts {
        out.push(endpoint(&address, host.into_inner(), false, path)?);
    }
    let server = file.server.unwrap_or_else(|| host_of(domain).to_owned());
    let own = Host {
        capabilities: file.capabilities,
        ca: file.ca,
        skip_verify: file.skip_verify,
        client: file.client,
        dial_timeout: file.dial_timeout,
        header: file.header,
        override_path: file.override_path,
    };
    out.push(endpoint(&server, own, true, path)?);
    Ok(out)
}

fn endpoint(address: &str, host: Host, own: bool, path: &Path) -> Result<Endpoint, RegistryError> {
    let whole = match address.contains("://") {
        true => address.to_owned(),
        false if is_loopback(split_port(address).0) => format!("http://{address}"),
        false => format!("https://{address}"),
    };
    let mut base = Url::parse(&whole).ok_or_else(|| unusable(path, format!("{address:?} is no address")))?;
    base.path.truncate(base.path.trim_end_matches('/').len());
    if !host.override_path && !base.path.ends_with("/v2") {
        base.path.push_str("/v2");
    }
    // Beside the file, unless it says where.
    let beside = path.parent().unwrap_or(Path::new("/"));
    let ca = host.ca.iter().flat_map(OneOrMore::list);
    let client = match host.client.as_ref().map(Client::files) {
        None => Vec::new(),
        Some(Some(files)) => files.into_iter().map(|file| beside.join(file)).collect(),
        Some(None) => {
            let why = "client: one certificate can be shown: FILE, [FILE] or [[CERTIFICATE, KEY]]";
            return Err(unusable(path, why));
        }
    };
    let timeout = host.dial_timeout.as_deref().map(|text| {
        let read = text.parse::<SignedDuration>().ok();
        let time = read.and_then(|time| Duration::try_from(time).ok());
        time.filter(|time| !time.is_zero())
            .ok_or_else(|| unusable(path, format!("dial_timeout {text:?} is no time such as \"10s\"")))
    });
    let mut headers = Vec::new();
    for (name, values) in &host.header {
        let wrong = || unusable(path, format!("{name:?} is no header that can be sent"));
        let header: HeaderName = name.parse().map_err(|_| wrong())?;
        for value in values.list() {
            HeaderValue::from_str(value).map_err(|_| wrong())?;
            headers.push((header.clone(), value.clone()));
        }
    }
    Ok(Endpoint {
        base,
        own,
        capabilities: host.capabilities.unwrap_or_else(|| ALL.to_vec()),
        headers,
        dial: Arc::new(Dial {
            ca: ca.map(|file| beside.join(file)).collect(),
            skip_verify: host.skip_verify,
            client,
            timeout: timeout.transpose()?,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str, domain: &str) -> Result<Vec<Endpoint>, RegistryError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("_default")).unwrap();
        std::fs::write(dir.path().join("_default/hosts.toml"), text).unwrap();
        Ok(read(&[dir.path().into()], domain)?.unwrap())
    }

    #[test]
    fn hosts_stand_in_the_order_of_the_file_and_the_registry_last() {
        let text = r#"
            server = "https://registry-1.docker.io"
            [host."https://z.example"]
            capabilities = ["pull"]
            [host."http://a.example:5000/mirror"]
            header = { "x-one" = "1", "x-two" = ["2", "3"] }
            [host."https://b.example/api/oci"]
            override_path = true
            skip_verify = true
        "#;
        let hosts = parsed(text, "docker.io").unwrap();
        let shown: Vec<String> = hosts
            .iter()
            .map(|host| host.url("x/blobs/y", "docker.io").to_string())
            .collect();
        assert_eq!(
            shown,
            [
                "https://z.example/v2/x/blobs/y?ns=docker.io",
                "http://a.example:5000/mirror/v2/x/blobs/y?ns=docker.io",
                "https://b.example/api/oci/x/blobs/y?ns=docker.io",
                "https://registry-1.docker.io/v2/x/blobs/y",
            ]
        );
        assert!(hosts[0].can(Capability::Pull) && !hosts[0].can(Capability::Resolve));
        assert!(hosts[1].can(Capability::Resolve) && hosts[3].can(Capability::Push));
        assert_eq!(hosts[1].headers.len(), 3);
        assert!(hosts[2].dial.skip_verify && !hosts[3].dial.skip_verify);
    }

    #[test]
    fn what_is_not_said() {
        let hosts = parsed("ca = 'ca.pem'", "docker.io").unwrap();
        assert_eq!(hosts.len(), 1);
        assert_eq!(hosts[0].base.to_string(), "https://registry-1.docker.io/v2");
        assert!(hosts[0].own && hosts[0].dial.ca[0].ends_with("_default/ca.pem"));
        let shown = |text: &str| parsed(text, "r.example").unwrap()[0].dial.client.len();
        for (text, files) in [
            ("client = 'a.pem'", 1),
            ("client = ['a.pem']", 1),
            ("client = [['a.pem', '']]", 1),
            ("client = [['a.crt', '/k/a.key']]", 2),
        ] {
            assert_eq!(shown(text), files, "{text}");
        }
        for (text, time) in [("1m30s", 90_000), ("500ms", 500)] {
            let hosts = parsed(&format!("dial_timeout = '{text}'"), "r.example").unwrap();
            assert_eq!(hosts[0].dial.timeout, Some(Duration::from_millis(time)));
        }
        let hosts = parsed("[host.'localhost:5000']", "r.example").unwrap();
        assert_eq!(hosts[0].base.to_string(), "http://localhost:5000/v2");
    }

    #[test]
    fn what_is_not_known_is_named() {
        for (text, word) in [
            ("[host.'https://a']\nclients = 'x.pem'", "clients"),
            ("[host.'https://a']\nclient = ['x.pem', 'y.pem']", "client"),
            ("[host.'https://a']\nclient = [['x', 'y', 'z']]", "client"),
            ("dial_timeout = 'soon'", "dial_timeout"),
            ("dial_timeout = '0s'", "dial_timeout"),
            ("[host.'ftp://a']", "ftp://a"),
            ("[host.'https://a']\ncapabilities = ['fly']", "fly"),
            ("[host.'https://a'.header]\n'a b' = 'c'", "a b"),
            ("server = ", "hosts.toml"),
        ] {
            let error = parsed(text, "a.example").unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("hosts.toml"), "{error}");
        }
    }

    #[test]
    fn directories_are_named_by_host_with_or_without_a_colon() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, server: &str| {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
            let text = format!("server = '{server}'");
            std::fs::write(dir.path().join(name).join("hosts.toml"), text).unwrap();
        };
        let server = |domain: &str| {
            let hosts = read(&[dir.path().join("no"), dir.path().into()], domain).unwrap();
            hosts.map(|hosts| hosts[0].base.authority.clone())
        };
        put("r.example:5000", "one");
        put("s.example_5000_", "two");
        assert_eq!(server("r.example:5000").as_deref(), Some("one"));
        assert_eq!(server("s.example:5000").as_deref(), Some("two"));
        assert_eq!(server("r.example"), None);
        put("_default", "three");
        assert_eq!(server("r.example").as_deref(), Some("three"));
    }
}
