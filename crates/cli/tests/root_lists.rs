//! What `ps` and `images` leave out, and how they show the rest. Needs root.

mod common;

use common::screen::on_terminal;
use common::{Compression, Image, Layer, busybox, empty, refused};
use serde_json::json;

#[test]
fn containers_that_fit() {
    let strata = busybox();
    let layer = Layer::new().file("more", 0o644, "more");
    strata.load(&Image::busybox().layer(layer).name("docker.io/library/child:1"));
    let make = |name: &str, flags: &[&str], rest: &[&str]| {
        strata.end([&["run", "--name", name], flags, rest].concat()).code
    };
    assert_eq!(
        make(
            "first",
            &["-l", "tier=web", "-l", "x"],
            &["busybox", "sh", "-c", "exit 3"]
        ),
        3
    );
    assert_eq!(
        make(
            "second",
            &["-l", "tier=db", "-v", "data:/data"],
            &["child:1", "true"]
        ),
        0
    );
    assert_eq!(make("third", &["-d"], &["busybox", "sleep", "1000"]), 0);
    strata.ok(["create", "--name", "fourth", "busybox", "true"]);
    let ps = |words: &[&str]| {
        let listed = strata.ok([&["ps", "--format", "{{.Names}}"], words].concat());
        listed.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let id = strata.ok(["ps", "-aq", "--no-trunc", "-f", "name=second"]);
    assert_eq!(id.trim().len(), 64);
    for (words, names) in [
        (&[][..], &["third"][..]),
        (&["-a"], &["fourth", "third", "second", "first"]),
        (&["-l"], &["fourth"]),
        (&["-n", "2"], &["fourth", "third"]),
        (&["-n", "-1"], &["third"]),
        (&["-a", "-f", "name=f"], &["fourth", "first"]),
        (
            &["-a", "-f", "name=^fi", "-f", "name=^/second$"],
            &["second", "first"],
        ),
        (&["-a", "-f", "label=tier"], &["second", "first"]),
        (&["-a", "-f", "label=tier=web", "-f", "label=x"], &["first"]),
        (&["-f", "status=exited"], &["second", "first"]),
        (
            &["-f", "status=created", "-f", "status=running"],
            &["fourth", "third"],
        ),
        (&["-f", "exited=3"], &["first"]),
        (&["-a", "-f", "ancestor=child"], &["second"]),
        (
            &["-a", "-f", "ancestor=busybox"],
            &["fourth", "third", "second", "first"],
        ),
        (&["-a", "-f", "volume=data"], &["second"]),
        (&["-a", "-f", "volume=/data"], &["second"]),
        (&["-a", "-f", "before=third"], &["second", "first"]),
        (&["-a", "-f", "since=second"], &["fourth", "third"]),
        (
            &[
                "-a",
                "-f",
                "since=first",
                "-f",
                "before=fourth",
                "-f",
                "status=exited",
            ],
            &["second"],
        ),
        (&["-a", "--filter", &format!("id={}", &id[..12])], &["second"]),
    ] {
        assert_eq!(ps(words), names, "{words:?}");
    }
    for (filter, words) in [
        ("colour=red", &["\"colour\""][..]),
        ("status=odd", &["status=odd"]),
        ("exited=many", &["exited=many"]),
        ("before=nosuch", &["\"nosuch\""]),
    ] {
        refused(&strata.end(["ps", "-f", filter]), words);
    }
    let size = strata.ok(["ps", "-a", "-s", "-f", "name=second"]);
    assert!(
        size.lines().next().unwrap().ends_with("SIZE") && size.contains("(virtual "),
        "{size}"
    );
    let table = strata.ok([
        "ps",
        "-a",
        "-f",
        "name=second",
        "--format",
        r#"table {{.Names}}\t{{.Mounts}}\t{{.Label "tier"}}"#,
    ]);
    assert_eq!(table, "NAMES    MOUNTS   TIER\nsecond   data     db\n");
    let line = strata.ok(["ps", "-a", "-f", "name=second", "--format", "{{json .}}"]);
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&line["Names"], &line["State"], &line["Labels"]),
        (&json!("second"), &json!("exited"), &json!("tier=db"))
    );
    assert_eq!(
        strata.ok([
            "inspect",
            "-f",
            "{{range .Mounts}}{{.Name}}:{{.Destination}}{{end}} {{.State.Status}}",
            "second"
        ]),
        "data:/data exited\n"
    );
    strata.ok(["rm", "-f", "first", "second", "third", "fourth"]);
}

