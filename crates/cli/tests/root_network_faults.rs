//! What goes wrong with networks: plug-ins that are missing, fail or hang half way, and whoever called them killed.

mod common;

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::networks::{apart, nothing_left};
use common::{Strata, refused, sh};
use testkit::{net, soak};

/// A directory of plug-ins, Debian's own but for one, which is a script.
fn with_script(strata: &Strata, name: &str, script: &str) -> PathBuf {
    let dir = strata.dir().join("cni");
    std::fs::create_dir_all(&dir).unwrap();
    for plugin in ["bridge", "host-local", "portmap", "firewall"] {
        let place = dir.join(plugin);
        let _ = std::fs::remove_file(&place);
        if plugin == name {
            testkit::files::script(&place, &format!("#!/bin/sh\n{script}"));
        } else {
            symlink(format!("/usr/lib/cni/{plugin}"), place).unwrap();
        }
    }
    let text = format!(
        "default_network = \"none\"\ncni_plugin_dirs = [{:?}]\n",
        dir.display().to_string()
    );
    std::fs::write(strata.dir().join("config.toml"), text).unwrap();
    dir
}

#[test]
fn a_plug_in_that_fails_half_way_is_undone() {
    let strata = apart();
    let flags = ["--network", "bridge", "-p", "8080:80"];
    for (plugin, script, words) in [
        // It did its work, and then says that it did not.
        (
            "firewall",
            "[ $CNI_COMMAND = ADD ] || exec /usr/lib/cni/firewall; /usr/lib/cni/firewall >/dev/null; echo '{\"code\":7,\"msg\":\"no luck\"}'; exit 1",
            "plug-in firewall (ADD): no luck",
        ),
        (
            "portmap",
            "[ $CNI_COMMAND = ADD ] || exec /usr/lib/cni/portmap; kill -9 $$",
            "plug-in portmap (ADD): signal: 9",
        ),
        (
            "portmap",
            "[ $CNI_COMMAND = ADD ] || exec /usr/lib/cni/portmap; echo rubbish",
            "its answer is not understood",
        ),
        (
            "host-local",
            "[ $CNI_COMMAND = ADD ] || exec /usr/lib/cni/host-local; echo sorry >&2; exit 3",
            "plug-in bridge (ADD)",
        ),
        (
            "bridge",
            "[ $CNI_COMMAND = ADD ] || exec /usr/lib/cni/bridge; exit 4",
            "plug-in bridge (ADD): exit status: 4",
        ),
    ] {
        with_script(&strata, plugin, script);
        refused(&sh(&strata, &flags, "true"), &["network bridge: ", words]);
        nothing_left(&strata);
        assert_eq!(strata.ok(["ps", "-aq"]), "", "{plugin}");
        strata.ok([
            "create",
            "--name",
            "kept",
            "--network",
            "bridge",
            "busybox",
            "true",
        ]);
        if plugin != "portmap" {
            refused(&strata.end(["start", "kept"]), &[words]);
            nothing_left(&strata);
        }
        strata.ok(["rm", "kept"]);
    }
    // A port that was held for it is free.
    std::net::TcpListener::bind("0.0.0.0:8080").unwrap();
}

#[test]
fn what_cannot_be_undone_is_undone_later() {
    let strata = apart();
    let flags = [
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "bridge",
        "-p",
        "8080:80",
        "busybox",
        "sleep",
        "100",
    ];
    with_script(&strata, "portmap", "exec /usr/lib/cni/portmap");
    strata.ok(flags);
    with_script(
        &strata,
        "portmap",
        "[ $CNI_COMMAND = DEL ] && exit 5; exec /usr/lib/cni/portmap",
    );
    let ended = strata.end(["rm", "-f", "web"]);
    assert!(
        ended.code == 125 && ended.err.contains("plug-in portmap (DEL): exit status: 5"),
        "{ended:?}"
    );
    // All else of it is gone: its address, its interface, its namespace.
    let left = net::left_behind(&strata.state());
    assert!(
        left.iter()
            .all(|line| line.starts_with("-A") || line.ends_with("network.json")),
        "{left:#?}"
    );
    with_script(&strata, "portmap", "exec /usr/lib/cni/portmap");
    strata.ok(["rm", "web"]);
    nothing_left(&strata);
    // Plug-ins that were uninstalled meanwhile.
    strata.ok(flags);
    let dir = with_script(&strata, "nothing", "");
    std::fs::remove_file(dir.join("portmap")).unwrap();
    strata.end(["stop", "-t", "0", "web"]);
    let ended = strata.end(["rm", "web"]);
    assert!(
        ended.code == 125 && ended.err.contains("\"portmap\" is not in"),
        "{ended:?}"
    );
    assert!(ended.err.contains("containernetworking-plugins"), "{ended:?}");
    with_script(&strata, "nothing", "");
    strata.ok(["rm", "-f", "web"]);
    nothing_left(&strata);
}

