//! What the OCI runtime specification has of Linux alone and engines ask for seldom: devices of the network, policies of
//! memory, labels, a root that is moved, limits of huge pages.

#[path = "common/oci.rs"]
mod oci;

use std::fs;
use std::path::Path;
use std::process::Command;

use oci::{Runtime, each, wait_until};
use serde_json::json;

const INSIDE: &str = "10.99.117.5/24";

#[track_caller]
fn ip(words: &str) -> String {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "ip {words}: {output:?}");
    text
}

/// Two devices of the host that are one cable, the first with addresses; taken away with the value.
struct Cable([String; 2]);

impl Cable {
    fn new(letter: char) -> Cable {
        let names = ["a", "b"].map(|end| format!("so{letter}{}{end}", std::process::id()));
        let [first, second] = &names;
        ip(&format!("link add {first} type veth peer name {second}"));
        ip(&format!("addr add {INSIDE} dev {first}"));
        // Of the link alone: it stays behind.
        ip(&format!("addr add 169.254.9.9/16 scope link dev {first}"));
        ip(&format!("link set {first} up"));
        Cable(names)
    }

    fn is_here(&self) -> bool {
        Path::new("/sys/class/net").join(&self.0[0]).exists()
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = Command::new("ip").args(["link", "del", name]).output();
        }
    }
}

/// A network namespace by its name, taken away with the value.
struct Namespace<'a>(&'a str);

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", self.0]).output();
    }
}

#[test]
fn a_device_of_the_network_goes_in_with_its_addresses() {
    let runtime = Runtime::ours();
    let cable = Cable::new('a');
    let device = cable.0[0].as_str();
    runtime.configure(|spec| spec["linux"]["netDevices"] = json!({ device: {"name": "inside0"} }));
    runtime.args(&["sh", "-c", "ip addr show dev inside0"]);
    let shown = runtime.ok(&["run", "one"]);
    assert!(shown.contains(INSIDE) && shown.contains(",UP"), "{shown}");
    assert!(!shown.contains("169.254"), "{shown}");
    // With the container's network the kernel takes away what is virtual, and so the other end.
    oci::wait_until(|| !Path::new("/sys/class/net").join(&cable.0[1]).exists());

    // Without a name it keeps its own; with a number to be found it gets one.
    for (name, expected) in [(json!({}), None), (json!({"name": "net%d"}), Some("net0"))] {
        let cable = Cable::new('b');
        let device = cable.0[0].as_str();
        runtime.configure(|spec| spec["linux"]["netDevices"] = json!({ device: name }));
        let inside = expected.unwrap_or(device);
        runtime.args(&["ip", "addr", "show", "dev", inside]);
        assert!(runtime.ok(&["run", "one"]).contains(INSIDE));
    }
}

#[test]
fn one_that_cannot_go_stays_as_it_was() {
    let runtime = Runtime::ours();
    let cables = [Cable::new('c'), Cable::new('d')];
    let [first, second] = [cables[0].0[0].as_str(), cables[1].0[0].as_str()];
    // Whichever goes first, the other finds its name taken.
    let both = json!({ first: {"name": "same"}, second: {"name": "same"} });
    for (devices, says) in [
        (json!({ first: {"name": "lo"} }), "exists"),
        (json!({ first: {}, "nosuchdevice": {} }), "nosuchdevice"),
        (both, "exists"),
        (json!({ first: {"name": "a/b"} }), "no name of a network device"),
    ] {
        runtime.configure(|spec| spec["linux"]["netDevices"] = devices);
        runtime.refused(&["create", "one"], says);
        assert!(cables.iter().all(Cable::is_here), "{says}");
        for device in [first, second] {
            let shown = ip(&format!("addr show dev {device}"));
            assert!(shown.contains(INSIDE) && shown.contains(",UP"), "{says}: {shown}");
        }
    }
    // What fails when they are inside already brings them back.
    runtime.configure(|spec| spec["linux"]["netDevices"] = json!({ first: {"name": "inside0"} }));
    runtime.args(&["/no/such/program"]);
    runtime.refused(&["create", "one"], "/no/such/program");
    let shown = ip(&format!("addr show dev {first}"));
    assert!(shown.contains(INSIDE) && shown.contains(",UP"), "{shown}");
    runtime.configure(|spec| {
        spec["linux"]["netDevices"] = json!({ first: {} });
        let kept = |one: &serde_json::Value| one["type"] != "network";
        spec["linux"]["namespaces"].as_array_mut().unwrap().retain(kept);
    });
    runtime.refused(&["create", "one"], "shares the host's network");
}

