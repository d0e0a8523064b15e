//! Ports of the machine that lead to containers, each test in a network namespace of its own.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::networks::{apart, nothing_left};
use common::{Image, Strata, refused, sh};
use serde_json::{Value, json};
use testkit::net;

/// Answers in another network namespace with what it is sent, by TCP on these ports and by UDP on port 53, for as long as
/// the test program runs; to a TCP connection that sends nothing, with who it is.
fn echo_in(namespace: &Path, ports: &'static [u16]) {
    let namespace = std::fs::File::open(namespace).unwrap();
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        sys::process::setns(namespace.as_fd(), sys::process::namespaces::NETWORK).unwrap();
        for port in ports {
            // Of both families.
            let listener = TcpListener::bind(("::", *port)).unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    std::thread::spawn(move || -> std::io::Result<()> {
                        let mut text = String::new();
                        stream.read_to_string(&mut text)?;
                        if text.is_empty() {
                            text = stream.peer_addr()?.ip().to_string();
                        }
                        stream.write_all(text.as_bytes())
                    });
                }
            });
        }
        let socket = UdpSocket::bind("0.0.0.0:53").unwrap();
        ready.send(()).unwrap();
        let mut text = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut text) {
            let _ = socket.send_to(&text[..length], from);
        }
    });
    is_ready.recv().unwrap();
}

/// A container whose ports 80, 81 and 89 answer, and port 53 by UDP.
#[track_caller]
fn echo(strata: &Strata, name: &str, flags: &[&str]) {
    strata.ok([
        &["run", "-d", "--name", name],
        flags,
        &["busybox", "sleep", "1000"],
    ]
    .concat());
    let told: Value = serde_json::from_str(&strata.ok(["inspect", name])).unwrap();
    let namespace = told[0]["NetworkSettings"]["SandboxKey"].as_str().unwrap();
    echo_in(Path::new(namespace), &[80, 81, 89]);
}

