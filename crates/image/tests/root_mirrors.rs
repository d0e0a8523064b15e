//! Several hosts for one registry, named by a `hosts.toml` as containerd's users write it. Needs root: it unpacks.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::Home;
use common::client::{content, options};
use image::install::InstallError;
use image::progress::{Event, Progress, Silent};
use image::pull::{PullError, PullOptions, Pulled, pull};
use image::reference::Reference;
use image::registry::{Client, ClientOptions, RegistryError};
use testkit::registry::{Kind, Registry};
use testkit::scripted::{Reply, Request, Server};
use testkit::{Built, Compression, Image, Layer};

/// The name of the image, in a registry that nobody has.
const NAME: &str = "registry.invalid/some/image:tag";

/// A blob that breaks off must be this large for what came to count as progress.
fn built() -> Built {
    let noise: Vec<u8> = (0..300_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    Image::new("x")
        .layer_as(Layer::new().file("noise", 0o644, noise), Compression::None)
        .build()
}

/// Serves the image by `answer`.
fn serve(built: &Built, answer: impl Fn(&Built, &Request) -> Reply + Send + Sync + 'static) -> Server {
    let built = built.clone();
    Server::start(move |request| {
        // What stands in for registries is told for which.
        let mut request = request.clone();
        let path = request.path.replace("?ns=registry.invalid", "");
        request.path = path;
        answer(&built, &request)
    })
}

fn is_layer(built: &Built, request: &Request) -> bool {
    request.path.contains(&built.layer(0))
}

/// A pull with this `hosts.toml`.
fn pull_by(home: &Home, hosts: &str, progress: &dyn Progress) -> Result<Pulled, PullError> {
    let dir = home.dir.path().join("certs.d/registry.invalid");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("hosts.toml"), hosts).unwrap();
    pull_from(home, NAME, &home.dir.path().join("certs.d"), progress)
}

fn pull_from(home: &Home, name: &str, hosts: &Path, progress: &dyn Progress) -> Result<Pulled, PullError> {
    let client = Client::new(ClientOptions {
        hosts: vec![hosts.to_owned()],
        ..options()
    });
    let options = PullOptions::default();
    let name = Reference::parse(name).unwrap();
    pull(&home.store, &client, "default", &name, &options, progress)
}

fn hosts(own: &Server, mirrors: &[&Server]) -> String {
    let mut text = format!("server = 'http://{}'\n", own.host());
    for mirror in mirrors {
        text += &format!("[host.'http://{}']\n", mirror.host());
    }
    text
}

/// Keeps what a person would be told.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Progress for Notes {
    fn event(&self, event: &Event<'_>) {
        if let Event::Note { text } = event {
            self.0.lock().unwrap().push((*text).to_owned());
        }
    }
}

#[test]
fn mirrors_are_asked_in_their_order_and_the_registry_for_what_they_lack() {
    let (home, built) = (Home::new(), built());
    let empty = serve(&built, |_, _| Reply::new(404));
    let half = serve(&built, |built, request| match is_layer(built, request) {
        true => Reply::new(404),
        false => content(built, request),
    });
    let own = serve(&built, content);
    let notes = Notes::default();
    pull_by(&home, &hosts(&own, &[&empty, &half]), &notes).unwrap();
    assert_eq!(home.names(), [NAME]);
    let asked = |server: &Server| -> Vec<String> {
        server
            .requests()
            .into_iter()
            .map(|request| request.path)
            .collect()
    };
    let (first, last) = (asked(&empty), asked(&own));
    assert!(first.len() >= 3, "{first:?}");
    assert!(
        first.iter().all(|path| path.ends_with("?ns=registry.invalid")),
        "{first:?}"
    );
    assert_eq!(last, [format!("/v2/some/image/blobs/{}", built.layer(0))]);
    let notes = notes.0.into_inner().unwrap();
    assert!(
        notes
            .iter()
            .any(|note| note.contains(&half.host()) && note.contains(&own.host())),
        "{notes:?}"
    );
}

