//! The network of an ordinary user's container, on a machine of the test's own. Needs root.

mod common;

use std::fs;
use std::io::Write;
use std::process::{Child, Command, Stdio};

use common::ordinary::{Given, Ordinary};
use common::refused;
use testkit::{eventually, net};

fn must(words: &[&str]) {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
}

/// Another machine, 192.0.2.2, by which all ways of this one (192.0.2.1) lead, and that says `far` on port 80.
struct Far(Child);

impl Far {
    fn new(dir: &std::path::Path) -> Far {
        must(&["ip", "link", "add", "way", "type", "veth", "peer", "name", "back"]);
        let script = "read go; ip addr add 192.0.2.2/24 dev back; ip link set back up; exec busybox httpd -f -p 80 -h \"$1\"";
        fs::write(dir.join("index.html"), "far\n").unwrap();
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", script, "sh"])
            .arg(dir)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        // It is in its namespace once the shell reads.
        let own = format!("/proc/{}/ns/net", child.id());
        let mine = fs::read_link("/proc/thread-self/ns/net").unwrap();
        eventually("it has a network of its own", || {
            fs::read_link(&own).is_ok_and(|other| other != mine)
        });
        must(&["ip", "link", "set", "back", "netns", &child.id().to_string()]);
        must(&["ip", "addr", "add", "192.0.2.1/24", "dev", "way"]);
        must(&["ip", "link", "set", "way", "up"]);
        must(&["ip", "route", "add", "default", "via", "192.0.2.2"]);
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        Far(child)
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is served at port 8080 of an address of the machine, as those in the network namespace of a process see it, or we.
fn got(of: Option<u32>, address: &str) -> Option<String> {
    // A static busybox resolves no name here, and an address is one to it.
    let script = "use IO::Socket::INET; my $s = IO::Socket::INET->new(PeerAddr => shift, PeerPort => 8080, Timeout => 5) or exit 1; \
        print $s \"GET / HTTP/1.0\\r\\n\\r\\n\"; $s->flush; my $all = join '', <$s>; $all =~ s/.*\\r\\n\\r\\n//s; print $all";
    let mut command = match of {
        Some(pid) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/proc/{pid}/ns/net")).arg("perl");
            command
        }
        None => Command::new("perl"),
    };
    let output = command.args(["-e", script, address]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}

const SERVE: &str = "mkdir /w; echo hi >/w/index.html; exec busybox httpd -f -p 80 -h /w";

#[test]
fn out_of_it_and_into_it() {
    net::apart();
    let place = tempfile::tempdir().unwrap();
    let far = Far::new(place.path());
    for given in [Given::Range, Given::Nothing] {
        let user = Ordinary::with_busybox(given);
        let words = [
            "run",
            "--rm",
            "--network",
            "pasta",
            "busybox",
            "busybox",
            "wget",
            "-qO-",
            "http://192.0.2.2/",
        ];
        eventually("the other machine answers", || user.end(&words).out == "far\n");
        let serve = |name: &str| {
            let words = [
                "run",
                "-d",
                "--name",
                name,
                "--network",
                "pasta",
                "-p",
                "8080:80",
                "-p",
                "127.0.0.1::81/udp",
            ];
            user.end(&[&words[..], &["busybox", "sh", "-c", SERVE]].concat())
        };
        assert_eq!(serve("web").code, 0);
        eventually("it serves here", || {
            got(None, "127.0.0.1").as_deref() == Some("hi\n")
        });
        let from_afar = || got(Some(far.0.id()), "192.0.2.1");
        eventually("it serves afar", || from_afar().as_deref() == Some("hi\n"));
        let ports = user.ok(&["port", "web"]);
        assert!(
            ports.starts_with("80/tcp -> 0.0.0.0:8080\n81/udp -> 127.0.0.1:"),
            "{ports}"
        );
        refused(&serve("other"), &["8080"]);
        // Again, with the same namespace, by its policy; and by command, with another.
        user.ok(&["restart", "-t", "0", "web"]);
        eventually("it serves again", || {
            got(None, "127.0.0.1").as_deref() == Some("hi\n")
        });
        user.ok(&["rm", "-f", "web"]);
        assert_eq!(got(None, "127.0.0.1"), None);

        // Whoever is killed, nothing of it stays: that is seen when the user's directory goes.
        assert_eq!(serve("web").code, 0);
        let told = user.ok(&[
            "inspect",
            "-f",
            "{{.BundlePath}} {{.HostConfig.NetworkMode}}",
            "web",
        ]);
        let (bundle, mode) = told.trim().split_once(' ').unwrap();
        assert_eq!(mode, "pasta");
        let state = fs::read_to_string(std::path::Path::new(bundle).join("state.json")).unwrap();
        let state: serde_json::Value = serde_json::from_str(&state).unwrap();
        for who in ["supervisor", "process"] {
            must(&["kill", "-9", &state[who]["pid"].to_string()]);
        }
        user.ok(&["rm", "-f", "web"]);
        assert_eq!(got(None, "127.0.0.1"), None);
    }
}

#[test]
fn it_is_the_default_and_what_it_is_not_is_refused() {
    net::apart();
    let user = Ordinary::with_busybox(Given::Range);
    let config = user.home().join(".config/strata/config.toml");
    fs::remove_file(config).unwrap();
    assert!(user.ok(&["info"]).contains("pasta (it is installed)"));
    // A machine without a way out has none for pasta either.
    let run = |flags: &[&str]| user.end(&[&["run", "--rm"], flags, &["busybox", "true"]].concat());
    let ended = run(&[]);
    refused(&ended, &["network pasta"]);
    assert!(ended.err.contains("ip route"), "{ended:#?}");
    let ended = run(&["--network", "bridge"]);
    refused(&ended, &["bridge", "ordinary user"]);
    assert!(ended.err.contains("--network pasta"), "{ended:#?}");
    refused(&run(&["--network", "pasta:ip=10.0.0.2"]), &["pasta", "addresses"]);
    refused(
        &run(&["--network", "pasta", "--network-alias", "db"]),
        &["pasta", "name"],
    );
    let ended = run(&["-p", "80:80"]);
    refused(&ended, &["port 80/tcp"]);
    assert!(ended.err.contains("ip_unprivileged_port_start"), "{ended:#?}");
    assert_eq!(run(&["--network", "none"]).code, 0);
    assert_eq!(user.ok(&["ps", "-aq"]), "");
}
