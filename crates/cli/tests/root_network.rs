//! Containers in networks, by Debian's plug-ins, each test in a network namespace of its own.

mod common;

use common::networks::{address, apart, inspect, nothing_left};
use common::{refused, said, sh};
use serde_json::Value;
use testkit::net;

#[test]
fn a_container_has_an_address_and_gives_it_back() {
    let strata = apart();
    let script = "ip -o -4 addr show dev eth0; ip route; cat /etc/hosts; ip -o link show lo; cat /proc/sys/net/ipv4/ip_unprivileged_port_start";
    let out = said(&strata, &["--network", "bridge"], script);
    assert!(out.contains("inet 10.62.0.2/24"), "{out}");
    assert!(out.contains("default via 10.62.0.1 dev eth0"), "{out}");
    assert!(
        out.contains("10.62.0.2\t") && !out.contains("127.0.0.1\t1"),
        "{out}"
    );
    assert!(out.contains("LOOPBACK,UP"), "{out}");
    // As in a namespace that has nothing but loopback.
    assert!(out.ends_with("\n0\n"), "{out}");
    nothing_left(&strata);
    let out = said(
        &strata,
        &["--network", "bridge", "--runtime", "runc"],
        "ip -o -4 addr show dev eth0",
    );
    assert!(out.contains("inet 10.62.0.3/24"), "{out}");
    nothing_left(&strata);
    // The machine is reached, and reaches it.
    strata.ok([
        "run",
        "-d",
        "--name",
        "aa",
        "--network",
        "bridge",
        "busybox",
        "sleep",
        "100",
    ]);
    let address = address(&strata, "aa", "bridge");
    net::said(&["/bin/busybox", "ping", "-c1", "-W5", &address]);
    let told = inspect(&strata, "aa");
    assert_eq!(told["HostConfig"]["NetworkMode"], "bridge");
    assert_eq!(told["NetworkSettings"]["IPAddress"], address.as_str());
    assert_eq!(told["NetworkSettings"]["Gateway"], "10.62.0.1");
    let mac = told["NetworkSettings"]["MacAddress"].as_str().unwrap();
    assert!(
        strata
            .ok(["exec", "aa", "ip", "link", "show", "eth0"])
            .contains(mac)
    );
    let record = std::fs::read_to_string(told["NetworkSettings"]["SandboxKey"].as_str().unwrap());
    assert!(record.is_err(), "a namespace is no file to read");
    strata.ok(["rm", "-f", "aa"]);
    nothing_left(&strata);
}

#[test]
fn the_default_is_a_bridge_where_its_programs_are() {
    let strata = apart();
    let config = strata.dir().join("config.toml");
    let default = |text: &str| {
        std::fs::write(&config, text).unwrap();
        let info: Value = serde_json::from_str(&strata.ok(["info", "--format", "json"])).unwrap();
        (
            info["DefaultNetwork"].clone(),
            info["DefaultNetworkWhy"].as_str().unwrap().to_owned(),
        )
    };
    let (name, why) = default("");
    assert_eq!(
        (name.as_str(), why.as_str()),
        (Some("bridge"), "its plug-ins are installed")
    );
    assert!(said(&strata, &[], "ip -o -4 addr show dev eth0").contains("inet 10.62.0.2"));
    let (name, why) = default("default_network = \"host\"\n");
    assert!(name == "host" && why.contains("default_network"), "{name} {why}");
    let (name, why) = default("cni_plugin_dirs = [\"/nowhere\"]\n");
    assert!(
        name == "none" && why.contains("\"bridge\" is not in /nowhere"),
        "{name} {why}"
    );
    assert!(!said(&strata, &[], "ip -o link").contains("eth0"));
    let table = strata.ok(["info"]);
    assert!(
        table.contains("Default network: none (bridge is lacking: "),
        "{table}"
    );
    // What asks for a network says so, and which package brings it.
    let ended = sh(&strata, &["--network", "bridge"], "true");
    refused(&ended, &["network bridge", "\"bridge\" is not in /nowhere"]);
    assert!(
        ended.err.contains("containernetworking-plugins iptables"),
        "{}",
        ended.err
    );
    refused(
        &sh(&strata, &["-p", "80"], "true"),
        &["--publish asks for a network, and --network is none"],
    );
    nothing_left(&strata);
}

