//! Credentials: files as docker and podman write them, helper programs, login and logout.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use image::auth::{AuthError, AuthFiles, Credentials, login, logout};
use image::progress::Silent;
use image::reference::Reference;
use image::registry::{Client, ClientOptions, RegistryError};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::registry::{Kind, PASSWORD, Registry, USER};

fn file(dir: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
    let path = dir.join(name);
    let mut options = fs::OpenOptions::new();
    let mut out = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&path)
        .unwrap();
    out.write_all(text.as_bytes()).unwrap();
    path
}

fn password(username: &str, password: &str) -> Option<Credentials> {
    Some(Credentials::Password {
        username: username.into(),
        password: password.into(),
    })
}

fn auth_of(text: &str) -> String {
    // What `base64` makes of a few words.
    let words = [
        ("a:b", "YTpi"),
        ("c:d:e", "YzpkOmU="),
        ("old:pw\0\0", "b2xkOnB3AAA="),
        ("nocolon", "bm9jb2xvbg=="),
    ];
    words
        .iter()
        .find(|(plain, _)| *plain == text)
        .unwrap()
        .1
        .to_owned()
}

struct Files {
    dir: TempDir,
    files: AuthFiles,
}

impl Files {
    fn new(contents: &[Value]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let write = |(n, content): (usize, &Value)| {
            file(dir.path(), &format!("{n}.json"), &content.to_string(), 0o600)
        };
        let read = contents.iter().enumerate().map(write).collect();
        let files = AuthFiles {
            read,
            programs: vec![dir.path().to_owned()],
        };
        Self { dir, files }
    }

    fn find(&self, domain: &str, path: &str) -> Option<Credentials> {
        self.files.find(domain, path).unwrap().credentials
    }

    /// A helper that keeps one user for every server and logs its calls.
    fn helper(&self, name: &str, answer: &str) {
        let log = self.dir.path().join("log");
        let script = format!("#!/bin/sh\necho \"$1 $(cat)\" >> {}\n{answer}\n", log.display());
        testkit::files::script(self.dir.path().join(format!("docker-credential-{name}")), &script);
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

#[test]
fn entries_are_found_by_docker_s_and_podman_s_keys() {
    let files = Files::new(&[
        json!({"auths": {
            "https://index.docker.io/v1/": {"auth": auth_of("a:b")},
            "quay.io": {"auth": auth_of("c:d:e")},
            "quay.io/owner": {"username": "o", "password": "p"},
            "quay.io/owner/deep": {"auth": "", "identitytoken": "tok"},
            "http://old.example/v2/": {"auth": auth_of("old:pw\0\0")},
            "token.example": {"registrytoken": "reg"},
            "empty.example": {}, "null.example": null,
        }, "HttpHeaders": {"X": "y"}, "detachKeys": "ctrl-e"}),
        json!({"auths": {"empty.example": {"auth": auth_of("a:b").trim_end_matches('=')}, "quay.io": {"auth": "no"}}}),
    ]);
    assert_eq!(files.find("docker.io", "library/x"), password("a", "b"));
    assert_eq!(files.find("quay.io", "x"), password("c", "d:e"));
    assert_eq!(files.find("quay.io", "owner/x"), password("o", "p"));
    assert_eq!(files.find("quay.io", "ownerx/y"), password("c", "d:e"));
    assert_eq!(
        files.find("quay.io", "owner/deep"),
        Some(Credentials::Identity("tok".into()))
    );
    assert_eq!(files.find("old.example", "x"), password("old", "pw"));
    assert_eq!(
        files.find("token.example", "x"),
        Some(Credentials::Token("reg".into()))
    );
    assert_eq!(
        files.find("empty.example", "x"),
        password("a", "b"),
        "the next file has it"
    );
    assert_eq!(files.find("null.example", "x"), None);
    assert_eq!(files.find("io", "x"), None);
    assert!(
        !format!("{:?}", files.find("quay.io", "x")).contains("d:e"),
        "a password in a debug text"
    );
}

#[test]
fn damaged_files_are_named() {
    for text in ["{", "[1]", r#"{"auths": 7}"#] {
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path(), "config.json", text, 0o600);
        let files = AuthFiles {
            read: vec![path.clone()],
            ..AuthFiles::default()
        };
        let error = files.find("x.example", "y").unwrap_err();
        assert!(
            matches!(&error, AuthError::Format { path: p, .. } if *p == path),
            "{error:?}"
        );
    }
    for auth in ["no base64!", &auth_of("nocolon")] {
        let files = Files::new(&[json!({"auths": {"x.example": {"auth": auth}}})]);
        assert!(
            matches!(files.files.find("x.example", "y"), Err(AuthError::Format { .. })),
            "{auth}"
        );
        assert_eq!(
            files.find("y.example", "y"),
            None,
            "the others are not kept from theirs"
        );
    }
    assert_eq!(Files::new(&[]).find("x.example", "y"), None);
    let dir = tempfile::tempdir().unwrap();
    let empty = file(dir.path(), "config.json", "", 0o600);
    let files = AuthFiles {
        read: vec![empty, dir.path().join("missing")],
        ..AuthFiles::default()
    };
    assert_eq!(files.find("x.example", "y").unwrap().credentials, None);
}

#[test]
fn helpers_are_asked_first() {
    let files = Files::new(&[json!({
        "credHelpers": {"one.example": "one", "gone.example": "gone", "evil.example": "../x"}, "credsStore": "all",
        "auths": {"one.example": {"auth": auth_of("a:b")}, "gone.example": {"auth": auth_of("a:b")}, "quay.io": {}},
    })]);
    files.helper(
        "one",
        r#"echo '{"ServerURL":"","Username":"<token>","Secret":"t"}'"#,
    );
    files.helper("all", "echo 'credentials not found in native keychain'; exit 1");
    assert_eq!(
        files.find("one.example", "x"),
        Some(Credentials::Identity("t".into()))
    );
    assert_eq!(files.find("docker.io", "library/x"), None);
    assert_eq!(files.log(), "get one.example\nget https://index.docker.io/v1/\n");

    let found = files.files.find("gone.example", "x").unwrap();
    assert_eq!(
        found.credentials,
        password("a", "b"),
        "what the file itself has still counts"
    );
    assert!(
        found.troubles[0].contains("docker-credential-gone is not installed"),
        "{:?}",
        found.troubles
    );
    let found = files.files.find("evil.example", "x").unwrap();
    assert!(found.troubles[0].contains("not allowed"), "{:?}", found.troubles);
    for answer in ["echo broken >&2; exit 3", "echo no json"] {
        files.helper("all", answer);
        let found = files.files.find("quay.io", "x").unwrap();
        assert_eq!((found.credentials, found.troubles.len()), (None, 1));
    }
}

#[test]
fn login_pull_logout_with_a_real_registry() {
    let registry = Registry::start_as(Kind {
        login: true,
        tls: false,
        ..Kind::default()
    });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/dir/config.json");
    let files = AuthFiles {
        read: vec![path.clone()],
        ..AuthFiles::default()
    };
    let client = || {
        Client::new(ClientOptions {
            auth: files.clone(),
            ..ClientOptions::default()
        })
    };
    let host = registry.host();
    let name = Reference::parse(&registry.name("x:1")).unwrap();

    let error = login(&client(), &host, USER, "wrong", &path, &Silent).unwrap_err();
    assert!(matches!(error, RegistryError::Denied { .. }), "{error:?}");
    assert!(!path.exists(), "a refused password is not kept");
    let error = login(&client(), &host, "", "", &path, &Silent).unwrap_err();
    assert!(matches!(error, RegistryError::Auth(AuthError::Empty)));
    let error = login(&client(), "a b", "u", "p", &path, &Silent).unwrap_err();
    assert!(matches!(error, RegistryError::Auth(AuthError::Registry { .. })));

    login(
        &client(),
        &format!("https://{host}/"),
        USER,
        PASSWORD,
        &path,
        &Silent,
    )
    .unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(
        client().manifest(&name, None, &Silent),
        Err(RegistryError::NotFound { .. })
    ));

