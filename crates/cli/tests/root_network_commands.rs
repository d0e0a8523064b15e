//! `network create`, `ls`, `inspect`, `rm`, `prune`, `connect` and `disconnect`, each test in a network namespace of its own.

mod common;

use common::networks::{address, apart, inspect, nothing_left};
use common::{Strata, happened, refused, said};
use serde_json::Value;
use testkit::net;

/// Whatever is left is that one container's.
#[track_caller]
fn nothing_but(strata: &Strata, container: &str) {
    let id = inspect(strata, container)["Id"].as_str().unwrap().to_owned();
    let left = net::left_behind(&strata.state());
    let address = inspect(strata, container)["NetworkSettings"]["IPAddress"]
        .as_str()
        .unwrap()
        .to_owned();
    let others: Vec<_> = left
        .iter()
        .filter(|line| !line.contains(&id) && !line.contains(&address) && !line.contains("veth"))
        .collect();
    assert!(others.is_empty(), "{others:#?}");
    assert_eq!(
        left.iter().filter(|line| line.contains("veth")).count(),
        1,
        "{left:#?}"
    );
}

#[test]
fn networks_are_made_listed_and_removed() {
    let strata = apart();
    // The machine has this one, and routes to that one.
    net::said(&["ip", "link", "add", "d0", "type", "bridge"]);
    net::said(&["ip", "addr", "add", "10.62.0.9/24", "dev", "d0"]);
    net::said(&["ip", "link", "set", "d0", "up"]);
    net::said(&["ip", "route", "add", "10.62.1.0/24", "dev", "d0", "table", "77"]);
    let id = strata.ok([
        "network", "create", "--label", "a=b", "--opt", "mtu=1400", "--ipv6", "n",
    ]);
    let told: Value = serde_json::from_str(&strata.ok(["network", "inspect", "n"])).unwrap();
    let told = &told[0];
    assert_eq!(
        (told["Name"].as_str(), told["Id"].as_str()),
        (Some("n"), Some(id.trim()))
    );
    assert_eq!(told["IPAM"]["Config"][0]["Subnet"], "10.62.2.0/24");
    assert!(
        told["IPAM"]["Config"][1]["Subnet"]
            .as_str()
            .unwrap()
            .starts_with("fd")
    );
    assert_eq!(
        (&told["Labels"]["a"], &told["EnableIPv6"]),
        (&"b".into(), &true.into())
    );
    strata.ok([
        "run",
        "-d",
        "--name",
        "xx",
        "--network",
        "n",
        "busybox",
        "sleep",
        "100",
    ]);
    let out = strata.ok(["exec", "xx", "ip", "addr", "show", "eth0"]);
    assert!(out.contains("mtu 1400") && out.contains("inet6 fd"), "{out}");
    let told: Value = serde_json::from_str(&strata.ok(["network", "inspect", &id[..12]])).unwrap();
    let containers = told[0]["Containers"].as_object().unwrap();
    let one = containers.values().next().unwrap();
    assert_eq!(
        (&one["Name"], &one["IPv4Address"]),
        (&"xx".into(), &"10.62.2.2/24".into())
    );
    let line = strata.ok([
        "network",
        "ls",
        "--format",
        "{{.ID}} {{.Name}} {{.Driver}} {{.Labels}}",
    ]);
    assert_eq!(line, format!("{} n bridge a=b\n", &id[..12]));
    assert!(strata.ok(["network", "ls"]).starts_with("NETWORK ID"));
    for (flags, words) in [
        (&["n"][..], &["there is a network \"n\" already"][..]),
        (
            &["--subnet", "10.62.2.128/25", "m"],
            &["--subnet 10.62.2.128/25", "another network has 10.62.2.0/24"],
        ),
        (
            &["--subnet", "10.62.1.0/28", "m"],
            &["this machine has 10.62.1.0/24"],
        ),
        (&["--subnet", "10.62.5.0/31", "m"], &["no room"]),
        (
            &["--subnet", "10.62.5.0/24", "--subnet", "10.62.6.0/24", "m"],
            &["one of each family"],
        ),
        (&["--gateway", "9.9.9.9", "m"], &["--gateway 9.9.9.9", "in none"]),
        (
            &["--subnet", "10.62.5.0/24", "--ip-range", "10.62.6.0/25", "m"],
            &["--ip-range 10.62.6.0/25"],
        ),
        (
            &["--opt", "nosuch=1", "m"],
            &["--opt nosuch=1: a bridge has no such option"],
        ),
        (
            &["--opt", "com.docker.network.bridge.name=lo", "m"],
            &["there is such an interface already"],
        ),
        (&["a/b"], &["it is no name"]),
        (&["host"], &["means something else to --network"]),
        (&["bridge"], &["means something else to --network"]),
    ] {
        refused(&strata.end([&["network", "create"], flags].concat()), words);
    }
    assert_eq!(
        strata
            .end(["network", "create", "--subnet", "10.62.5.1/24", "m"])
            .code,
        125
    );
    assert_eq!(
        strata.end(["network", "create", "--driver", "overlay", "m"]).code,
        125
    );
    // Namespaces have networks of their own, with addresses that are nobody else's.
    strata.ok(["--namespace", "other", "network", "create", "n"]);
    let told: Value =
        serde_json::from_str(&strata.ok(["--namespace", "other", "network", "inspect", "n"])).unwrap();
    assert_eq!(told[0]["IPAM"]["Config"][0]["Subnet"], "10.62.3.0/24");
    strata.ok(["network", "create", "--label", "keep", "kept"]);
    strata.ok(["network", "create", "idle"]);
    assert_eq!(
        strata.ok(["network", "prune", "-f", "--filter", "label!=keep"]),
        "Network idle\nFreed 0B\n"
    );
    // And with everything else, as docker has it; not one that a container is to be in.
    strata.ok(["network", "create", "idle"]);
    strata.ok(["create", "--name", "made", "--network", "kept", "busybox", "true"]);
    let told = strata.ok(["system", "prune", "-f", "--dry-run"]);
    assert!(
        told.contains("Network idle\n") && told.contains("Network kept\n"),
        "{told}"
    );
    assert_eq!(
        strata
            .ok(["network", "ls", "-q", "-f", "name=idle"])
            .lines()
            .count(),
        1
    );
    let told = strata.ok(["prune", "networks", "-f"]);
    assert_eq!(told, "Network idle\nFreed 0B\n");
    strata.ok(["rm", "made"]);
    refused(
        &strata.end(["network", "rm", "nosuch"]),
        &["there is no network \"nosuch\""],
    );
    strata.ok(["network", "rm", "-f", "nosuch"]);
    refused(&strata.end(["network", "rm", "bridge"]), &["strata's own"]);
    strata.ok(["rm", "-f", "xx"]);
    assert_eq!(strata.ok(["network", "rm", "n", "kept"]), "n\nkept\n");
    nothing_left(&strata);
}

