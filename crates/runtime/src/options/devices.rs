//! `--device`: which device of the host the container sees, where, and with which rights.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Flag, Result, container_path};

const FORM: &str = "write HOST-PATH[:CONTAINER-PATH][:rwm], as /dev/fuse:/dev/fuse:rw";

/// One `--device`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceOption {
    /// The device, or a directory of them, on the host.
    pub host: PathBuf,
    /// Where it appears in the container.
    pub container: PathBuf,
    /// Rights: some of `r` (read), `w` (write), `m` (make nodes), in that order.
    pub access: String,
}

/// Parses `--device`.
///
/// # Errors
/// Not of the form; a CDI name (`vendor.com/class=name`), which strata does not resolve.
pub fn device(value: &str) -> Result<DeviceOption> {
    let flag = Flag::new("--device", value, FORM);
    let rights = |text: &str| -> Option<String> {
        let known = !text.is_empty() && text.chars().all(|c| "rwm".contains(c));
        known.then(|| "rwm".chars().filter(|c| text.contains(*c)).collect())
    };
    let parts: Vec<&str> = value.split(':').collect();
    let (host, container, access) = match parts.as_slice() {
        [host] => (*host, *host, "rwm".to_owned()),
        [host, second] => match rights(second) {
            Some(access) => (*host, *host, access),
            None => (*host, *second, "rwm".to_owned()),
        },
        [host, container, text] => {
            let access = rights(text)
                .ok_or_else(|| flag.wrong(format!("{text:?} are no rights, which are of r, w and m")))?;
            (*host, *container, access)
        }
        _ => {
            return Err(flag.wrong(format!(
                "{} parts between colons, at most 3 make sense",
                parts.len()
            )));
        }
    };
    if !host.starts_with('/') {
        if host.contains('=') {
            return Err(flag.instead("names of the Container Device Interface are not supported", FORM));
        }
        return Err(flag.wrong(format!("{host:?} is no absolute path on the host")));
    }
    let container = container_path(container)
        .filter(|path| path.as_os_str() != "/")
        .ok_or_else(|| flag.wrong(format!("{container:?} is no absolute path in the container")))?;
    Ok(DeviceOption {
        host: host.into(),
        container,
        access,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices() {
        for (value, host, container, access) in [
            ("/dev/fuse", "/dev/fuse", "/dev/fuse", "rwm"),
            ("/dev/fuse:r", "/dev/fuse", "/dev/fuse", "r"),
            ("/dev/fuse:mr", "/dev/fuse", "/dev/fuse", "rm"),
            ("/dev/sda:/dev/xvdc", "/dev/sda", "/dev/xvdc", "rwm"),
            ("/dev/sda:/dev/xvdc:rw", "/dev/sda", "/dev/xvdc", "rw"),
            ("/dev/snd/:/dev//snd", "/dev/snd/", "/dev/snd", "rwm"),
        ] {
            let expected = DeviceOption {
                host: host.into(),
                container: container.into(),
                access: access.into(),
            };
            assert_eq!(device(value).unwrap(), expected, "{value}");
        }
        for (value, says) in [
            ("", "\"\" is no absolute path"),
            ("fuse", "\"fuse\" is no absolute path"),
            ("/dev/a:x", "\"x\" is no absolute path in"),
            ("/dev/a:/dev/b:rx", "\"rx\" are no rights"),
            ("/dev/a:/dev/b:", "\"\" are no rights"),
            ("/dev/a:/dev/b:r:w", "4 parts"),
            ("nvidia.com/gpu=all", "Container Device Interface"),
            ("/dev/a:/", "\"/\" is no absolute path"),
        ] {
            let error = device(value).unwrap_err().to_string();
            assert!(error.contains(says), "{value}: {error}");
        }
    }
}
