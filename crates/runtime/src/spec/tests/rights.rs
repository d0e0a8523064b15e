//! What a container may do.

use super::*;

fn linux_seccomp(spec: &Spec) -> &oci_spec::runtime::LinuxSeccomp {
    linux(spec).seccomp().as_ref().unwrap()
}

#[test]
fn capabilities_come_and_go() {
    let with = |add: &[&str], drop: &[&str]| {
        let parse = |flag, list: &[&str]| {
            list.iter()
                .map(|name| security::capability(flag, name).unwrap())
                .collect()
        };
        let mut options = options();
        options.cap_add = parse("--cap-add", add);
        options.cap_drop = parse("--cap-drop", drop);
        options
    };
    let bounding = |options: &ContainerOptions| {
        caps(
            process(&spec(options))
                .capabilities()
                .as_ref()
                .unwrap()
                .bounding(),
        )
    };
    assert_eq!(bounding(&with(&[], &["all"])).len(), 0);
    assert_eq!(
        bounding(&with(&["net_raw"], &["all"])),
        ["NET_RAW".to_owned()].into()
    );
    assert_eq!(bounding(&with(&["NET_RAW"], &["CHOWN"])).len(), 11);
    assert_eq!(bounding(&with(&["ALL"], &[])).len(), host().capabilities.len());
    assert_eq!(
        bounding(&with(&["ALL"], &["SYS_ADMIN"])).len(),
        host().capabilities.len() - 1
    );
    assert!(refusal(&with(&["SYS_TIME"], &[])).contains("SYS_TIME"));
    assert!(refusal(&with(&["CHOWN"], &["CHOWN"])).contains("exclude"));

    // Without root only those named are held, and survive a start.
    let web = ExecUser {
        uid: 33,
        gid: 33,
        groups: vec![],
        home: "/".to_owned(),
    };
    let spec = build_with(&with(&["NET_RAW"], &[]), None, &web).unwrap();
    let sets = process(&spec).capabilities().as_ref().unwrap();
    assert_eq!(caps(sets.bounding()).len(), 12);
    for set in [
        sets.effective(),
        sets.permitted(),
        sets.inheritable(),
        sets.ambient(),
    ] {
        assert_eq!(caps(set), ["NET_RAW".to_owned()].into());
    }
}

#[test]
fn privileged_is_everything() {
    let mut asked = options();
    asked.privileged = true;
    let spec = spec(&asked);
    let linux = linux(&spec);
    assert!(linux.seccomp().is_none());
    assert_eq!(linux.masked_paths().as_deref(), Some([].as_slice()));
    assert_eq!(linux.readonly_paths().as_deref(), Some([].as_slice()));
    let rules = linux.resources().as_ref().unwrap().devices().as_ref().unwrap();
    assert!(rules.len() == 1 && rules[0].allow());
    assert!(
        linux
            .devices()
            .iter()
            .flatten()
            .any(|device| device.path() == Path::new("/dev/null"))
    );
    assert!(!words(mount_at(&spec, "/sys")).contains("ro"));
    let sets = process(&spec).capabilities().as_ref().unwrap();
    assert_eq!(caps(sets.effective()).len(), host().capabilities.len());

    // A profile that was named holds all the same.
    asked.apparmor = Some("mine".to_owned());
    assert_eq!(
        process(&self::spec(&asked)).apparmor_profile().as_deref(),
        Some("mine")
    );
    asked.apparmor = None;
    assert_eq!(confined(&asked), None);

    asked.seccomp = SeccompChoice::Always;
    asked.cap_drop = vec![CapabilityOption::One(Capability::SysAdmin)];
    let spec = self::spec(&asked);
    let seccomp = linux_seccomp(&spec);
    let withheld = seccomp
        .syscalls()
        .as_ref()
        .unwrap()
        .iter()
        .find(|rule| rule.errno_ret() == Some(1))
        .unwrap();
    assert!(
        withheld.names().contains(&"mount".to_owned()),
        "the filter follows the capabilities"
    );
}

