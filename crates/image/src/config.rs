//! An image's configuration: how it wants to be run, and the diff IDs of its layers.
//!
//! OCI image-spec `config.md`, read as leniently as the images of ten years demand: fields may be missing or
//! null, a command may be a string. What strata relies on is strict: every diff ID is a digest, and there are as
//! many of them as the manifest has layers.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use store::Digest;

use crate::manifest::MAX_CONFIG;
use crate::platform::Platform;

/// What is wrong with an image's configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not JSON, or of another form.
    #[error("the image's configuration is not valid: {reason}")]
    Syntax {
        /// The parser's words.
        reason: String,
    },
    /// Larger than [`MAX_CONFIG`].
    #[error("the image's configuration has {size} bytes; at most {MAX_CONFIG} are read")]
    TooLarge {
        /// Its size in bytes.
        size: u64,
    },
    /// A diff ID that is no SHA-256.
    #[error("the image's configuration names a diff ID {given:?}, which is no SHA-256 digest")]
    DiffId {
        /// What stands there.
        given: String,
    },
    /// Not as many diff IDs as layers.
    #[error(
        "the image's configuration names {diff_ids} layers, its manifest {layers}; the image is damaged, make it again"
    )]
    Count {
        /// Diff IDs in the configuration.
        diff_ids: usize,
        /// Layers in the manifest.
        layers: usize,
    },
    /// Layers that are not ours to stack.
    #[error("the image's root file system is of the type {kind:?}; only \"layers\" can be run")]
    Rootfs {
        /// The type that stands there.
        kind: String,
    },
}

/// An image's configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When it was made, RFC 3339, as it stands there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Go's name of the architecture; empty when missing.
    #[serde(default, deserialize_with = "nullable")]
    pub architecture: String,
    /// Variant of the architecture; empty when there is none.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub variant: String,
    /// Operating system; empty when missing.
    #[serde(default, deserialize_with = "nullable")]
    pub os: String,
    /// How a container of it is run.
    #[serde(default, deserialize_with = "nullable")]
    pub config: Execution,
    /// The layers.
    #[serde(default, deserialize_with = "nullable")]
    pub rootfs: RootFs,
    /// How each layer came to be, bottom first, with entries between that made no layer.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
}

/// How a container of an image is run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Execution {
    /// `user[:group]`, names or numbers.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub user: String,
    /// `80/tcp` and the like.
    #[serde(default, with = "set", skip_serializing_if = "Vec::is_empty")]
    pub exposed_ports: Vec<String>,
    /// `NAME=value`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// What is always run.
    #[serde(default, deserialize_with = "words", skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Its arguments, or the program where there is no entry point.
    #[serde(default, deserialize_with = "words", skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Directories that want a volume.
    #[serde(default, with = "set", skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// Where it starts; empty for `/`.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub working_dir: String,
    /// Labels.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks it to end: a name or a number.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub stop_signal: String,
    /// The shell of the builder's shell forms.
    #[serde(default, deserialize_with = "words", skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
    /// Instructions for builds on top of it.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// How its health is asked for, as it stands there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<serde_json::Value>,
}

/// The layers of an image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RootFs {
    /// `layers`.
    #[serde(default, rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    /// Digests of the uncompressed layers, bottom first.
    #[serde(default, deserialize_with = "nullable")]
    pub diff_ids: Vec<String>,
}

/// How a layer came to be.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The build step.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub created_by: String,
    /// Who.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub author: String,
    /// A remark.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub comment: String,
    /// The step made no layer.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub empty_layer: bool,
}

