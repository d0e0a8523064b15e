//! strata as an ordinary user runs it: with subordinate ids and without.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use common::ordinary::{Given, Ordinary};
use common::refused;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use testkit::layer::EntryType;
use testkit::{Image, Layer};

const BOTH: [Given; 2] = [Given::Range, Given::Nothing];

/// Everything that happens to a container, and nothing of it afterwards.
#[test]
fn a_container_from_its_image_to_its_end() {
    for given in BOTH {
        let user = Ordinary::with_busybox(given);
        user.ok(&[
            "run",
            "-d",
            "--name",
            "one",
            "busybox",
            "sh",
            "-c",
            "echo began; exec sleep 1000",
        ]);
        assert!(user.ok(&["ps"]).contains("one"));
        assert_eq!(
            user.ok(&["exec", "one", "sh", "-c", "id -u; echo new > /new; rm /bin/true"]),
            "0\n"
        );
        assert_eq!(user.ok(&["logs", "one"]), "began\n");
        assert!(user.ok(&["top", "one"]).contains("sleep 1000"));
        assert_eq!(user.ok(&["diff", "one"]), "C /bin\nD /bin/true\nA /new\n");
        let there = user.home().join("new");
        user.ok(&["cp", "one:/new", "new"]);
        assert_eq!(
            fs::metadata(&there).unwrap().uid(),
            user.uid,
            "what comes out is the user's"
        );
        fs::write(&there, "back\n").unwrap();
        user.ok(&["cp", "new", "one:/root/back"]);
        user.ok(&["commit", "one", "made"]);
        let script = "cat /root/back; test ! -e /bin/true; stat -c %u /new";
        assert_eq!(user.ok(&["run", "--rm", "made", "sh", "-c", script]), "back\n0\n");
        user.ok(&["stop", "-t", "0", "one"]);
        user.ok(&["start", "one"]);
        assert_eq!(
            user.ok(&["exec", "one", "cat", "/new"]),
            "new\n",
            "what it wrote is there still"
        );
        user.ok(&["save", "-o", "made.tar", "made"]);
        user.ok(&["export", "-o", "one.tar", "one"]);
        user.ok(&["rm", "-f", "one"]);
        user.ok(&["rmi", "made"]);
        user.ok(&["load", "-i", "made.tar"]);
        assert_eq!(user.ok(&["run", "--rm", "made", "cat", "/root/back"]), "back\n");
        user.ok(&["volume", "create", "kept"]);
        user.said(&["-v", "kept:/data"], "echo x > /data/x");
        assert_eq!(user.said(&["-v", "kept:/data"], "cat /data/x"), "x\n");
        user.ok(&["fsck", "--deep"]);
        user.ok(&["prune", "-a", "-f"]);
        user.ok(&["volume", "prune", "-a", "-f"]);
        user.ok(&["fsck"]);
        assert!(
            fs::read_dir(user.root().join("snapshots"))
                .unwrap()
                .next()
                .is_none(),
            "all is gone"
        );
    }
}

/// An image of several owners, with what an ordinary user cannot make.
fn image() -> Image {
    let base = Layer::busybox()
        .dir("srv", 0o755)
        .file("srv/gone", 0o644, "x")
        .char_device("srv/device", 1, 5)
        .entry_with(EntryType::Regular, "srv/theirs", "theirs", |header| {
            header.set_mode(0o4755);
            header.set_uid(33);
            header.set_gid(44);
        });
    let top = Layer::new()
        .whiteout("srv/gone")
        .pax("SCHILY.xattr.trusted.privileged", b"1")
        .pax("SCHILY.xattr.user.own", b"2")
        .file("srv/marked", 0o644, "")
        .dir("tmp", 0o1777)
        .opaque("home");
    Image::new("docker.io/library/owners:latest")
        .layer(base)
        .layer(top)
}

