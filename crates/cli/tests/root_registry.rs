//! `strata pull`, and `run` of an image that is not there, from a real registry on loopback. Needs root.

mod common;

use std::path::Path;

use common::{Image, Layer, Strata, empty, refused};
use testkit::registry::{Kind, PASSWORD, Registry, USER};

/// A registry with the busybox image as `busybox:latest`, and with a layer more as `child:1`.
fn registry(kind: Kind, dir: &Path) -> Registry {
    let registry = Registry::start_as(kind);
    for (image, name) in [
        (Image::busybox(), "library/busybox:latest"),
        (
            Image::busybox().layer(Layer::new().file("new", 0o644, "new\n")),
            "library/child:1",
        ),
    ] {
        let archive = dir.join("fill.tar");
        image.write_oci_archive(&archive);
        let credentials = format!("--dest-creds={USER}:{PASSWORD}");
        let arguments: &[&str] = if kind.login { &[&credentials] } else { &[] };
        registry.fill(&format!("oci-archive:{}", archive.display()), name, arguments);
    }
    registry
}

#[test]
fn pulled_and_run() {
    let strata = empty();
    let registry = registry(Kind::default(), strata.dir());
    let name = registry.name("library/busybox:latest");
    let id = strata.ok(["pull", &name]);
    assert_eq!(
        strata.ok(["images", "-q", "--no-trunc"]),
        id,
        "the one line on standard output is the image's id"
    );
    assert_eq!(strata.ok(["run", "--rm", &name, "echo", "hello"]), "hello\n");
    // Again: nothing new is fetched, and the registry may be gone.
    let layers = || {
        std::fs::read_dir(strata.root().join("snapshots"))
            .unwrap()
            .count()
    };
    let before = layers();
    strata.ok(["pull", "-q", &name]);
    assert_eq!(layers(), before);
    // Of an image that shares a layer only the other one is unpacked.
    strata.ok(["pull", "-q", &registry.name("library/child:1")]);
    assert_eq!(layers(), before + 1);
    drop(registry);
    assert_eq!(strata.ok(["run", "--rm", &name, "echo", "still"]), "still\n");
    refused(
        &strata.end(["run", "--rm", "--pull", "always", &name, "true"]),
        &["127.0.0.1"],
    );
}

#[test]
fn run_pulls_what_is_missing() {
    let strata = empty();
    let registry = registry(Kind::default(), strata.dir());
    let name = registry.name("library/child:1");
    refused(
        &strata.end(["run", "--rm", "--pull", "never", &name, "true"]),
        &["library/child"],
    );
    let ended = strata.end(["run", "--rm", &name, "cat", "/new"]);
    assert_eq!(
        (ended.code, ended.out.as_str()),
        (0, "new\n"),
        "progress goes to standard error: {ended:?}"
    );
    refused(
        &strata.end(["pull", &registry.name("no/such:image")]),
        &["no/such"],
    );
    refused(
        &strata.end(["pull", &registry.name("library/busybox:no-such-tag")]),
        &["no-such-tag"],
    );
}

#[test]
fn newer_takes_what_there_is_when_the_registry_does_not_answer() {
    let strata = empty();
    let registry = registry(Kind::default(), strata.dir());
    let name = registry.name("library/child:1");
    let run = ["run", "--rm", "--pull", "newer", &name, "cat", "/new"];
    assert_eq!(strata.ok(run), "new\n");
    drop(registry);
    let ended = strata.end(run);
    assert_eq!((ended.code, ended.out.as_str()), (0, "new\n"), "{ended:?}");
    assert!(ended.err.contains("the image of the store is used"), "{ended:?}");
    assert_eq!(
        strata
            .end(["run", "--rm", "--pull", "always", &name, "true"])
            .code,
        125
    );
}

#[test]
fn a_login_is_remembered_and_forgotten() {
    let strata = empty();
    let registry = registry(
        Kind {
            login: true,
            ..Kind::default()
        },
        strata.dir(),
    );
    let name = registry.name("library/busybox:latest");
    let home = strata.dir().join("home");
    std::fs::create_dir(&home).unwrap();
    let with = |strata: &Strata, args: &[&str], input: &str| {
        use std::io::Write;
        use std::process::Stdio;
        let mut command = strata.command(args);
        command
            .env("HOME", &home)
            .env_remove("REGISTRY_AUTH_FILE")
            .env_remove("DOCKER_CONFIG")
            .env_remove("XDG_RUNTIME_DIR");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        common::Ended::from(child.wait_with_output().unwrap())
    };
    refused(&with(&strata, &["pull", &name], ""), &["127.0.0.1"]);
    let wrong = ["login", "-u", USER, "--password-stdin", &registry.host()];
    let denied = with(&strata, &wrong, "wrong");
    refused(&denied, &["127.0.0.1"]);
    assert!(denied.err.contains("the password"), "{denied:?}");
    let right = with(&strata, &wrong, PASSWORD);
    assert_eq!(right.code, 0, "{right:?}");
    let pulled = with(&strata, &["pull", &name], "");
    assert_eq!(pulled.code, 0, "{pulled:?}");
    assert_eq!(with(&strata, &["logout", &registry.host()], "").code, 0);
    refused(&with(&strata, &["pull", &name], ""), &["127.0.0.1"]);

    assert_eq!(with(&strata, &wrong, PASSWORD).code, 0);
    let all = with(&strata, &["logout", "--all"], "");
    assert!(all.code == 0 && all.out.contains(&registry.host()), "{all:?}");
    refused(&with(&strata, &["pull", &name], ""), &["127.0.0.1"]);
    assert_eq!(with(&strata, &["logout", "--all"], "").out, "");
}