/// What comes back from `address`, which is tried until somebody answers.
#[track_caller]
fn answer(address: &str) -> String {
    let begun = Instant::now();
    loop {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"hello")?;
            stream.shutdown(std::net::Shutdown::Write)?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        match ask() {
            Ok(text) if !text.is_empty() => return text,
            other => assert!(begun.elapsed() < Duration::from_secs(10), "{address}: {other:?}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[track_caller]
fn answer_udp(address: &str) -> String {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let begun = Instant::now();
    loop {
        socket.send_to(b"hello", address).unwrap();
        let mut text = [0; 16];
        match socket.recv(&mut text) {
            Ok(length) => return String::from_utf8_lossy(&text[..length]).into_owned(),
            other => assert!(begun.elapsed() < Duration::from_secs(10), "{address}: {other:?}"),
        }
    }
}

/// Another machine: a network namespace with a cable to the test's.
struct Neighbour(Child);

impl Neighbour {
    /// It has 192.0.2.2 and fd00:2::2, this machine 192.0.2.1 and fd00:2::1.
    fn new() -> Neighbour {
        let mut command = Command::new("unshare");
        let child = command
            .args(["-n", "sleep", "1000"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let neighbour = Neighbour(child);
        let pid = neighbour.0.id().to_string();
        let begun = Instant::now();
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        while std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap() == own {
            assert!(begun.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(5));
        }
        net::said(&[
            "ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", &pid,
        ]);
        net::said(&["ip", "addr", "add", "192.0.2.1/24", "dev", "cable"]);
        net::said(&["ip", "addr", "add", "fd00:2::1/64", "dev", "cable", "nodad"]);
        net::said(&["ip", "link", "set", "cable", "up"]);
        let there = |words: &[&str]| net::said(&[&["nsenter", "-n", "-t", &pid], words].concat());
        there(&["ip", "addr", "add", "192.0.2.2/24", "dev", "cable"]);
        there(&["ip", "addr", "add", "fd00:2::2/64", "dev", "cable", "nodad"]);
        there(&["ip", "link", "set", "cable", "up"]);
        neighbour
    }

    /// What a program there prints.
    fn said(&self, words: &[&str]) -> String {
        net::said(&[&["nsenter", "-n", "-t", &self.0.id().to_string()], words].concat())
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_published_port_is_reached_from_here_and_from_afar() {
    let strata = apart();
    let neighbour = Neighbour::new();
    echo(
        &strata,
        "web",
        &[
            "--network",
            "bridge",
            "-p",
            "8080:80",
            "-p",
            "5353:53/udp",
            "-p",
            "127.0.0.1:8081:81",
        ],
    );
    assert_eq!(answer("127.0.0.1:8080"), "hello");
    assert_eq!(answer("192.0.2.1:8080"), "hello");
    assert_eq!(answer("127.0.0.1:8081"), "hello");
    assert_eq!(answer_udp("192.0.2.1:5353"), "hello");
    assert_eq!(
        neighbour.said(&["/bin/busybox", "sh", "-c", "echo hi | nc -w 5 192.0.2.1 8080"]),
        "hi\n"
    );
    // What is published on one address is reached by no other.
    assert!(TcpStream::connect("192.0.2.1:8081").is_err());
    // A container reaches it by the machine's address, its own port too.
    let out = strata.ok(["exec", "web", "sh", "-c", "echo hi | nc -w 5 10.62.0.1 8080"]);
    assert_eq!(out, "hi\n");
    // And the world beyond the machine by the machine's address.
    echo_in(Path::new(&format!("/proc/{}/ns/net", neighbour.0.id())), &[9]);
    let from = strata.ok(["exec", "web", "sh", "-c", "nc -w 5 192.0.2.2 9 < /dev/null"]);
    assert_eq!(from, "::ffff:192.0.2.1");
    assert_eq!(
        strata.ok(["port", "web"]),
        "53/udp -> 0.0.0.0:5353\n80/tcp -> 0.0.0.0:8080\n81/tcp -> 127.0.0.1:8081\n"
    );
    assert_eq!(strata.ok(["port", "web", "80"]), "0.0.0.0:8080\n");
    assert_eq!(strata.ok(["port", "web", "53/udp"]), "0.0.0.0:5353\n");
    refused(
        &strata.end(["port", "web", "53"]),
        &["port 53 of container web is not published"],
    );
    assert_eq!(
        strata.ok(["ps", "--format", "{{.Ports}}"]),
        "0.0.0.0:8080->80/tcp, 0.0.0.0:5353->53/udp, 127.0.0.1:8081->81/tcp\n"
    );
    for (filter, fits) in [
        ("publish=8080", true),
        ("publish=8070-8090", true),
        ("publish=80", false),
        ("publish=5353/udp", true),
        ("expose=80", true),
        ("expose=80/udp", false),
        ("network=bridge", true),
        ("network=other", false),
    ] {
        assert_eq!(
            !strata.ok(["ps", "-q", "--filter", filter]).is_empty(),
            fits,
            "{filter}"
        );
    }
    refused(
        &strata.end(["ps", "--filter", "publish=x"]),
        &["--filter publish=x"],
    );
    let told: Value = serde_json::from_str(&strata.ok(["inspect", "web"])).unwrap();
    assert_eq!(
        told[0]["NetworkSettings"]["Ports"]["80/tcp"],
        json!([{ "HostIp": "0.0.0.0", "HostPort": "8080" }])
    );
    assert_eq!(
        told[0]["HostConfig"]["PortBindings"]["81/tcp"],
        json!([{ "HostIp": "127.0.0.1", "HostPort": "8081" }])
    );
    strata.ok(["stop", "-t", "0", "web"]);
    assert_eq!(strata.ok(["port", "web"]), "");
    assert!(TcpStream::connect("127.0.0.1:8080").is_err());
    TcpListener::bind("0.0.0.0:8080").unwrap();
    strata.ok(["rm", "web"]);
    drop(neighbour);
    let _ = Command::new("ip")
        .args(["link", "del", "cable"])
        .stderr(Stdio::null())
        .status();
    nothing_left(&strata);
}

#[test]
fn ranges_choices_and_both_families() {
    let strata = apart();
    let neighbour = Neighbour::new();
    strata.ok(["network", "create", "--ipv6", "six"]);
    echo(
        &strata,
        "web",
        &[
            "--network",
            "six",
            "-p",
            "8080-8089:80-89",
            "-p",
            "[fd00:2::1]:9000:80",
            "-p",
            "80",
        ],
    );
    for address in [
        "127.0.0.1:8080",
        "127.0.0.1:8081",
        "127.0.0.1:8089",
        "[fd00:2::1]:8080",
        "[fd00:2::1]:9000",
    ] {
        assert_eq!(answer(address), "hello", "{address}");
    }
    assert_eq!(
        neighbour.said(&["/bin/busybox", "sh", "-c", "echo hi | nc -w 5 fd00:2::1 8080"]),
        "hi\n"
    );
    let ports = strata.ok(["port", "web", "80"]);
    let ports: Vec<&str> = ports.lines().collect();
    assert_eq!(ports.len(), 5, "{ports:?}");
    let chosen = ports
        .iter()
        .find(|line| !line.contains("8080") && line.starts_with("0.0.0.0"))
        .unwrap();
    assert_eq!(answer(&chosen.replace("0.0.0.0", "127.0.0.1")), "hello");
    // Both families have the same.
    assert!(
        ports.contains(&chosen.replace("0.0.0.0", "[::]").as_str()),
        "{ports:?}"
    );
    let column = strata.ok(["ps", "--format", "{{.Ports}}"]);
    assert!(
        column.contains("0.0.0.0:8080-8089->80-89/tcp") && column.contains("[::]:8080-8089->80-89/tcp"),
        "{column}"
    );
    // One port, and the first of a choice that is free.
    echo(&strata, "two", &["--network", "six", "-p", "8085-8095:80"]);
    assert_eq!(strata.ok(["port", "two", "80/tcp"]), "0.0.0.0:8090\n[::]:8090\n");
    // All that the image names.
    let image = Image::busybox()
        .name("docker.io/library/exposes:latest")
        .config("ExposedPorts", json!({ "80/tcp": {}, "53/udp": {} }));
    strata.load(&image);
    let out = strata.ok([
        "run",
        "-d",
        "--name",
        "all",
        "--network",
        "bridge",
        "-P",
        "--expose",
        "81",
        "exposes",
        "sleep",
        "100",
    ]);
    assert!(!out.is_empty());
    let ports = strata.ok(["port", "all"]);
    for port in ["80/tcp -> 0.0.0.0:", "81/tcp -> 0.0.0.0:", "53/udp -> 0.0.0.0:"] {
        assert!(ports.contains(port), "{ports}");
    }
    strata.ok([
        "run",
        "-d",
        "--name",
        "only",
        "--network",
        "none",
        "exposes",
        "sleep",
        "100",
    ]);
    assert_eq!(
        strata
            .ok(["ps", "--format", "{{.Names}} {{.Ports}}"])
            .lines()
            .next()
            .unwrap(),
        "only 80/tcp, 53/udp"
    );
    // More than the descriptors of one message.
    strata.ok([
        "run",
        "-d",
        "--name",
        "many",
        "--network",
        "bridge",
        "-p",
        "20000-20069:1-70",
        "busybox",
        "sleep",
        "100",
    ]);
    assert_eq!(strata.ok(["port", "many"]).lines().count(), 70);
    assert!(TcpListener::bind("127.0.0.1:20069").is_err());
    strata.ok(["rm", "-f", "-a"]);
    drop(neighbour);
    let _ = Command::new("ip")
        .args(["link", "del", "cable"])
        .stderr(Stdio::null())
        .status();
    nothing_left(&strata);
}

#[test]
fn a_port_in_use_is_told_and_nothing_is_left() {
    let strata = apart();
    let flags = |port: &'static str| ["--network", "bridge", "-p", port];
    strata.ok([
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
    ]);
    let before = net::left_behind(&strata.state());
    let ended = sh(&strata, &flags("8080:81"), "true");
    refused(&ended, &["port 8080/tcp of this machine: it is in use"]);
    let listener = TcpListener::bind("127.0.0.1:9090").unwrap();
    refused(
        &sh(&strata, &flags("9090:80"), "true"),
        &["port 9090/tcp", "in use"],
    );
    refused(
        &sh(&strata, &flags("127.0.0.1:9090:80"), "true"),
        &["port 9090/tcp of 127.0.0.1", "in use"],
    );
    refused(
        &sh(&strata, &flags("9089-9091:80-82"), "true"),
        &["port 9090/tcp", "in use"],
    );
    refused(
        &sh(&strata, &flags("192.0.2.77:80:80"), "true"),
        &["192.0.2.77", "no such address"],
    );
    let ended = sh(
        &strata,
        &["--network", "bridge", "-p", "7000:80", "-p", "7000:81"],
        "true",
    );
    refused(&ended, &["port 7000/tcp", "in use"]);
    refused(
        &sh(&strata, &flags("20000-20400:1-401"), "true"),
        &["401 ports are to be published, and 400 can be"],
    );
    for (bad, words) in [
        ("http", "\"http\" is no port"),
        ("70000:80", "\"70000\" is no port"),
        ("90-80:80", "ends before it begins"),
        ("8000-8001:80-82", "2 ports of the host cannot lead to 3"),
        ("80/sctp", "neither tcp nor udp"),
        ("::1:80:80", "stands in brackets"),
    ] {
        refused(&sh(&strata, &flags(bad), "true"), &["--publish", words]);
    }
    assert_eq!(net::left_behind(&strata.state()), before);
    // The other protocol's is another.
    sh(&strata, &flags("8080:80/udp"), "true");
    // The second has it once the first has ended.
    strata.ok([
        "create",
        "--name",
        "next",
        "--network",
        "bridge",
        "-p",
        "8080:80",
        "busybox",
        "sleep",
        "100",
    ]);
    refused(&strata.end(["start", "next"]), &["port 8080/tcp", "in use"]);
    strata.ok(["rm", "-f", "web"]);
    strata.ok(["start", "next"]);
    drop(listener);
    strata.ok(["rm", "-f", "-a"]);
    nothing_left(&strata);
    // On the machine's own network there is nothing to publish.
    let ended = sh(&strata, &["--network", "host", "-p", "8080:80"], "true");
    assert!(
        ended.code == 0 && ended.err.starts_with("note: with --network host"),
        "{ended:?}"
    );
}
