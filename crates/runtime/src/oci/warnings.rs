//! What is amiss and fails nothing: told to whoever called, a line each.

use std::fmt;
use std::rc::Rc;

use oci_spec::runtime::{Process, Spec};

use crate::launch::withheld;

/// Where warnings go: nowhere by default.
#[derive(Clone, Default)]
pub struct Warnings(Option<Rc<Tell>>);

type Tell = dyn Fn(&str);

impl Warnings {
    /// Each is given to `tell`.
    pub fn to(tell: impl Fn(&str) + 'static) -> Warnings {
        Warnings(Some(Rc::new(tell)))
    }

    pub(super) fn tell(&self, text: &str) {
        if let Some(tell) = &self.0 {
            tell(text);
        }
    }

    /// Tells which capabilities a process was asked to have and has not (OCI runtime spec, "Linux Process": a warning, and no
    /// error): `unknown`, that have no meaning here, and those that the caller could not give.
    pub(super) fn capabilities(&self, mut unknown: Vec<String>, spec: &Spec, process: Option<&Process>) {
        unknown.extend(process.map(|process| withheld(spec, process)).unwrap_or_default());
        if !unknown.is_empty() {
            let names = unknown.join(" ");
            self.tell(&format!(
                "ignoring unknown or unavailable capabilities: [{names}]"
            ));
        }
    }
}

impl fmt::Debug for Warnings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Warnings")
    }
}