/// Parameters of a device are there when they are set.
#[test]
fn parameters_of_a_device_that_goes_in() {
    let runtime = Runtime::ours();
    for _ in 0..5 {
        let cable = Cable::new('f');
        let device = cable.0[0].as_str();
        runtime.configure(|spec| {
            spec["linux"]["netDevices"] = json!({ device: {"name": "inside0"} });
            spec["linux"]["sysctl"] = json!({"net.ipv4.conf.inside0.rp_filter": "2"});
        });
        runtime.args(&["cat", "/proc/sys/net/ipv4/conf/inside0/rp_filter"]);
        assert_eq!(runtime.ok(&["run", "one"]), "2\n");
    }
}

/// The specification: whoever owns a namespace sees to what is in it.
#[test]
fn in_a_network_that_is_joined_it_stays() {
    let runtime = Runtime::ours();
    let cable = Cable::new('e');
    let device = cable.0[0].as_str();
    let namespace = format!("so{}", std::process::id());
    ip(&format!("netns add {namespace}"));
    let _namespace = Namespace(&namespace);
    runtime.configure(|spec| {
        spec["linux"]["netDevices"] = json!({ device: {} });
        for one in spec["linux"]["namespaces"].as_array_mut().unwrap() {
            if one["type"] == "network" {
                one["path"] = json!(format!("/run/netns/{namespace}"));
            }
        }
    });
    runtime.args(&["true"]);
    runtime.ok(&["run", "one"]);
    let shown = ip(&format!("-n {namespace} addr show dev {device}"));
    assert!(shown.contains(INSIDE) && shown.contains(",UP"), "{shown}");
}

#[test]
fn memory_comes_from_the_nodes_that_are_named() {
    let runtime = Runtime::ours();
    let policy = |policy| runtime.configure(|spec| spec["linux"]["memoryPolicy"] = policy);
    policy(json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}));
    let show = ["head", "-n", "1", "/proc/self/numa_maps"];
    runtime.args(&show);
    let shown = runtime.ok(&["run", "one"]);
    assert!(shown.contains(" bind=static:0 "), "{shown}");
    runtime.args(&["sleep", "1000"]);
    runtime.start_in_the_background("one");
    let shown = runtime.ok(&[&["exec", "one"][..], &show].concat());
    assert!(shown.contains(" bind=static:0 "), "{shown}");
    runtime.ok(&["delete", "--force", "one"]);
    policy(json!({"mode": "MPOL_BIND", "nodes": "1000"}));
    runtime.refused(&["create", "one"], "linux.memoryPolicy MPOL_BIND");
    policy(json!({"mode": "MPOL_BIND", "nodes": "some"}));
    runtime.refused(&["create", "one"], "linux.memoryPolicy.nodes");
}

#[test]
fn a_root_that_is_moved_is_the_root() {
    each(|runtime| {
        fs::write(runtime.dir().join("rootfs/mark"), "").unwrap();
        let look = "ls -d /mark; ls /proc/1/root/mark; cat /proc/self/mountinfo | wc -l; ls -d /../mark";
        runtime.args(&["sh", "-c", look]);
        let pivoted = runtime.ok(&["run", "one"]);
        let moved = runtime.ok(&["run", "--no-pivot", "one"]);
        assert!(moved.starts_with("/mark\n/proc/1/root/mark\n"), "{moved}");
        // Nothing of the host's is seen, nor named.
        assert_eq!(moved, pivoted);
        runtime.args(&["sleep", "1000"]);
        runtime.ok(&["create", "--no-pivot", "one"]);
        runtime.ok(&["start", "one"]);
        assert_eq!(
            runtime.ok(&["exec", "one", "sh", "-c", "cd /; ls -d mark"]),
            "mark\n"
        );
        runtime.ok(&["delete", "--force", "one"]);
    });
}