#[test]
fn images_that_fit() {
    let strata = busybox();
    let image = |name: &str, created: &str| {
        strata.load(
            &Image::busybox()
                .name(name)
                .config("Labels", json!({"who": name}))
                .whole("created", json!(created)),
        );
    };
    image("docker.io/library/old:1", "2001-01-01T00:00:00Z");
    image("quay.io/team/new:2", "2020-01-01T00:00:00Z");
    let images = |filters: &[&str]| {
        let listed = strata.ok([&["images", "--format", "{{.Repository}}:{{.Tag}}"], filters].concat());
        listed.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    for (filters, names) in [
        (&["-f", "reference=o*"][..], &["old:1"][..]),
        (&["o*"], &["old:1"]),
        (&["quay.io/*/n?w:2"], &["quay.io/team/new:2"]),
        (&["-f", "reference=quay.io/*/new:2"], &["quay.io/team/new:2"]),
        (&["-f", "label=who=quay.io/team/new:2"], &["quay.io/team/new:2"]),
        (&["-f", "label!=who"], &["busybox:latest"]),
        (&["-f", "since=old:1", "-f", "label=who"], &["quay.io/team/new:2"]),
        (
            &["-f", "before=quay.io/team/new:2", "-f", "label=who"],
            &["old:1"],
        ),
        (&["-f", "dangling=true"], &[]),
    ] {
        assert_eq!(images(filters), names, "{filters:?}");
    }
    refused(&strata.end(["images", "-f", "colour=red"]), &["\"colour\""]);
    refused(&strata.end(["images", "-f", "since=nosuch"]), &["nosuch"]);
}

#[test]
fn names_of_one_image_by_two_manifests() {
    let strata = common::empty();
    for (name, compression) in [
        ("docker.io/library/a:1", Compression::None),
        ("docker.io/library/b:1", Compression::Gzip),
    ] {
        strata.load(&Image::busybox().name(name).compression(compression));
    }
    let id = |name: &str| strata.ok(["inspect", "-f", "{{.Id}} {{.ManifestDigest}}", name]);
    let (a, b) = (id("a:1"), id("b:1"));
    assert!(a != b && a.split(' ').next() == b.split(' ').next(), "{a} {b}");
    strata.ok(["create", "--name", "box", "a:1", "true"]);
    refused(&strata.end(["rmi", "a:1"]), &["a:1", "box"]);
    assert_eq!(strata.ok(["rmi", "b:1"]), "Untagged: b:1\n");
    strata.ok(["rm", "box"]);
    let told = strata.ok(["rmi", "a:1"]);
    assert!(told.starts_with("Untagged: a:1\nDeleted: sha256:"), "{told}");
}

/// What an image and a container say of themselves does nothing to the terminal that shows it, and adds no line.
#[test]
fn words_of_strangers_are_shown_and_not_obeyed() {
    const BAD: &str = "a\x1b]0;title\x07\x1b[31m\u{9b}2J\u{202e}\nforged";
    let acts = |text: &str| {
        let found = text
            .chars()
            .find(|c| (c.is_control() && !matches!(c, '\n' | '\r')) || *c == '\u{202e}');
        found.is_some() || text.lines().any(|line| line.starts_with("forged"))
    };
    let strata = empty();
    let image = Image::new("docker.io/library/bad:1")
        .layer(Layer::busybox())
        .config(
            "Cmd",
            json!(["sh", "-c", "touch /tmp/$(printf 'x\\033[31m')", BAD]),
        )
        .config("Labels", json!({BAD: BAD}))
        .config("Volumes", json!({format!("/rel/{BAD}"): {}}))
        .config("Env", json!([format!("BAD={BAD}")]))
        .whole(
            "history",
            json!([{"created_by": BAD, "comment": BAD, "author": BAD}]),
        )
        .whole("author", json!(BAD));
    strata.load(&image);
    strata.ok(["run", "--name", "one", "bad:1"]);
    let shown: &[&[&str]] = &[
        &["history", "bad:1"],
        &["history", "--no-trunc", "bad:1"],
        &[
            "history",
            "--format",
            "table {{.Comment}}\\t{{.CreatedBy}}",
            "--no-trunc",
            "bad:1",
        ],
        &["history", "--format", "json", "bad:1"],
        &["layers", "--no-trunc", "bad:1"],
        &["ps", "-a"],
        &["ps", "-a", "--no-trunc"],
        &["ps", "-a", "--format", "json"],
        &[
            "ps",
            "-a",
            "--format",
            "table {{.Command}}\\t{{.Labels}}\\t{{.Mounts}}",
            "--no-trunc",
        ],
        &["images"],
        &["inspect", "bad:1"],
        &["inspect", "--format", "{{json .}}", "bad:1", "one"],
        &["volume", "ls"],
        &["events", "--since", "1h", "--until", "0s"],
        &["events", "--since", "1h", "--until", "0s", "--format", "json"],
    ];
    for words in shown {
        let told = strata.ok(*words);
        assert!(!told.is_empty() && !acts(&told), "{words:?}: {told:?}");
    }
    let told = strata.ok(["history", "--no-trunc", "bad:1"]);
    assert!(
        told.contains(r"a\u{1b}]0;title\u{7}\u{1b}[31m\u{9b}2J\u{202e}"),
        "{told}"
    );
    // A program that reads it gets what is there.
    let comment = ["history", "--format", "{{.Comment}}", "bad:1"];
    assert_eq!(strata.ok(comment), format!("{BAD}\n"));
    let all: serde_json::Value = serde_json::from_str(&strata.ok(["inspect", "bad:1"])).unwrap();
    assert_eq!(all[0]["Config"]["Labels"][BAD], BAD);
    assert!(strata.ok(["diff", "one"]).contains("A /tmp/x\x1b[31m\n"));
    // A terminal does not.
    let label = ["inspect", "--format", "{{index .Config.Env 0}}", "bad:1"];
    for (words, until) in [
        (&comment[..], r"\u{202e}"),
        (&label, r"\u{202e}"),
        (&["diff", "one"], r"x\u{1b}[31m"),
    ] {
        let mut screen = on_terminal(&strata, words, 24, 80);
        screen.until(until);
        assert_eq!(screen.code(), Some(0));
        // Colours and progress are strata's own.
        for bad in ["\x1b]", "\x1b[31m", "\x07", "\u{9b}", "\u{202e}"] {
            assert!(
                !screen.text.contains(bad),
                "{words:?}: {bad:?}: {:?}",
                screen.text
            );
        }
    }
}
