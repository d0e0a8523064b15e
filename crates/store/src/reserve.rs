//! The reserve: a file that holds blocks for nothing, so that a full disk can be freed.
//!
//! To delete is to write to the database's log first. On a full disk that fails, and with it everything that would
//! make room. So some space is kept, which only transactions that free something, and the opening of the store, may
//! give to the disk.

use std::sync::atomic::Ordering;

use rustix::fs::{FallocateFlags, Mode, OFlags};

use crate::Store;
use crate::db::{Durability, Query};
use crate::error::Fault;
use crate::layout::Layout;

/// The reserve's name beneath the root.
pub(crate) const RESERVE: &str = "reserve";

/// Bytes held. A collection deletes in portions, and each needs a good deal less.
const SIZE: u64 = 2 << 20;

impl Layout {
    /// Takes back what [`Layout::spend_reserve`] gave, now that something was freed.
    pub(crate) fn refill_reserve(&self) {
        if self.spent.swap(false, Ordering::Relaxed) {
            self.fill_reserve();
        }
    }

    /// Takes space for the reserve, if there is enough.
    pub(crate) fn fill_reserve(&self) {
        let flags = OFlags::WRONLY | OFlags::CREATE;
        let Ok(file) = self.root.open_file(RESERVE, flags, Mode::RUSR | Mode::WUSR) else {
            return;
        };
        if file.metadata().is_ok_and(|found| found.len() == SIZE) {
            return;
        }
        if rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, SIZE).is_err() {
            // Half of it would be mistaken for the whole. Where it cannot be had there is none.
            let _ = file.set_len(0);
        }
    }

    /// Gives the reserve to the disk; whether there was one.
    pub(crate) fn spend_reserve(&self) -> bool {
        let Ok(file) = self.root.open_file(RESERVE, OFlags::WRONLY, Mode::empty()) else {
            return false;
        };
        let spent = file.metadata().is_ok_and(|found| found.len() > 0) && file.set_len(0).is_ok();
        self.spent.fetch_or(spent, Ordering::Relaxed);
        spent
    }
}

impl Store {
    /// A transaction that frees something: as [`crate::db::Db::write`], and at the cost of the reserve if need be. The
    /// caller frees the space and then calls [`Layout::refill_reserve`].
    pub(crate) fn free<T, E: From<Fault>>(
        &self,
        durability: Durability,
        body: impl Fn(&Query<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let first = self.db.write(durability, &body);
        if first.is_err() && self.db.was_full() && self.layout.spend_reserve() {
            return self.db.write(durability, &body);
        }
        first
    }
}
