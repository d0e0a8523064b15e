//! Containers of root's whose ids are others outside: `--userns`, `--uidmap`, `--gidmap`.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use common::ordinary::{Given, Ordinary};
use common::{Strata, busybox, empty, refused};
use testkit::layer::EntryType;
use testkit::{Image, Layer, eventually};

const ONE: &[&str] = &["--userns", "700000:65536"];
const OTHER: &[&str] = &["--userns", "900000:65536"];

/// A store with an image in which something belongs to 33:44.
fn owners() -> Strata {
    let layer = Layer::busybox().entry_with(EntryType::Regular, "srv/theirs", "theirs", |header| {
        header.set_mode(0o640);
        header.set_uid(33);
        header.set_gid(44);
    });
    let strata = empty();
    strata.load(&Image::new("docker.io/library/busybox:latest").layer(layer));
    strata
}

fn run(strata: &Strata, flags: &[&str], script: &str) -> String {
    strata.ok([&["run", "--rm"], flags, &["busybox", "sh", "-c", script]].concat())
}

/// Files of the store by this name.
fn on_disk(strata: &Strata, name: &str) -> Vec<PathBuf> {
    let snapshots = fs::read_dir(strata.root().join("snapshots")).unwrap();
    let files = snapshots.map(|entry| entry.unwrap().path().join("fs").join(name));
    files.filter(|path| path.exists()).collect()
}

/// One copy of a layer, never changed, is each container's with the owners that its image says.
#[test]
fn two_ranges_share_the_layers() {
    let strata = owners();
    let [layer] = &on_disk(&strata, "srv/theirs")[..] else {
        panic!("one layer")
    };
    let before = fs::metadata(layer).unwrap();
    assert_eq!((before.uid(), before.gid()), (33, 44));
    let script = "stat -c %u:%g /srv/theirs /; tr -s ' ' < /proc/self/uid_map; echo more >> /srv/theirs; \
        touch /new; chown 5:6 /new; stat -c %u:%g /new /srv/theirs; rm /bin/true; mkdir /d; mv /d /e; ls -d /e";
    for flags in [ONE, OTHER] {
        let first = flags[1].split(':').next().unwrap();
        let expected = format!("33:44\n0:0\n 0 {first} 65536\n5:6\n33:44\n/e\n");
        assert_eq!(run(&strata, flags, script), expected);
    }
    let after = fs::metadata(layer).unwrap();
    assert_eq!(
        (before.ctime(), before.ctime_nsec(), before.ino()),
        (after.ctime(), after.ctime_nsec(), after.ino()),
        "nothing was changed"
    );
    assert_eq!(on_disk(&strata, "srv/theirs").len(), 1, "nor copied");
    strata.ok(["fsck", "--deep"]);
    assert_eq!(strata.in_use(), (Vec::new(), Vec::new()));
}

/// What a container wrote belongs to its own ids wherever it is taken to.
#[test]
fn owners_are_right_in_what_is_taken_out_and_put_in() {
    let strata = owners();
    let script = "echo x > /new; chown 5:6 /new; chown 7:8 /srv/theirs; exec sleep 1000";
    strata.ok([
        &["run", "-d", "--name", "one"],
        ONE,
        &["busybox", "sh", "-c", script],
    ]
    .concat());
    let pid = strata.ok(["inspect", "--format", "{{.State.Pid}}", "one"]);
    let process = fs::metadata(format!("/proc/{}", pid.trim())).unwrap();
    assert_eq!(
        process.uid(),
        700_000,
        "to the machine it is none of its own users"
    );
    let both = || strata.ok(["diff", "one"]).lines().last() == Some("C /srv/theirs");
    eventually("it has written", both);
    let out = strata.dir().join("out");
    let out = out.to_str().unwrap();
    let put = strata.dir().join("put");
    fs::write(&put, "put\n").unwrap();
    std::os::unix::fs::chown(&put, Some(11), Some(12)).unwrap();
    let put = put.to_str().unwrap();
    for running in [true, false] {
        if !running {
            strata.ok(["stop", "-t", "0", "one"]);
        }
        assert_eq!(strata.ok(["diff", "one"]).lines().last(), Some("C /srv/theirs"));
        strata.ok(["cp", "-a", "one:/new", out]);
        let found = fs::metadata(out).unwrap();
        assert_eq!((found.uid(), found.gid()), (5, 6), "running: {running}");
        strata.ok(["cp", "one:/srv/theirs", out]);
        assert_eq!(fs::metadata(out).unwrap().uid(), 0);
        strata.ok(["cp", put, "one:/plain"]);
        strata.ok(["cp", "-a", put, "one:/archive"]);
    }
    strata.ok(["start", "one"]);
    let stat = "stat -c %u:%g /plain /archive /new /srv/theirs";
    let seen = strata.ok([&["exec", "one"], &stat.split(' ').collect::<Vec<_>>()[..]].concat());
    assert_eq!(seen, "0:0\n11:12\n5:6\n7:8\n");
    assert_eq!(strata.ok(["exec", "-u", "33", "one", "id", "-u"]), "33\n");
    strata.ok(["commit", "one", "made"]);
    strata.ok(["rm", "-f", "one"]);
    for flags in [&[][..], OTHER] {
        let words = [&["run", "--rm"], flags, &["made", "sh", "-c", stat]].concat();
        assert_eq!(strata.ok(words), "0:0\n11:12\n5:6\n7:8\n", "{flags:?}");
    }
    assert_eq!(strata.in_use(), (Vec::new(), Vec::new()));
}

