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

#[test]
fn none_is_the_default() {
    let strata = prepared();
    for flags in [&[][..], &["--security-opt", "apparmor=unconfined"]] {
        assert_eq!(
            said(&strata, flags, "cat /proc/self/attr/current"),
            "unconfined\n"
        );
    }
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
