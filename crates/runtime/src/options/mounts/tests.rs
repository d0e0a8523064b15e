use super::*;

fn cwd() -> &'static Path {
    Path::new("/home/me")
}

fn bound(value: &str) -> MountOption {
    match mount(value, cwd()).unwrap() {
        Asked::Mount(mount) => mount,
        other => panic!("{other:?}"),
    }
}

#[test]
fn volumes() {
    for (value, source, destination, options) in [
        ("/a:/b", "/a", "/b", "rbind rprivate"),
        ("/a:/b/:ro", "/a", "/b", "rbind ro rro rprivate"),
        ("/a:/b:ro,z,rshared", "/a", "/b", "rbind ro rshared rro"),
        ("/a:/b:ro,bind", "/a", "/b", "ro bind rprivate"),
        ("./x:/b:bind,noexec", "/home/me/./x", "/b", "bind noexec rprivate"),
        (r"/with\:colon:/b", "/with:colon", "/b", "rbind rprivate"),
        ("/a:/b:", "/a", "/b", "rbind rprivate"),
        ("/a:/b:rw,cached,nocopy", "/a", "/b", "rbind rw rprivate"),
    ] {
        let Asked::Mount(mount) = volume(value, cwd()).unwrap() else {
            panic!("{value}");
        };
        assert_eq!(
            mount.kind,
            MountKind::Bind {
                source: source.into()
            },
            "{value}"
        );
        assert_eq!(mount.destination, Path::new(destination), "{value}");
        assert_eq!(mount.options.join(" "), options, "{value}");
        assert_eq!(mount.relabel, value.contains(['z', 'Z']), "{value}");
        assert_eq!(mount.private_label, value.contains('Z'), "{value}");
    }
}

#[test]
fn bad_volumes_are_named() {
    for (value, says) in [
        ("data", "\"data\" is no absolute path"),
        ("-data:/x", "no name of a volume"),
        ("da/ta:/x", "./PATH"),
        ("data:/x:ro,quick", "\"quick\""),
        ("~/data:/x", "$HOME"),
        (":/x", "empty"),
        ("/a:b", "\"b\" is no absolute path"),
        ("/a:/", "root"),
        ("/a:/b:quick", "\"quick\""),
        ("/a:/b:ro,rw", "ro and rw exclude"),
        ("/a:/b:shared,rslave", "shared and rslave exclude"),
        ("/a:/b:ro:z", "4 parts"),
        ("/a:/b:U", "owner"),
    ] {
        let error = volume(value, cwd()).unwrap_err().to_string();
        assert!(
            error.contains(says) && error.starts_with("--volume"),
            "{value}: {error}"
        );
    }
}

#[test]
fn volumes_with_and_without_a_name() {
    for (value, name, copy, options) in [
        ("/data", None, true, "rbind rprivate"),
        ("data:/data", Some("data"), true, "rbind rprivate"),
        (
            "d.a-t_a:/data:ro,nocopy",
            Some("d.a-t_a"),
            false,
            "rbind ro rro rprivate",
        ),
        ("data:/data:noexec,z", Some("data"), true, "rbind noexec rprivate"),
    ] {
        let Asked::Volume(found) = volume(value, cwd()).unwrap() else {
            panic!("{value}");
        };
        assert_eq!((found.name.as_deref(), found.copy), (name, copy), "{value}");
        assert_eq!(found.destination, Path::new("/data"), "{value}");
        assert_eq!(found.options.join(" "), options, "{value}");
    }
    for (value, name) in [
        ("type=volume,source=data,target=/data,readonly", Some("data")),
        (
            "target=/data,volume-nocopy,volume-label=a=b,volume-driver=local",
            None,
        ),
    ] {
        let Asked::Volume(found) = mount(value, cwd()).unwrap() else {
            panic!("{value}");
        };
        assert_eq!((found.name.as_deref(), found.read_only()), (name, name.is_some()));
        assert_eq!(
            (found.copy, found.labels.len()),
            (name.is_some(), usize::from(name.is_none()))
        );
    }
}

