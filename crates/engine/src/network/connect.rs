//! `network connect` and `network disconnect`: a container comes into a network, or leaves it, whether it runs or not.

use ::network::definition::{DEFAULT, Network};
use ::network::sandbox::{Sandbox, SandboxError};
use runtime::bundle::Bundle;
use runtime::options::namespaces::NamespaceOption;
use store::ContainerError;

use super::attach::{fits, wanted};
use super::{Connection, NetworkError};
use crate::Engine;
use crate::run::{Details, Plan};

impl Engine {
    /// Brings a container into a network, now if it runs and at every later start. Published ports and the way out stay
    /// where they are until then.
    ///
    /// # Errors
    /// See [`NetworkError`]; then the container is as it was.
    pub fn connect_network(&self, container: &str, connection: &Connection) -> Result<(), NetworkError> {
        self.installed(&connection.network)?;
        let row = self.store.find_container(self.ns(), container)?;
        let catalog = self.catalog()?;
        if connection.network == DEFAULT {
            self.ensure_default(&catalog)?;
        }
        let _lock = catalog.lock_shared()?;
        let network = catalog.find(&connection.network)?;
        fits(&network, connection)?;
        let plan = self.plan_of(&row)?;
        let is_up = self.state(&row).is_up();
        let refuse = |problem: String| {
            Err(NetworkError::Container {
                name: row.name.clone(),
                problem,
            })
        };
        if plan.networks.iter().any(|one| one.network == network.name) {
            return refuse(format!("is in network {} already", network.name));
        }
        let connection = Connection {
            network: network.name.clone(),
            ..connection.clone()
        };
        if is_up {
            let bundle = Bundle::open(&self.bundle_path(&row.id)).map_err(SandboxError::from)?;
            let Some(mut sandbox) = Sandbox::open(&bundle)? else {
                return refuse("runs without a network: stop it, connect it, and start it".to_owned());
            };
            sandbox.attach(&network, &self.addresses(), wanted(&connection, &[], false))?;
            self.note_network("connect", &network.id, &network.name, Some(&row.id));
            if network.has_names()
                && let Some(made) = sandbox.record().attachments.last()
            {
                self.announce_in(&row.id, &row.name, made)?;
            }
        }
        Ok(self.edit_plan(&row, |plan| plan.networks.push(connection.clone()))?)
    }

    /// Takes a container out of a network, now if it runs and at every later start. With `force` it is no error that there is
    /// no such container, or that it is not in the network.
    ///
    /// # Errors
    /// See [`NetworkError`].
    pub fn disconnect_network(
        &self,
        container: &str,
        network: &str,
        force: bool,
    ) -> Result<(), NetworkError> {
        let row = match self.store.find_container(self.ns(), container) {
            Err(ContainerError::NotFound(_)) if force => return Ok(()),
            found => found?,
        };
        let catalog = self.catalog()?;
        let _lock = catalog.lock_shared()?;
        let Network { name, id, .. } = catalog.find(network)?;
        let plan = self.plan_of(&row)?;
        if plan.networks.iter().all(|one| one.network != name) {
            if force {
                return Ok(());
            }
            return Err(NetworkError::Container {
                name: row.name,
                problem: format!("is not in network {name}"),
            });
        }
        if let Ok(bundle) = Bundle::open(&self.bundle_path(&row.id))
            && let Some(mut sandbox) = Sandbox::open(&bundle)?
        {
            // Names that stay are written over by the next who comes or goes.
            let _ = self.names().withdraw(&name, &row.id);
            sandbox.detach(&name)?;
            self.note_network("disconnect", &id, &name, Some(&row.id));
        }
        Ok(self.edit_plan(&row, |plan| plan.networks.retain(|one| one.network != name))?)
    }

    fn plan_of(&self, row: &store::Container) -> Result<Plan, NetworkError> {
        let refuse = |problem: &str| NetworkError::Container {
            name: row.name.clone(),
            problem: problem.to_owned(),
        };
        let plan = Details::of(row)
            .plan
            .ok_or_else(|| refuse("was made by an older strata"))?;
        match plan.container.network {
            NamespaceOption::Private => Ok(plan),
            NamespaceOption::Host => Err(refuse("has the network of the machine (--network host)")),
            _ => Err(refuse(
                "shares the network of another (--network container: or ns:)",
            )),
        }
    }
}
