//! The container's tree: what is mounted, hidden, read-only, and where nothing may lead.

mod common;

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use common::*;
use serde_json::{Value, json};

fn push_mount(spec: &mut Value, mount: Value) {
    spec["mounts"].as_array_mut().unwrap().push(mount);
}

fn bind(source: &Path, destination: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": options})
}

/// Lines of mountinfo inside, as `target type options`.
fn mounts_of(container: Box) -> String {
    container
        .with(|spec| spec["process"]["args"] = json!(["/bin/sed", "s/.* - /&/", "/proc/self/mountinfo"]))
        .output()
}

fn options_of(mountinfo: &str, target: &str) -> (String, String) {
    let line = mountinfo
        .lines()
        .rfind(|line| line.split(' ').nth(4) == Some(target));
    let line = line.unwrap_or_else(|| panic!("nothing at {target} in\n{mountinfo}"));
    let kind = line.split(" - ").nth(1).unwrap().split(' ').next().unwrap();
    (kind.to_owned(), line.split(' ').nth(5).unwrap().to_owned())
}

#[test]
fn the_usual_mounts() {
    let info = mounts_of(Box::new());
    for (target, kind, options) in [
        ("/proc", "proc", "rw,nosuid,nodev,noexec,relatime"),
        ("/dev", "tmpfs", "rw,nosuid"),
        ("/dev/pts", "devpts", "rw,nosuid,noexec,relatime"),
        ("/dev/shm", "tmpfs", "rw,nosuid,nodev,noexec,relatime"),
        ("/dev/mqueue", "mqueue", "rw,nosuid,nodev,noexec,relatime"),
        ("/sys", "sysfs", "ro,nosuid,nodev,noexec,relatime"),
    ] {
        assert_eq!(
            options_of(&info, target),
            (kind.to_owned(), options.to_owned()),
            "{info}"
        );
    }
    // Nothing is shared with the host, and nothing of the host's tree is left.
    assert!(!info.contains("shared:") && !info.contains("master:"), "{info}");
    assert!(
        info.lines()
            .all(|line| !line.split(' ').nth(4).unwrap().starts_with("/tmp")),
        "{info}"
    );
    let shm = sh("stat -c '%a %F' /dev/shm /dev /dev/pts/ptmx; df -k /dev/shm | tail -1");
    assert!(
        shm.starts_with("1777 directory\n755 directory\n666 character special file\n"),
        "{shm}"
    );
    assert!(shm.contains(" 65536 "), "{shm}");
}

#[test]
fn the_cgroup_is_its_own_and_read_only() {
    let container = Box::script(
        "cat /proc/self/cgroup; ls /sys/fs/cgroup; cat /sys/fs/cgroup/cgroup.procs; mkdir /sys/fs/cgroup/x 2>&1",
    );
    let outcome = container.run();
    let text = outcome.stdout;
    assert!(text.contains("0::/\n") && text.contains("cgroup.procs"), "{text}");
    assert!(
        text.contains("\n1\n") && text.contains("Read-only file system"),
        "{text}"
    );
    let shared = Box::script("cat /proc/self/cgroup; ls /sys/fs/cgroup").with(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "cgroup");
    });
    let text = shared.output();
    assert!(
        text.contains(&format!("0::/strata/{}\n", shared.bundle.id())) && text.contains("cgroup.procs"),
        "{text}"
    );
}

