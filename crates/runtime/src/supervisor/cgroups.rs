//! The container's cgroups, as far as the supervisor deals with them.

use std::os::fd::BorrowedFd;

use oci_spec::runtime::Spec;

use crate::launch::{CgroupView, Result};

/// None, or those that were made for one container.
pub(super) struct Cgroups {}

impl Cgroups {
    pub(super) fn none() -> Cgroups {
        Cgroups {}
    }
    pub(super) fn create(_spec: &Spec, _id: &str) -> Result<Cgroups> {
        Ok(Cgroups {})
    }
    pub(super) fn birth_place(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    pub(super) fn must_be_joined(&self) -> bool {
        false
    }
    pub(super) fn join(&self, _pid: i32) -> Result<()> {
        Ok(())
    }
    pub(super) fn view(&self, _spec: &Spec) -> CgroupView {
        CgroupView::None
    }
    pub(super) fn paths(&self) -> Vec<String> {
        Vec::new()
    }
    pub(super) fn oom_killed(&self) -> bool {
        false
    }
    pub(super) fn kill(&self) -> Option<String> {
        None
    }
    pub(super) fn end(self) -> Option<String> {
        None
    }
}
