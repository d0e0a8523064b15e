//! `--storage-opt size=…`, on file systems that have project quotas. Runs in the virtual machine only, whose kernel
//! and disk have them (`cargo xtask test`).

mod common;

use std::io::{ErrorKind, Write};

use common::{Ended, Image, said, sh};
use testkit::snapshots::Served;
use testkit::snapshotter::Snapshotter;
use testkit::{Disk, Strata};

const SIZE: &[&str] = &["--storage-opt", "size=4m"];
const FILL: &str = "dd if=/dev/zero of=/big bs=1M count=8 2>&1; du -k /big";

fn busybox_in(place: &std::path::Path) -> Strata {
    let strata = Strata::beneath(place, env!("CARGO_BIN_EXE_strata"));
    strata.load(&Image::busybox());
    strata
}

/// Runs a check on a store on the machine's ext4, and on one on xfs.
fn on_each(check: impl Fn(&Strata)) {
    check(&busybox_in(&std::env::temp_dir()));
    let disk = Disk::xfs_with_project_quotas();
    check(&busybox_in(&disk.path()));
}

#[track_caller]
fn stopped_at_4_megabytes(ended: &Ended) {
    let refused = ["No space left on device", "quota exceeded"];
    assert!(refused.iter().any(|words| ended.out.contains(words)), "{ended:?}");
    let last = ended.out.lines().last().unwrap_or_default();
    let kilobytes: u32 = last.split_whitespace().next().unwrap().parse().unwrap();
    assert!((3 << 10..=4 << 10).contains(&kilobytes), "{ended:?}");
}

#[test]
fn a_container_stops_at_its_size() {
    on_each(|strata| {
        stopped_at_4_megabytes(&sh(strata, SIZE, FILL));
        // Not even every right lifts it.
        let privileged = [SIZE, &["--privileged"]].concat();
        stopped_at_4_megabytes(&sh(strata, &privileged, FILL));
        assert!(
            strata.ok(["info"]).contains("+ project quotas"),
            "it says what can be asked for"
        );
        assert_eq!(
            said(strata, SIZE, "df -k / | tail -n 1 | awk '{ print $2 }'"),
            "4096\n"
        );
    });
}

#[test]
fn no_other_container_does() {
    on_each(|strata| {
        let first = [&["run", "--name", "full"], SIZE, &["busybox", "sh", "-c", FILL]].concat();
        stopped_at_4_megabytes(&strata.end(first));
        let script = "dd if=/dev/zero of=/big bs=1M count=8 2>/dev/null && du -m /big";
        assert_eq!(said(strata, &[], script), "8\t/big\n");

        let inspected: serde_json::Value = serde_json::from_str(&strata.ok(["inspect", "full"])).unwrap();
        let inspected = &inspected[0];
        assert_eq!(inspected["HostConfig"]["StorageOpt"]["size"], "4194304");
        let takes = inspected["SizeRw"].as_u64().unwrap();
        assert!((3 << 20..=4 << 20).contains(&takes), "{takes}");
        strata.ok(["rm", "full"]);
    });
}

#[test]
fn changing_the_image_counts_and_reading_it_does_not() {
    let strata = busybox_in(&std::env::temp_dir());
    let image = Image::busybox().name("docker.io/library/heavy:latest");
    strata.load(&image.layer(testkit::Layer::new().file("heavy", 0o644, "x".repeat(5 << 20))));
    let run = |script: &str| {
        let command = ["heavy", "sh", "-c", script];
        strata.end([&["run", "--rm"], SIZE, &command].concat())
    };
    assert_eq!(run("wc -c </heavy").out, "5242880\n");
    let ended = run("echo >>/heavy");
    assert!(ended.code != 0, "copying it up is too much: {ended:?}");
}

#[test]
fn the_host_can_be_viewed_so_too() {
    let strata = busybox_in(&std::env::temp_dir());
    let command = ["host", "sh", "-c", FILL];
    stopped_at_4_megabytes(&strata.end([&["run", "--rm"], SIZE, &command].concat()));
}

/// By the label, through containerd's mount of it and through ours.
#[test]
fn a_snapshot_of_containerds_stops_at_its_size() {
    on_each(|strata| {
        for flags in [&[][..], &["--driver", "fuse"]] {
            let served = Served::start(strata, flags);
            let remote = served.client("k8s.io");
            remote.prepare("work", None, &Default::default()).unwrap();
            remote.commit("base", "work", &Default::default(), None).unwrap();
            let size = ("containerd.io/snapshot/strata.size".to_owned(), "4m".to_owned());
            let size = [size].into_iter().collect();
            let mounts = remote.prepare("sized", Some("base"), &size).unwrap();
            let free = remote.prepare("free", Some("base"), &Default::default()).unwrap();
            let (written, why) = written(&mounts);
            assert!((3 << 20..=4 << 20).contains(&written), "{flags:?} {written}");
            let why = why.expect("it is refused");
            let refused = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded];
            assert!(refused.contains(&why.kind()), "{flags:?} {why}");
            assert_eq!(self::written(&free).0, 8 << 20);
            // What it takes, with its directories.
            let usage = remote.usage("sized").unwrap();
            assert!((written..=4 << 20).contains(&usage.bytes), "{flags:?} {usage:?}");
            for key in ["sized", "free", "base"] {
                remote.remove(key).unwrap();
            }
        }
    });
}

/// How much of eight megabytes can be written to what is mounted, by whom the kernel lets pass no limit, and why no more.
fn written(mounts: &[mount::Mount]) -> (u64, Option<std::io::Error>) {
    let target = tempfile::tempdir().unwrap();
    mount::attach(&mounts[0], target.path()).unwrap();
    let mut file = std::fs::File::create(target.path().join("big")).unwrap();
    let mut written = 0;
    let why = loop {
        if written == 8 << 20 {
            break None;
        }
        // On disk: what is only in memory may be found to be too much later.
        match file.write_all(&[1; 512 << 10]).and_then(|()| file.sync_all()) {
            Ok(()) => written += 512 << 10,
            Err(error) => break Some(error),
        }
    };
    drop(file);
    mount::detach(target.path()).unwrap();
    (written, why)
}

/// Whoever owns a file could give it to another project, and whoever owns a directory its new files to none.
#[test]
fn nobody_inside_leaves_the_limit() {
    let strata = busybox_in(&std::env::temp_dir());
    let script = "touch /file; mkdir /dir
        chattr -p 0 /file && echo left by the file
        chattr -P /dir && echo left by the directory
        lsattr -d /dir >/dev/null && echo flags can be read";
    for flags in [&[][..], &["--runtime", "crun"]] {
        let command = ["host", "sh", "-c", script];
        let ended = strata.end([&["run", "--rm"], SIZE, flags, &command].concat());
        assert_eq!(ended.out, "flags can be read\n", "{flags:?} {ended:?}");
        assert!(ended.err.contains("not permitted"), "{flags:?} {ended:?}");
    }
    // Without a limit there is nothing to keep.
    let command = ["host", "sh", "-c", "mkdir /dir && chattr +A /dir"];
    assert_eq!(strata.end([&["run", "--rm"][..], &command].concat()).code, 0);
}
