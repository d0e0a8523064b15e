//! Mounts that change what is mounted, and bind mounts with an id mapping of their own.

mod common;

use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use common::*;
use serde_json::{Value, json};

fn with_mount(container: Box, mount: Value) -> Box {
    container.with(|spec| spec["mounts"].as_array_mut().unwrap().push(mount))
}

fn refusal(container: &Box) -> String {
    container.try_run().unwrap_err().to_string()
}

#[test]
fn a_remount_changes_what_it_names() {
    let script = "grep -E ' /(dev/shm|opt) ' /proc/self/mounts | cut -d' ' -f2-4; touch /opt/x 2>&1";
    let temp = tempfile::tempdir().unwrap();
    let bind =
        json!({"destination": "/opt", "type": "bind", "source": temp.path(), "options": ["bind", "nodev"]});
    let container = with_mount(Box::script(script), bind);
    let container = with_mount(
        container,
        json!({"destination": "/opt", "options": ["remount", "bind", "ro", "nosuid"]}),
    );
    let container = with_mount(
        container,
        json!({"destination": "/dev/shm", "type": "tmpfs", "options": ["remount", "exec", "size=8k"]}),
    );
    let output = container.run().stdout;
    let line = |target: &str| output.lines().find(|line| line.starts_with(target)).unwrap();
    let shm = line("/dev/shm");
    assert!(
        shm.contains("rw,nosuid,nodev,relatime,size=8k"),
        "exec was named, and the size: {output}"
    );
    let opt = line("/opt");
    assert!(
        opt.contains(" ro,nosuid,nodev,"),
        "nodev was there before: {output}"
    );
    assert!(output.contains("Read-only file system"), "{output}");
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
}

#[test]
fn a_remount_of_nothing_is_refused() {
    for destination in ["/tmp", "/none"] {
        let mount = json!({"destination": destination, "options": ["remount", "ro"]});
        let text = refusal(&with_mount(Box::new(), mount));
        assert!(
            text.contains(destination) && text.contains("nothing is mounted"),
            "{text}"
        );
    }
    let mount = json!({"destination": "/dev/shm", "type": "tmpfs", "options": ["remount", "colour=red"]});
    let text = refusal(&with_mount(Box::new(), mount));
    assert!(text.contains("/dev/shm") && text.contains("colour"), "{text}");
}

/// A directory of user 1000 and group 1001 with a file of theirs, and one of root.
fn shared() -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    chown(temp.path(), Some(1000), Some(1001)).unwrap();
    std::fs::set_permissions(temp.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    for (name, user, group) in [("theirs", 1000, 1001), ("roots", 0, 0)] {
        let file = temp.path().join(name);
        write(&file, "");
        chown(&file, Some(user), Some(group)).unwrap();
    }
    temp
}

fn owner(path: &Path) -> (u32, u32) {
    let found = path.metadata().unwrap();
    (found.uid(), found.gid())
}

fn map(inside: u32, outside: u32) -> Value {
    json!([{"containerID": inside, "hostID": outside, "size": 1}])
}

#[test]
fn a_bind_mount_has_owners_of_its_own() {
    let temp = shared();
    let script = "stat -c '%n %u:%g' /opt/theirs /opt/roots; touch /opt/new";
    let mount = json!({
        "destination": "/opt", "type": "bind", "source": temp.path(), "options": ["rbind", "idmap"],
        "uidMappings": map(1000, 0), "gidMappings": map(1001, 0),
    });
    let output = with_mount(Box::script(script), mount).output();
    assert_eq!(output, "/opt/theirs 0:0\n/opt/roots 65534:65534\n");
    assert_eq!(owner(&temp.path().join("new")), (1000, 1001));
    assert_eq!(owner(&temp.path().join("theirs")), (1000, 1001));
}

#[test]
fn the_mapping_of_the_user_namespace_is_taken_where_none_is_given() {
    let temp = shared();
    let script = "stat -c '%n %u:%g' /opt/theirs /opt/roots; touch /opt/new";
    let mount = json!({"destination": "/opt", "type": "bind", "source": temp.path(), "options": ["ridmap"]});
    let container = with_mount(Box::script(script), mount).with(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "user"}));
        let map = json!([{"containerID": 0, "hostID": 200_000, "size": 65536}]);
        spec["linux"]["uidMappings"] = map.clone();
        spec["linux"]["gidMappings"] = map;
    });
    for path in ["", "dev", "proc", "sys", "tmp", "etc", "root"] {
        chown(container.inside(path), Some(200_000), Some(200_000)).unwrap();
    }
    let output = container.output();
    assert_eq!(output, "/opt/theirs 1000:1001\n/opt/roots 0:0\n");
    assert_eq!(
        owner(&temp.path().join("new")),
        (0, 0),
        "as on disk, so in the container"
    );
}

#[test]
fn mappings_that_say_nothing_are_refused() {
    let temp = shared();
    let mount = |more: Value| {
        let mut mount = json!({"destination": "/opt", "type": "bind", "source": temp.path(), "options": ["bind", "idmap"]});
        mount
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        refusal(&with_mount(Box::new(), mount))
    };
    for text in [mount(json!({})), mount(json!({"uidMappings": map(0, 1)}))] {
        assert!(text.contains("/opt") && text.contains("gidMappings"), "{text}");
    }
    let text =
        mount(json!({"uidMappings": map(0, 1), "gidMappings": map(0, 1), "type": "tmpfs", "options": []}));
    assert!(text.contains("bind"), "{text}");
}