#[test]
fn containers_of_a_network_know_each_other_by_name() {
    let strata = apart();
    strata.ok(["network", "create", "one"]);
    strata.ok(["network", "create", "two"]);
    let run = |name: &str, flags: &[&str]| {
        let line = [
            &["run", "-d", "--name", name],
            flags,
            &["busybox", "sleep", "100"],
        ]
        .concat();
        strata.ok(line);
    };
    run("db", &["--network", "one", "--network-alias", "sql"]);
    run("web", &["--network", "one:alias=www"]);
    run("far", &["--network", "two"]);
    let root = ["exec", "--privileged"];
    let ping = |from: &str, to: &str| {
        strata
            .end([&root[..], &[from, "ping", "-c1", "-W2", to]].concat())
            .code
            == 0
    };
    assert!(ping("web", "db") && ping("web", "sql") && ping("db", "www"));
    // By its first digits, as docker has it.
    let id = inspect(&strata, "db")["Id"].as_str().unwrap()[..12].to_owned();
    assert!(ping("web", &id));
    // Not those of another network, neither by name nor at all.
    assert!(!ping("far", "db"));
    assert!(!ping("far", &address(&strata, "db", "one")));
    // A new name is known at once; what the container wrote stays.
    strata.ok(["exec", "web", "sh", "-c", "echo 9.9.9.9 mine >> /etc/hosts"]);
    strata.ok(["rename", "db", "base"]);
    assert!(ping("web", "base") && !ping("web", "db"));
    strata.ok(["rm", "-f", "base"]);
    let hosts = strata.ok(["exec", "web", "cat", "/etc/hosts"]);
    assert!(
        !hosts.contains("base") && hosts.contains("web www") && hosts.contains("9.9.9.9 mine"),
        "{hosts}"
    );
    strata.ok(["rm", "-f", "-a"]);
    nothing_left(&strata);
}