#[test]
fn an_image_keeps_its_owners_where_there_are_ids() {
    for given in BOTH {
        let user = Ordinary::new(given);
        user.load(&image());
        let script = "ls /srv; stat -c '%u:%g %a' /srv/theirs; ls -A /home | wc -l";
        let owner = match given {
            Given::Range => "33:44",
            Given::Nothing => "0:0",
        };
        let expected = format!("marked\ntheirs\n{owner} 4755\n0\n");
        for driver in ["kernel", "fuse"] {
            let words = ["run", "--rm", "--driver", driver, "owners", "sh", "-c", script];
            assert_eq!(user.ok(&words), expected, "{given:?} {driver}");
        }
        // What the archive said is not lost by it.
        user.ok(&["fsck", "--deep"]);
        user.ok(&["prune", "-f", "blobs"]);
        user.ok(&["save", "-o", "out.tar", "owners"]);
        let rooted = common::empty();
        rooted.ok(["load", "-q", "-i", user.home().join("out.tar").to_str().unwrap()]);
        let script = "stat -c '%u:%g %t,%T' /srv/theirs /srv/device";
        let said = rooted.ok(["run", "--rm", "owners", "sh", "-c", script]);
        assert_eq!(said, "33:44 0,0\n0:0 1,5\n");
        let mut ids = vec![user.uid];
        if given == Given::Range {
            ids.push(user.first + 32);
        }
        for entry in fs::read_dir(user.root().join("snapshots")).unwrap() {
            let theirs = entry.unwrap().path().join("fs/srv/theirs");
            if let Ok(found) = fs::metadata(theirs) {
                assert_eq!(
                    found.uid(),
                    *ids.last().unwrap(),
                    "on disk it is one of the user's own"
                );
            }
        }
    }
}

/// Whoever is asked to be somebody that there is not is told so.
#[test]
fn users_that_there_are_not() {
    let user = Ordinary::with_busybox(Given::Nothing);
    refused(
        &user.end(&["run", "--rm", "-u", "1000", "busybox", "true"]),
        &["user 1000", "user namespace"],
    );
    refused(
        &user.end(&["run", "--rm", "--group-add", "5", "busybox", "true"]),
        &["group 5"],
    );
    let user = Ordinary::with_busybox(Given::Range);
    assert_eq!(user.said(&["-u", "1000:1000"], "id -u; id -g"), "1000\n1000\n");
    assert_eq!(user.said(&["--group-add", "55"], "id -G"), "0 55\n");
}

/// Killed with the process that keeps the namespaces is nothing: they live in those who are in them.
#[test]
fn containers_outlive_who_keeps_their_namespaces() {
    let user = Ordinary::with_busybox(Given::Range);
    user.ok(&["run", "-d", "--name", "one", "busybox", "sleep", "1000"]);
    user.ok(&["exec", "one", "sh", "-c", "echo here > /here"]);
    user.kill_holder();
    assert_eq!(user.ok(&["exec", "one", "cat", "/here"]), "here\n");
    assert!(user.holder().is_some(), "there is another");
    user.ok(&["run", "--name", "two", "busybox", "true"]);
    assert_eq!(user.ok(&["diff", "one"]), "A /here\n");
    user.ok(&["rm", "-f", "one", "two"]);
    // With the last of them the namespaces are gone; the next command makes new ones.
    user.kill_holder();
    assert_eq!(user.said(&[], "echo again"), "again\n");
}

/// Two commands at once, and none was there before.
#[test]
fn the_state_of_the_oci_runtime_lies_with_the_user() {
    let user = Ordinary::new(Given::Range);
    assert_eq!(user.ok(&["oci", "list", "-q"]), "");
    let place = user.dir().join("run/strata-oci");
    std::fs::write(&place, "in the way").unwrap();
    let ended = user.end(&["oci", "list"]);
    assert!(
        ended.code != 0 && ended.err.contains(place.to_str().unwrap()),
        "{ended:?}"
    );
}

