//! Every security default, seen from inside a container. Needs root.

mod common;

use common::ordinary::{Given, Ordinary};
use common::{Image, Layer, Strata, busybox, refused, said, sh};
use serde_json::json;

/// A line of /proc/self/status.
fn status(strata: &Strata, flags: &[&str], field: &str) -> String {
    let text = said(strata, flags, "cat /proc/self/status");
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    found
        .unwrap_or_else(|| panic!("no {field} in {text}"))
        .trim()
        .to_owned()
}

fn capabilities(strata: &Strata, flags: &[&str]) -> u64 {
    u64::from_str_radix(&status(strata, flags, "CapEff"), 16).unwrap()
}

/// Numbers of linux/capability.h.
const CHOWN: u64 = 1 << 0;
const NET_ADMIN: u64 = 1 << 12;
const SYS_ADMIN: u64 = 1 << 21;

/// chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw, sys_chroot, mknod,
/// audit_write, setfcap: the set that docker gives.
const DEFAULT: u64 = 0xa804_25fb;

#[test]
fn capabilities_are_the_peers_few() {
    let strata = busybox();
    assert_eq!(
        capabilities(&strata, &[]) & !DEFAULT,
        0,
        "{:x}",
        capabilities(&strata, &[])
    );
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(
            u64::from_str_radix(&status(&strata, &[], set), 16).unwrap() & SYS_ADMIN,
            0,
            "{set}"
        );
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(status(&strata, &[], set), "0000000000000000", "{set}");
    }
    assert_ne!(capabilities(&strata, &["--cap-add", "NET_ADMIN"]) & NET_ADMIN, 0);
    assert_ne!(
        capabilities(&strata, &["--cap-add", "cap_net_admin"]) & NET_ADMIN,
        0
    );
    assert_eq!(capabilities(&strata, &["--cap-drop", "CHOWN"]) & CHOWN, 0);
    assert_eq!(capabilities(&strata, &["--cap-drop", "ALL"]), 0);
    assert_eq!(
        capabilities(&strata, &["--cap-drop", "ALL", "--cap-add", "CHOWN"]),
        CHOWN
    );
    assert_eq!(
        capabilities(&strata, &["--cap-drop", "ALL", "--cap-add", "chown,net_admin"]),
        CHOWN | NET_ADMIN,
        "several at once, as podman takes them"
    );
    assert_ne!(capabilities(&strata, &["--privileged"]) & SYS_ADMIN, 0);
    assert_eq!(
        capabilities(&strata, &["-u", "user"]),
        0,
        "a user who is not root has none"
    );
}

#[test]
fn the_filter_is_on_and_new_privileges_are_a_choice() {
    let strata = busybox();
    assert_eq!(status(&strata, &[], "Seccomp"), "2");
    assert_eq!(
        status(&strata, &["--security-opt", "seccomp=unconfined"], "Seccomp"),
        "0"
    );
    assert_eq!(status(&strata, &["--privileged"], "Seccomp"), "0");
    assert_eq!(status(&strata, &[], "NoNewPrivs"), "0");
    assert_eq!(
        status(&strata, &["--security-opt", "no-new-privileges"], "NoNewPrivs"),
        "1"
    );
    // What anybody may without the filter, so that it alone refuses it: a user namespace, keys, pages put into a pipe.
    let probe = common::compiled(include_str!("../../runtime/tests/probe.c"));
    let layer = Layer::new().file("bin/probe", 0o755, probe);
    strata.load(&Image::busybox().layer(layer).name("docker.io/library/probe:1"));
    let said = |flags: &[&str], script: &str| {
        let words = [&["run", "--rm"], flags, &["probe:1", "sh", "-c", script]].concat();
        strata.end(words).out
    };
    let script =
        "unshare -U true 2>/dev/null && echo made; for n in 250 278; do probe native $n -1 -1 -1; done";
    let refused = if cfg!(target_arch = "x86_64") {
        script
    } else {
        script.split_once(';').unwrap().0
    };
    let free = said(&["--security-opt", "seccomp=unconfined"], refused);
    assert!(free.starts_with("made\n"), "{free}");
    let held = said(&[], refused);
    assert!(!held.contains("made"), "{held}");
    assert!(
        held.lines().all(|answer| ["-1", "-38"].contains(&answer)),
        "{held}"
    );
    assert!(
        !free.lines().any(|answer| ["-1", "-38"].contains(&answer)),
        "{free}"
    );
}

#[test]
fn a_profile_of_ones_own() {
    let strata = busybox();
    let profile = strata.dir().join("profile.json");
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]}"#;
    std::fs::write(&profile, text).unwrap();
    let option = format!("seccomp={}", profile.display());
    let ended = sh(&strata, &["--security-opt", &option], "touch /file && mkdir /dir");
    assert!(
        ended.code != 0 && ended.err.contains("not implemented"),
        "{ended:?}"
    );
    std::fs::write(&profile, "{ no json").unwrap();
    refused(
        &sh(&strata, &["--security-opt", &option], "true"),
        &["profile.json"],
    );
    refused(
        &sh(&strata, &["--security-opt", "seccomp=/no/such/file"], "true"),
        &["/no/such/file"],
    );
    refused(&sh(&strata, &["--security-opt", "moon=full"], "true"), &["moon"]);
}

