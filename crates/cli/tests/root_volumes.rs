//! Volumes: named ones, those without a name, and those that an image asks for. Needs root.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::{Image, Layer, Strata, busybox, empty, refused};
use serde_json::{Value, json};

/// An image that has something in `/srv`, and asks for a volume there.
fn with_content() -> Strata {
    let strata = empty();
    let layer = Layer::busybox()
        .dir("srv", 0o2751)
        .file("srv/data", 0o4640, "data")
        .hard_link("srv/again", "srv/data")
        .symlink("srv/way", "../etc/elsewhere")
        .dir("srv/deep", 0o700)
        .pax("SCHILY.xattr.user.colour", b"blue")
        .file("srv/deep/marked", 0o600, "marked")
        .char_device("srv/null", 1, 3);
    let image = Image::new("docker.io/library/kept:1").layer(layer);
    strata.load(&image);
    strata.load(
        &Image::new("docker.io/library/asks:1")
            .layer(Layer::busybox().dir("srv", 0o755).file("srv/own", 0o644, "own"))
            .config("Volumes", json!({"/srv": {}, "/var/new": {}})),
    );
    strata
}

fn inspect(strata: &Strata, words: &[&str]) -> Value {
    let all: Value = serde_json::from_str(&strata.ok([words, &["--format", "json"]].concat())).unwrap();
    all[0].clone()
}

fn mountpoint(strata: &Strata, name: &str) -> PathBuf {
    strata
        .ok(["volume", "inspect", "-f", "{{.Mountpoint}}", name])
        .trim()
        .into()
}

fn names(strata: &Strata) -> Vec<String> {
    let listed = strata.ok(["volume", "ls", "-q"]);
    listed.lines().map(str::to_owned).collect()
}

#[test]
fn a_named_one_takes_what_the_image_has_and_outlives_its_containers() {
    let strata = with_content();
    let look =
        "ls -ln /srv | wc -l; cat /srv/data; stat -c '%a %h' /srv/data /srv; echo more >>/srv/deep/marked";
    let said = strata.ok(["run", "--rm", "-v", "vol:/srv", "kept:1", "sh", "-c", look]);
    assert_eq!(said, "6\ndata4640 2\n2751 3\n");
    let place = mountpoint(&strata, "vol");
    let data = fs::metadata(place.join("data")).unwrap();
    assert_eq!((data.mode() & 0o7777, data.nlink()), (0o4640, 2));
    assert_eq!(data.ino(), fs::metadata(place.join("again")).unwrap().ino());
    assert_eq!(
        fs::read_link(place.join("way")).unwrap(),
        PathBuf::from("../etc/elsewhere")
    );
    assert_eq!(fs::metadata(place.join("null")).unwrap().rdev(), 0x103);
    let dir = sys::Dir::open_ambient(place.join("deep")).unwrap();
    assert_eq!(dir.get_xattr("marked", "user.colour").unwrap().unwrap(), b"blue");
    // It is not filled again, by no image, and not when it was emptied.
    let text = fs::read_to_string(place.join("deep/marked")).unwrap();
    assert_eq!(text, "markedmore\n");
    let run = |flags: &[&str], script: &str| {
        strata.ok([&["run", "--rm"], flags, &["asks:1", "sh", "-c", script]].concat())
    };
    assert_eq!(
        run(
            &["-v", "vol:/srv:ro"],
            "cat /srv/deep/marked; touch /srv/x 2>/dev/null || echo ro"
        ),
        "markedmore\nro\n"
    );
    run(&["-v", "vol:/srv"], "rm -rf /srv/*");
    assert_eq!(run(&["-v", "vol:/srv"], "ls /srv"), "");
    // What is nowhere in the image leaves it to be filled by another; `nocopy` does not fill it.
    run(&["-v", "late:/nowhere"], "true");
    assert_eq!(run(&["-v", "late:/srv:nocopy"], "ls /srv"), "");
    assert_eq!(
        run(&["--mount", "src=late,dst=/srv,volume-nocopy"], "ls /srv"),
        ""
    );
    assert_eq!(run(&["-v", "late:/srv"], "ls /srv"), "own\n");
    assert_eq!(names(&strata), ["late", "vol"]);
    assert_eq!(strata.ok(["volume", "rm", "late", "vol"]), "late\nvol\n");
    assert!(!place.exists());
}

