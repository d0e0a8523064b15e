//! What becomes of options, image and defaults.

use std::collections::{BTreeMap, BTreeSet};

use oci_spec::runtime::{LinuxDeviceCgroup, Mount};

use super::*;
use crate::options::container::{ResourceOptions, SeccompChoice, Unmask};
use crate::options::namespaces::Joined;
use crate::options::security::CapabilityOption;
use crate::options::{devices, limits, mounts, security};
use crate::seccomp::Abi;

mod rights;

fn host() -> Host {
    Host {
        capabilities: [
            "CHOWN",
            "DAC_OVERRIDE",
            "FOWNER",
            "FSETID",
            "KILL",
            "NET_BIND_SERVICE",
            "SETFCAP",
            "SETGID",
        ]
        .iter()
        .chain(&[
            "SETPCAP",
            "SETUID",
            "SYS_CHROOT",
            "SYS_ADMIN",
            "NET_RAW",
            "AUDIT_WRITE",
        ])
        .map(|name| name.parse().unwrap())
        .collect(),
        kernel: (6, 1),
        abi: Some(Abi::X86_64),
        counts_swap: Some(true),
        counts_processes: Some(false),
        cpus: Some(2),
        ids: None,
        cgroup_parent: None,
        thermal: vec!["/sys/devices/system/cpu/cpu0/thermal_throttle".to_owned()],
    }
}

fn root() -> ExecUser {
    ExecUser {
        uid: 0,
        gid: 0,
        groups: vec![],
        home: "/root".to_owned(),
    }
}

fn image(json: &str) -> Config {
    serde_json::from_str(json).unwrap()
}

fn build_with(
    options: &ContainerOptions,
    image: Option<&Config>,
    user: &ExecUser,
) -> Result<Spec, SpecError> {
    let host = host();
    let files = [("/run/x/hosts".into(), "/etc/hosts".into())];
    let context = Context {
        id: "abc",
        image,
        user,
        host: &host,
        hostname: Some("abc123"),
        files: &files,
        confinement: &Confinement::default(),
    };
    build(options, &context)
}

/// With a command, so that there is something to run.
fn options() -> ContainerOptions {
    ContainerOptions {
        command: vec!["sh".to_owned()],
        ..ContainerOptions::default()
    }
}

fn spec(options: &ContainerOptions) -> Spec {
    build_with(options, None, &root()).unwrap()
}

fn refusal(options: &ContainerOptions) -> String {
    build_with(options, None, &root()).unwrap_err().to_string()
}

fn linux(spec: &Spec) -> &Linux {
    spec.linux().as_ref().unwrap()
}

fn process(spec: &Spec) -> &Process {
    spec.process().as_ref().unwrap()
}

fn mount_at<'a>(spec: &'a Spec, path: &str) -> Option<&'a Mount> {
    spec.mounts()
        .iter()
        .flatten()
        .find(|mount| mount.destination() == Path::new(path))
}

fn words(mount: Option<&Mount>) -> String {
    mount
        .and_then(|mount| mount.options().clone())
        .unwrap_or_default()
        .join(",")
}

fn caps(set: &Option<Capabilities>) -> BTreeSet<String> {
    set.iter().flatten().map(ToString::to_string).collect()
}