/// The profile of a container on a machine where there is one unasked.
fn confined(asked: &ContainerOptions) -> Option<String> {
    let (host, user) = (host(), root());
    let context = Context {
        id: "abc",
        image: None,
        user: &user,
        host: &host,
        hostname: None,
        files: &[],
        confinement: &Confinement {
            apparmor: Some("usual".to_owned()),
            labels: Some(Labels {
                process: "a:b:c:s0:c1,c2".to_owned(),
                files: "a:b:d:s0:c1,c2".to_owned(),
            }),
        },
    };
    let spec = build(asked, &context).unwrap();
    assert_eq!(process(&spec).selinux_label().as_deref(), Some("a:b:c:s0:c1,c2"));
    assert_eq!(linux(&spec).mount_label().as_deref(), Some("a:b:d:s0:c1,c2"));
    process(&spec).apparmor_profile().clone()
}

#[test]
fn a_profile_is_the_usual_one_unless_another_is_asked_for() {
    let mut asked = options();
    assert_eq!(confined(&asked).as_deref(), Some("usual"));
    for (profile, expected) in [("mine", Some("mine")), ("unconfined", None)] {
        asked.apparmor = Some(profile.to_owned());
        assert_eq!(confined(&asked).as_deref(), expected);
    }
}

#[test]
fn security_options() {
    let mut asked = options();
    asked.no_new_privileges = true;
    asked.seccomp = SeccompChoice::Unconfined;
    asked.mask = vec!["/secret".to_owned()];
    asked.unmask = Unmask::Paths(vec![
        "/proc/sys".to_owned(),
        "/sys".to_owned(),
        "/proc/ac".to_owned(),
    ]);
    asked.apparmor = Some("mine".to_owned());
    let spec = spec(&asked);
    assert_eq!(process(&spec).no_new_privileges(), Some(true));
    assert_eq!(process(&spec).apparmor_profile().as_deref(), Some("mine"));
    let linux = linux(&spec);
    assert!(linux.seccomp().is_none());
    let masked = linux.masked_paths().as_ref().unwrap();
    assert!(masked.contains(&"/secret".to_owned()) && masked.contains(&"/proc/acpi".to_owned()));
    assert!(!masked.iter().any(|path| path.starts_with("/sys/")));
    assert!(
        !linux
            .readonly_paths()
            .as_ref()
            .unwrap()
            .contains(&"/proc/sys".to_owned())
    );

    asked.seccomp = SeccompChoice::Profile {
        path: "/p.json".into(),
        text: r#"{"defaultAction": "SCMP_ACT_LOG"}"#.into(),
    };
    let spec = self::spec(&asked);
    assert_eq!(
        linux_seccomp(&spec).default_action(),
        oci_spec::runtime::LinuxSeccompAction::ScmpActLog
    );
    asked.seccomp = SeccompChoice::Profile {
        path: "/p.json".into(),
        text: "no".into(),
    };
    assert!(refusal(&asked).starts_with("--security-opt seccomp=/p.json: not a seccomp profile"));
}

#[test]
fn an_unknown_machine_has_no_filter_in_silence() {
    let host = Host { abi: None, ..host() };
    let user = root();
    let context = Context {
        id: "abc",
        image: None,
        user: &user,
        host: &host,
        hostname: None,
        files: &[],
        confinement: &Confinement::default(),
    };
    let mut asked = options();
    assert!(
        build(&asked, &context)
            .unwrap_err()
            .to_string()
            .contains("seccomp=unconfined")
    );
    asked.seccomp = SeccompChoice::Unconfined;
    build(&asked, &context).unwrap();
}

#[test]
fn kernel_parameters() {
    let with = |key: &str, ipc: NamespaceOption, network: NamespaceOption| {
        let mut options = options();
        options.sysctls = vec![(key.to_owned(), "1".to_owned())];
        (options.ipc, options.network) = (ipc, network);
        options
    };
    use NamespaceOption::{Host, Private};
    let set = spec(&with("net.ipv4.ip_unprivileged_port_start", Private, Private));
    assert_eq!(
        linux(&set).sysctl().as_ref().unwrap()["net.ipv4.ip_unprivileged_port_start"],
        "1"
    );
    spec(&with("kernel.sem", Private, Private));
    spec(&with("fs.mqueue.msg_max", Private, Private));
    for (options, says) in [
        (with("net.core.somaxconn", Private, Host), "network namespace"),
        (with("kernel.sem", Host, Private), "IPC namespace"),
        (with("kernel.hostname", Private, Private), "--hostname"),
        (with("vm.swappiness", Private, Private), "whole machine"),
    ] {
        assert!(refusal(&options).contains(says), "{says}");
    }
}