/// A user namespace may mount a procfs where it sees a whole one, and of the container's parts are hidden. None of the
/// host's is left beneath its root.
#[test]
fn beneath_a_root_that_is_moved_lies_no_procfs() {
    each(|runtime| {
        runtime.configure(|spec| spec["process"]["user"] = json!({"uid": 1000, "gid": 1000}));
        let mounts = "mount -t tmpfs none /tmp && echo tmpfs; mount -t proc none /tmp && echo proc";
        runtime.args(&["unshare", "-U", "-r", "-m", "-p", "-f", "sh", "-c", mounts]);
        for (masked, flags, said) in [
            (json!([]), &["run", "one"][..], "tmpfs\nproc\n"),
            (json!(["/proc/version"]), &["run", "one"], "tmpfs\n"),
            (json!(["/proc/version"]), &["run", "--no-pivot", "one"], "tmpfs\n"),
        ] {
            runtime.configure(|spec| spec["linux"]["maskedPaths"] = masked);
            assert_eq!(runtime.end(flags).out, said, "{flags:?}");
        }
    });
}

/// CVE-2019-5736, where the kernel offers to exchange the file of a program that runs, and then does not do it: the program is
/// executed again, and is left what it was started with.
#[test]
fn who_cannot_go_on_from_a_copy_begins_anew_from_it() {
    // prctl(PR_SET_MM, PR_SET_MM_MAP) is refused, for the thread that takes the filter and what it starts.
    let filter = serde_json::from_value(json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{"names": ["prctl"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [
            {"index": 0, "value": 35, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 14, "op": "SCMP_CMP_EQ"}]}],
    }));
    let filter = runtime::seccomp::compile(&filter.unwrap()).unwrap();
    let runtime = Runtime::ours();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            sys::seccomp::install(&filter, sys::seccomp::Flags::default()).unwrap();
            let script = "echo x 2>/dev/null >/proc/1/exe; readlink /proc/1/exe; echo through >&3";
            runtime.args(&["sh", "-c", script]);
            let through = runtime.path("through");
            let with_three = |words: &[&str]| {
                let call = runtime.command(words);
                let sh = Command::new("sh")
                    .args(["-c", "file=$1; shift; exec \"$@\" 3>$file", "sh", &through])
                    .arg(call.get_program())
                    .args(call.get_args())
                    .current_dir(runtime.dir())
                    .output()
                    .unwrap();
                assert!(sh.status.success(), "{sh:?}");
                assert_eq!(fs::read_to_string(&through).unwrap(), "through\n");
                fs::remove_file(&through).unwrap();
                String::from_utf8(sh.stdout).unwrap()
            };
            let busybox = "/bin/busybox\n";
            assert_eq!(with_three(&["run", "--preserve-fds", "1", "one"]), busybox);
            runtime.args(&["sleep", "1000"]);
            runtime.start_in_the_background("one");
            let call = ["exec", "--preserve-fds", "1", "one", "sh", "-c", script];
            assert_eq!(with_three(&call), busybox);
            runtime.ok(&["kill", "one", "KILL"]);
            wait_until(|| runtime.status("one") == "stopped");
            runtime.ok(&["delete", "one"]);
        });
    });
}