/// What `-v` makes of a directory of the host.
fn bind(value: &str) -> mounts::MountOption {
    match mounts::volume(value, Path::new("/")) {
        Ok(mounts::Asked::Mount(mount)) => mount,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_container_that_asks_for_nothing() {
    let spec = spec(&options());
    assert_eq!(spec.version(), "1.0.2");
    assert_eq!(spec.root().as_ref().unwrap().path(), Path::new("rootfs"));
    assert_eq!(spec.root().as_ref().unwrap().readonly(), Some(false));
    assert_eq!(spec.hostname().as_deref(), Some("abc123"));
    let process = process(&spec);
    assert_eq!(process.args().as_deref(), Some(["sh".to_owned()].as_slice()));
    assert_eq!(process.cwd(), Path::new("/"));
    assert_eq!(
        process.env().as_ref().unwrap().join(" "),
        format!(
            "PATH={} container=strata HOSTNAME=abc123 HOME=/root",
            defaults::PATH
        )
    );
    assert_eq!(process.no_new_privileges(), Some(false));
    assert!(process.rlimits().is_none());
    let sets = process.capabilities().as_ref().unwrap();
    assert_eq!(caps(sets.bounding()).len(), 11);
    assert_eq!(caps(sets.effective()), caps(sets.bounding()));
    assert!(caps(sets.inheritable()).is_empty() && caps(sets.ambient()).is_empty());

    let linux = linux(&spec);
    let kinds: BTreeMap<String, bool> = linux
        .namespaces()
        .iter()
        .flatten()
        .map(|ns| (ns.typ().to_string(), ns.path().is_some()))
        .collect();
    let expected = ["cgroup", "ipc", "mnt", "net", "pid", "uts"].map(|kind| (kind.to_owned(), false));
    assert_eq!(kinds, BTreeMap::from(expected));
    assert_eq!(linux.cgroups_path().as_deref(), Some(Path::new("/strata/abc")));
    assert!(linux.seccomp().is_some());
    assert!(linux.uid_mappings().is_none() && linux.devices().is_none());
    let resources = linux.resources().as_ref().unwrap();
    assert!(resources.memory().is_none() && resources.cpu().is_none() && resources.pids().is_none());
    let rules = resources.devices().as_ref().unwrap();
    assert_eq!(rules[0].to_string(), "a *:* rwm");
    assert!(!rules[0].allow() && rules[1..].iter().all(LinuxDeviceCgroup::allow));
    let masked = linux.masked_paths().as_ref().unwrap();
    for path in [
        "/proc/kcore",
        "/proc/interrupts",
        "/sys/devices/virtual/powercap",
        "/sys/firmware",
    ] {
        assert!(masked.iter().any(|masked| masked == path), "{path}");
    }
    assert!(masked.iter().any(|path| path.ends_with("thermal_throttle")));
    assert!(
        linux
            .readonly_paths()
            .as_ref()
            .unwrap()
            .contains(&"/proc/sys".to_owned())
    );
    let sysctl = linux.sysctl().as_ref().unwrap();
    assert_eq!(sysctl["net.ipv4.ip_unprivileged_port_start"], "0");

    let places: Vec<_> = spec
        .mounts()
        .iter()
        .flatten()
        .map(|m| m.destination().to_string_lossy())
        .collect();
    let expected = [
        "/proc",
        "/dev",
        "/dev/pts",
        "/dev/shm",
        "/dev/mqueue",
        "/sys",
        "/sys/fs/cgroup",
        "/etc/hosts",
    ];
    assert_eq!(places, expected);
    assert!(words(mount_at(&spec, "/dev/shm")).ends_with("size=67108864"));
    assert_eq!(words(mount_at(&spec, "/sys")), "nosuid,noexec,nodev,ro");
    assert_eq!(words(mount_at(&spec, "/etc/hosts")), "rbind,rw,rprivate");
    // What is written is what is read again.
    let text = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<Spec>(&text).unwrap(), spec);
}

#[test]
fn commands() {
    let image = image(r#"{"Entrypoint": ["/entry", "-x"], "Cmd": ["arg"]}"#);
    let args = |entrypoint: Option<&[&str]>, command: &[&str], image: Option<&Config>| {
        let strings = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let options = ContainerOptions {
            entrypoint: entrypoint.map(strings),
            command: strings(command),
            ..ContainerOptions::default()
        };
        let spec = build_with(&options, image, &root())?;
        Ok::<_, SpecError>(process(&spec).args().clone().unwrap().join(" "))
    };
    assert_eq!(args(None, &[], Some(&image)).unwrap(), "/entry -x arg");
    assert_eq!(args(None, &["other"], Some(&image)).unwrap(), "/entry -x other");
    assert_eq!(args(Some(&["/mine"]), &[], Some(&image)).unwrap(), "/mine");
    assert_eq!(
        args(Some(&["/mine"]), &["a", "b"], Some(&image)).unwrap(),
        "/mine a b"
    );
    assert_eq!(args(Some(&[]), &["a"], Some(&image)).unwrap(), "a");
    // Docker's meaning of an empty one: the image's entry point goes, and its command with it.
    let error = args(Some(&[]), &[], Some(&image)).unwrap_err().to_string();
    assert!(
        error.starts_with("no command: an empty --entrypoint takes"),
        "{error}"
    );
    let error = args(None, &[], None).unwrap_err().to_string();
    assert!(error.contains("without an image"), "{error}");
    let none = self::image("{}");
    let error = args(None, &[], Some(&none)).unwrap_err().to_string();
    assert!(error.contains("the image has none"), "{error}");
}

#[test]
fn environment_user_and_place() {
    let image = image(
        r#"{"Env": ["PATH=/opt/bin", "A=image", "B=image", "ODD"], "WorkingDir": "srv", "User": "web:web", "StopSignal": "SIGQUIT"}"#,
    );
    let mut asked = options();
    asked.env = vec![
        ("A".into(), Some("user".into())),
        ("B".into(), None),
        ("NONE".into(), None),
    ];
    asked.tty = true;
    let web = ExecUser {
        uid: 33,
        gid: 34,
        groups: vec![4],
        home: "/var/www".to_owned(),
    };
    let spec = build_with(&asked, Some(&image), &web).unwrap();
    let env = process(&spec).env().as_ref().unwrap().join(" ");
    assert_eq!(
        env,
        "PATH=/opt/bin container=strata TERM=xterm HOSTNAME=abc123 HOME=/var/www A=user ODD="
    );
    assert_eq!(process(&spec).cwd(), Path::new("/srv"));
    assert_eq!(process(&spec).user().uid(), 33);
    assert_eq!(
        process(&spec).user().additional_gids().as_deref(),
        Some([34, 4].as_slice())
    );
    assert_eq!(
        spec.annotations().as_ref().unwrap()[STOP_SIGNAL_ANNOTATION],
        "SIGQUIT"
    );
    assert_eq!(wanted_user(&asked, Some(&image)), "web:web");
    asked.user = Some("5".to_owned());
    asked.workdir = Some("/w".to_owned());
    asked.stop_signal = Some(2);
    asked.init = true;
    assert_eq!(wanted_user(&asked, Some(&image)), "5");
    let spec = build_with(&asked, Some(&image), &web).unwrap();
    assert_eq!(process(&spec).cwd(), Path::new("/w"));
    let annotations = spec.annotations().as_ref().unwrap();
    assert_eq!(
        (
            annotations[STOP_SIGNAL_ANNOTATION].as_str(),
            annotations[crate::INIT_ANNOTATION].as_str()
        ),
        ("2", "true")
    );
}

#[test]
fn namespaces_of_others() {
    let mut asked = options();
    asked.pid = NamespaceOption::Host;
    asked.network = NamespaceOption::Host;
    asked.uts = NamespaceOption::Host;
    asked.ipc = NamespaceOption::Joined(Joined {
        path: "/proc/7/ns/ipc".into(),
        root: Some("/proc/7/root".into()),
    });
    let spec = spec(&asked);
    let kinds: Vec<_> = linux(&spec)
        .namespaces()
        .iter()
        .flatten()
        .map(|ns| ns.typ().to_string())
        .collect();
    assert_eq!(kinds, ["mnt", "cgroup", "ipc"]);
    assert_eq!(
        linux(&spec).namespaces().as_ref().unwrap()[2].path().as_deref(),
        Some(Path::new("/proc/7/ns/ipc"))
    );
    assert_eq!(spec.hostname().as_deref(), None);
    assert!(
        linux(&spec).sysctl().is_none(),
        "the host's network is not ours to set"
    );
    let shm = mount_at(&spec, "/dev/shm");
    assert_eq!(
        shm.unwrap().source().as_deref(),
        Some(Path::new("/proc/7/root/dev/shm"))
    );
    assert_eq!(words(shm), "rbind,nosuid,noexec,nodev");
    asked.ipc = NamespaceOption::Host;
    let spec = self::spec(&asked);
    assert_eq!(
        mount_at(&spec, "/dev/shm").unwrap().source().as_deref(),
        Some(Path::new("/dev/shm"))
    );
    assert_eq!(
        mount_at(&spec, "/dev/mqueue").unwrap().typ().as_deref(),
        Some("mqueue"),
        "a new one shows the namespace's own queues, and the host may have none mounted"
    );
    asked.shm_size = Some(5);
    assert!(refusal(&asked).contains("--shm-size and --ipc"));
    asked.shm_size = None;
    asked.hostname = Some("x".to_owned());
    assert!(refusal(&asked).contains("--hostname and --uts"));
}

#[test]
fn mounts_of_the_user() {
    let mut asked = options();
    asked.mounts = vec![
        bind("/a:/data/deep/er:ro"),
        bind("/b:/data:rslave"),
        mounts::tmpfs("/dev/shm:size=1m").unwrap(),
        bind("/c:/etc/hosts"),
    ];
    let spec = spec(&asked);
    let places: Vec<_> = spec
        .mounts()
        .iter()
        .flatten()
        .map(|m| m.destination().to_string_lossy())
        .collect();
    assert_eq!(
        places,
        [
            "/proc",
            "/dev",
            "/dev/pts",
            "/dev/mqueue",
            "/sys",
            "/sys/fs/cgroup",
            "/data",
            "/dev/shm",
            "/etc/hosts",
            "/data/deep/er"
        ]
    );
    assert_eq!(words(mount_at(&spec, "/data/deep/er")), "rbind,ro,rro,rprivate");
    assert_eq!(linux(&spec).rootfs_propagation().as_deref(), Some("rslave"));

    asked.mounts = vec![bind("/dev:/dev")];
    let spec = self::spec(&asked);
    let below_dev = spec
        .mounts()
        .iter()
        .flatten()
        .filter(|m| m.destination().starts_with("/dev"))
        .count();
    assert_eq!(below_dev, 1, "the host's /dev is not covered again");

    asked.mounts = vec![bind("/a:/etc")];
    let spec = self::spec(&asked);
    let mounts = spec.mounts().as_deref().unwrap();
    let place = |path| {
        mounts
            .iter()
            .position(|mount| mount.destination() == Path::new(path))
    };
    assert!(place("/etc") < place("/etc/hosts"), "it does not hide ours");

    asked.mounts = vec![mounts::tmpfs("/x").unwrap(), bind("/a:/x")];
    assert!(refusal(&asked).contains("two mounts at \"/x\""));
    asked.mounts.clear();
    asked.read_only = true;
    let spec = self::spec(&asked);
    assert_eq!(spec.root().as_ref().unwrap().readonly(), Some(true));
    assert_eq!(words(mount_at(&spec, "/etc/hosts")), "rbind,ro,rprivate");
}

#[test]
fn limits_and_devices() {
    let mut asked = options();
    asked.resources.memory = Some(limits::memory("64m").unwrap());
    asked.resources.cpu_quota = Some(limits::cpus("1.5").unwrap());
    asked.resources.pids_limit = Some(limits::pids_limit("10").unwrap());
    asked.cgroup_parent = Some("/batch".to_owned());
    asked.ulimits = ["nofile=1:2", "core=0", "nofile=3:4"]
        .map(|text| limits::ulimit(text).unwrap())
        .to_vec();
    asked.devices = vec![devices::device("/dev/null:/dev/x:r").unwrap()];
    asked.shm_size = Some(4096);
    let spec = spec(&asked);
    let linux = linux(&spec);
    let resources = linux.resources().as_ref().unwrap();
    let memory = resources.memory().as_ref().unwrap();
    assert_eq!((memory.limit(), memory.swap()), (Some(64 << 20), Some(128 << 20)));
    let cpu = resources.cpu().as_ref().unwrap();
    assert_eq!((cpu.quota(), cpu.period()), (Some(150_000), Some(100_000)));
    assert_eq!(resources.pids().unwrap().limit(), 10);
    assert_eq!(linux.cgroups_path().as_deref(), Some(Path::new("/batch/abc")));
    assert_eq!(
        resources.devices().as_ref().unwrap().last().unwrap().to_string(),
        "c 1:3 r"
    );
    assert_eq!(linux.devices().as_ref().unwrap()[0].path(), Path::new("/dev/x"));
    let limits: Vec<_> = process(&spec)
        .rlimits()
        .iter()
        .flatten()
        .map(|l| (l.typ().to_string(), l.soft(), l.hard()))
        .collect();
    assert_eq!(
        limits,
        [
            ("RLIMIT_CORE".to_owned(), 0, 0),
            ("RLIMIT_NOFILE".to_owned(), 3, 4)
        ]
    );
    assert!(words(mount_at(&spec, "/dev/shm")).ends_with("size=4096"));

    for (memory, swap, reservation, says) in [
        (Some(100), Some(50), None, "--memory-swap: it counts"),
        (None, Some(50), None, "--memory-swap: it needs --memory"),
        (Some(100), None, Some(200), "--memory-reservation"),
    ] {
        asked.resources.memory = memory;
        asked.resources.memory_swap = swap;
        asked.resources.memory_reservation = reservation;
        assert!(refusal(&asked).contains(says), "{says}");
    }
    // No more than there are; docker's words.
    asked.resources = ResourceOptions::default();
    for (cpus, fits) in [("2", true), ("2.01", false), ("100", false)] {
        asked.resources.cpu_quota = Some(limits::cpus(cpus).unwrap());
        match fits {
            true => drop(self::spec(&asked)),
            false => assert!(
                refusal(&asked).contains("--cpus: this machine has 2 CPUs: the range is from 0.01 to 2")
            ),
        }
    }
    asked = options();
    asked.devices = vec![devices::device("/no/device").unwrap()];
    assert!(refusal(&asked).contains("/no/device"));
}

#[test]
fn processes_are_limited_where_they_are_counted() {
    let host = Host {
        counts_processes: Some(true),
        ..host()
    };
    for (limit, expected) in [(None, Some(2048)), (Some(-1), None), (Some(7), Some(7))] {
        let mut asked = ContainerOptions::default();
        asked.resources.pids_limit = limit;
        let limits = resources::limits(&asked, &host).unwrap();
        assert_eq!(limits.pids().map(|pids| pids.limit()), expected);
    }
}