#[test]
fn what_is_removed_when_plug_ins_are_gone() {
    let strata = apart();
    let dir = with_script(&strata, "none", "");
    let flags = ["run", "-d", "--network", "bridge", "--name"];
    for name in ["one", "two"] {
        strata.ok([&flags[..], &[name, "busybox", "sleep", "1000"]].concat());
    }
    std::fs::remove_dir_all(dir).unwrap();
    strata.end(["stop", "-t", "0", "one"]);
    refused(&strata.end(["rm", "one"]), &["network bridge", "is not in"]);
    let removed = strata.end(["rm", "-f", "one", "two"]);
    assert_eq!((removed.code, &*removed.out), (0, "one\ntwo\n"), "{removed:#?}");
    for name in ["one", "two"] {
        let warning = format!("warning: container {name}: network bridge: the program");
        assert!(removed.err.contains(&warning), "{removed:#?}");
    }
    assert_eq!(strata.ok(["ps", "-aq"]), "");
    // The kernel takes interfaces away some time after their namespace.
    let begin = Instant::now();
    loop {
        let left = net::left_behind(&strata.state());
        if left.iter().all(|one| one.starts_with("-A")) {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "{left:#?}");
    }
    assert_eq!(strata.in_use(), (Vec::new(), Vec::new()));
}

#[test]
fn a_supervisor_that_is_killed_leaves_nothing_for_long() {
    let strata = apart();
    let start = |name: &str| {
        strata.ok([
            "run",
            "-d",
            "--name",
            name,
            "--network",
            "bridge",
            "-p",
            "8080:80",
            "busybox",
            "sleep",
            "1000",
        ]);
        let told: serde_json::Value = serde_json::from_str(&strata.ok(["inspect", name])).unwrap();
        let pid = told[0]["State"]["Pid"].as_i64().unwrap();
        let kill = |pid: i32| {
            let _ = rustix::process::kill_process(
                rustix::process::Pid::from_raw(pid).unwrap(),
                rustix::process::Signal::KILL,
            );
        };
        let supervisors = strata
            .in_use()
            .1
            .into_iter()
            .filter(|(_, words)| words.contains("supervise"));
        supervisors.for_each(|(pid, _)| kill(pid));
        kill(i32::try_from(pid).unwrap());
        let begun = Instant::now();
        // A zombie has ended, whoever may reap it.
        let lives =
            || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        while lives() {
            assert!(begun.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(!net::left_behind(&strata.state()).is_empty());
    };
    // fsck tells, and mends.
    start("one");
    let told = strata.end(["fsck"]);
    assert!(
        told.out.contains("one") && told.out.contains("were not given back"),
        "{told:?}"
    );
    assert_eq!(strata.end(["fsck", "--repair"]).code, 1);
    nothing_left(&strata);
    // So does the next who looks.
    start("two");
    strata.ok(["ps", "-a"]);
    nothing_left(&strata);
    // So does the next start, which wants the same port.
    start("three");
    strata.ok(["start", "three"]);
    strata.ok(["rm", "-f", "-a"]);
    nothing_left(&strata);
}

#[test]
fn commands_killed_at_random_leave_nothing() {
    let done = soak::networks(env!("CARGO_BIN_EXE_strata"), 7, Duration::from_secs(12));
    assert!(done.commands.all().struck > 20 && done.checks > 0, "{done:?}");
}

#[test]
fn many_at_once_have_addresses_of_their_own() {
    let strata = apart();
    strata.ok(["network", "create", "n"]);
    let children: Vec<_> = (0..8)
        .map(|n| {
            let name = format!("box{n}");
            let line = [
                "run",
                "-d",
                "--name",
                &name,
                "--network",
                "n",
                "-p",
                "80",
                "busybox",
                "sleep",
                "100",
            ];
            strata
                .command(line)
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in children {
        assert!(child.wait_with_output().unwrap().status.success());
    }
    let hosts = strata.ok(["exec", "box3", "cat", "/etc/hosts"]);
    for n in 0..8 {
        assert_eq!(hosts.matches(&format!("\tbox{n} ")).count(), 1, "{hosts}");
    }
    let addresses: std::collections::BTreeSet<&str> = hosts
        .lines()
        .filter(|line| line.contains("\tbox"))
        .filter_map(|line| line.split('\t').next())
        .collect();
    assert_eq!(addresses.len(), 8, "{hosts}");
    let names: Vec<String> = (0..8).map(|n| format!("box{n}")).collect();
    let children: Vec<_> = names
        .iter()
        .map(|name| strata.command(["rm", "-f", name]).spawn().unwrap())
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    strata.ok(["network", "rm", "n"]);
    nothing_left(&strata);
}

#[test]
fn what_somebody_else_took_away_is_found() {
    let strata = apart();
    strata.ok(["network", "create", "--ipv6", "n"]);
    let flags = ["--network", "n", "--network", "bridge", "-p", "8080:80"];
    strata.ok([
        &["run", "-d", "--name", "web"],
        &flags[..],
        &["busybox", "sleep", "100"],
    ]
    .concat());
    strata.ok(["fsck", "--deep"]);
    let found = |words: &str| {
        let told = strata.end(["fsck", "--deep"]);
        assert!(told.code != 0 && told.out.contains(words), "{words}: {told:?}");
    };
    strata.ok(["exec", "--privileged", "web", "ip", "route", "del", "default"]);
    found("network web: network n: plug-in bridge (CHECK)");
    strata.ok(["restart", "-t", "0", "web"]);
    strata.ok(["fsck", "--deep"]);
    net::said(&["iptables", "-F", "CNI-FORWARD"]);
    found("network web: network n: plug-in firewall (CHECK)");
    strata.ok(["rm", "-f", "web"]);
    nothing_left(&strata);
}