/// Each gets ids that no other has, and gives them back with its row.
#[test]
fn ids_are_chosen() {
    let strata = owners();
    let config = strata.dir().join("config.toml");
    fs::write(
        &config,
        "default_network = \"none\"\nuserns_ids = \"3000000:2500\"\n",
    )
    .unwrap();
    let first = |name: &str| {
        strata.ok([
            "run",
            "--name",
            name,
            "--userns",
            "auto:size=1000",
            "busybox",
            "cat",
            "/proc/self/uid_map",
        ])
    };
    let words = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(words(first("one")), "0 3000000 1000");
    assert_eq!(words(first("two")), "0 3001000 1000");
    let told = strata.ok(["inspect", "--format", "{{.HostConfig.UsernsMode}}", "two"]);
    assert_eq!(told, "0:3001000:1000/0:3001000:1000\n");
    let namespace = [
        "--namespace",
        "other",
        "run",
        "--rm",
        "--userns",
        "auto:size=1000",
        "--pull",
        "never",
        "busybox",
    ];
    refused(&strata.end(namespace), &["busybox"]);
    let ended = strata.end(["run", "--rm", "--userns", "auto:size=1000", "busybox", "true"]);
    refused(&ended, &["--userns auto", "1000"]);
    assert_eq!(
        words(strata.ok(["start", "-a", "one"])),
        "0 3000000 1000",
        "it keeps them"
    );
    strata.ok(["rm", "one"]);
    assert_eq!(words(first("three")), "0 3000000 1000");
    // An owner that it does not have is nobody's.
    let script = "stat -c %u:%g /srv/theirs";
    assert_eq!(run(&strata, &["--userns", "3000000:20"], script), "65534:65534\n");
    refused(
        &strata.end([
            "run",
            "--rm",
            "--userns",
            "3000000:20",
            "-u",
            "33",
            "busybox",
            "true",
        ]),
        &["user 33"],
    );
    strata.ok(["rm", "two", "three"]);
}

/// What lies in a volume belongs to the ids of containers, not to those of one of them.
#[test]
fn a_volume_between_two_ranges() {
    let strata = owners();
    assert_eq!(
        run(
            &strata,
            &[ONE, &["-v", "kept:/srv"]].concat(),
            "stat -c %u:%g /srv/theirs"
        ),
        "33:44\n"
    );
    run(
        &strata,
        &[ONE, &["-v", "kept:/srv"]].concat(),
        "touch /srv/new; chown 7:8 /srv/new",
    );
    let stat = "stat -c %u:%g /srv/new /srv/theirs";
    for flags in [OTHER, &[]] {
        assert_eq!(
            run(&strata, &[flags, &["-v", "kept:/srv"]].concat(), stat),
            "7:8\n33:44\n"
        );
    }
    // A directory of the machine keeps its owners, and shows those that the container does not have as nobody.
    let mount = format!("{}:/host", strata.dir().display());
    assert_eq!(
        run(&strata, &[ONE, &["-v", &mount]].concat(), "stat -c %u /host"),
        "65534\n"
    );
    strata.ok(["volume", "rm", "kept"]);
}

