//! Containers of one image share every byte that they have not changed, and see not each other's writes; all lies where
//! users look for it. Needs root.

mod common;

use std::path::Path;
use std::process::{Command, Stdio};

use common::{Image, Layer, Strata, busybox, said};

/// Kilobytes on disk, as du(1) counts: hard links once.
fn du(path: &Path) -> u64 {
    let output = Command::new("du").arg("-sk").arg(path).output().unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

/// Kilobytes of layers, writable directories and blobs. (The database and its reserve are as large for any image.)
fn held(strata: &Strata) -> u64 {
    du(&strata.root().join("snapshots")) + du(&strata.root().join("content"))
}

/// What the kernel mounted at a container's root: the value of an option of its overlay.
fn overlay_option(strata: &Strata, key: &str) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let state = strata.state().to_str().unwrap().to_owned();
    let ours = table.lines().filter(|line| {
        line.split(' ')
            .nth(4)
            .is_some_and(|target| target.starts_with(&state))
    });
    ours.map(|line| {
        let options = line.rsplit(' ').next().unwrap();
        let values = options
            .split(',')
            .filter_map(|option| option.strip_prefix(key)?.strip_prefix('='));
        values.collect::<Vec<_>>().join(":")
    })
    .collect()
}

/// Runs a container that waits until it is killed, once it has said that it is up.
fn waiting(strata: &Strata, name: &str, script: &str) -> std::process::Child {
    let script = format!("{script}; echo up; exec sleep 1000");
    let mut child = strata
        .command(["run", "--name", name, "busybox", "sh", "-c", &script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let out = child.stdout.as_mut().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
    assert_eq!(line, "up\n");
    child
}

#[test]
fn two_containers_have_the_same_layers_and_their_own_writes() {
    let strata = busybox();
    let before = held(&strata);
    let mut one = waiting(&strata, "one", "echo one >/mine; echo changed >/etc/passwd");
    let mut two = waiting(&strata, "two", "echo two >/mine");
    let lower: Vec<_> = overlay_option(&strata, "lowerdir+")
        .into_iter()
        .zip(overlay_option(&strata, "lowerdir"))
        .map(|(new, old)| format!("{new}{old}"))
        .collect();
    assert!(
        lower.len() == 2 && lower[0] == lower[1] && !lower[0].is_empty(),
        "{lower:?}"
    );
    let upper = overlay_option(&strata, "upperdir");
    assert!(upper.len() == 2 && upper[0] != upper[1], "{upper:?}");

    let read = |upper: &str, name: &str| std::fs::read_to_string(Path::new(upper).join(name)).ok();
    let mut mine: Vec<_> = upper.iter().map(|upper| read(upper, "mine").unwrap()).collect();
    mine.sort();
    assert_eq!(mine, ["one\n", "two\n"]);
    assert_eq!(
        upper
            .iter()
            .filter(|upper| read(upper, "etc/passwd").is_some())
            .count(),
        1
    );
    assert!(
        said(&strata, &[], "cat /etc/passwd; ls /").contains("user:x:1000"),
        "the image is as it was"
    );
    let grown = held(&strata) - before;
    assert!(
        grown < 300,
        "two containers cost {grown} kB, and the image is larger than a megabyte"
    );

    let shown = strata.ok(["layers", "one"]);
    assert!(
        shown.contains("merged") && shown.contains("writable") && shown.contains("two"),
        "{shown}"
    );
    strata.ok(["rm", "-f", "one", "two"]);
    assert!(!one.wait().unwrap().success() && !two.wait().unwrap().success());
    assert!(held(&strata).abs_diff(before) < 100);
}

#[test]
fn an_image_that_shares_layers_costs_only_what_is_new() {
    let strata = busybox();
    let before = held(&strata);
    let child = Image::busybox()
        .layer(Layer::new().file("new", 0o644, "new"))
        .name("docker.io/library/child:1");
    strata.load(&child);
    let grown = held(&strata) - before;
    assert!(
        grown < 900,
        "the layer that both have is unpacked once; the blob may come again: {grown} kB"
    );
    assert_eq!(strata.ok(["run", "--rm", "child:1", "cat", "/new"]), "new");
    let shown = strata.ok(["layers", "child:1"]);
    assert!(
        shown.contains("RUN step 1") && shown.contains("busybox"),
        "{shown}"
    );
    strata.ok(["rmi", "busybox"]);
    assert_eq!(
        strata.ok(["run", "--rm", "child:1", "cat", "/new"]),
        "new",
        "shared layers outlive one owner"
    );
}

#[test]
fn a_layer_in_use_outlives_its_image() {
    let strata = busybox();
    let mut one = waiting(&strata, "one", "true");
    let refused = strata.end(["rmi", "busybox"]);
    assert_eq!(
        refused.code, 125,
        "an image with a container is kept: {refused:?}"
    );
    assert!(refused.err.contains("one"), "{refused:?}");
    strata.ok(["rm", "-f", "one"]);
    one.wait().unwrap();
    strata.ok(["rmi", "busybox"]);
    assert_eq!(strata.ok(["images", "-q"]), "");
    let left = held(&strata);
    assert!(left < 40, "{left} kB are left of an empty store");
}

#[test]
fn the_bundle_is_where_users_look_for_it() {
    use std::os::unix::fs::PermissionsExt;
    let strata = busybox();
    let mut one = waiting(&strata, "one", "true");
    let listed: serde_json::Value = serde_json::from_str(&strata.ok(["ps", "--format", "json"])).unwrap();
    let id = listed[0]["Id"].as_str().unwrap_or_default().to_owned();
    assert!(
        id.len() == 64 && id.bytes().all(|digit| digit.is_ascii_hexdigit()),
        "{listed}"
    );
    let bundle = strata.state().join("default").join(&id);
    let config: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(bundle.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["root"]["path"], "rootfs");
    assert!(
        bundle.join("rootfs/etc/passwd").exists(),
        "the merged view is seen from the host"
    );
    let df = Command::new("df").arg(bundle.join("rootfs")).output().unwrap();
    assert!(String::from_utf8_lossy(&df.stdout).contains("rootfs"), "{df:?}");
    for dir in [strata.root(), strata.state()] {
        assert_eq!(
            std::fs::metadata(&dir).unwrap().permissions().mode() & 0o7777,
            0o700,
            "{dir:?}"
        );
    }
    for upper in overlay_option(&strata, "upperdir") {
        assert!(
            Path::new(&upper).starts_with(strata.root().join("snapshots")) && upper.ends_with("/fs"),
            "{upper}"
        );
    }
    strata.ok(["rm", "-f", "one"]);
    one.wait().unwrap();
    assert!(!bundle.exists());
}

#[test]
fn a_flag_goes_before_the_environment_and_that_before_the_file() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("config.toml");
    let at = |name: &str| temp.path().join(name).to_str().unwrap().to_owned();
    let text = format!(
        "root = {:?}\nstate = {:?}\nnamespace = \"file\"\n",
        at("file-root"),
        at("file-state")
    );
    std::fs::write(&file, text).unwrap();
    // How many of the settings are told by a flag, and how many by the environment.
    let settings = ["root", "state", "namespace"];
    for (flags, variables) in [(0, 0), (0, 3), (1, 2), (3, 3)] {
        let value = |setting: &str, from: &str| match setting {
            "namespace" => from.to_owned(),
            other => at(&format!("{from}-{other}")),
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
        command
            .env("STRATA_CONFIG", &file)
            .args(["info", "--format", "json"]);
        for setting in &settings[..flags] {
            command.arg(format!("--{setting}={}", value(setting, "flag")));
        }
        for setting in settings {
            let name = format!("STRATA_{}", setting.to_uppercase());
            match settings[..variables].contains(&setting) {
                true => command.env(name, value(setting, "variable")),
                // An empty value says nothing.
                false if flags == 0 => command.env(name, ""),
                false => command.env_remove(name),
            };
        }
        let output = command.output().unwrap();
        let info: serde_json::Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        for (at, (setting, key)) in settings
            .into_iter()
            .zip(["Root", "State", "Namespace"])
            .enumerate()
        {
            let from = match (at < flags, at < variables) {
                (true, _) => "flag",
                (_, true) => "variable",
                _ => "file",
            };
            assert_eq!(info[key], value(setting, from), "{flags} {variables}");
        }
    }
}