impl ImageConfig {
    /// Reads a configuration and checks that it has `layers` diff IDs.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(bytes: &[u8], layers: usize) -> Result<Self, ConfigError> {
        if bytes.len() as u64 > MAX_CONFIG {
            return Err(ConfigError::TooLarge {
                size: bytes.len() as u64,
            });
        }
        let config: Self = serde_json::from_slice(bytes).map_err(|e| ConfigError::Syntax {
            reason: crate::text::printable(&e.to_string()),
        })?;
        if !matches!(config.rootfs.kind.as_str(), "" | "layers") {
            return Err(ConfigError::Rootfs {
                kind: config.rootfs.kind,
            });
        }
        if config.rootfs.diff_ids.len() != layers {
            return Err(ConfigError::Count {
                diff_ids: config.rootfs.diff_ids.len(),
                layers,
            });
        }
        config.diff_ids()?;
        Ok(config)
    }

    /// The diff IDs, bottom first.
    ///
    /// # Errors
    /// [`ConfigError::DiffId`] for one that is no digest.
    pub fn diff_ids(&self) -> Result<Vec<Digest>, ConfigError> {
        let parse = |s: &String| s.parse().map_err(|_| ConfigError::DiffId { given: s.clone() });
        self.rootfs.diff_ids.iter().map(parse).collect()
    }

    /// What it is built for; `None` when it does not say.
    pub fn platform(&self) -> Option<Platform> {
        let os = if self.os.is_empty() { "linux" } else { &self.os };
        match self.architecture.as_str() {
            "" if self.os.is_empty() => None,
            "" => Some(Platform::new(os, &Platform::host().architecture, "")),
            architecture => Some(Platform::new(os, architecture, &self.variant)),
        }
    }

    /// For each layer, bottom first, the build step that made it; `None` where the history does not tell.
    pub fn created_by(&self) -> Vec<Option<String>> {
        let layers = self.rootfs.diff_ids.len();
        let steps: Vec<_> = self.history.iter().filter(|h| !h.empty_layer).collect();
        if steps.len() != layers {
            return vec![None; layers];
        }
        let say = |h: &&History| match (h.created_by.as_str(), h.comment.as_str()) {
            ("", "") => None,
            ("", comment) => Some(comment.to_owned()),
            (step, _) => Some(step.to_owned()),
        };
        steps.iter().map(say).collect()
    }
}

/// `null` is the empty value.
pub(crate) fn nullable<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// A list of words, one word alone, or null.
fn words<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        Many(Vec<String>),
        One(String),
        None,
    }
    Ok(match Words::deserialize(from)? {
        Words::Many(words) => words,
        Words::One(word) if word.is_empty() => Vec::new(),
        Words::One(word) => vec![word],
        Words::None => Vec::new(),
    })
}

/// Go's `map[string]struct{}`: `{"80/tcp": {}}`.
mod set {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
        let map = Option::<BTreeMap<String, serde::de::IgnoredAny>>::deserialize(from)?;
        Ok(map.unwrap_or_default().into_keys().collect())
    }

    pub(super) fn serialize<S: Serializer>(set: &[String], to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(set.iter().map(|key| (key, serde_json::Map::new())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn nulls_strings_and_gaps() {
        let text = format!(
            r#"{{"architecture":"arm64","variant":null,"os":"linux","created":null,"docker_version":"1.12",
            "config":{{"Hostname":"","User":null,"Env":null,"Cmd":"/bin/sh","Entrypoint":null,"Image":"x",
              "Volumes":null,"ExposedPorts":{{"80/tcp":{{}}}},"WorkingDir":"","OnBuild":null,"Labels":null}},
            "container_config":{{"Cmd":["x"]}},
            "history":[{{"created_by":"ADD file"}},{{"created_by":"ENV x","empty_layer":true}},{{"comment":"c","created_by":null}}],
            "rootfs":{{"type":"layers","diff_ids":["{HEX}","{HEX}"]}}}}"#
        );
        let config = ImageConfig::parse(text.as_bytes(), 2).unwrap();
        assert_eq!(config.platform(), Some(Platform::new("linux", "arm64", "v8")));
        assert_eq!(config.config.cmd, ["/bin/sh"]);
        assert_eq!(config.config.exposed_ports, ["80/tcp"]);
        assert_eq!(config.created_by(), [Some("ADD file".into()), Some("c".into())]);
        assert!(matches!(
            ImageConfig::parse(text.as_bytes(), 3),
            Err(ConfigError::Count {
                diff_ids: 2,
                layers: 3
            })
        ));
        let again = serde_json::to_vec(&config).unwrap();
        assert_eq!(ImageConfig::parse(&again, 2).unwrap(), config);
    }

    #[test]
    fn what_is_missing() {
        for text in [
            "{}",
            r#"{"config":null,"rootfs":null,"history":null,"architecture":null}"#,
        ] {
            let config = ImageConfig::parse(text.as_bytes(), 0).unwrap();
            assert_eq!(config.platform(), None);
        }
        for (bad, layers) in [
            ("", 0),
            ("nonsense", 0),
            (r#"{"rootfs":{"diff_ids":["sha256:0"]}}"#, 1),
            (r#"{"rootfs":{"type":"layers+base"}}"#, 0),
            (r#"{"config":{"Cmd":7}}"#, 0),
        ] {
            let error = ImageConfig::parse(bad.as_bytes(), layers).expect_err(bad);
            assert!(!error.to_string().contains('\n'));
        }
        let deep = "[".repeat(100_000);
        assert!(ImageConfig::parse(deep.as_bytes(), 0).is_err());
    }
}
