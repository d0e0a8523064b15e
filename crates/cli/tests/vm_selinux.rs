//! SELinux labels, on a kernel that has it, under a policy that denies. Runs in the virtual machine only
//! (`cargo xtask test`), on a kernel of its own.

mod common;

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::sync::Once;

use common::{busybox, refused, said, sh};
use testkit::Strata;

const POLICY: &str = include_str!("selinux/policy.cil");

/// As a distribution's policy has it.
const CONTEXTS: &str = "process = \"system_u:system_r:container_t:s0\"\nfile = \"system_u:object_r:container_file_t:s0\"\nro_file = \"system_u:object_r:container_ro_file_t:s0\"\n";

const LABEL: &str = "tr -d '\\0' </proc/self/attr/current; echo";

/// A store with busybox, and the policy in the kernel, in force.
fn prepared() -> Strata {
    static LOADED: Once = Once::new();
    LOADED.call_once(|| {
        let dir = tempfile::tempdir().unwrap();
        let (text, binary) = (dir.path().join("policy.cil"), dir.path().join("policy"));
        let mut policy = POLICY.to_owned();
        let names: Vec<String> = (0..1024).map(|n| format!("c{n}")).collect();
        names
            .iter()
            .for_each(|name| writeln!(policy, "(category {name})").unwrap());
        writeln!(policy, "(categoryorder ({}))", names.join(" ")).unwrap();
        fs::write(&text, policy).unwrap();
        let compiled = Command::new("secilc")
            .args(["-c", "33", "-f", "/dev/null", "-o"])
            .args([&binary, &text])
            .output()
            .unwrap();
        assert!(compiled.status.success(), "{compiled:?}");
        fs::create_dir_all("/etc/selinux/test/contexts").unwrap();
        fs::write("/etc/selinux/config", "SELINUX=enforcing\nSELINUXTYPE=test\n").unwrap();
        fs::write("/etc/selinux/test/contexts/lxc_contexts", CONTEXTS).unwrap();
        fs::write("/sys/fs/selinux/load", fs::read(&binary).unwrap()).unwrap();
        fs::write("/sys/fs/selinux/enforce", "1").unwrap();
    });
    busybox()
}

/// The level at the end of a label.
fn level(label: &str) -> &str {
    label.splitn(4, ':').nth(3).unwrap().trim()
}

#[test]
fn a_container_has_labels_and_a_level_of_its_own() {
    let strata = prepared();
    let look = format!("{LABEL}; grep ' / ' /proc/mounts; grep ' /dev/shm ' /proc/mounts");
    let (one, other) = (said(&strata, &[], &look), said(&strata, &[], &look));
    for text in [&one, &other] {
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].starts_with("system_u:system_r:container_t:s0:c"),
            "{text}"
        );
        let files = format!(
            "context=\"system_u:object_r:container_file_t:{}\"",
            level(lines[0])
        );
        for mount in &lines[1..] {
            // The table shows it without marks where there are no commas.
            assert!(mount.replace('"', "").contains(&files.replace('"', "")), "{text}");
        }
        assert_eq!(lines.len(), 3);
    }
    assert_ne!(one.lines().next(), other.lines().next());

    // It works with its own files, and with no others.
    let script = "echo a >/new && cat /new && mkdir /tmp/d && rm -r /tmp/d && cat /etc/hosts >/dev/null && sh -c 'echo b'";
    for flags in [
        &[][..],
        &["--init"],
        &["--driver", "fuse"],
        &["--runtime", "/usr/bin/crun"],
    ] {
        assert_eq!(said(&strata, flags, script), "a\nb\n", "{flags:?}");
        let label = said(&strata, flags, LABEL);
        assert!(
            label.starts_with("system_u:system_r:container_t:s0:c"),
            "{flags:?} {label}"
        );
    }
}

