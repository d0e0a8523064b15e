//! `--cap-add`, `--cap-drop`, `--security-opt`, `--sysctl`: rights.

use std::path::PathBuf;

use oci_spec::runtime::Capability;
use serde::{Deserialize, Serialize};

use super::{Flag, Result, boolean};

/// One `--cap-add` or `--cap-drop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CapabilityOption {
    /// Every one there is.
    All,
    /// This one.
    One(Capability),
}

/// Parses `--cap-add` or `--cap-drop` (give the flag's name): a capability with or without `CAP_`, in either case,
/// or `ALL`.
///
/// # Errors
/// A name that is no capability.
pub fn capability(name: &'static str, value: &str) -> Result<CapabilityOption> {
    let upper = value.trim().to_ascii_uppercase();
    let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if plain == "ALL" {
        return Ok(CapabilityOption::All);
    }
    let flag = Flag::new(
        name,
        value,
        "write the name of a capability, as NET_ADMIN, or ALL; capabilities(7) lists them",
    );
    let known = plain
        .parse()
        .map_err(|_| flag.wrong(format!("{value:?} is no capability")))?;
    Ok(CapabilityOption::One(known))
}

/// One `--security-opt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecurityOption {
    /// `no-new-privileges[=BOOL]`: set-user-ID programs and file capabilities give nothing.
    NoNewPrivileges(bool),
    /// `seccomp=unconfined`: no filter.
    SeccompUnconfined,
    /// `seccomp=builtin` (or `default`): strata's default filter, also for a privileged container.
    SeccompDefault,
    /// `seccomp=FILE`: a profile in docker's format.
    SeccompFile(PathBuf),
    /// `apparmor=PROFILE`, or `unconfined`.
    Apparmor(String),
    /// `label=disable`, or a part of the SELinux label.
    Label(LabelOption),
    /// `mask=PATH:…`: further paths to hide.
    Mask(Vec<String>),
    /// `unmask=PATH:…`: paths not to hide or make read-only; empty for `ALL`, which `systempaths=unconfined` is too.
    Unmask(Vec<String>),
}

/// Parses `--security-opt`: `KEY=VALUE`, or docker's older `KEY:VALUE`.
///
/// # Errors
/// An unknown key, a value the key does not take.
pub fn security_opt(value: &str) -> Result<SecurityOption> {
    let form = "write no-new-privileges, seccomp=FILE|unconfined, apparmor=PROFILE|unconfined, label=disable|type:NAME|level:LEVEL, mask=PATH:… or unmask=ALL|PATH:…";
    let flag = Flag::new("--security-opt", value, form);
    let (key, text) = match value.find(['=', ':']) {
        Some(at) => (&value[..at], Some(&value[at + 1..])),
        None => (value, None),
    };
    let needed = || {
        text.filter(|t| !t.is_empty())
            .ok_or_else(|| flag.wrong(format!("{key} needs a value")))
    };
    let paths = |list: &str| -> Result<Vec<String>> {
        list.split(':')
            .map(|path| match path.strip_prefix('/') {
                Some(_) => Ok(path.to_owned()),
                None => Err(flag.wrong(format!("{path:?} is no absolute path"))),
            })
            .collect()
    };
    match key {
        "no-new-privileges" => match text {
            None => Ok(SecurityOption::NoNewPrivileges(true)),
            Some(t) => boolean(t)
                .map(SecurityOption::NoNewPrivileges)
                .ok_or_else(|| flag.wrong(format!("{t:?} is neither true nor false"))),
        },
        "seccomp" => Ok(match needed()? {
            "unconfined" => SecurityOption::SeccompUnconfined,
            "builtin" | "default" => SecurityOption::SeccompDefault,
            file => SecurityOption::SeccompFile(file.into()),
        }),
        "apparmor" => Ok(SecurityOption::Apparmor(needed()?.to_owned())),
        "label" => label(&flag, needed()?).map(SecurityOption::Label),
        "mask" => Ok(SecurityOption::Mask(paths(needed()?)?)),
        "unmask" => match needed()? {
            "ALL" | "all" => Ok(SecurityOption::Unmask(Vec::new())),
            list => Ok(SecurityOption::Unmask(paths(list)?)),
        },
        "systempaths" => match needed()? {
            "unconfined" => Ok(SecurityOption::Unmask(Vec::new())),
            other => Err(flag.wrong(format!("systempaths={other:?} is not unconfined"))),
        },
        "proc-opts" => Err(flag.instead(
            "the options of /proc are fixed",
            "mask=PATH hides parts of it: mask=/proc/cpuinfo",
        )),
        "writable-cgroups" => Err(flag.instead(
            "the control groups that a container sees are read-only",
            "--privileged makes them writable, and takes all else away that confines it",
        )),
        other => Err(flag.wrong(format!("{other:?} is not known"))),
    }
}

/// What is asked of a container's SELinux label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelOption {
    /// None.
    Disable,
    /// `user:NAME`, of processes and files.
    User(String),
    /// `role:NAME`, of processes.
    Role(String),
    /// `type:NAME`, of processes.
    Type(String),
    /// `filetype:NAME`, of files.
    FileType(String),
    /// `level:LEVEL`, of processes and files.
    Level(String),
}