#[test]
fn wrong_bytes_of_a_mirror_are_thrown_away_and_fetched_elsewhere() {
    let (home, built) = (Home::new(), built());
    let forged = serve(&built, |built, request| match is_layer(built, request) {
        true => {
            let mut bytes = built.blobs[&built.layer(0)].clone();
            bytes[200_000] ^= 1;
            Reply::ranged(request, &bytes)
        }
        false => content(built, request),
    });
    let own = serve(&built, content);
    pull_by(&home, &hosts(&own, &[&forged]), &Silent).unwrap();
    assert_eq!(own.count(&built.layer(0)), 1);
    assert_eq!(forged.count(&built.layer(0)), 1);

    // The same where the wrong bytes are the rest of a blob whose beginning another host gave.
    let home = Home::new();
    let cut = serve(&built, |built, request| match is_layer(built, request) {
        true if request.range_start().is_none() => content(built, request).cut(100_000),
        true => Reply::new(404),
        false => content(built, request),
    });
    let own = serve(&built, content);
    pull_by(&home, &hosts(&own, &[&cut, &forged]), &Silent).unwrap();
    let last = own.requests().pop().unwrap();
    assert_eq!(
        last.range_start(),
        None,
        "what is wrong somewhere is fetched anew"
    );

    // With nobody left to ask, nothing is visible.
    let home = Home::new();
    let error = pull_by(&home, &hosts(&forged, &[]), &Silent).unwrap_err();
    let PullError::Install { source, .. } = error else {
        panic!("{error:?}")
    };
    assert!(matches!(*source, InstallError::Digest { .. }), "{source:?}");
    home.assert_empty();
}

#[test]
fn a_mirror_that_breaks_off_or_stalls_is_gone_on_from_by_the_next() {
    for stalls in [false, true] {
        let (home, built) = (Home::new(), built());
        let mirror = serve(&built, move |built, request| {
            match (is_layer(built, request), request.range_start()) {
                (true, None) if stalls => content(built, request).stall(100_000),
                (true, None) => content(built, request).cut(100_000),
                (true, Some(_)) => content(built, request).cut(10),
                (false, _) => content(built, request),
            }
        });
        let own = serve(&built, content);
        pull_by(&home, &hosts(&own, &[&mirror]), &Silent).unwrap();
        let last = own.requests().pop().unwrap();
        assert_eq!(last.range_start(), Some(100_010));
    }
}

#[test]
fn a_mirror_that_is_away_or_busy_costs_no_waiting() {
    let (home, built) = (Home::new(), built());
    let busy = serve(&built, |_, _| Reply::new(429).header("retry-after", "60"));
    let gone = serve(&built, content);
    let own = serve(&built, content);
    let text = hosts(&own, &[&busy, &gone]);
    drop(gone);
    let started = Instant::now();
    let notes = Notes::default();
    pull_by(&home, &text, &notes).unwrap();
    assert!(started.elapsed() < Duration::from_secs(20));
    let notes = notes.0.into_inner().unwrap();
    let refused = notes.iter().filter(|note| note.contains("refused"));
    assert_eq!(
        refused.count(),
        1,
        "one that is not there is tried once: {notes:?}"
    );
}

#[test]
fn a_mirror_is_asked_only_for_what_it_is_named_for() {
    let (home, built) = (Home::new(), built());
    let mirror = serve(&built, |built, request| match request.header("x-key") {
        Some("open") => content(built, request),
        _ => Reply::new(403),
    });
    let own = serve(&built, |built, request| match request.header("x-key") {
        Some(_) => Reply::new(400),
        None => content(built, request),
    });
    let text = format!(
        "server = 'http://{}'\n[host.'http://{}']\ncapabilities = ['pull']\nheader = {{ x-key = 'open' }}\n",
        own.host(),
        mirror.host()
    );
    pull_by(&home, &text, &Silent).unwrap();
    assert_eq!(mirror.count("manifests/tag"), 0);
    assert_eq!(own.count("manifests/tag"), 1);
    assert_eq!(own.count("blobs"), 0);
    assert_eq!(mirror.count(&built.layer(0)), 1);
}