#[test]
fn addresses_come_with_the_start_and_go_with_the_end() {
    let strata = apart();
    strata.ok([
        "create",
        "--name",
        "aa",
        "--network",
        "bridge",
        "busybox",
        "sleep",
        "100",
    ]);
    nothing_left(&strata);
    for _ in 0..3 {
        strata.ok(["start", "aa"]);
        assert!(!address(&strata, "aa", "bridge").is_empty());
        // It runs already, and stays as it is.
        strata.ok(["start", "aa"]);
        strata.ok(["stop", "-t", "0", "aa"]);
        nothing_left(&strata);
    }
    strata.ok(["rm", "aa"]);
    // One that ends by itself, with nobody there.
    strata.ok([
        "run",
        "-d",
        "--name",
        "bb",
        "--network",
        "bridge",
        "busybox",
        "sleep",
        "0.3",
    ]);
    strata.ok([
        "run",
        "-d",
        "--rm",
        "--name",
        "cc",
        "--network",
        "bridge",
        "busybox",
        "sleep",
        "0.3",
    ]);
    strata.ok(["wait", "bb"]);
    let begun = std::time::Instant::now();
    while !net::left_behind(&strata.state()).is_empty() {
        assert!(
            begun.elapsed().as_secs() < 20,
            "{:?}",
            net::left_behind(&strata.state())
        );
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    // One that is started again by its policy keeps what it has.
    strata.ok([
        "run",
        "-d",
        "--name",
        "dd",
        "--network",
        "bridge",
        "--restart",
        "always",
        "-p",
        "7777:1",
        "busybox",
        "sleep",
        "0.5",
    ]);
    let first = address(&strata, "dd", "bridge");
    let begun = std::time::Instant::now();
    while inspect(&strata, "dd")["State"]["Running"] == false || begun.elapsed().as_secs() < 2 {
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(std::net::TcpListener::bind("127.0.0.1:7777").is_err());
    }
    assert_eq!(address(&strata, "dd", "bridge"), first);
    strata.ok(["rm", "-f", "-a"]);
    nothing_left(&strata);
}

#[test]
fn what_a_container_asks_of_its_network() {
    let strata = apart();
    strata.ok([
        "network",
        "create",
        "--subnet",
        "10.7.0.0/24",
        "--gateway",
        "10.7.0.254",
        "--ip-range",
        "10.7.0.64/26",
        "n",
    ]);
    let out = said(&strata, &["--network", "n"], "ip -o -4 addr show eth0; ip route");
    assert!(
        out.contains("inet 10.7.0.64/24") && out.contains("default via 10.7.0.254"),
        "{out}"
    );
    let flags = [
        "--network",
        "n",
        "--ip",
        "10.7.0.9",
        "--mac-address",
        "02:42:0A:07:00:09",
    ];
    let out = said(&strata, &flags, "ip addr show eth0");
    assert!(
        out.contains("10.7.0.9/24") && out.contains("02:42:0a:07:00:09"),
        "{out}"
    );
    strata.ok([
        "run",
        "-d",
        "--name",
        "xx",
        "--network",
        "n",
        "--ip",
        "10.7.0.9",
        "busybox",
        "sleep",
        "100",
    ]);
    let ended = sh(&strata, &["--network", "n", "--ip", "10.7.0.9"], "true");
    refused(&ended, &["network n: plug-in bridge (ADD)", "10.7.0.9"]);
    for (address, words) in [
        ("10.8.0.9", "is in none of its ranges"),
        ("10.7.0.254", "is its gateway's"),
        ("fd00::1", "no such address"),
        ("x", "no such address"),
    ] {
        refused(
            &sh(&strata, &["--network", "n", "--ip", address], "true"),
            &[address, words],
        );
    }
    for (flags, words) in [
        (
            &["--network", "none", "--ip", "10.7.0.9"][..],
            "--ip asks for a network, and --network is none",
        ),
        (
            &["--network", "host", "--network-alias", "x"],
            "--network-alias asks for a network",
        ),
        (&["--network", "n", "--network", "host"], "contradict"),
        (&["--network", "n", "--network", "n"], "named twice"),
        (&["--network", "nosuch"], "there is no network \"nosuch\""),
        (&["--network", "a b"], "no name of a network"),
        (
            &["--network", "n", "--mac-address", "01:00:00:00:00:00"],
            "no address of one interface",
        ),
        (
            &["--network", "n:what=1"],
            "\"what\" is nothing that can be asked",
        ),
        (&["--add-host", "m:host-gateway"], "no way to this machine"),
    ] {
        refused(&sh(&strata, flags, "true"), &[words]);
    }
    let flags = [
        "--network",
        "n",
        "--add-host",
        "machine:host-gateway",
        "--dns",
        "10.7.0.254",
        "--dns-search",
        "a.b",
        "--dns-option",
        "ndots:2",
    ];
    let out = said(&strata, &flags, "cat /etc/hosts /etc/resolv.conf");
    assert!(out.contains("10.7.0.254\tmachine\n"), "{out}");
    for line in ["nameserver 10.7.0.254\n", "search a.b\n", "options ndots:2\n"] {
        assert!(out.contains(line), "{line} in {out}");
    }
    let out = said(
        &strata,
        &["--network", "host", "--add-host", "machine:host-gateway"],
        "cat /etc/hosts",
    );
    assert!(out.contains("127.0.0.1\tmachine"), "{out}");
    strata.ok(["rm", "-f", "-a"]);
    nothing_left(&strata);
}

#[test]
fn after_the_machines_end_everything_comes_again() {
    let strata = apart();
    strata.ok(["network", "create", "n"]);
    strata.ok([
        "run",
        "-d",
        "--name",
        "aa",
        "--restart",
        "always",
        "--network",
        "n",
        "-p",
        "8080:80",
        "busybox",
        "sleep",
        "100",
    ]);
    strata.ok([
        "run",
        "-d",
        "--name",
        "bb",
        "--network",
        "n",
        "busybox",
        "sleep",
        "100",
    ]);
    // The power is cut: processes, mounts, what lies beneath the state, and the network are gone.
    let (mounts, processes) = strata.in_use();
    for (pid, _) in processes {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    for target in mounts.iter().rev() {
        let _ = sys::mount::detach_at(target);
    }
    std::fs::remove_dir_all(strata.state()).unwrap();
    net::apart();
    strata.ok(["start", "--all"]);
    strata.ok(["start", "bb"]);
    assert!(strata.ok(["exec", "bb", "cat", "/etc/hosts"]).contains("\taa "));
    assert_eq!(strata.ok(["port", "aa"]), "80/tcp -> 0.0.0.0:8080\n");
    strata.ok(["rm", "-f", "-a"]);
    nothing_left(&strata);
}