#[test]
fn devices_and_links() {
    let output = sh(
        "cd /dev; for d in null zero full random urandom tty; do stat -c '%n %t:%T %a %u:%g' $d; done; \
         for l in fd stdin stdout stderr ptmx; do readlink $l; done; echo gone >null; head -c 2 zero | wc -c",
    );
    assert_eq!(
        output,
        "null 1:3 666 0:0\nzero 1:5 666 0:0\nfull 1:7 666 0:0\nrandom 1:8 666 0:0\nurandom 1:9 666 0:0\n\
         tty 5:0 666 0:0\n/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n2\n"
    );
    let output = Box::script("stat -c '%F %t:%T %a %u:%g' /dev/deep/er/null /dev/pipe /dev/null")
        .with(|spec| {
            spec["linux"]["devices"] = json!([
                {"path": "/dev/deep/er/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 5, "gid": 6},
                {"path": "/dev/pipe", "type": "p", "major": 0, "minor": 0, "fileMode": 0o600},
                {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o444},
            ]);
        })
        .output();
    assert_eq!(
        output,
        "character special file 1:3 640 5:6\nfifo 0:0 600 0:0\ncharacter special file 1:3 444 0:0\n"
    );
}

#[test]
fn devices_that_an_image_brings_are_replaced() {
    // Without a mount at /dev the image's own directory is filled.
    let container =
        Box::script("stat -c '%t:%T' /dev/null /dev/zero; cat /etc/passwd | head -1").with(|spec| {
            spec["mounts"] = json!([{"destination": "/proc", "type": "proc", "source": "proc"}]);
        });
    write(&container.inside("dev/null"), "a file");
    symlink("/etc/passwd", container.inside("dev/zero")).unwrap();
    assert_eq!(container.output(), "1:3\n1:5\nroot:x:0:0::/root:/bin/sh\n");
}

#[test]
fn what_is_masked_and_what_is_read_only() {
    let output = sh(
        "cat /proc/keys /proc/timer_list | wc -c; stat -c '%t:%T' /proc/keys; ls -A /sys/firmware | wc -l; \
         touch /sys/firmware/x 2>&1; echo 1 2>&1 >/proc/sys/kernel/panic; chmod 700 /proc/irq 2>&1; echo done",
    );
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines[..3], ["0", "1:3", "0"], "{output}");
    assert!(lines[3].contains("Read-only"), "{output}");
    assert_eq!(output.matches("Read-only file system").count(), 3, "{output}");
    assert!(output.ends_with("done\n"));
}

