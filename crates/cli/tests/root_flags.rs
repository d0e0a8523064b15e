//! Each flag of `strata run` that changes what the container has around it, seen from inside. Needs root.

mod common;

use std::fs;
use std::process::Stdio;

use common::{Strata, busybox, refused, said, sh};

/// A directory beside the store, as a string.
fn dir(strata: &Strata, name: &str) -> String {
    let path = strata.dir().join(name);
    fs::create_dir_all(&path).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn volumes() {
    let strata = busybox();
    let data = dir(&strata, "data");
    fs::write(format!("{data}/there"), "before\n").unwrap();
    let volume = format!("{data}:/data");
    assert_eq!(
        said(
            &strata,
            &["-v", &volume],
            "cat /data/there; echo after >/data/here"
        ),
        "before\n"
    );
    assert_eq!(fs::read_to_string(format!("{data}/here")).unwrap(), "after\n");
    let read_only = sh(
        &strata,
        &["-v", &format!("{volume}:ro")],
        "cat /data/there && echo x >/data/no",
    );
    assert!(
        read_only.code != 0 && read_only.err.contains("ead-only"),
        "{read_only:?}"
    );
    assert!(!fs::exists(format!("{data}/no")).unwrap());
    // One file; over a file of the image; a place that the image does not have.
    let file = format!("{data}/there:/etc/group:ro");
    let deep = format!("{data}:/not/yet/there");
    assert_eq!(
        said(
            &strata,
            &["-v", &file, "-v", &deep],
            "cat /etc/group /not/yet/there/here"
        ),
        "before\nafter\n"
    );
    // As docker does: a directory is made where the source is missing.
    let made = strata.dir().join("made");
    said(
        &strata,
        &["-v", &format!("{}:/made", made.display())],
        "echo x >/made/x",
    );
    assert!(made.join("x").exists());
}

#[test]
fn mounts() {
    let strata = busybox();
    let data = dir(&strata, "data");
    fs::write(format!("{data}/f"), "x\n").unwrap();
    let bind = format!("type=bind,src={data},dst=/data,ro");
    let ended = sh(&strata, &["--mount", &bind], "cat /data/f; echo y >/data/f");
    assert!(ended.out == "x\n" && ended.code != 0, "{ended:?}");
    let tmpfs = "type=tmpfs,dst=/scratch,tmpfs-size=1m,tmpfs-mode=1770";
    let seen = said(
        &strata,
        &["--mount", tmpfs],
        "stat -c %a /scratch; df -k /scratch | tail -1",
    );
    assert!(seen.starts_with("1770\n") && seen.contains(" 1024 "), "{seen}");
    // Unlike -v, --mount wants its source to be there.
    refused(
        &sh(
            &strata,
            &["--mount", "type=bind,src=/no/such/dir,dst=/data"],
            "true",
        ),
        &["/no/such/dir"],
    );
    refused(
        &sh(&strata, &["--mount", "type=moon,dst=/data"], "true"),
        &["moon"],
    );
}

#[test]
fn tmpfs_and_shm() {
    let strata = busybox();
    let seen = said(
        &strata,
        &["--tmpfs", "/run:size=2m,mode=711", "--shm-size", "3m"],
        "stat -c %a /run; df -k /run | tail -1; df -k /dev/shm | tail -1; grep ' /run ' /proc/mounts",
    );
    let lines: Vec<_> = seen.lines().collect();
    assert!(
        lines[0] == "711" && lines[1].contains(" 2048 ") && lines[2].contains(" 3072 "),
        "{seen}"
    );
    assert!(
        lines[3].contains("nosuid") && lines[3].contains("nodev"),
        "{seen}"
    );
    let default = said(&strata, &[], "df -k /dev/shm | tail -1");
    assert!(default.contains(" 65536 "), "{default}");
}

#[test]
fn read_only_root() {
    let strata = busybox();
    let script = "echo x >/x 2>/dev/null || echo refused; echo x >/tmp/x && cat /tmp/x; echo y >/dev/shm/y && cat /dev/shm/y";
    assert_eq!(
        said(&strata, &["--read-only", "--tmpfs", "/tmp"], script),
        "refused\nx\ny\n"
    );
}

#[test]
fn devices() {
    let strata = busybox();
    let seen = said(&strata, &[], "ls /dev");
    let expected = "console fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
    let mut names: Vec<_> = seen.split_whitespace().collect();
    names.retain(|name| *name != "console"); // there with a terminal, and with some runtimes always
    assert_eq!(names.join(" "), expected.replace("console ", ""));
    assert_eq!(
        said(
            &strata,
            &[],
            "echo x >/dev/null; head -c 4 /dev/zero | wc -c; echo y 2>/dev/null >/dev/full || echo full"
        ),
        "4\nfull\n"
    );
    // A device that is asked for can be used as far as was asked, under the name that was asked.
    let seen = said(
        &strata,
        &["--device", "/dev/null:/dev/nothing:rw"],
        "echo x >/dev/nothing; stat -c %t:%T /dev/nothing",
    );
    assert_eq!(seen, "1:3\n");
    refused(
        &sh(&strata, &["--device", "/dev/no-such-device"], "true"),
        &["/dev/no-such-device"],
    );
    refused(
        &sh(&strata, &["--device", "/etc/passwd"], "true"),
        &["/etc/passwd"],
    );
}

#[test]
fn names_of_hosts() {
    let strata = busybox();
    let flags = [
        "--hostname",
        "moon",
        "--add-host",
        "sun:192.0.2.7",
        "--add-host",
        "six:2001:db8::7",
        "--dns",
        "192.0.2.53",
    ];
    let seen = said(
        &strata,
        &flags,
        "hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf",
    );
    let lines: Vec<_> = seen.lines().collect();
    assert_eq!(lines[..2], ["moon", "moon"]);
    for words in [
        ["192.0.2.7", "sun"],
        ["2001:db8::7", "six"],
        ["127.0.0.1", "localhost"],
        ["nameserver", "192.0.2.53"],
    ] {
        let found = lines.iter().any(|line| line.split_whitespace().take(2).eq(words));
        assert!(found, "{words:?} in {seen}");
    }
    assert!(
        lines
            .iter()
            .any(|line| line.split_whitespace().any(|word| word == "moon") && line.contains('.')),
        "{seen}"
    );
    let id = said(&strata, &[], "hostname");
    assert!(
        id.trim().len() == 12 && id.trim().bytes().all(|digit| digit.is_ascii_hexdigit()),
        "{id}"
    );
}

#[test]
fn network() {
    let strata = busybox();
    let own =
        "readlink /proc/self/ns/net; ls /sys/class/net; cat /sys/class/net/lo/operstate; ip -o addr show lo";
    let seen = said(&strata, &["--network", "none"], own);
    let host = fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    assert!(
        !seen.contains(&host) && seen.contains("127.0.0.1/8") && !seen.contains("eth"),
        "{seen}"
    );
    assert_eq!(
        said(
            &strata,
            &["--network", "none"],
            "ip link show lo | grep -o '<.*>'"
        ),
        "<LOOPBACK,UP,LOWER_UP>\n"
    );
    assert!(said(&strata, &["--network", "host"], own).contains(&host));
    refused(
        &sh(&strata, &["--network", "tokens-only"], "true"),
        &["tokens-only"],
    );
}

#[test]
fn namespaces_of_the_host_and_of_containers() {
    let strata = busybox();
    let own = |kind: &str| {
        fs::read_link(format!("/proc/self/ns/{kind}"))
            .unwrap()
            .display()
            .to_string()
    };
    let script = "for kind in pid ipc uts mnt net cgroup; do readlink /proc/self/ns/$kind; done";
    let private = said(&strata, &[], script);
    for kind in ["pid", "ipc", "uts", "mnt", "net", "cgroup"] {
        assert!(!private.contains(&own(kind)), "{kind} is private: {private}");
    }
    for kind in ["pid", "ipc", "uts"] {
        let flag = format!("--{kind}=host");
        assert!(said(&strata, &[&flag], script).contains(&own(kind)), "{flag}");
    }

    let mut first = strata
        .command([
            "run",
            "--rm",
            "--name",
            "first",
            "--hostname",
            "first",
            "--ipc",
            "shareable",
            "busybox",
            "sh",
            "-c",
        ])
        .arg(format!("echo left >/dev/shm/left; {script}; exec sleep 1000"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = std::io::BufReader::new(first.stdout.take().unwrap());
    let mut read = || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        line
    };
    let (pid, ipc, uts) = (read(), read(), read());
    let joined = said(
        &strata,
        &[
            "--pid",
            "container:first",
            "--ipc",
            "container:first",
            "--uts",
            "container:first",
        ],
        &format!("{script}; hostname; cat /dev/shm/left; ps | grep -c 'sleep 1000'"),
    );
    assert!(
        joined.starts_with(&format!("{pid}{ipc}{uts}")) && joined.contains("first\nleft\n"),
        "{joined}"
    );
    refused(
        &sh(&strata, &["--pid", "container:never-was"], "true"),
        &["never-was"],
    );
    strata.ok(["rm", "-f", "first"]);
    first.wait().unwrap();
}

#[test]
fn limits_of_each_process() {
    let strata = busybox();
    let flags = [
        "--ulimit",
        "nofile=100:200",
        "--ulimit",
        "core=0",
        "--ulimit",
        "stack=1048576",
    ];
    let seen = said(&strata, &flags, "ulimit -n; ulimit -Hn; ulimit -c; ulimit -s");
    assert_eq!(seen, "100\n200\n0\n1024\n");
}

#[test]
fn variables_labels_and_the_mask_of_permissions() {
    let strata = busybox();
    assert_eq!(
        said(&strata, &["--umask", "077"], "umask; touch /x; stat -c %a /x"),
        "0077\n600\n"
    );
    refused(&sh(&strata, &["--umask", "9"], "true"), &["--umask", "\"9\""]);
    let mut command = strata.command([
        "run",
        "--rm",
        "--env-host",
        "-e",
        "B=3",
        "busybox",
        "sh",
        "-c",
        "echo $A$B",
    ]);
    let output = command.envs([("A", "1"), ("B", "2")]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "13\n");
    let file = strata.dir().join("labels");
    fs::write(&file, "# these\na=b\nc\n").unwrap();
    let file = file.to_str().unwrap();
    strata.ok([
        "create",
        "--name",
        "one",
        "--label-file",
        file,
        "-l",
        "c=d",
        "busybox",
    ]);
    assert_eq!(
        strata.ok(["inspect", "-f", "{{json .Config.Labels}}", "one"]),
        "{\"a\":\"b\",\"c\":\"d\"}\n"
    );
    fs::write(file, "=x\n").unwrap();
    refused(
        &strata.end(["create", "--label-file", file, "busybox"]),
        &["--label-file", file],
    );
    strata.ok(["rm", "one"]);
}

#[test]
fn one_takes_the_place_of_another() {
    let strata = busybox();
    let pidfile = strata.dir().join("pid");
    let run = [
        "run",
        "-d",
        "--replace",
        "--name",
        "one",
        "--pidfile",
        pidfile.to_str().unwrap(),
    ];
    let start = |words: &[&str]| strata.ok([&run[..], words].concat());
    let pid = || {
        strata
            .ok(["inspect", "-f", "{{.State.Pid}}", "one"])
            .trim()
            .to_owned()
    };
    let first = start(&["busybox", "sleep", "1000"]);
    assert_eq!(fs::read_to_string(&pidfile).unwrap(), pid());
    let second = start(&["--restart", "always", "busybox", "sh", "-c", "sleep 0.2; exit 1"]);
    assert_ne!(first, second);
    assert_eq!(strata.ok(["ps", "-aq", "--no-trunc"]), second);
    let begun = std::time::Instant::now();
    let first = pid();
    loop {
        // Started again by its supervisor, which writes it anew.
        let (file, now) = (fs::read_to_string(&pidfile).unwrap(), pid());
        if now != first && now != "0" && file == now {
            break;
        }
        assert!(begun.elapsed().as_secs() < 20, "{file} is not {now}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    strata.ok(["rm", "-f", "one"]);
    // The one before stays where the other cannot be had.
    start(&["busybox", "sleep", "1000"]);
    let ended = strata.end([
        "run",
        "--replace",
        "--name",
        "one",
        "--pull",
        "never",
        "no-such-image",
    ]);
    refused(&ended, &["no-such-image"]);
    assert!(strata.ok(["ps"]).contains("one"));
    strata.ok(["rm", "-f", "one"]);
    let ended = sh(&strata, &["--pidfile", "/no/such/dir/pid"], "true");
    refused(&ended, &["--pidfile", "/no/such/dir/pid"]);
    refused(&sh(&strata, &["--replace"], "true"), &["--name"]);
}

#[test]
fn privileged_with_less() {
    let strata = busybox();
    let granted = |flags: &[&str]| {
        said(
            &strata,
            &[&["--privileged"], flags].concat(),
            "grep CapBnd /proc/self/status",
        )
    };
    assert_eq!(granted(&["--cap-drop", "ALL"]), "CapBnd:\t0000000000000000\n");
    assert_eq!(
        granted(&["--cap-drop", "ALL", "--cap-add", "CHOWN"]),
        "CapBnd:\t0000000000000001\n"
    );
    let (all, less) = (granted(&[]), granted(&["--cap-drop", "CHOWN"]));
    assert!(all != less && less.ends_with("e\n"), "{all} {less}");
}

#[test]
fn kernel_parameters() {
    let strata = busybox();
    let flags = [
        "--sysctl",
        "net.ipv4.ip_forward=1",
        "--sysctl",
        "kernel.msgmax=4096",
    ];
    let seen = said(
        &strata,
        &flags,
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax",
    );
    assert_eq!(seen, "1\n4096\n");
    // What is not the container's own would change the machine.
    refused(
        &sh(&strata, &["--sysctl", "kernel.panic=7"], "true"),
        &["kernel.panic"],
    );
    refused(
        &sh(
            &strata,
            &["--network", "host", "--sysctl", "net.ipv4.ip_forward=1"],
            "true",
        ),
        &["net.ipv4.ip_forward"],
    );
}

#[test]
fn a_small_init_reaps_and_forwards() {
    let strata = busybox();
    let seen = said(
        &strata,
        &["--init"],
        "echo $$; (sleep 0.1 & ) ; sleep 0.4; ps -o stat,comm | grep -c Z; cat /proc/1/comm; \
         tr -d '\\0' </proc/1/cmdline",
    );
    let lines: Vec<_> = seen.lines().collect();
    assert!(lines[0] != "1" && lines[1] == "0", "{seen}");
    // Nothing of what the supervisor was started with, which names paths of the host.
    assert_eq!(lines[2..], ["init", "init"], "{seen}");
    assert_eq!(sh(&strata, &["--init"], "exit 5").code, 5);
    assert_eq!(sh(&strata, &["--init"], "kill -KILL $$").code, 137);
}

#[test]
fn the_stop_signal_is_kept() {
    let strata = busybox();
    strata.ok([
        "run",
        "--name",
        "quiet",
        "--stop-signal",
        "SIGQUIT",
        "--annotation",
        "moon=full",
        "busybox",
        "true",
    ]);
    let inspected = strata.ok(["inspect", "quiet"]);
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    let config = &inspected[0]["Config"];
    assert!(
        config["Annotations"]["moon"] == "full"
            && (config["StopSignal"] == "3" || config["StopSignal"] == "SIGQUIT"),
        "{config:#}"
    );
    refused(&sh(&strata, &["--stop-signal", "SIGMOON"], "true"), &["SIGMOON"]);
}

#[test]
fn other_oci_runtimes_run_the_same_bundle() {
    let strata = busybox();
    let seen = said(
        &strata,
        &["--runtime", "runc", "-e", "A=b"],
        "echo $A; hostname | wc -c; exit 0",
    );
    assert_eq!(seen, "b\n13\n");
    assert_eq!(sh(&strata, &["--runtime", "runc"], "exit 6").code, 6);
    refused(
        &sh(&strata, &["--runtime", "/no/such/runtime"], "true"),
        &["/no/such/runtime"],
    );
}

#[test]
fn in_the_hosts_network_it_is_called_as_the_host() {
    let strata = busybox();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    assert_eq!(
        said(&strata, &["--network", "host"], "hostname"),
        format!("{host}\n")
    );
    let named = said(&strata, &["--network", "host", "--hostname", "other"], "hostname");
    assert_eq!(named, "other\n");
}

#[test]
fn spellings_of_docker_and_podman() {
    let strata = busybox();
    // An empty value is the default: scripts write --name "$NAME".
    for flag in [
        "--name",
        "--hostname",
        "--workdir",
        "--user",
        "--pid",
        "--ipc",
        "--uts",
        "--platform",
        "--stop-signal",
        "--cgroup-parent",
    ] {
        assert_eq!(said(&strata, &[flag, ""], "pwd"), "/\n", "{flag}");
    }
    // A switch takes a value where one is written.
    said(
        &strata,
        &["--read-only=false", "--privileged=false"],
        "echo x >/x",
    );
    assert_ne!(sh(&strata, &["--read-only=true"], "echo x >/x").code, 0);
    let ended = strata.end(["run", "--rm=true", "--init=1", "busybox", "true"]);
    assert_eq!(
        (ended.code, strata.ok(["ps", "-aq"]).as_str()),
        (0, ""),
        "{ended:?}"
    );
    // Several capabilities in one, as podman has it.
    let seen = said(
        &strata,
        &["--cap-drop", "ALL", "--cap-add", "chown,CAP_KILL"],
        "grep CapEff /proc/self/status",
    );
    assert!(seen.ends_with("0000000000000021\n"), "{seen}");
    let seen = said(
        &strata,
        &["--tmpfs", "/x:noatime,size=1m"],
        "grep ' /x ' /proc/mounts",
    );
    assert!(seen.contains("noatime"), "{seen}");
    // What follows the image belongs to the command, whatever it looks like.
    let seen = strata.ok(["run", "--rm", "--", "busybox", "echo", "--", "-it", "--rm"]);
    assert_eq!(seen, "-- -it --rm\n");
}