/// A bundle with a user namespace, as `runc spec --rootless` makes it, and nobody who has made that before.
#[test]
fn the_oci_runtime_makes_the_users_namespace() {
    for given in [Given::Nothing, Given::Range] {
        let user = Ordinary::new(given);
        let (bundle, place) = (user.home().join("bundle"), user.home().join("state"));
        for dir in ["bin", "proc", "dev"] {
            fs::create_dir_all(bundle.join("rootfs").join(dir)).unwrap();
        }
        fs::copy("/bin/busybox", bundle.join("rootfs/bin/busybox")).unwrap();
        let mut ids = vec![json!({"containerID": 0, "hostID": user.uid, "size": 1})];
        if given == Given::Range {
            ids.push(json!({"containerID": 1, "hostID": user.first, "size": 65536}));
        }
        let script = "busybox id -u; busybox awk '{ n += $3 } END { print n }' /proc/self/uid_map; \
            echo x 2>/dev/null >/proc/1/exe; busybox true";
        let spec = json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs"},
            "process": {
                "user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/bin"],
                "args": ["busybox", "sh", "-c", script],
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            ],
            "linux": {
                "uidMappings": ids, "gidMappings": ids,
                "namespaces": [{"type": "user"}, {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}],
            },
        });
        fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
        let oci = |words: &[&str]| {
            let root = ["oci", "--root", place.to_str().unwrap()];
            user.end(&[&root[..], words].concat())
        };
        let ended = oci(&["run", "--bundle", bundle.to_str().unwrap(), "one"]);
        let ids = if given == Given::Range { "65537" } else { "1" };
        assert_eq!(
            (ended.code, ended.out),
            (0, format!("0\n{ids}\n")),
            "{given:?}: {}",
            ended.err
        );
        assert_eq!(oci(&["list", "-q"]).out, "");
    }
}