#[test]
fn mounts() {
    for (value, options) in [
        ("type=bind,source=/a,target=/b", "rbind rprivate"),
        ("type=bind,src=/a,dst=/b,readonly", "rbind ro rro rprivate"),
        (
            "type=bind,src=/a,destination=/b,ro=false,bind-propagation=rslave",
            "rbind rw rslave",
        ),
        ("type=bind,source=/a,target=/b,bind-nonrecursive", "bind rprivate"),
        (
            "type=bind,source=/a,target=/b,readonly,bind-recursive=readonly",
            "rbind ro rro rprivate",
        ),
        (
            "type=bind,source=/a,target=/b,readonly,bind-recursive=writable",
            "ro rbind rprivate",
        ),
        (
            "type=bind,source=/a,target=/b,consistency=cached,relabel=shared",
            "rbind rprivate",
        ),
    ] {
        let mount = bound(value);
        assert_eq!(mount.kind, MountKind::Bind { source: "/a".into() }, "{value}");
        assert_eq!(mount.options.join(" "), options, "{value}");
    }
    let quoted = bound(r#"type=bind,"source=/a,b",target=/c"#);
    assert_eq!(
        quoted.kind,
        MountKind::Bind {
            source: "/a,b".into()
        }
    );
    let relative = bound("type=bind,source=./x,target=/c");
    let MountKind::Bind { source } = relative.kind else {
        panic!("{:?}", relative.kind);
    };
    assert_eq!(source.as_os_str(), "/home/me/x");
    let copied = bound("type=tmpfs,target=/t,tmpcopyup");
    assert_eq!(copied.options[0], "tmpcopyup");
    let scratch = bound("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770,exec");
    assert_eq!(scratch.kind, MountKind::Tmpfs);
    assert_eq!(
        scratch.options.join(" "),
        "exec size=1048576 mode=1770 nosuid nodev"
    );
}

#[test]
fn bad_mounts_are_named() {
    for (value, says) in [
        ("type=bind,source=/a", "target is missing"),
        ("type=bind,target=/a", "source is missing"),
        ("source=/a,target=/b", "type=bind"),
        ("type=volume,source=a,target=/b,tmpfs-size=1m", "type=tmpfs"),
        ("type=volume,source=a,target=/b,bind-nonrecursive", "type=bind"),
        (
            "type=volume,source=a,target=/b,volume-subpath=x",
            "volume-subpath",
        ),
        ("type=volume,source=a,target=/b,volume-driver=nfs", "local"),
        ("type=bind,source=/a,target=/b,volume-nocopy", "type=volume"),
        ("type=nfs,target=/b", "\"nfs\""),
        (
            "type=bind,source=/a,target=/b,bind-propagation=up",
            "\"up\" is none of",
        ),
        ("type=bind,source=/a,target=/b,color=red", "\"color\""),
        ("type=bind,source=/a,target=/b,readonly=maybe", "\"maybe\""),
        (
            "type=bind,source=/a,target=/b,tmpfs-size=1m",
            "belongs to type=tmpfs",
        ),
        (
            "type=bind,source=/a,target=/b,notmpcopyup",
            "belongs to type=tmpfs",
        ),
        ("type=image,source=a,target=/b", "no images"),
        ("type=bind,source=/a,target=/b,U", "--user"),
        ("type=tmpfs,source=/a,target=/b", "no source"),
        (
            "type=tmpfs,target=/b,bind-propagation=shared",
            "belongs to type=bind",
        ),
        ("type=tmpfs,target=/b,tmpfs-mode=999", "octal"),
        ("type=tmpfs,target=b", "absolute"),
        ("type=,target=/b", "type needs a value"),
        ("type=bind,\"source=/a", "quote"),
    ] {
        let error = mount(value, cwd()).unwrap_err().to_string();
        assert!(error.contains(says), "{value}: {error}");
    }
}

#[test]
fn tmpfses() {
    for (value, options) in [
        ("/x", "noexec nosuid nodev"),
        (
            "/x:size=64m,mode=700",
            "size=67108864 mode=700 noexec nosuid nodev",
        ),
        ("/x:size=50%,exec,dev,suid", "size=50% exec dev suid"),
        (
            "/x:ro,uid=5,gid=6,nr_inodes=10k",
            "ro uid=5 gid=6 nr_inodes=10k noexec nosuid nodev",
        ),
    ] {
        assert_eq!(tmpfs(value).unwrap().options.join(" "), options, "{value}");
    }
    for (value, says) in [
        ("x", "absolute"),
        ("/x:size=big", "\"big\""),
        ("/x:mode=", "no value"),
        ("/x:uid=1k", "uid"),
        ("/x:huge=always", "\"huge=always\""),
        ("/x:exec,noexec", "exclude"),
    ] {
        let error = tmpfs(value).unwrap_err().to_string();
        assert!(error.contains(says), "{value}: {error}");
    }
}
