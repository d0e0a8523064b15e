//! Debian's `docker-registry`, alive as long as a value of this module.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::random::Random;

/// The user of a registry started with a login.
pub const USER: &str = "user";
/// That user's password.
pub const PASSWORD: &str = "pass:word";
/// `htpasswd` line for the two (bcrypt, the only kind that the registry takes).
const HTPASSWD: &str = include_str!("registry/htpasswd");
/// A certificate for `localhost` and 127.0.0.1, signed by itself, good until 2126.
const CERTIFICATE: &str = include_str!("registry/localhost.crt");
const KEY: &str = include_str!("registry/localhost.key");

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    dir: TempDir,
    process: Child,
    port: u16,
}

/// How a registry is to be.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kind {
    /// It asks for [`USER`] and [`PASSWORD`].
    pub login: bool,
    /// It speaks TLS, with [`Registry::certificate`].
    pub tls: bool,
    /// It asks its clients for a certificate as well, and [`Registry::certificate`] is one.
    pub client: bool,
}

/// A port that is free, and that nobody is given who asks the kernel for any: those are higher.
fn free_port() -> u16 {
    let mut random = Random::new(Random::seed());
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (0..1000)
        .map(|_| 10_000 + random.below(20_000) as u16)
        .find(free)
        .expect("a free port")
}

impl Registry {
    /// Starts an empty registry that lets anybody in, without TLS.
    pub fn start() -> Self {
        Self::start_as(Kind::default())
    }

    /// Starts an empty registry.
    pub fn start_as(kind: Kind) -> Self {
        // Another process may take the port between our asking for it and the registry's.
        for _ in 0..5 {
            if let Some(registry) = Self::try_start(kind) {
                return registry;
            }
        }
        panic!("docker-registry does not start (is the package docker-registry installed?)")
    }

    fn try_start(kind: Kind) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port = free_port();
        let write = |name: &str, text: &str| -> PathBuf {
            let path = dir.path().join(name);
            fs::File::create(&path)
                .and_then(|mut f| std::io::Write::write_all(&mut f, text.as_bytes()))
                .expect("writing the registry's files");
            path
        };
        let mut config = format!(
            "version: 0.1\nlog: {{ level: error, accesslog: {{ disabled: true }} }}\n\
             storage: {{ filesystem: {{ rootdirectory: {} }}, delete: {{ enabled: true }} }}\n\
             http:\n  addr: 127.0.0.1:{port}\n",
            dir.path().join("data").display()
        );
        if kind.tls {
            let (certificate, key) = (write("crt", CERTIFICATE), write("key", KEY));
            config += &format!(
                "  tls:\n    certificate: {}\n    key: {}\n",
                certificate.display(),
                key.display()
            );
            if kind.client {
                config += &format!("    clientcas: [ {} ]\n", certificate.display());
            }
        }
        if kind.login {
            let path = write("htpasswd", HTPASSWD);
            config += &format!(
                "auth: {{ htpasswd: {{ realm: test, path: {} }} }}\n",
                path.display()
            );
        }
        let config = write("config.yml", &config);
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry cannot be run: install the package docker-registry");
        let end = Instant::now() + Duration::from_secs(30);
        while Instant::now() < end {
            if matches!(process.try_wait(), Ok(Some(_))) {
                return None;
            }
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(Self { dir, process, port });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = process.kill();
        let _ = process.wait();
        None
    }

    /// `127.0.0.1:PORT`, as it stands in image names.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A name in this registry: `127.0.0.1:PORT/rest`.
    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.host())
    }

    /// The certificate that a client of a TLS registry must trust.
    pub fn certificate(&self) -> PathBuf {
        self.dir.path().join("crt")
    }

    /// The key of [`Registry::certificate`].
    pub fn key(&self) -> PathBuf {
        self.dir.path().join("key")
    }

    /// Where the registry keeps its data, for tests that damage or count it.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data/docker/registry/v2")
    }

    /// The file of a blob, by the hexadecimal digits of its digest.
    pub fn blob_file(&self, hex: &str) -> PathBuf {
        self.data().join(format!("blobs/sha256/{}/{hex}/data", &hex[..2]))
    }

    /// Fills it: copies an image (`oci:DIR:TAG`, `oci-archive:FILE`, …) to `rest` by skopeo.
    pub fn fill(&self, from: &str, rest: &str, arguments: &[&str]) {
        let to = format!("docker://{}", self.name(rest));
        skopeo(
            &[
                &["copy", "--quiet", "--dest-tls-verify=false"],
                arguments,
                &[from, &to],
            ]
            .concat(),
        );
    }

    /// The same from an OCI layout directory.
    pub fn fill_from_layout(&self, layout: &Path, reference: &str, rest: &str) {
        self.fill(&format!("oci:{}:{reference}", layout.display()), rest, &[]);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs skopeo with a policy that trusts everything, whatever the machine's says.
pub fn skopeo(arguments: &[&str]) {
    let output = Command::new("skopeo")
        .arg("--insecure-policy")
        .args(arguments)
        .output()
        .expect("skopeo cannot be run: install the package skopeo");
    assert!(
        output.status.success(),
        "skopeo {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