#[test]
fn what_the_kernel_tells_is_masked() {
    let strata = busybox();
    for masked in [
        "/proc/kcore",
        "/proc/keys",
        "/proc/timer_list",
        "/proc/acpi",
        "/proc/scsi",
        "/sys/firmware",
    ] {
        // A masked file is empty or cannot be read; a masked directory is empty.
        let seen = sh(
            &strata,
            &[],
            &format!("[ -e {masked} ] && {{ ls -A {masked}/ 2>/dev/null; head -c 9 {masked}; }}"),
        );
        assert_eq!(seen.out, "", "{masked}: {seen:?}");
    }
    let script = "for path in /proc/sys /proc/sysrq-trigger /proc/irq /proc/bus /proc/fs; do
            [ -e $path ] || continue
            grep -q \" $path .*[ ,]ro[ ,]\" /proc/mounts && echo $path
        done; grep -E ' /sys .*[ ,]ro[ ,]' /proc/mounts >/dev/null && echo /sys";
    let seen = said(&strata, &[], script);
    for path in [
        "/proc/sys",
        "/proc/sysrq-trigger",
        "/proc/irq",
        "/proc/bus",
        "/proc/fs",
        "/sys",
    ] {
        // A kernel may lack some of them.
        let there = std::fs::exists(path).unwrap();
        assert!(!there || seen.lines().any(|line| line == path), "{path}: {seen}");
    }
    assert_ne!(sh(&strata, &[], "echo 1 >/proc/sys/kernel/panic").code, 0);
    assert_eq!(
        said(
            &strata,
            &["--privileged"],
            "grep -c ' /proc/sys ' /proc/mounts || true"
        ),
        "0\n"
    );
}

#[test]
fn only_its_own_processes_are_there() {
    let strata = busybox();
    assert_eq!(
        said(&strata, &[], "ls /proc | grep -c '^[0-9]'; echo $$")
            .lines()
            .last(),
        Some("1")
    );
    let seen = said(&strata, &[], "cat /proc/1/comm; ls -d /proc/[0-9]* | wc -l");
    assert!(
        seen.starts_with("sh\n") && seen.trim().ends_with(|last: char| ('1'..='4').contains(&last)),
        "{seen}"
    );
    // Nothing of ours was left open in the container.
    assert_eq!(
        said(&strata, &[], "exec ls /proc/self/fd | tr '\\n' ' '").trim_end(),
        "0 1 2 3"
    );
}

#[test]
fn mounts_are_as_the_peers_make_them() {
    let strata = busybox();
    let table = said(&strata, &[], "cat /proc/mounts");
    let has = |target: &str, words: &[&str]| {
        let line = table.lines().find(|line| line.split(' ').nth(1) == Some(target));
        line.is_some_and(|line| {
            words
                .iter()
                .all(|word| line.split([' ', ',']).any(|part| part == *word))
        })
    };
    assert!(has("/", &["overlay"]), "{table}");
    assert!(has("/proc", &["proc", "nosuid", "nodev", "noexec"]), "{table}");
    assert!(
        has("/sys", &["sysfs", "ro", "nosuid", "nodev", "noexec"]),
        "{table}"
    );
    assert!(has("/dev", &["tmpfs", "nosuid", "noexec"]), "{table}");
    assert!(has("/dev/pts", &["devpts", "nosuid", "noexec"]), "{table}");
    assert!(
        has("/dev/shm", &["tmpfs", "nosuid", "nodev", "noexec"]),
        "{table}"
    );
    assert!(
        has("/dev/mqueue", &["mqueue", "nosuid", "nodev", "noexec"]),
        "{table}"
    );
    // Nothing of the host is seen but the layers' own names, and nothing above the root can be reached.
    assert_eq!(
        said(
            &strata,
            &[],
            "ls -di / | cut -d' ' -f1; ls -di /.. | cut -d' ' -f1"
        )
        .lines()
        .collect::<std::collections::BTreeSet<_>>()
        .len(),
        1
    );
}

/// The number of this machine's first disk, or of memory where it has none: a device that must not be opened.
fn disk() -> (u32, u32) {
    let listed = std::fs::read_to_string("/proc/partitions").unwrap();
    let numbers = listed.lines().skip(2).find_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    });
    numbers.expect("the machine has a disk")
}