    // What other programs keep there stays; a link stays a link.
    let link = dir.path().join("config.json");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let mut content: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    content["psFormat"] = json!({"deep": [1, null]});
    content["auths"]["other.example"] = json!({"auth": "YTpi", "email": "x"});
    file(path.parent().unwrap(), "config.json", &content.to_string(), 0o644);
    login(&client(), &host, USER, PASSWORD, &link, &Silent).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    let after: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(after, content);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600,
        "closed again"
    );
    assert_eq!(
        fs::read_dir(path.parent().unwrap()).unwrap().count(),
        1,
        "nothing left beside it"
    );

    let second = file(
        dir.path(),
        "second.json",
        &json!({"auths": {&host: {"auth": "YTpi"}}}).to_string(),
        0o600,
    );
    let both = AuthFiles {
        read: vec![path.clone(), second.clone()],
        ..AuthFiles::default()
    };
    let out = logout(&host, &path, &both).unwrap();
    assert!(out.removed);
    assert_eq!(out.remains_in, Some(second));
    assert!(!logout(&host, &path, &files).unwrap().removed);
    assert!(matches!(
        client().manifest(&name, None, &Silent),
        Err(RegistryError::Denied { .. })
    ));
    let after: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(
        after["auths"],
        json!({"other.example": {"auth": "YTpi", "email": "x"}})
    );
}

#[test]
fn login_and_logout_by_helper() {
    let registry = Registry::start_as(Kind {
        login: true,
        tls: false,
        ..Kind::default()
    });
    let files = Files::new(&[json!({"credsStore": "keep"})]);
    files.helper(
        "keep",
        r#"[ "$1" != get ] || echo '{"Username":"u","Secret":"s"}'"#,
    );
    let client = Client::new(ClientOptions {
        auth: files.files.clone(),
        ..ClientOptions::default()
    });
    let path = &files.files.read[0];
    login(&client, &registry.host(), USER, PASSWORD, path, &Silent).unwrap();
    let kept = fs::read_to_string(path).unwrap();
    assert!(
        !kept.contains("auth\"") && kept.contains(&registry.host()),
        "{kept}"
    );
    let log = files.log();
    assert!(
        log.contains(&format!(
            r#"store {{"ServerURL":"{}","Username":"user","Secret":"pass:word"}}"#,
            registry.host()
        )),
        "{log}"
    );
    assert!(logout(&registry.host(), path, &files.files).unwrap().removed);
    assert!(files.log().contains(&format!("erase {}", registry.host())));
}

#[test]
fn docker_s_own_registry_has_an_old_name_in_docker_s_file() {
    let dir = tempfile::tempdir().unwrap();
    for (name, key) in [
        ("config.json", "https://index.docker.io/v1/"),
        ("auth.json", "docker.io"),
    ] {
        let path = file(
            dir.path(),
            name,
            &json!({"auths": {key: {"auth": "YTpi"}}}).to_string(),
            0o600,
        );
        let files = AuthFiles {
            read: vec![path.clone()],
            ..AuthFiles::default()
        };
        assert_eq!(
            files.find("docker.io", "library/x").unwrap().credentials,
            password("a", "b")
        );
        assert!(logout("docker.io", &path, &files).unwrap().removed);
        assert_eq!(files.find("docker.io", "library/x").unwrap().credentials, None);
    }
}