#[test]
fn a_container_is_in_several_networks_and_comes_and_goes() {
    let strata = apart();
    for name in ["a", "b", "c"] {
        strata.ok(["network", "create", name]);
    }
    strata.ok([
        "run",
        "-d",
        "--name",
        "peer",
        "--network",
        "c",
        "busybox",
        "sleep",
        "100",
    ]);
    strata.ok([
        "run",
        "-d",
        "--name",
        "xx",
        "--network",
        "a",
        "--network",
        "b:ip=10.62.1.77",
        "busybox",
        "sleep",
        "100",
    ]);
    let interfaces = || {
        let text = strata.ok(["exec", "xx", "ip", "-o", "-4", "addr"]);
        let names: Vec<&str> = text
            .lines()
            .filter_map(|line| line.split_whitespace().nth(1))
            .collect();
        names.join(" ")
    };
    assert_eq!(interfaces(), "lo eth0 eth1");
    assert_eq!(address(&strata, "xx", "b"), "10.62.1.77");
    // One way out, by the first.
    assert_eq!(
        strata
            .ok(["exec", "xx", "ip", "route"])
            .matches("default")
            .count(),
        1
    );
    strata.ok([
        "network",
        "connect",
        "--alias",
        "ex",
        "--ip",
        "10.62.2.88",
        "c",
        "xx",
    ]);
    assert_eq!(interfaces(), "lo eth0 eth1 eth2");
    assert!(
        strata
            .ok(["exec", "peer", "cat", "/etc/hosts"])
            .contains("10.62.2.88\txx ex ")
    );
    assert!(strata.ok(["exec", "xx", "cat", "/etc/hosts"]).contains("\tpeer "));
    refused(
        &strata.end(["network", "connect", "c", "xx"]),
        &["container xx is in network c already"],
    );
    strata.ok(["network", "disconnect", "b", "xx"]);
    refused(
        &strata.end(["network", "disconnect", "b", "xx"]),
        &["container xx is not in network b"],
    );
    assert_eq!(interfaces(), "lo eth0 eth2");
    let events = happened(&strata, &["type=network", "network=c"]);
    // The filter takes the beginning of an id too, and any may begin so.
    let events: Vec<&str> = events
        .lines()
        .filter(|line| line.contains("name=c,"))
        .filter_map(|line| line.split(' ').nth(2))
        .collect();
    assert_eq!(events, ["create", "connect", "connect"]);
    // It is so at the next start too.
    strata.ok(["restart", "-t", "0", "xx"]);
    assert_eq!(interfaces(), "lo eth0 eth1");
    assert_eq!(address(&strata, "xx", "c"), "10.62.2.88");
    let told = inspect(&strata, "xx");
    let networks = told["NetworkSettings"]["Networks"].as_object().unwrap();
    assert_eq!(networks.keys().collect::<Vec<_>>(), ["a", "c"]);
    strata.ok(["stop", "-t", "0", "xx"]);
    nothing_but(&strata, "peer");
    strata.ok(["network", "disconnect", "-f", "b", "xx"]);
    strata.ok(["network", "disconnect", "-f", "b", "nobody"]);
    strata.ok(["network", "disconnect", "c", "xx"]);
    strata.ok(["network", "rm", "b"]);
    refused(&strata.end(["network", "rm", "a"]), &["network a is that of xx"]);
    strata.ok(["rm", "-f", "-a"]);
    strata.ok(["network", "prune", "-f"]);
    assert_eq!(strata.ok(["network", "ls", "-q"]), "");
    nothing_left(&strata);
    let links = net::said(&["ip", "-o", "link", "show", "type", "bridge"]);
    assert_eq!(links, "", "bridges go with their networks");
    for program in ["iptables-save", "ip6tables-save"] {
        let rules = net::said(&[program]);
        assert!(!rules.contains("st-"), "{rules}");
    }
}

#[test]
fn an_internal_network_has_no_way_out() {
    let strata = apart();
    strata.ok(["network", "create", "--internal", "in"]);
    strata.ok([
        "run",
        "-d",
        "--name",
        "peer",
        "--network",
        "in",
        "busybox",
        "sleep",
        "100",
    ]);
    let out = said(
        &strata,
        &["--network", "in", "--privileged"],
        "ip route; ping -c1 -W5 peer >/dev/null && echo there",
    );
    assert!(!out.contains("default") && out.ends_with("there\n"), "{out}");
    strata.ok(["rm", "-f", "peer"]);
    nothing_left(&strata);
}