#[test]
fn those_without_a_name_go_with_their_container_where_that_is_asked() {
    let strata = with_content();
    // Of the image and of the command line.
    let said = strata.ok([
        "run",
        "--rm",
        "-v",
        "/mine",
        "asks:1",
        "sh",
        "-c",
        "ls /srv /mine /var/new",
    ]);
    assert_eq!(said, "/mine:\n\n/srv:\nown\n\n/var/new:\n");
    assert_eq!(names(&strata), [""; 0]);
    strata.ok(["run", "--name", "one", "asks:1", "sh", "-c", "echo 1 >/srv/one"]);
    let mounts = inspect(&strata, &["inspect", "one"])["Mounts"].clone();
    let named: Vec<&str> = mounts
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["Name"].as_str().unwrap())
        .collect();
    assert_eq!(named.len(), 2, "{mounts}");
    assert!(named.iter().all(|name| name.len() == 64));
    assert_eq!(
        (&mounts[0]["Type"], &mounts[0]["Destination"], &mounts[0]["RW"]),
        (&json!("volume"), &json!("/srv"), &json!(true))
    );
    assert_eq!(
        inspect(&strata, &["volume", "inspect", named[0]])["Anonymous"],
        json!(true)
    );
    // Started again it has the same.
    strata.ok(["start", "-a", "one"]);
    assert_eq!(names(&strata).len(), 2);
    assert!(
        PathBuf::from(mounts[0]["Source"].as_str().unwrap())
            .join("one")
            .exists()
    );
    // One that is used elsewhere stays.
    strata.ok([
        "create",
        "--name",
        "two",
        "--volumes-from",
        "one",
        "kept:1",
        "true",
    ]);
    strata.ok(["rm", "-v", "one"]);
    assert_eq!(names(&strata).len(), 2);
    strata.ok(["rm", "two"]);
    assert_eq!(names(&strata).len(), 2);
    assert!(strata.ok(["volume", "prune", "-f"]).contains("Volume"));
    assert_eq!(names(&strata), [""; 0]);
    strata.ok(["run", "--name", "three", "asks:1", "true"]);
    assert_eq!(strata.ok(["rm", "-v", "three"]), "three\n");
    assert_eq!(names(&strata), [""; 0]);
    // One that is killed in the background with all that looks after it is swept, and its volumes too.
    strata.ok(["run", "-d", "--rm", "--name", "four", "asks:1", "sleep", "1000"]);
    strata.ok(["rm", "-f", "four"]);
    assert_eq!(names(&strata), [""; 0]);
}