#[test]
fn a_real_registry_behind_a_certificate_that_the_file_names() {
    let registry = Registry::start_as(Kind {
        tls: true,
        ..Kind::default()
    });
    let built = built();
    let dir = tempfile::tempdir().unwrap();
    let image = Image::new("x").layer(Layer::new().file("a", 0o644, "b"));
    image.write_layout(&dir.path().join("layout"));
    registry.fill(
        &format!("oci:{}", dir.path().join("layout").display()),
        "some/image:tag",
        &["--dest-tls-verify=false"],
    );
    let address = format!("https://{}", registry.host());
    let trust = format!("ca = '{}'", registry.certificate().display());
    for (how, trusted) in [(trust.as_str(), true), ("skip_verify = true", true), ("", false)] {
        let home = Home::new();
        let pulled = pull_by(&home, &format!("server = '{address}'\n{how}\n"), &Silent);
        assert_eq!(pulled.is_ok(), trusted, "{how}: {pulled:?}");
        // As a mirror, and under a path of its own.
        let home = Home::new();
        let own = serve(&built, |_, _| Reply::new(404));
        let text = format!(
            "server = 'http://{}'\n[host.'{address}/v2']\noverride_path = true\n{how}\n",
            own.host()
        );
        let pulled = pull_by(&home, &text, &Silent);
        assert_eq!(pulled.is_ok(), trusted, "{how}: {pulled:?}");
    }
}

#[test]
fn a_client_shows_the_certificate_that_the_file_names() {
    let registry = Registry::start_as(Kind {
        tls: true,
        client: true,
        ..Kind::default()
    });
    let dir = tempfile::tempdir().unwrap();
    let image = Image::new("x").layer(Layer::new().file("a", 0o644, "b"));
    image.write_layout(&dir.path().join("layout"));
    let certs = dir.path().join("certs");
    std::fs::create_dir(&certs).unwrap();
    let (certificate, key) = (registry.certificate(), registry.key());
    std::fs::copy(&certificate, certs.join("client.cert")).unwrap();
    std::fs::copy(&key, certs.join("client.key")).unwrap();
    registry.fill(
        &format!("oci:{}", dir.path().join("layout").display()),
        "some/image:tag",
        &["--dest-cert-dir", certs.to_str().unwrap()],
    );
    let both = dir.path().join("both.pem");
    let text = [&certificate, &key].map(|path| std::fs::read_to_string(path).unwrap());
    std::fs::write(&both, text.concat()).unwrap();
    let ca = format!(
        "server = 'https://{}'\nca = '{}'\n",
        registry.host(),
        certificate.display()
    );
    let pair = format!("client = [['{}', '{}']]\n", certificate.display(), key.display());
    let one = format!("client = '{}'\ndial_timeout = '20s'\n", both.display());
    for (client, works) in [(pair.as_str(), true), (&one, true), ("", false)] {
        let pulled = pull_by(&Home::new(), &format!("{ca}{client}"), &Silent);
        assert_eq!(pulled.is_ok(), works, "{client}: {pulled:?}");
    }
    let lacking = format!("{ca}client = '{}'\n", certificate.display());
    let error = pull_by(&Home::new(), &lacking, &Silent).unwrap_err();
    assert!(error.to_string().contains("certificate with its key"), "{error}");
}

#[test]
fn a_file_that_cannot_be_understood_is_named() {
    let home = Home::new();
    let error = pull_by(&home, "[host.'https://a.invalid']\ncapability = []\n", &Silent).unwrap_err();
    assert!(
        matches!(&error, PullError::Registry(RegistryError::Setup(text))
            if text.contains("registry.invalid/hosts.toml") && text.contains("capability")),
        "{error:?}"
    );
}

#[test]
fn a_default_stands_for_every_registry() {
    let (home, built) = (Home::new(), Arc::new(built()));
    let mirror = serve(&built, content);
    let dir = home.dir.path().join("certs.d");
    std::fs::create_dir_all(dir.join("_default")).unwrap();
    let text = format!("[host.'http://{}']\n", mirror.host());
    std::fs::write(dir.join("_default/hosts.toml"), text).unwrap();
    pull_from(&home, NAME, &dir, &Silent).unwrap();
    assert_eq!(home.names(), [NAME]);
}
