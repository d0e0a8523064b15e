//! What a container is started from, each time: what was asked of it and what its image said when it was made. It is
//! kept with the container's row, since bundles do not outlive the machine, and images get other names.

use std::net::IpAddr;
use std::path::PathBuf;

use ::network::connection::Connection;
use ::network::ports::Publish;
use ::network::publish::{self, Expose};
use image::config::Execution;
use runtime::control::Restart;
use runtime::health::HealthCheck;
use runtime::log::Limits;
use runtime::options::ContainerOptions;
use runtime::spec::Labels;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Engine;

/// What is asked of every start of a container. Fields may be added: what was kept before has their default.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// The process and its surroundings.
    pub container: ContainerOptions,
    /// Standard input is kept open for who is attached; otherwise it is empty.
    pub interactive: bool,
    /// More lines of `/etc/hosts`.
    pub hosts: Vec<(String, IpAddr)>,
    /// Names by which the container finds the machine.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gateway_names: Vec<String>,
    /// Name servers; the host's.
    pub dns: Vec<IpAddr>,
    /// Domains in which names are looked up; the host's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns_search: Vec<String>,
    /// Options of the resolver; the host's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns_options: Vec<String>,
    /// Networks that it is in, where its network namespace is its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Connection>,
    /// Ports that are published.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<Publish>,
    /// Publish all that it exposes.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub publish_all: bool,
    /// Ports that it listens at, beyond those its image names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expose: Vec<Expose>,
    /// Another OCI runtime to run the bundle.
    pub runtime: Option<PathBuf>,
    /// Who makes the root file system real.
    pub driver: mount::fuse::Driver,
    /// Whether it is started again after its end.
    pub restart: Restart,
    /// How much is kept of what it prints; nothing where it is `None`.
    pub log: Option<Limits>,
    /// Seconds between the signal that asks it to end and the one that ends it; 10.
    pub stop_timeout: Option<u32>,
    /// Where the number of its first process is written, at each start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pidfile: Option<PathBuf>,
    /// Its SELinux labels, where the machine had SELinux when it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) labels: Option<Labels>,
    /// How its image wants to be run; `None` where there is no image.
    pub(crate) image: Option<Execution>,
}

impl Plan {
    /// How the container's health is asked for; `None` where it is not.
    pub(crate) fn health(&self) -> Option<HealthCheck> {
        let image = self.image.as_ref().and_then(|image| image.healthcheck.as_ref());
        self.container.health.check(image)
    }

    /// Ports that it listens at, as its image and flags say. What an image says that is no port is passed over.
    pub(crate) fn exposed(&self) -> impl Iterator<Item = Expose> {
        let image = self.image.iter().flat_map(|image| &image.exposed_ports);
        let image = image.filter_map(|port| publish::expose(port).ok());
        image.chain(self.expose.iter().copied())
    }

    /// As a row keeps it: what is as it would be unasked is left out. A start writes it, and `ps` reads those of every
    /// container.
    pub(crate) fn kept(&self) -> Value {
        let mut plan = sparse(self);
        plan["container"] = sparse(&self.container);
        if let Some(resources) = plan["container"].get_mut("resources") {
            *resources = sparse(&self.container.resources);
        }
        plan
    }
}

/// `value` without its fields that are those of the default; `T` reads them so where they are absent.
pub(super) fn sparse<T: Serialize + Default>(value: &T) -> Value {
    let mut value = serde_json::to_value(value).unwrap_or_default();
    let default = serde_json::to_value(T::default()).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|name, field| default.get(name) != Some(field));
    }
    value
}

impl Engine {
    /// Changes what a container is started from, as it is at that moment: somebody else may change something else.
    pub(crate) fn edit_plan(
        &self,
        row: &store::Container,
        mut change: impl FnMut(&mut Plan),
    ) -> Result<(), store::Fault> {
        self.store.edit_details(self.ns(), [&*row.id], |_, details| {
            let kept = details.get("plan").and_then(|plan| Plan::deserialize(plan).ok());
            if let Some(mut plan) = kept {
                change(&mut plan);
                details.insert("plan".to_owned(), plan.kept());
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_row_leaves_out_is_read_back() {
        let mut plan = Plan::default();
        assert_eq!(plan.kept().to_string(), r#"{"container":{}}"#);
        plan.interactive = true;
        plan.container.entrypoint = Some(Vec::new());
        plan.container.tty = true;
        plan.container.resources.memory = Some(1 << 20);
        let kept = plan.kept();
        assert!(kept.to_string().len() < 250, "{kept}");
        let read = Plan::deserialize(&kept).unwrap();
        assert_eq!(
            serde_json::to_value(&read).unwrap(),
            serde_json::to_value(&plan).unwrap()
        );
    }
}
