//! `--security-opt apparmor=…`, on a kernel that has AppArmor. Runs in the virtual machine only (`cargo xtask test`).

mod common;

use std::process::Command;
use std::sync::Once;

use common::{busybox, refused, said, sh};
use testkit::Strata;

/// Everything but a file, and mounts.
const PROFILE: &str = "profile strata-test flags=(attach_disconnected, mediate_deleted) {
  file,
  capability,
  network,
  signal,
  ptrace,
  unix,
  deny /tmp/secret rw,
  deny mount,
}
";

const OPTION: &str = "apparmor=strata-test";

/// A store with busybox, and the profile in the kernel.
fn prepared() -> Strata {
    static LOADED: Once = Once::new();
    let strata = busybox();
    LOADED.call_once(|| {
        let file = strata.dir().join("profile");
        std::fs::write(&file, PROFILE).unwrap();
        let loaded = Command::new("apparmor_parser")
            .args(["--replace", "--skip-cache"])
            .arg(&file)
            .output()
            .unwrap();
        assert!(loaded.status.success(), "{loaded:?}");
    });
    strata
}

#[test]
fn a_profile_confines() {
    let strata = prepared();
    assert_eq!(
        said(
            &strata,
            &["--security-opt", OPTION],
            "cat /proc/self/attr/current"
        ),
        "strata-test (enforce)\n"
    );
    let script = "echo open >/tmp/open && cat /tmp/open; echo no >/tmp/secret";
    let ended = sh(&strata, &["--security-opt", OPTION], script);
    assert_eq!(ended.out, "open\n", "{ended:?}");
    assert!(
        ended.code != 0 && ended.err.contains("Permission denied"),
        "{ended:?}"
    );
}

#[test]
fn it_confines_whatever_else_is_asked() {
    let strata = prepared();
    let privileged = ["--privileged", "--security-opt", OPTION];
    let ended = sh(&strata, &privileged, "mount -t tmpfs none /tmp");
    assert!(
        ended.code != 0 && ended.err.contains("denied"),
        "all capabilities, and yet: {ended:?}"
    );
    for flags in [
        &["--init"][..],
        &["--security-opt", "no-new-privileges"],
        &["--runtime", "/usr/bin/crun"],
    ] {
        let flags = [flags, &["--security-opt", OPTION]].concat();
        assert_eq!(
            said(
                &strata,
                &flags,
                "cat /proc/1/attr/current /proc/self/attr/current"
            ),
            "strata-test (enforce)\n".repeat(2),
            "{flags:?}"
        );
    }
}

/// What the profile denies is asked for with every other right to it.
#[test]
fn the_default_is_a_second_wall() {
    let strata = prepared();
    let label = said(&strata, &[], "cat /proc/self/attr/current");
    assert!(
        label.starts_with("strata-default-") && label.ends_with(" (enforce)\n"),
        "{label}"
    );
    let rights = ["--cap-add", "ALL", "--security-opt", "unmask=ALL"];
    let script = "denied() { if out=$(\"$@\" 2>&1); then echo \"$*: done\"; else case $out in
            *denied*) ;; *) echo \"$*: $out\";; esac; fi; }
        sys() { echo \"$1\" >\"$2\"; }
        mkdir /tmp/d
        denied mount -t tmpfs none /tmp/d
        denied umount /dev/shm
        denied sys s /proc/sysrq-trigger
        denied sys 60 /proc/sys/vm/swappiness
        denied sys /bin/x /proc/sys/kernel/core_pattern
        denied sys /bin/x /proc/sys/kernel/modprobe
        denied sys 1 /proc/sys/kernel/sysrq
        denied sys 0 /sys/kernel/profiling
        denied sys noop /sys/block/vda/queue/scheduler
        denied cat /sys/kernel/security/lsm
        denied kill -0 1
        echo 64 >/proc/sys/net/ipv4/ip_default_ttl && echo 4096 >/proc/sys/kernel/shmmni && echo 8192 >/proc/sys/kernel/msgmax
        echo 5 >/proc/self/oom_score_adj && kill -0 $$ && echo free";
    let flags = [&rights[..], &["--pid", "host", "-v", "/sys:/sys"]].concat();
    assert_eq!(said(&strata, &flags, script), "free\n");
    let mounts = "mount -t tmpfs none /tmp && umount /dev/shm && cat /proc/self/attr/current";
    for flags in [
        &["--cap-add", "ALL", "--security-opt", "apparmor=unconfined"][..],
        &["--privileged"],
    ] {
        assert_eq!(said(&strata, flags, mounts), "unconfined\n", "{flags:?}");
    }
}

#[test]
fn the_default_is_loaded_once_and_told() {
    let strata = prepared();
    strata.ok(["run", "-d", "--name", "box", "busybox", "sleep", "1000"]);
    let name = strata.ok(["inspect", "box", "--format", "{{.AppArmorProfile}}"]);
    let loaded = || {
        let text = std::fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap();
        text.lines()
            .filter(|line| line.starts_with("strata-default-"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(loaded(), [format!("{} (enforce)", name.trim())]);
    assert_eq!(
        strata.ok(["exec", "box", "cat", "/proc/self/attr/current"]),
        format!("{} (enforce)\n", name.trim())
    );
    assert!(strata.ok(["info"]).contains("containers have a profile"));
    // Signals from outside arrive.
    strata.ok(["stop", "-t", "20", "box"]);
    strata.ok(["rm", "box"]);
}

#[test]
fn a_profile_that_is_not_loaded_is_refused() {
    let strata = busybox();
    for name in ["no-such-profile", ":no-such-namespace:profile"] {
        let option = format!("apparmor={name}");
        refused(
            &sh(&strata, &["--security-opt", &option], "echo started"),
            &[name, "AppArmor"],
        );
    }
    assert_eq!(strata.ok(["ps", "-a", "-q"]), "");
}