#[test]
fn made_listed_filtered_told_and_removed() {
    let strata = busybox();
    assert_eq!(
        strata.ok(["volume", "create", "--label", "a=1", "--label", "b", "one"]),
        "one\n"
    );
    assert_eq!(strata.ok(["volume", "create", "one"]), "one\n");
    let made_up = strata.ok(["volume", "create"]);
    assert_eq!(made_up.trim().len(), 64);
    strata.ok(["volume", "create", "two"]);
    strata.ok(["create", "--name", "user", "-v", "two:/data", "busybox", "true"]);
    let list = |filters: &[&str]| {
        let listed = strata.ok([&["volume", "ls", "-q"], filters].concat());
        listed
            .lines()
            .map(|line| line[..3.min(line.len())].to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(list(&["-f", "name=o"]), ["one", "two"]);
    assert_eq!(list(&["-f", "label=a=1", "-f", "label=b"]), ["one"]);
    assert_eq!(list(&["-f", "label=a=2"]), [""; 0]);
    assert_eq!(list(&["-f", "dangling=false"]), ["two"]);
    assert_eq!(list(&["-f", "dangling=true"]).len(), 2);
    refused(&strata.end(["volume", "ls", "-f", "colour=red"]), &["\"colour\""]);
    assert_eq!(
        strata.ok([
            "volume",
            "ls",
            "--format",
            "{{.Name}} {{.Label \"a\"}}",
            "-f",
            "name=one"
        ]),
        "one 1\n"
    );
    let table = strata.ok(["volume", "ls", "-f", "name=one"]);
    assert_eq!(table, "DRIVER   VOLUME NAME\nlocal    one\n");
    let one = inspect(&strata, &["volume", "inspect", "one"]);
    assert_eq!(
        (&one["Name"], &one["Driver"], &one["Scope"], &one["Labels"]["a"]),
        (&json!("one"), &json!("local"), &json!("local"), &json!("1"))
    );
    let place = PathBuf::from(one["Mountpoint"].as_str().unwrap());
    assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o7777, 0o755);

    refused(&strata.end(["volume", "rm", "two"]), &["two", "in use", "user"]);
    refused(&strata.end(["volume", "rm", "nosuch"]), &["nosuch"]);
    assert_eq!(strata.ok(["volume", "rm", "-f", "nosuch"]), "");
    assert_eq!(strata.end(["volume", "inspect", "nosuch"]).code, 125);
    refused(&strata.end(["volume", "create", "x/y"]), &["x/y"]);
    refused(
        &strata.end(["volume", "create", "--opt", "size=1g", "x"]),
        &["size"],
    );
    refused(
        &strata.end(["volume", "create", "--opt", "type=nfs", "x"]),
        &["nfs"],
    );

    assert!(
        strata
            .ok(["volume", "prune", "-f", "--filter", "label!=a"])
            .contains("Volume")
    );
    assert_eq!(names(&strata), ["one", "two"]);
    let told = strata.ok(["volume", "prune", "-f", "--all", "--dry-run"]);
    assert!(told.contains("Volume one"), "{told}");
    assert_eq!(names(&strata), ["one", "two"]);
    strata.ok(["prune", "-f", "-a", "--volumes"]);
    assert_eq!(
        names(&strata),
        [""; 0],
        "containers go first, and their volumes are free then"
    );
}

#[test]
fn a_directory_of_this_machine_by_a_volume_s_name() {
    let strata = busybox();
    let outside = strata.dir().join("outside");
    let device = format!("device={}", outside.display());
    let words = [
        "volume",
        "create",
        "--opt",
        "type=none",
        "-o",
        "o=bind",
        "--opt",
        &device,
        "out",
    ];
    strata.ok(words);
    refused(
        &strata.end(["run", "--rm", "-v", "out:/x", "busybox", "true"]),
        &["out", "outside"],
    );
    fs::create_dir(&outside).unwrap();
    strata.ok(["run", "--rm", "-v", "out:/x", "busybox", "touch", "/x/made"]);
    assert!(outside.join("made").exists());
    refused(
        &strata.end(["volume", "create", "out"]),
        &["out", "other options"],
    );
    strata.ok(["volume", "rm", "out"]);
    assert!(outside.join("made").exists());
}

#[test]
fn what_other_containers_have_mounted() {
    let strata = with_content();
    let outside = strata.dir().join("outside");
    fs::create_dir(&outside).unwrap();
    let bind = format!("{}:/bound", outside.display());
    strata.ok([
        "create",
        "--name",
        "own",
        "-v",
        "data:/data",
        "-v",
        &bind,
        "-v",
        "/anon",
        "--tmpfs",
        "/t",
        "kept:1",
        "true",
    ]);
    let run = |flags: &[&str], script: &str| {
        strata.ok([&["run", "--rm"], flags, &["kept:1", "sh", "-c", script]].concat())
    };
    run(
        &["--volumes-from", "own"],
        "touch /data/d /bound/b /anon/a; test ! -e /t",
    );
    assert!(outside.join("b").exists());
    let said = run(
        &["--volumes-from", "own:ro", "-v", "other:/data"],
        "ls /data /anon; touch /anon/x /bound/x 2>/dev/null || echo ro",
    );
    assert_eq!(said, "/anon:\na\n\n/data:\nro\n");
    refused(
        &strata.end(["run", "--rm", "--volumes-from", "none", "kept:1", "true"]),
        &["--volumes-from none"],
    );
    refused(
        &strata.end(["run", "--rm", "--volumes-from", "own:quick", "kept:1", "true"]),
        &["quick"],
    );
    strata.ok(["rm", "-v", "own"]);
    assert_eq!(names(&strata), ["data", "other"]);
}

#[test]
fn a_container_that_does_not_run_shows_its_volumes_to_cp() {
    let strata = with_content();
    let outside = strata.dir().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("shared"), "shared").unwrap();
    let bind = format!("{}:/bound:ro", outside.display());
    strata.ok([
        "create", "--name", "box", "-v", "vol:/srv", "-v", &bind, "-v", "new:/new", "kept:1", "true",
    ]);
    let file = strata.dir().join("file");
    fs::write(&file, "in").unwrap();
    let file = file.to_str().unwrap();
    let here = strata.dir().join("out");
    let here = here.to_str().unwrap();
    for path in ["box:/bound/shared", "box:/srv/data", "box:/srv"] {
        strata.ok(["cp", path, here]);
        let _ = fs::remove_file(here);
    }
    strata.ok(["cp", file, "box:/srv/in"]);
    strata.ok(["cp", file, "box:/new/in"]);
    refused(&strata.end(["cp", file, "box:/bound/in"]), &["Read-only"]);
    assert!(mountpoint(&strata, "vol").join("in").exists());
    assert!(mountpoint(&strata, "new").join("in").exists());
    assert_eq!(strata.ok(["diff", "box"]), "");
    assert_eq!(strata.in_use(), (Vec::new(), Vec::new()));
    strata.ok(["rm", "box"]);
}