fn label(flag: &Flag<'_>, text: &str) -> Result<LabelOption> {
    let (key, value) = text.split_once(':').unwrap_or((text, ""));
    let part = |of: fn(String) -> LabelOption| {
        // A label is one line of four parts; the last alone has colons and commas of its own.
        let good =
            |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b) || key == "level" && b":,".contains(&b);
        match !value.is_empty() && value.bytes().all(good) {
            true => Ok(of(value.to_owned())),
            false => Err(flag.wrong(format!("label={text:?} is no part of a label"))),
        }
    };
    match key {
        "disable" if value.is_empty() => Ok(LabelOption::Disable),
        "user" => part(LabelOption::User),
        "role" => part(LabelOption::Role),
        "type" => part(LabelOption::Type),
        "filetype" => part(LabelOption::FileType),
        "level" => part(LabelOption::Level),
        _ => Err(flag.instead(
            format!("label={text:?} is not known"),
            "write label=disable, or label=user:NAME, role:NAME, type:NAME, filetype:NAME or level:LEVEL",
        )),
    }
}

/// Parses `--sysctl KEY=VALUE`. Whether the kernel keeps that key per container is judged when the spec is built,
/// because it depends on the namespaces.
///
/// # Errors
/// No `=`, an empty key, a key that is no path below `/proc/sys`.
pub fn sysctl(value: &str) -> Result<(String, String)> {
    let flag = Flag::new("--sysctl", value, "write KEY=VALUE, as net.ipv4.ip_forward=1");
    let (key, text) = value.split_once('=').ok_or_else(|| flag.wrong("there is no ="))?;
    // Both spellings of sysctl(8) are known; the spec's has dots.
    let key = if key.contains('/') && !key.contains('.') {
        key.replace('/', ".")
    } else {
        key.to_owned()
    };
    let part = |p: &str| {
        !p.is_empty()
            && p.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_-/".contains(&b))
    };
    if !key.contains('.') || !key.split('.').all(part) || key.contains("//") {
        return Err(flag.wrong(format!("{key:?} is no kernel parameter")));
    }
    Ok((key, text.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities() {
        for text in ["NET_ADMIN", "net_admin", "CAP_NET_ADMIN", "cap_net_admin"] {
            let expected = CapabilityOption::One(Capability::NetAdmin);
            assert_eq!(capability("--cap-add", text).unwrap(), expected, "{text}");
        }
        assert_eq!(capability("--cap-drop", "all").unwrap(), CapabilityOption::All);
        for text in ["", "NET", "CAP_CAP_NET_ADMIN", "NET_ADMIN,SYS_ADMIN"] {
            let error = capability("--cap-drop", text).unwrap_err().to_string();
            assert!(error.starts_with("--cap-drop"), "{error}");
        }
    }

    #[test]
    fn security_opts() {
        use SecurityOption::*;
        for (text, expected) in [
            ("no-new-privileges", NoNewPrivileges(true)),
            ("no-new-privileges=false", NoNewPrivileges(false)),
            ("no-new-privileges:true", NoNewPrivileges(true)),
            ("seccomp=unconfined", SeccompUnconfined),
            ("seccomp=builtin", SeccompDefault),
            ("seccomp=/p.json", SeccompFile("/p.json".into())),
            ("seccomp:p=1.json", SeccompFile("p=1.json".into())),
            ("apparmor=unconfined", Apparmor("unconfined".into())),
            ("apparmor=mine", Apparmor("mine".into())),
            ("label=disable", Label(LabelOption::Disable)),
            ("label:type:spc_t", Label(LabelOption::Type("spc_t".into()))),
            ("label=filetype:x_t", Label(LabelOption::FileType("x_t".into()))),
            (
                "label=level:s0:c1,c2",
                Label(LabelOption::Level("s0:c1,c2".into())),
            ),
            ("mask=/a:/b", Mask(vec!["/a".into(), "/b".into()])),
            ("unmask=ALL", Unmask(vec![])),
            ("unmask=/proc/acpi", Unmask(vec!["/proc/acpi".into()])),
            ("systempaths=unconfined", Unmask(vec![])),
        ] {
            assert_eq!(security_opt(text).unwrap(), expected, "{text}");
        }
        for (text, says) in [
            ("seccomp=", "seccomp needs a value"),
            ("seccomp", "seccomp needs a value"),
            ("no-new-privileges=maybe", "\"maybe\""),
            ("label=type:", "no part"),
            ("label=type:a:b", "no part"),
            ("label=user:a b", "no part"),
            ("label=nested", "not known"),
            ("color=red", "\"color\""),
            ("mask=a", "\"a\""),
            ("systempaths=all", "unconfined"),
        ] {
            let error = security_opt(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn sysctls() {
        assert_eq!(
            sysctl("net.ipv4.ip_forward=1").unwrap(),
            ("net.ipv4.ip_forward".into(), "1".into())
        );
        assert_eq!(sysctl("net/ipv4/ip_forward = 1").unwrap_err().flag, "--sysctl");
        assert_eq!(sysctl("net/ipv4/ip_forward=1").unwrap().0, "net.ipv4.ip_forward");
        assert_eq!(sysctl("kernel.sem=1 2 3 4").unwrap().1, "1 2 3 4");
        for text in ["a", "a=1", "..=1", "net..x=1", "=1", "../../x=1"] {
            assert!(sysctl(text).is_err(), "{text}");
        }
    }
}