#[test]
fn first_commands_come_at_once() {
    let user = Ordinary::new(Given::Range);
    let begun: Vec<_> = (0..6)
        .map(|_| {
            let mut command = user.program(None, ["sh", "-c", "exec \"$0\" ps", strata()]);
            command.stdout(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for one in begun {
        assert!(one.wait_with_output().unwrap().status.success());
    }
    let holders = testkit::program::processes_naming(user.dir());
    assert_eq!(holders.len(), 1, "{holders:?}");
}

fn strata() -> &'static str {
    common::ordinary::strata().to_str().unwrap()
}

/// Inside of a container of others there may be no new /proc; that is told, and nothing is left.
#[test]
fn where_the_machines_proc_is_covered() {
    let user = Ordinary::new(Given::Range);
    fs::write(user.dir().join("covered"), "").unwrap();
    user.load(&Image::busybox());
    let ended = user.end(&["run", "--rm", "busybox", "true"]);
    refused(&ended, &["mount proc", "user namespace"]);
    assert_eq!(user.said(&["--pid", "host"], "echo works"), "works\n");
    assert_eq!(user.ok(&["ps", "-aq"]), "");
}

/// Nobody gains anything by it: neither the user nor the container.
#[test]
fn nothing_is_gained() {
    let user = Ordinary::with_busybox(Given::Range);
    let secret = user.dir().join("secret");
    fs::write(&secret, "root's").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let mount = format!("{}:/secret", secret.display());
    let flags = ["--privileged", "-v", &mount];
    let ended = user.end(&[&["run", "--rm"], &flags[..], &["busybox", "cat", "/secret"]].concat());
    assert!(ended.code == 1 && ended.err.contains("denied"), "{ended:?}");
    for (flags, script, expected) in [
        // The defaults, as seen from inside.
        (
            &[][..],
            "grep -E '^(Seccomp|CapEff):' /proc/self/status | tr -d '\\t'",
            "CapEff:00000000800405fb\nSeccomp:2\n",
        ),
        (&[], "mount -t tmpfs x /mnt 2>&1 | grep -c denied", "1\n"),
        (&[], "echo 1 > /proc/sys/kernel/core_pattern", ""),
        (&[], "touch /sys/x 2>&1 | grep -c Read-only", "1\n"),
        (&[], "ls /proc | grep -c '^[0-9][0-9][0-9]'", "0\n"),
        (&[], "mknod /null c 1 3 2>&1 | grep -c 'not permitted'", "1\n"),
        (
            &["--network", "host"],
            "touch /sys/x 2>&1 | grep -c Read-only",
            "1\n",
        ),
        // Every capability there is: over the user's own namespace alone.
        (
            &["--privileged"],
            "mknod /null c 1 3 2>&1 | grep -c 'not permitted'",
            "1\n",
        ),
        (
            &["--privileged"],
            "echo 1 2> /dev/null > /proc/sys/kernel/core_pattern || echo denied",
            "denied\n",
        ),
        (
            &["--privileged", "--pid", "host"],
            "kill -0 1 2>&1 | grep -c 'not permitted'",
            "1\n",
        ),
    ] {
        let script = format!("exec 2>&1; {script}");
        let words = [&["run", "--rm"], flags, &["busybox", "sh", "-c", &script]].concat();
        let out = user.end(&words).out;
        let denied = expected.is_empty() && out.contains("Read-only");
        assert!(out == expected || denied, "{flags:?} {script}: {out:?}");
    }
    // Nothing is set-uid of ours, and nothing that the user mounts is seen by others.
    user.ok(&["run", "-d", "--name", "one", "busybox", "sleep", "1000"]);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(user.dir().to_str().unwrap()), "{mounts}");
    user.ok(&["rm", "-f", "one"]);
}

/// What others could have prepared is not used, and what is another's is told to be.
#[test]
fn what_is_somebody_elses_is_refused() {
    let user = Ordinary::with_busybox(Given::Range);
    let open = user.home().join("open");
    fs::create_dir(&open).unwrap();
    chown(&open, Some(user.uid), Some(user.uid)).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    refused(
        &user.end(&["--state", open.to_str().unwrap(), "ps"]),
        &["not this user's alone"],
    );
    let theirs = user.dir().join("theirs");
    fs::create_dir(&theirs).unwrap();
    refused(
        &user.end(&["--state", theirs.to_str().unwrap(), "ps"]),
        &["not this user's alone"],
    );
    let link = user.home().join("link");
    std::os::unix::fs::symlink(user.state(), &link).unwrap();
    refused(
        &user.end(&["--state", link.to_str().unwrap(), "ps"]),
        &["state directory"],
    );
    // Root works with other ids: what it made in the store would be nobody's to the user.
    let root = common::empty();
    let words = ["--root", user.root().to_str().unwrap(), "images"].map(str::to_owned);
    refused(&root.end(words), &["belongs to the ids"]);
    // And so does the user who has lost the range.
    user.kill_holder();
    fs::write(user.dir().join("etc/subuid"), "").unwrap();
    refused(&user.end(&["images"]), &["belongs to the ids"]);
    fs::write(
        user.dir().join("etc/subuid"),
        format!("ordinary:{}:65536\n", user.first),
    )
    .unwrap();
    user.kill_holder();
    user.ok(&["images"]);
}

/// A user who had one id and is given more keeps the store.
#[test]
fn ids_may_come_in_addition() {
    let user = Ordinary::with_busybox(Given::Nothing);
    user.kill_holder();
    for name in ["subuid", "subgid"] {
        let text = format!("{}:{}:65536\n", user.uid, user.first);
        fs::write(user.dir().join("etc").join(name), text).unwrap();
    }
    assert_eq!(user.said(&["-u", "1000"], "id -u"), "1000\n");
    user.kill_holder();
    fs::write(user.dir().join("etc/subgid"), "").unwrap();
    refused(&user.end(&["images"]), &["belongs to the ids"]);
}

/// A cgroup that is the user's has containers' beneath it, and all of them are gone with these.
#[test]
fn a_cgroup_of_the_users_own() {
    let user = Ordinary::with_busybox(Given::Range);
    let hierarchies = runtime::cgroup::Hierarchies::find().unwrap();
    let place = hierarchies.unified().expect("a cgroup2 is mounted");
    let own = place.join(format!("strata-test-{}", user.uid));
    let leaf = own.join("leaf");
    fs::create_dir_all(&leaf).unwrap();
    for dir in [&own, &leaf] {
        for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            chown(dir.join(file), Some(user.uid), Some(user.uid)).unwrap();
        }
    }
    let procs = leaf.join("cgroup.procs");
    let run = |words: &[&str]| {
        let ended = user.end_in(Some(&procs), words);
        assert_eq!(ended.code, 0, "{words:?}: {ended:?}");
        ended.out
    };
    run(&["run", "-d", "--name", "one", "busybox", "sleep", "1000"]);
    assert_eq!(
        fs::read_dir(own.join("strata"))
            .unwrap()
            .filter(|e| e.as_ref().unwrap().path().is_dir())
            .count(),
        1
    );
    run(&["pause", "one"]);
    assert!(run(&["ps"]).contains("Paused"));
    run(&["unpause", "one"]);
    assert_eq!(
        run(&["exec", "one", "sh", "-c", "tail -n 1 /proc/self/cgroup"]),
        "0::/\n"
    );
    run(&["rm", "-f", "one"]);
    assert!(!own.join("strata").exists());
    fs::remove_dir(leaf).unwrap();
    fs::remove_dir(own).unwrap();
    // Without one, a limit is refused, and nothing else.
    let ended = user.end(&["run", "--rm", "--memory", "64m", "busybox", "true"]);
    assert!(
        ended.code == 125 && ended.err.contains("systemd-run"),
        "{ended:?}"
    );
    // Nor is one kept that would keep a container from being started again.
    user.ok(&["run", "--name", "two", "busybox", "true"]);
    let ended = user.end(&["update", "--memory", "64m", "two"]);
    refused(&ended, &["two", "the memory limit"]);
    assert!(ended.err.contains("systemd-run"), "{ended:?}");
    user.ok(&["update", "--restart", "no", "--memory", "0", "two"]);
    user.ok(&["start", "-a", "two"]);
    user.ok(&["rm", "two"]);
    let ended = user.end(&["run", "--rm", "--network", "bridge", "busybox", "true"]);
    refused(&ended, &["network bridge", "ordinary user"]);
    refused(&user.end(&["run", "--rm", "host", "true"]), &["needs root"]);
}