#[test]
fn labels_need_selinux() {
    if Path::new("/sys/fs/selinux/enforce").exists() {
        return;
    }
    each(|runtime| {
        runtime.configure(|spec| spec["process"]["selinuxLabel"] = json!("a:b:c:s0"));
        let says = if runtime.is_ours() { "SELinux" } else { "selinux" };
        runtime.refused(&["create", "one"], says);
    });
    let runtime = Runtime::ours();
    runtime.configure(|spec| spec["linux"]["mountLabel"] = json!("a:b:c:s0"));
    runtime.refused(
        &["create", "one"],
        "linux.mountLabel \"a:b:c:s0\": SELinux is not enabled",
    );
}

#[test]
fn huge_pages_are_limited_while_it_runs() {
    let runtime = Runtime::ours();
    let limits =
        |text: &str| json!({ "hugepageLimits": serde_json::from_str::<serde_json::Value>(text).unwrap() });
    runtime.configure(|spec| {
        spec["linux"]["resources"] =
            limits(r#"[{"pageSize":"2MB","limit":4194304},{"pageSize":"1GB","limit":0}]"#);
    });
    runtime.args(&["sleep", "1000"]);
    runtime.start_in_the_background("one");
    let pid = runtime.state("one")["pid"].to_string();
    let held = |size: &str| {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let place = |line: &str| line.rsplit(':').next().unwrap().to_owned();
        let of = |of: &str| groups.lines().find(|line| line.contains(of)).map(place);
        let unified = of("0::").into_iter().flat_map(|place| {
            ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
                .map(|mount| format!("{mount}{place}/hugetlb.{size}.max"))
        });
        let legacy = of(":hugetlb:")
            .map(|place| format!("/sys/fs/cgroup/hugetlb{place}/hugetlb.{size}.limit_in_bytes"));
        let text = unified
            .chain(legacy)
            .find_map(|path| fs::read_to_string(path).ok());
        text.unwrap_or_else(|| panic!("no limit of {size} in {groups}"))
            .trim()
            .to_owned()
    };
    assert_eq!((held("2MB"), held("1GB")), ("4194304".into(), "0".into()));
    let file = runtime.path("limits.json");
    fs::write(
        &file,
        limits(r#"[{"pageSize":"2MB","limit":8388608}]"#).to_string(),
    )
    .unwrap();
    runtime.ok(&["update", "--resources", &file, "one"]);
    assert_eq!((held("2MB"), held("1GB")), ("8388608".into(), "0".into()));
    runtime.ok(&["delete", "--force", "one"]);
}

/// As podman's `update` and kubelet do, and as containerd reads what a container uses.
#[test]
fn what_had_no_limit_is_counted_and_may_be_limited_while_it_runs() {
    each(|runtime| {
        runtime.args(&["sleep", "1000"]);
        runtime.start_in_the_background("one");
        let pid = runtime.state("one")["pid"].to_string();
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        for line in groups.lines() {
            let [_, controllers, place] = line.splitn(3, ':').collect::<Vec<_>>()[..] else {
                panic!("{line}");
            };
            let counts = |name: &str| controllers.split(',').any(|one| one == name);
            let is_own = place != "/";
            assert!(
                is_own
                    || !["cpu", "cpuacct", "cpuset", "memory", "blkio", "pids"]
                        .iter()
                        .any(|name| counts(name)),
                "{groups}"
            );
        }
        runtime.ok(&["update", "--memory", "33554432", "--pids-limit", "50", "one"]);
        assert_eq!(oci::memory_limit(&pid), 32 << 20);
        runtime.ok(&["exec", "one", "true"]);
        runtime.ok(&["delete", "--force", "one"]);
        // Nothing of it is left.
        for line in groups.lines() {
            let place = line.rsplit(':').next().unwrap();
            let left: Vec<_> = ["cpu", "cpuacct", "cpuset", "memory", "blkio", "pids", "unified"]
                .iter()
                .map(|mount| format!("/sys/fs/cgroup/{mount}{place}"))
                .filter(|path| place != "/" && Path::new(path).exists())
                .collect();
            assert!(left.is_empty(), "{left:?}");
        }
    });
}