/// Whatever kills the one who fills a volume: the next finds it empty, or whole.
#[test]
fn killed_while_it_is_filled_it_is_not_taken_for_full() {
    let strata = empty();
    let mut layer = Layer::busybox().dir("srv", 0o755);
    for n in 0..400 {
        layer = layer.file(format!("srv/{n}"), 0o644, vec![b'x'; 20_000]);
    }
    strata.load(&Image::busybox().layer(layer).name("docker.io/library/many:1"));
    let mut killed = 0;
    for round in 0..6u32 {
        let mut child = strata
            .command(["run", "--rm", "-v", "vol:/srv", "many:1", "true"])
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(6 + 14 * u64::from(round)));
        killed += u32::from(child.try_wait().unwrap().is_none());
        let _ = child.kill();
        child.wait().unwrap();
        let count = "ls /srv | wc -l; cat /srv/* | wc -c";
        let said = strata.ok(["run", "--rm", "-v", "vol:/srv", "many:1", "sh", "-c", count]);
        assert_eq!(said, "400\n8000000\n", "round {round}");
        // Who looks after the one that was killed may still be at it.
        let begin = Instant::now();
        while strata.end(["volume", "rm", "vol"]).code != 0 {
            assert!(
                begin.elapsed() < Duration::from_secs(20),
                "{}",
                strata.ok(["ps", "-a"])
            );
            strata.ok(["ps", "-a"]);
        }
    }
    assert!(killed > 1, "{killed}");
    assert!(strata.end(["fsck", "--repair", "--offline"]).code <= 1);
    assert_eq!(strata.end(["fsck"]).code, 0);
}

#[test]
fn they_are_counted_and_checked() {
    let strata = with_content();
    strata.ok([
        "run",
        "--rm",
        "-v",
        "vol:/srv",
        "kept:1",
        "sh",
        "-c",
        "head -c 1000000 /dev/zero >/srv/big",
    ]);
    strata.ok([
        "create", "--name", "user", "-v", "vol:/srv", "-v", "gone:/x", "kept:1", "true",
    ]);
    let told: Value = serde_json::from_str(&strata.ok(["df", "-v", "--format", "json"])).unwrap();
    assert_eq!(
        (&told["Volumes"]["Count"], &told["Volumes"]["Active"]),
        (&json!(2), &json!(2))
    );
    assert!(told["Volumes"]["Bytes"].as_u64().unwrap() > 1_000_000, "{told}");
    let du = std::process::Command::new("du")
        .arg("-s")
        .arg("-B1")
        .arg(strata.root())
        .output()
        .unwrap();
    let du: u64 = String::from_utf8(du.stdout)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(told["Total"].as_u64(), Some(du));
    assert_eq!(strata.ok(["fsck"]).lines().count(), 1);
    fs::remove_dir_all(mountpoint(&strata, "gone").parent().unwrap()).unwrap();
    let ended = strata.end(["fsck", "--repair", "--offline"]);
    assert_eq!(ended.code, 4, "{ended:?}");
    assert!(ended.out.contains("volume default/gone"), "{ended:?}");
    strata.ok(["rm", "user"]);
    let ended = strata.end(["fsck", "--repair", "--offline", "--remove"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert_eq!(strata.end(["fsck"]).code, 0);
    assert_eq!(names(&strata), ["vol"]);
}

/// A set-id program or a device that is left in a volume is none in the next container, unless that asks for it.
#[test]
fn rights_and_devices_do_not_come_by_a_volume() {
    let strata = busybox();
    strata.ok(["volume", "create", "left"]);
    let place = mountpoint(&strata, "left");
    fs::write(place.join("who"), common::who()).unwrap();
    fs::set_permissions(place.join("who"), fs::Permissions::from_mode(0o4755)).unwrap();
    let leave = "mknod -m 666 /data/zero c 1 5";
    let flags = ["run", "--rm", "--cap-add=MKNOD", "-v", "left:/data"];
    strata.ok([&flags[..], &["busybox", "sh", "-c", leave]].concat());
    let script = "/data/who; head -c 1 /data/zero 2>/dev/null | wc -c";
    for (mount, said) in [
        (["-v", "left:/data"], "1000 1000\n0\n"),
        (["-v", "left:/data:suid"], "1000 0\n0\n"),
        (["-v", "left:/data:dev"], "1000 1000\n1\n"),
        (["--mount", "src=left,dst=/data,suid,dev"], "1000 0\n1\n"),
    ] {
        let flags = ["run", "--rm", "--user", "1000", mount[0], mount[1]];
        assert_eq!(
            strata.ok([&flags[..], &["busybox", "sh", "-c", script]].concat()),
            said,
            "{mount:?}"
        );
    }
}
