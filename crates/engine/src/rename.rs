//! `rename`: another name for a container.

use runtime::bundle::Bundle;
use store::ContainerError;

use crate::Engine;

impl Engine {
    /// Gives a container another name; what runs in it goes on.
    ///
    /// # Errors
    /// [`ContainerError`]: none of that name or id, or the new name is in use.
    pub fn rename(&self, name: &str, new: &str) -> Result<(), ContainerError> {
        let row = self.store.find_container(self.ns(), name)?;
        self.store.rename_container(self.ns(), &row.id, new)?;
        let renamed = store::Container {
            name: new.to_owned(),
            ..row.clone()
        };
        self.note_container(&renamed, "rename", &[("oldName", &row.name)]);
        if let Ok(bundle) = Bundle::open(&self.bundle_of(&row)) {
            // It is called so by strata in any case; its networks hear of it as far as they can.
            let _ = self.announce(&bundle, new);
        }
        Ok(())
    }
}