#[test]
fn binds_of_directories_and_files() {
    let container = Box::script(
        "cat /data/a; echo new >/data/b; cat /etc/one; echo no 2>/dev/null >/ro/x || echo refused; \
         echo deep >/ro/deep/x 2>/dev/null || echo refused too; ls /made/on/the/way",
    );
    let host = container.temp.path().join("host");
    mkdir(&host.join("deep"));
    write(&host.join("a"), "text\n");
    let tmpfs = rustix::mount::mount(
        "t",
        host.join("deep"),
        "tmpfs",
        rustix::mount::MountFlags::empty(),
        None,
    );
    tmpfs.unwrap();
    let container = container.with(|spec| {
        push_mount(spec, bind(&host, "/data", &["rbind", "rprivate"]));
        push_mount(spec, bind(&host, "/ro", &["rbind", "rprivate", "ro", "rro"]));
        push_mount(spec, bind(&host.join("a"), "/etc/one", &["bind", "ro"]));
        push_mount(spec, bind(&host.join("a"), "/made/on/the/way", &["bind"]));
    });
    let output = container.run();
    rustix::mount::unmount(host.join("deep"), rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(
        output.stdout, "text\ntext\nrefused\nrefused too\n/made/on/the/way\n",
        "{output:?}"
    );
    assert_eq!(std::fs::read_to_string(host.join("b")).unwrap(), "new\n");
    assert!(container.inside("etc/one").is_file() && container.inside("made/on/the/way").is_file());
}

#[test]
fn options_become_attributes() {
    let container = Box::new();
    let host = container.temp.path().join("host");
    mkdir(&host);
    let info = mounts_of(container.with(|spec| {
        push_mount(spec, bind(&host, "/a", &["bind", "nosuid", "nodev", "noexec", "noatime", "ro", "private"]));
        push_mount(spec, bind(&host, "/b", &["bind", "strictatime", "nosymfollow", "rshared"]));
        push_mount(spec, json!({"destination": "/t", "type": "tmpfs", "options": ["size=4k", "nr_inodes=7", "rslave", "ro"]}));
    }));
    assert_eq!(options_of(&info, "/a").1, "ro,nosuid,nodev,noexec,noatime");
    assert_eq!(options_of(&info, "/b").1, "rw,nosymfollow");
    let line = |target: &str| {
        info.lines()
            .find(|line| line.split(' ').nth(4) == Some(target))
            .unwrap()
    };
    assert!(line("/b").contains("shared:"), "{info}");
    assert!(
        line("/t").contains(" ro,relatime ") && line("/t").contains("nr_inodes=7"),
        "{info}"
    );
}

#[test]
fn bad_mounts_are_told_by_name() {
    for (mount, says) in [
        (
            json!({"destination": "/x", "type": "nothing"}),
            "mount nothing at /x",
        ),
        (
            json!({"destination": "/x", "type": "tmpfs", "options": ["colour=blue"]}),
            "colour",
        ),
        (json!({"destination": "/x", "type": "bind"}), "without a source"),
        (
            json!({"destination": "/x", "type": "bind", "source": "/no/such/thing"}),
            "/no/such/thing",
        ),
        (
            json!({"destination": "/x", "type": "bind", "source": "/tmp", "options": ["colour"]}),
            "colour",
        ),
        (json!({"destination": "/", "type": "tmpfs"}), "hide the root"),
        (
            json!({"destination": "/proc/self", "type": "tmpfs"}),
            "beneath /proc",
        ),
        (
            json!({"destination": "/proc/1/attr", "type": "bind", "source": "/tmp"}),
            "beneath /proc",
        ),
        (
            json!({"destination": "/bin/busybox", "type": "bind", "source": "/tmp"}),
            "mount /bin/busybox: /tmp is a directory, but /bin/busybox is a file in the container",
        ),
        (
            json!({"destination": "/bin/busybox", "type": "tmpfs"}),
            "mount /bin/busybox: a tmpfs is a directory, but /bin/busybox is a file",
        ),
        (
            json!({"destination": "/bin", "type": "bind", "source": "/etc/passwd"}),
            "mount /bin: /etc/passwd is a file, but /bin is a directory",
        ),
    ] {
        let error = Box::new()
            .with(|spec| push_mount(spec, mount.clone()))
            .try_run()
            .unwrap_err();
        assert_eq!(error.exit_code(), 125);
        assert!(error.to_string().contains(says), "{mount}: {error}");
    }
}

#[test]
fn a_tmpfs_over_a_copy_of_what_it_covers() {
    let container = Box::script(
        "stat -c '%n %a %u:%g %Y' /data /data/f /data/d /data/d/g; cat /data/d/g; readlink /data/l; echo x >/data/f; \
         grep -c ' /data ' /proc/self/mountinfo",
    );
    let data = container.inside("data");
    mkdir(&data.join("d"));
    write(&data.join("f"), "one");
    write(&data.join("d/g"), "two\n");
    symlink("f", data.join("l")).unwrap();
    let set = |path: &Path, mode, owner| {
        std::os::unix::fs::chown(path, Some(owner), Some(owner)).unwrap();
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        std::fs::File::open(path).unwrap().set_modified(time).unwrap();
    };
    set(&data.join("d/g"), 0o640, 7);
    set(&data.join("f"), 0o4755, 8);
    set(&data.join("d"), 0o1711, 9);
    set(&data, 0o750, 10);
    let container = container.with(|spec| {
        push_mount(
            spec,
            json!({"destination": "/data", "type": "tmpfs", "options": ["tmpcopyup", "nodev"]}),
        );
    });
    assert_eq!(
        container.output(),
        "/data 750 10:10 1000000\n/data/f 4755 8:8 1000000\n/data/d 1711 9:9 1000000\n\
         /data/d/g 640 7:7 1000000\ntwo\nf\n1\n"
    );
    assert_eq!(std::fs::read_to_string(data.join("f")).unwrap(), "one");
}

#[test]
fn a_read_only_root() {
    let output =
        Box::script("echo x 2>&1 >/etc/x; echo y >/tmp/y && cat /tmp/y; echo z >/dev/shm/z && echo shm")
            .with(|spec| {
                spec["root"]["readonly"] = json!(true);
                push_mount(
                    spec,
                    json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}),
                );
            })
            .output();
    assert_eq!(
        output,
        "/bin/sh: can't create /etc/x: Read-only file system\ny\nshm\n"
    );
}

#[test]
fn links_in_targets_stay_inside() {
    let container = Box::new();
    let outside = container.temp.path().join("outside");
    let host = container.temp.path().join("host");
    mkdir(&outside);
    mkdir(&host);
    write(&host.join("f"), "bound\n");
    symlink(&outside, container.inside("absolute")).unwrap();
    symlink("../../../../../../../../../../tmp", container.inside("up")).unwrap();
    symlink("/somewhere/missing", container.inside("dangling")).unwrap();
    symlink("/etc/missing-file", container.inside("tmp/file")).unwrap();
    let count = |dir: &Path| std::fs::read_dir(dir).unwrap().count();
    let tmp_before = count(Path::new("/tmp"));
    let container = container.with(|spec| {
        spec["process"]["args"] = json!([
            "/bin/sh",
            "-c",
            "cat /absolute/x/f; cat /up/y/f; cat /dangling/f; cat /etc/missing-file; pwd"
        ]);
        spec["process"]["cwd"] = json!("/absolute/made/here");
        push_mount(spec, bind(&host, "/absolute/x", &["bind"]));
        push_mount(spec, bind(&host, "/up/y", &["bind"]));
        push_mount(spec, bind(&host, "/dangling", &["bind"]));
        push_mount(spec, bind(&host.join("f"), "/tmp/file", &["bind"]));
        push_mount(spec, bind(&host, "/../../../../../../z", &["bind"]));
        spec["linux"]["devices"] = json!([
            {"path": "/absolute/node", "type": "c", "major": 1, "minor": 3},
        ]);
        spec["linux"]["maskedPaths"] = json!(["/up/y/f", "/up/nothing"]);
    });
    let outcome = container.run();
    assert_eq!(count(&outside), 0);
    assert!(
        count(Path::new("/tmp")) <= tmp_before + 40,
        "other tests make directories here, not many"
    );
    assert!(!Path::new("/tmp/y").exists() && !Path::new("/z").exists() && !Path::new("/somewhere").exists());
    // The one in the middle is masked.
    assert!(
        outcome.stdout.starts_with("bound\nbound\nbound\n/"),
        "{outcome:?}"
    );
    assert!(outcome.stdout.ends_with("/outside/made/here\n"), "{outcome:?}");
}