#[test]
fn what_is_the_machines_is_given_by_its_label_alone() {
    let strata = prepared();
    let dir = strata.dir().join("data");
    fs::create_dir_all(dir.join("below")).unwrap();
    fs::write(dir.join("below/file"), "text").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.join("link")).unwrap();
    let mount = |how: &str| format!("{}:/data{how}", dir.display());
    let look = "cat /data/below/file && echo more >/data/below/new";
    let denied = |flags: &[&str]| {
        let ended = sh(&strata, flags, look);
        assert!(
            ended.code != 0 && ended.err.contains("Permission denied"),
            "{ended:?}"
        );
    };
    denied(&["-v", &mount("")]);
    assert_eq!(said(&strata, &["-v", &mount(":z")], look), "text");
    // Once it is shared, it is so without being asked.
    assert_eq!(said(&strata, &["-v", &mount("")], look), "text");
    assert_eq!(said(&strata, &["-v", &mount(":Z")], look), "text");
    denied(&["-v", &mount("")]);
    assert_eq!(
        said(
            &strata,
            &[
                "--mount",
                &format!("type=bind,src={},dst=/data,relabel=shared", dir.display())
            ],
            look
        ),
        "text"
    );
    // The link was labelled, not what it leads to.
    let passwd = sh(&strata, &["-v", "/etc/passwd:/p"], "cat /p");
    assert!(passwd.err.contains("Permission denied"), "{passwd:?}");

    for place in ["/usr", "/etc"] {
        refused(
            &sh(&strata, &["-v", &format!("{place}:/data:z")], "true"),
            &["SELinux", place],
        );
    }
    assert_eq!(strata.ok(["ps", "-a", "-q"]), "");
}

#[test]
fn volumes_are_shared() {
    let strata = prepared();
    said(&strata, &["-v", "kept:/data"], "echo text >/data/file");
    assert_eq!(
        said(
            &strata,
            &["-v", "kept:/data"],
            "cat /data/file && echo more >/data/other"
        ),
        "text\n"
    );
    assert_eq!(said(&strata, &["-v", "kept:/data:Z"], "cat /data/file"), "text\n");
    let ended = sh(&strata, &["-v", "kept:/data"], "cat /data/file");
    assert!(
        ended.code != 0 && ended.err.contains("Permission denied"),
        "{ended:?}"
    );
}

#[test]
fn who_has_no_label_and_who_has_another() {
    let strata = prepared();
    for flags in [
        &["--privileged"][..],
        &["--security-opt", "label=disable"],
        &["--pid", "host"],
        &["--ipc", "host"],
    ] {
        let label = said(&strata, flags, LABEL);
        assert!(
            label.starts_with("system_u:system_r:host_t:"),
            "{flags:?} {label}"
        );
    }
    for (option, expected) in [
        ("label=type:other_t", "system_u:system_r:other_t:s0:c"),
        ("label=level:s0:c5,c6", "system_u:system_r:container_t:s0:c5,c6\n"),
    ] {
        let label = said(&strata, &["--security-opt", option], LABEL);
        assert!(label.starts_with(expected), "{option} {label}");
    }
    refused(
        &sh(&strata, &["--security-opt", "label=type:no_such_t"], "true"),
        &["no_such_t"],
    );
}

#[test]
fn a_container_keeps_its_labels() {
    let strata = prepared();
    strata.ok(["run", "-d", "--name", "box", "busybox", "sleep", "1000"]);
    let label = strata.ok(["inspect", "box", "--format", "{{.ProcessLabel}}"]);
    let files = strata.ok(["inspect", "box", "--format", "{{.MountLabel}}"]);
    assert_eq!(level(&label), level(&files));
    assert_eq!(strata.ok(["exec", "box", "sh", "-c", LABEL]), label);
    assert_eq!(said(&strata, &["--pid", "container:box"], LABEL), label);
    strata.ok(["cp", "/etc/hostname", "box:/copied"]);
    assert_eq!(strata.ok(["exec", "box", "cat", "/copied"]), "strata-vm\n");
    strata.ok(["stop", "-t", "1", "box"]);
    strata.ok(["start", "box"]);
    assert_eq!(strata.ok(["exec", "box", "sh", "-c", LABEL]), label);

    // What is made of it has none.
    strata.ok(["commit", "-q", "box", "made"]);
    let layer = strata.ok([
        "run",
        "--rm",
        "--security-opt",
        "label=level:s0:c1,c2",
        "made",
        "cat",
        "/copied",
    ]);
    assert_eq!(layer, "strata-vm\n");
    strata.ok(["rm", "-f", "box"]);
    assert!(
        strata
            .ok(["info"])
            .contains("containers have labels of their own")
    );
}
