//! `spec`: a configuration to begin with.

use serde_json::{Value, json};

use crate::spec::{MASKED, READONLY};

/// A shell at a terminal, in a root file system beside the configuration, which it may not write to; with `rootless` in a user
/// namespace where the caller alone is, and in the host's network. It says what runc's says, but for a cgroup namespace and
/// more that is hidden.
pub fn default_spec(rootless: bool) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mut spec = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "strata",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "cgroup"},
            ],
            "maskedPaths": MASKED,
            "readonlyPaths": READONLY,
        },
    });
    if rootless {
        let caller = |number: u32| json!([{"containerID": 0, "hostID": number, "size": 1}]);
        // There is no second group, and a new sysfs is of one's own network alone.
        spec["mounts"][2]["options"] =
            json!(["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]);
        spec["mounts"][5] = json!({"destination": "/sys", "type": "none", "source": "/sys",
            "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]});
        let linux = &mut spec["linux"];
        linux["uidMappings"] = caller(rustix::process::geteuid().as_raw());
        linux["gidMappings"] = caller(rustix::process::getegid().as_raw());
        linux["namespaces"][1] = json!({"type": "user"});
        // Without a cgroup of the caller's no limit holds.
        linux["resources"] = Value::Null;
    }
    spec
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::Spec;

    use super::*;

    #[test]
    fn it_is_a_configuration() {
        for rootless in [false, true] {
            let text = default_spec(rootless).to_string();
            let spec: Spec = serde_json::from_str(&text).unwrap();
            assert_eq!(spec.hostname().as_deref(), Some("strata"));
            let linux = spec.linux().as_ref().unwrap();
            assert_eq!(linux.resources().is_none(), rootless);
            assert_eq!(linux.uid_mappings().is_some(), rootless);
        }
    }
}