#[test]
fn a_device_node_opens_nothing_it_should_not() {
    let strata = busybox();
    let (major, minor) = disk();
    // One that a layer brings.
    let layer = Layer::new()
        .block_device("disk", major, minor)
        .char_device("mem", 1, 1)
        .char_device("fuse", 10, 229);
    strata.load(&Image::busybox().layer(layer).name("docker.io/library/sly:1"));
    let ended = strata.end([
        "run",
        "--rm",
        "sly:1",
        "sh",
        "-c",
        "head -c 1 /disk || head -c 1 /mem",
    ]);
    assert!(ended.code != 0 && ended.out.is_empty(), "{ended:?}");
    // A machine may keep its disk from everybody; this one opens where nothing is refused.
    let opens = |flags: &[&str]| {
        let words = [
            &["run", "--rm"],
            flags,
            &["sly:1", "sh", "-c", ": </fuse && echo open"],
        ]
        .concat();
        strata.end(words).out == "open\n"
    };
    assert!(opens(&["--privileged"]), "the node works");
    assert!(!opens(&[]) && !opens(&["--cap-add", "ALL"]));
    // One that is made inside.
    let script = format!("mknod /disk b {major} {minor} && head -c 1 /disk >/dev/null && echo read");
    let ended = sh(&strata, &[], &script);
    assert!(!ended.out.contains("read"), "{ended:?}");
    let ended = sh(&strata, &["--cap-add", "ALL"], &script);
    assert!(!ended.out.contains("read"), "{ended:?}");
    // The harmless ones work, made inside too, where the root allows devices at all.
    let nodev = said(&strata, &[], "grep ' / ' /proc/mounts").contains("nodev");
    let ended = sh(
        &strata,
        &["--cap-add", "MKNOD"],
        "mknod /null c 1 3 && echo x >/null && echo written",
    );
    assert!(
        nodev
            || ended.out
                == "written
",
        "{ended:?}"
    );
}

#[test]
fn set_user_id_works_unless_new_privileges_are_off() {
    use testkit::layer::EntryType;
    let strata = busybox();
    let layer = Layer::new().entry_with(EntryType::Regular, "bin/who", common::who(), |header| {
        header.set_mode(0o4755)
    });
    strata.load(&Image::busybox().layer(layer).name("docker.io/library/suid:1"));
    let run = |flags: &[&str]| {
        let words = ["run", "--rm", "-u", "user"].iter().chain(flags);
        strata.ok(words.chain(&["suid:1", "/bin/who"]))
    };
    assert_eq!(run(&[]), "1000 0\n");
    assert_eq!(run(&["--security-opt", "no-new-privileges"]), "1000 1000\n");
}

/// CVE-2019-16884: an image that asks for a volume in the place of what the kernel shows.
#[test]
fn an_images_volume_is_not_in_the_place_of_the_kernels_files() {
    let image = |place: &str| {
        let layer = Layer::busybox()
            .dir("proc/self/attr", 0o755)
            .file("proc/self/attr/exec", 0o644, "fake")
            .symlink("way", "proc");
        Image::new("docker.io/library/bad:1")
            .layer(layer)
            .config("Volumes", json!({place: {}}))
    };
    let words = ["run", "--rm", "bad:1", "cat", "/proc/self/attr/exec"];
    let user = Ordinary::new(Given::Range);
    for (place, named) in [
        ("/proc", "/proc"),
        ("/sys", "/sys"),
        ("/dev", "/dev"),
        ("/proc/self/attr", "/proc/self/attr"),
        ("proc/", "/proc"),
        ("/x/../proc", "/proc"),
    ] {
        let (strata, image) = (common::empty(), image(place));
        strata.load(&image);
        user.load(&image);
        for end in [strata.end(words), user.end(&words)] {
            assert!(!end.out.contains("fake"), "{place}");
            refused(&end, &["the image asks for a volume at", named]);
        }
        assert_eq!(strata.ok(["volume", "ls", "-q"]), "", "{place}: none was made");
    }
    // What leads there by a link is for the runtime to see.
    let (strata, linked) = (common::empty(), image("/way"));
    strata.load(&linked);
    user.load(&linked);
    for end in [strata.end(words), user.end(&words)] {
        assert!(!end.out.contains("fake"));
        refused(&end, &["/way", "/proc"]);
    }
    // Beneath /sys there are places that images name in good faith.
    let (strata, image) = (common::empty(), image("/sys/fs/cgroup"));
    strata.load(&image);
    strata.ok(["run", "--rm", "bad:1", "test", "-d", "/sys/kernel"]);
    // Nor is anything of the user's there.
    for flags in [
        ["-v", "own:/proc"],
        ["-v", "/proc"],
        ["--tmpfs", "/proc"],
        ["--mount", "type=volume,source=own,target=/proc/sys"],
        ["-v", "/etc:/proc"],
    ] {
        let end = strata.end([&["run", "--rm"], &flags[..], &["bad:1", "true"]].concat());
        assert_eq!(end.code, 125, "{flags:?}: {}", end.err);
        assert!(end.err.contains("/proc"), "{}", end.err);
    }
    strata.ok([
        "run",
        "--rm",
        "-v",
        "/proc:/proc",
        "bad:1",
        "test",
        "-e",
        "/proc/1/status",
    ]);
}
