//! The default spec, seen from inside the container that is started from it: every default of security holds.

mod common;

use std::path::{Path, PathBuf};

use common::*;
use oci_spec::runtime::Spec;
use runtime::cgroup::Hierarchies;
use runtime::options::{ContainerOptions, devices, limits, mounts, security};
use runtime::spec::{Confinement, Context, Host};
use runtime::user;
use sys::Dir;

/// A container that runs a shell script with these options and nothing else but the defaults.
fn container(script: &str, change: impl FnOnce(&mut ContainerOptions)) -> Box {
    let mut new = Box::new();
    write(
        &new.inside("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/home/user:/bin/sh\n",
    );
    write(&new.inside("etc/group"), "root:x:0:\nwww:x:34:\nlog:x:44:web\n");
    let mut options = ContainerOptions {
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        ..ContainerOptions::default()
    };
    change(&mut options);
    let host = Host::probe().unwrap();
    let root = Dir::open_ambient(new.bundle.rootfs()).unwrap();
    let found = user::resolve(
        &root,
        runtime::spec::wanted_user(&options, None),
        &options.group_add,
        host.ids.as_ref(),
    )
    .unwrap();
    let context = Context {
        id: new.bundle.id(),
        image: None,
        user: &found,
        host: &host,
        hostname: Some("box"),
        files: &[],
        confinement: &Confinement::default(),
    };
    let spec: Spec = runtime::spec::build(&options, &context).unwrap();
    new.spec = serde_json::to_value(spec).unwrap();
    new
}

fn plain(script: &str) -> String {
    container(script, |_| {}).output()
}

fn status(text: &str, key: &str) -> String {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{key} in {text}"))
        .trim()
        .to_owned()
}

#[test]
fn capabilities_and_filter() {
    let text = plain("cat /proc/self/status");
    // chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, sys_chroot, setfcap
    let eleven = "00000000800405fb";
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(status(&text, set), eleven, "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(status(&text, set), "0000000000000000", "{set}");
    }
    assert_eq!(status(&text, "Seccomp"), "2");
    assert_eq!(status(&text, "NoNewPrivs"), "0");

    let text = container("cat /proc/self/status", |options| {
        options.user = Some("web".to_owned());
        options.cap_add = vec![security::capability("--cap-add", "net_raw").unwrap()];
        options.no_new_privileges = true;
    })
    .output();
    assert_eq!(status(&text, "Uid"), "33\t33\t33\t33");
    assert_eq!(status(&text, "Gid"), "34\t34\t34\t34");
    assert_eq!(status(&text, "Groups"), "34 44");
    assert_eq!(status(&text, "CapEff"), "0000000000002000");
    assert_eq!(status(&text, "CapAmb"), "0000000000002000");
    assert_eq!(status(&text, "CapBnd"), "00000000800425fb");
    assert_eq!(status(&text, "NoNewPrivs"), "1");
}

#[test]
fn the_kernel_and_the_host_are_out_of_reach() {
    for (script, says) in [
        ("mount -t tmpfs x /tmp", "permission denied"),
        ("unshare -m true", "not permitted"),
        ("unshare -U true", "not permitted"),
        ("mknod /tmp/disk b 1 0", "not permitted"),
        ("echo 1 > /proc/sys/kernel/panic", "Read-only"),
        ("echo 1 > /proc/irq/default_smp_affinity", "Read-only"),
        ("mkdir /sys/fs/cgroup/mine", "Read-only"),
        ("touch /sys/mine", "Read-only"),
        ("hostname other", "permitted"),
        ("date -s 200001010000", "permitted"),
    ] {
        let outcome = container(script, |_| {}).run();
        assert!(outcome.stderr.contains(says), "{script}: {outcome:?}");
    }
    let text = plain(
        "cat /proc/kcore /proc/keys /proc/timer_list /proc/interrupts 2>/dev/null | wc -c; ls /sys/firmware | wc -l",
    );
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["0", "0"]);
    assert_eq!(plain("ls /sys/class/net"), "lo\n");
    assert_eq!(
        plain("echo $$ $HOME $HOSTNAME $container"),
        "1 /root box strata\n"
    );
    assert_eq!(plain("cat /proc/self/cgroup | grep ^0:"), "0::/\n");
    assert_eq!(plain("df -m /dev/shm | awk 'NR==2 {print $2}'"), "64\n");
    assert_eq!(plain("cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "0\n");
}

#[test]
fn a_device_node_opens_no_disk() {
    let make = |options: &mut ContainerOptions| {
        options.cap_add = vec![security::capability("--cap-add", "mknod").unwrap()];
    };
    // Making it is allowed by rule and capability; opening it by neither.
    let script =
        "mknod /tmp/disk b 1 0 && echo made; cat /tmp/disk; cat </dev/null; head -c 1 /dev/zero | wc -c";
    let outcome = container(script, make).run();
    assert_eq!(outcome.stdout, "made\n1\n");
    assert!(
        outcome.stderr.contains("/tmp/disk': Operation not permitted"),
        "{outcome:?}"
    );
    // One that was in the image.
    let with_node = container("cat /disk", |_| {});
    let made = rustix::fs::mknodat(
        rustix::fs::CWD,
        with_node.inside("disk"),
        rustix::fs::FileType::BlockDevice,
        rustix::fs::Mode::from_raw_mode(0o666),
        rustix::fs::makedev(1, 0),
    );
    made.unwrap();
    assert!(with_node.run().stderr.contains("Operation not permitted"));
}

/// With no cgroup at all nobody refuses devices, so no mount opens any but those of /dev; limits and places are refused.
#[test]
fn without_cgroups_the_root_has_no_devices() {
    let run = |container: &Box| {
        let spec = serde_json::from_value(container.spec.clone()).unwrap();
        container.bundle.write_spec(&spec).unwrap();
        let supervisor = helper();
        let mut args: Vec<std::ffi::OsString> = [
            "-m",
            "sh",
            "-c",
            "umount -l -R /sys/fs/cgroup && exec \"$0\" \"$@\"",
        ]
        .map(Into::into)
        .to_vec();
        args.push(supervisor.program.into());
        args.extend(supervisor.args);
        let (stderr, err) = pipe();
        let started = runtime::start(&runtime::StartRequest {
            keep: &[],
            helper: &runtime::Helper {
                program: "/usr/bin/unshare".into(),
                args,
            },
            bundle: container.bundle.path(),
            streams: runtime::Streams::Given([&null(), &null(), &err].map(std::os::fd::AsFd::as_fd)),
            size: None,
            restart: runtime::control::Restart::No,
            runtime: None,
            cleanup: Vec::new(),
            about: Default::default(),
            health: false,
            pidfile: None,
            attention: None,
        });
        drop(err);
        let ended = started.map(|mut running| {
            let exit = running.wait().unwrap();
            running.finish().unwrap();
            exit.code
        });
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::fs::File::from(stderr), &mut text).unwrap();
        (ended, text)
    };
    // The root, a file system in memory, a directory of the host, /dev itself. A loop device is there to be opened.
    let shared = tempfile::tempdir().unwrap();
    let source = shared.path().display();
    let script = "for dir in '' /memory /shared /dev; do
            rm -f $dir/disk; mknod $dir/disk c 10 237 || exit 9; cat $dir/disk && exit 10
        done
        head -c 1 /dev/zero >/dev/null || exit 8
        cat </not-wanted || exit 6
        head -c 1 /dev/listed >/dev/null || exit 5
        exit 7";
    let (ended, text) = run(&container(script, |options| {
        options.cap_add = vec![security::capability("--cap-add", "mknod").unwrap()];
        options.devices = vec![devices::device("/dev/urandom:/dev/listed").unwrap()];
        options.mounts = vec![mounts::tmpfs("/memory:dev").unwrap()];
        options.resources.pids_limit = Some(-1);
        for volume in [
            format!("{source}:/shared:dev"),
            "/dev/null:/not-wanted".to_owned(),
        ] {
            match mounts::volume(&volume, Path::new("/")) {
                Ok(mounts::Asked::Mount(mount)) => options.mounts.push(mount),
                other => panic!("{other:?}"),
            }
        }
    }));
    assert_eq!(ended.unwrap(), 7, "{text}");
    assert_eq!(text.matches("disk': Permission denied").count(), 4, "{text}");
    assert_eq!(
        rustix::fs::stat(shared.path().join("disk")).unwrap().st_rdev,
        rustix::fs::makedev(10, 237)
    );

    let (ended, _) = run(&container("true", |options| {
        options.cgroup_parent = Some("/batch".to_owned());
        options.resources.pids_limit = Some(-1);
    }));
    let error = ended.unwrap_err().to_string();
    assert!(
        error.contains("/batch/") && error.contains("no cgroup2 hierarchy"),
        "{error}"
    );

    let (ended, _) = run(&container("true", |options| {
        options.resources.pids_limit = Some(limits::pids_limit("5").unwrap());
    }));
    let error = ended.unwrap_err().to_string();
    assert!(
        error.contains("the process limit needs the cgroup controller pids"),
        "{error}"
    );
}

#[test]
fn limits_hold_and_nothing_is_left() {
    let limited = container(
        "cat /dev/zero | head -c 60000000 | tail -c 50000000 >/dev/null; echo $?",
        |options| {
            options.resources.memory = Some(limits::memory("16m").unwrap());
        },
    );
    let outcome = limited.run();
    assert!(
        !outcome.stdout.starts_with("0\n"),
        "the last process of the pipe is killed: {outcome:?}"
    );

    let bomb = container(
        "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 100 & done; echo all",
        |options| {
            options.resources.pids_limit = Some(limits::pids_limit("5").unwrap());
        },
    );
    let outcome = bomb.run();
    assert!(outcome.stderr.contains("fork"), "{outcome:?}");

    let hierarchies = Hierarchies::find().unwrap();
    let v1 = ["memory", "pids"]
        .iter()
        .filter_map(|controller| hierarchies.v1(controller).unwrap());
    for mount in v1.chain(hierarchies.unified().map(Path::to_owned)) {
        for container in [&limited, &bomb] {
            let left: PathBuf = mount.join("strata").join(container.bundle.id());
            assert!(!left.exists(), "{left:?}");
        }
    }
}

#[test]
fn what_is_asked_for_is_given() {
    let shared = tempfile::tempdir().unwrap();
    write(&shared.path().join("file"), "shared\n");
    let source = shared.path().display();
    let text = container(
        "cat /in/file; touch /in/new; touch /t/x && ulimit -n && cat /proc/sys/kernel/msgmax",
        |options| {
            options.mounts = vec![
                match mounts::volume(&format!("{source}:/in:ro"), Path::new("/")) {
                    Ok(mounts::Asked::Mount(mount)) => mount,
                    other => panic!("{other:?}"),
                },
                mounts::tmpfs("/t:size=1m").unwrap(),
            ];
            options.ulimits = vec![limits::ulimit("nofile=100:200").unwrap()];
            options.sysctls = vec![security::sysctl("kernel.msgmax=4321").unwrap()];
        },
    )
    .run();
    assert_eq!(text.stdout, "shared\n100\n4321\n", "{text:?}");
    assert!(text.stderr.contains("Read-only"), "{text:?}");
    assert!(!shared.path().join("new").exists());

    let text = container(
        "cat /proc/self/status; ls /sys/firmware | wc -l; ls -d /dev/loop-control /dev/kmsg",
        |options| {
            options.privileged = true;
        },
    )
    .run()
    .stdout;
    assert_eq!(status(&text, "Seccomp"), "0");
    let own = sys::caps::current().unwrap();
    assert_eq!(status(&text, "CapEff"), format!("{:016x}", own.permitted.0));
    assert!(text.contains("/dev/kmsg"), "{text}");
    let read_only = container("touch /x", |options| options.read_only = true).run();
    assert!(read_only.stderr.contains("Read-only"), "{read_only:?}");
}