#[test]
fn proc_and_sys_are_where_they_are_named() {
    for name in ["proc", "sys"] {
        let container = Box::new();
        std::fs::remove_dir(container.inside(name)).unwrap();
        symlink("/etc", container.inside(name)).unwrap();
        let error = container.try_run().unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&format!("/{name} is no plain directory")),
            "{error}"
        );
    }
}

#[test]
fn something_else_in_the_place_of_proc_is_not_masked_in_its_stead() {
    let container = Box::new();
    let host = container.temp.path().join("host");
    mkdir(&host);
    write(&host.join("kcore"), "mine");
    let error = container
        .with(|spec| push_mount(spec, bind(&host, "/proc", &["bind"])))
        .try_run()
        .unwrap_err();
    assert!(error.to_string().contains("/proc"), "{error}");
}

#[test]
fn a_console_that_is_a_link_is_not_followed() {
    let container = Box::new().with(|spec| {
        spec["process"]["terminal"] = json!(true);
        // No mount at /dev: the image's own.
        spec["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|mount| mount["destination"] != "/dev");
    });
    let victim = container.temp.path().join("victim");
    symlink(&victim, container.inside("dev/console")).unwrap();
    let error = container.try_run().unwrap_err();
    assert!(error.to_string().contains("/dev/console"), "{error}");
    assert!(!victim.exists());
}

#[test]
fn the_working_directory() {
    let container = Box::script("pwd; stat -c '%a %u' .").with(|spec| spec["process"]["cwd"] = json!("/a/b"));
    assert_eq!(container.output(), "/a/b\n755 0\n");
    assert_eq!(
        std::fs::metadata(container.inside("a/b")).unwrap().mode() & 0o7777,
        0o755
    );
    for cwd in ["/proc/self/fd/3", "/proc/self/fd/9", "/etc/passwd"] {
        let error = Box::new()
            .with(|spec| spec["process"]["cwd"] = json!(cwd))
            .try_run()
            .unwrap_err();
        assert!(error.to_string().contains(cwd), "{error}");
    }
}

#[test]
fn the_host_sees_nothing_of_it() {
    let before = std::fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .count();
    for propagation in [
        None,
        Some("shared"),
        Some("rslave"),
        Some("private"),
        Some("rshared"),
    ] {
        let container = Box::script("grep -c . /proc/self/mountinfo");
        // A root that is a mount of its own, beneath a shared one, as the engine's is.
        let rootfs = container.bundle.rootfs();
        rustix::mount::mount_bind(&rootfs, &rootfs).unwrap();
        rustix::mount::mount_change(&rootfs, rustix::mount::MountPropagationFlags::SHARED).unwrap();
        let container = container.with(|spec| {
            if let Some(propagation) = propagation {
                spec["linux"]["rootfsPropagation"] = json!(propagation);
            }
        });
        let outcome = container.run();
        let during = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let own = during
            .lines()
            .filter(|line| line.contains(container.bundle.id()))
            .count();
        rustix::mount::unmount(&rootfs, rustix::mount::UnmountFlags::DETACH).unwrap();
        assert_eq!(outcome.exit.code, 0, "{propagation:?} {outcome:?}");
        assert_eq!(own, 1, "{propagation:?} {during}");
    }
    let after = std::fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .count();
    assert!(
        after <= before + 5,
        "other tests mount a little at the same time: {before} {after}"
    );
}