/// All rights that there are inside are none outside.
#[test]
fn root_of_a_container_is_nobody_outside() {
    let strata = owners();
    let secret = strata.dir().join("secret");
    fs::write(&secret, "root's").unwrap();
    fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mount = format!("{}:/secret", secret.display());
    for (flags, script) in [
        (&["-v", &mount][..], "cat /secret"),
        (&["-v", &mount], "echo > /secret"),
        (&[], "echo 1 > /proc/sys/kernel/core_pattern"),
        (&[], "mknod /null c 1 3"),
        (&["--pid", "host"], "kill -0 1"),
        (&["--network", "host"], "ip link add dummy9 type dummy"),
        (&[], "mount -t sysfs x /tmp && echo 0 > /tmp/kernel/mm/ksm/run"),
    ] {
        let words = [
            &["run", "--rm", "--privileged"],
            ONE,
            flags,
            &["busybox", "sh", "-c", script],
        ]
        .concat();
        let ended = strata.end(words);
        assert!(ended.code != 0 && ended.code != 125, "{script}: {ended:?}");
    }
    assert_eq!(
        run(
            &strata,
            &[ONE, &["--privileged"]].concat(),
            "mount -t tmpfs x /tmp && echo done"
        ),
        "done\n"
    );
}

#[test]
fn other_mappings_and_what_is_refused() {
    let strata = owners();
    let map = "tr -s ' ' < /proc/self/uid_map; cat /proc/self/gid_map | tr -s ' '";
    let two = [
        "--uidmap",
        "0:5000:10",
        "--uidmap",
        "33:900000:1",
        "--gidmap",
        "0:6000:100",
    ];
    assert_eq!(run(&strata, &two, map), " 0 5000 10\n 33 900000 1\n 0 6000 100\n");
    assert_eq!(run(&strata, &two, "stat -c %u:%g /srv/theirs"), "33:44\n");
    assert_eq!(
        run(
            &strata,
            &["--userns", "keep-id"],
            "tr -s ' ' < /proc/self/uid_map"
        ),
        " 0 0 4294967295\n"
    );
    assert_eq!(
        run(&strata, &["--userns", "host"], "tr -s ' ' < /proc/self/uid_map"),
        " 0 0 4294967295\n"
    );
    let end =
        |flags: &[&str], source: &str| strata.end([&["run", "--rm"], flags, &[source, "true"]].concat());
    refused(&end(ONE, "host"), &["view of this machine"]);
    for wrong in ["private", "auto:x", "5", "container:x"] {
        refused(&end(&["--userns", wrong], "busybox"), &["--userns", wrong]);
    }
    refused(&end(&["--uidmap", "1:5:5"], "busybox"), &["--uidmap", "no id 0"]);
    refused(
        &end(&[ONE, &["--driver", "fuse"]].concat(), "busybox"),
        &["--driver fuse"],
    );
    assert_eq!(strata.in_use(), (Vec::new(), Vec::new()));
}

/// A network's namespace is the machine's, and set up for the container all the same.
#[test]
fn in_a_network() {
    testkit::net::apart();
    let strata = owners();
    let script = "ip -o -4 addr show dev eth0 | grep -c 'inet 10.62'; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; \
        ls /sys/class/net; touch /sys/x 2>/dev/null || echo ro";
    let out = run(&strata, &[ONE, &["--network", "bridge"]].concat(), script);
    assert_eq!(out, "1\n0\neth0\nlo\nro\n");
    assert_eq!(testkit::net::left_behind(&strata.state()), [""; 0]);
}

/// What the machine's processes share in memory and by queues, in a user namespace: it is bound, since none is to be made there. A
/// machine that shows its queues nowhere has none to bind.
#[test]
fn the_machines_ipc() {
    let strata = busybox();
    let user = Ordinary::new(Given::Range);
    user.load(&Image::busybox());
    let script = "readlink /proc/self/ns/ipc; grep -c ' /dev/mqueue ' /proc/mounts; true";
    let words = |flags: &[&str]| -> Vec<String> {
        let all = [
            &["run", "--rm", "--ipc=host"],
            flags,
            &["busybox", "sh", "-c", script],
        ]
        .concat();
        all.into_iter().map(str::to_owned).collect()
    };
    let hosts = fs::read_link("/proc/self/ns/ipc").unwrap();
    let told = format!(
        "{}\n{}\n",
        hosts.display(),
        u8::from(fs::exists("/dev/mqueue").unwrap())
    );
    let rootless = words(&[]);
    let rootless: Vec<&str> = rootless.iter().map(String::as_str).collect();
    assert_eq!(user.ok(&rootless), told);
    assert_eq!(strata.ok(words(&["--userns", "400000:65536"])), told);
}