#[test]
fn a_command_among_the_users_files() {
    let user = Ordinary::new(Given::Range);
    user.load(&image());
    let script = "id -u; find ~/.local/share/strata/snapshots -name theirs -exec stat -c %u {} +; \"$0\" images -q | wc -l; pwd";
    let said = user.ok(&["unshare", "sh", "-c", script, strata()]);
    assert_eq!(said, format!("0\n33\n1\n{}\n", user.home().display()));
    assert_eq!(user.end(&["unshare", "/nowhere"]).code, 127);
    refused(&common::empty().end(["unshare", "true"]), &["root has no"]);
}

/// The container that goes with its end does so, whoever is there to see it.
#[test]
fn what_is_left_alone_is_looked_after() {
    let user = Ordinary::with_busybox(Given::Range);
    user.ok(&["run", "-d", "--rm", "--name", "one", "busybox", "sleep", "1000"]);
    let pid: i32 = user
        .ok(&["inspect", "--format", "{{.State.Pid}}", "one"])
        .trim()
        .parse()
        .unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    for _ in 0..200 {
        if user.ok(&["ps", "-aq"]).is_empty() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(25));
    }
    panic!("{}", user.ok(&["ps", "-a"]));
}

#[test]
fn an_overlay_outside_of_a_namespace_is_refused_with_a_way_out() {
    let user = Ordinary::new(Given::Range);
    for dir in ["lower", "upper", "work", "merged"] {
        let dir = user.home().join(dir);
        fs::create_dir(&dir).unwrap();
        chown(&dir, Some(user.uid), Some(user.uid)).unwrap();
    }
    let end = user.end(&[
        "mount",
        "-o",
        "lowerdir=lower,upperdir=upper,workdir=work",
        "merged",
    ]);
    refused(&end, &["merged", "ermission"]);
    assert!(end.err.contains("strata unshare strata mount"), "{}", end.err);
}
