//! [`Form`]: how a layer is written, and what of an archive is left out where an ordinary user writes it.
//!
//! In a user namespace the kernel lets nobody make devices, nor set the attributes that it trusts. A device that an
//! image brings is then left out, and what the layers below have under its name is hidden as it would be by the device;
//! containers get their devices from the machine. Owners are as the archive says, where the namespace has such ids; where
//! it has a single one, everything belongs to that.
//!
//! The record tells what the archive said; so the tar can be had again, bit for bit.

use overlay::{Format, Prefix};
use store::Store;

/// How layers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// The overlay's format.
    pub overlay: Format,
    /// Everything belongs to user and group 0: there are no others.
    pub single_owner: bool,
}

impl Form {
    /// That of a store's layers.
    pub fn of(store: &Store) -> Form {
        let format = store.format();
        match format.userxattr() {
            true => Form {
                overlay: Format {
                    prefix: Prefix::User,
                    // The kernel reads the other kind since 6.7 alone.
                    ..Format::TRUSTED
                },
                single_owner: format.single_owner(),
            },
            false => Format::TRUSTED.into(),
        }
    }

    /// Whether devices can be made.
    pub(super) fn makes_devices(&self) -> bool {
        self.overlay.prefix == Prefix::Trusted
    }

    /// Whether an attribute of this name can be set. Linux has none outside of its four namespaces (xattr(7)); other systems'
    /// archives hold such (`com.apple.quarantine`), which mean nothing here.
    pub(super) fn takes_attribute(&self, name: &[u8]) -> bool {
        let known: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system."];
        if !known.iter().any(|namespace| name.starts_with(namespace)) {
            return false;
        }
        match self.overlay.prefix {
            Prefix::Trusted => true,
            Prefix::User => {
                let privileged = name.starts_with(b"trusted.")
                    || (name.starts_with(b"security.") && name != b"security.capability");
                // An access list names users.
                let names_others = self.single_owner && name.starts_with(b"system.posix_acl");
                !privileged && !names_others
            }
        }
    }

    /// The owner that a thing gets of whom the archive says.
    pub(super) fn owner(&self, uid: u32, gid: u32) -> (u32, u32) {
        match self.single_owner {
            true => (0, 0),
            false => (uid, gid),
        }
    }
}

impl From<Format> for Form {
    fn from(overlay: Format) -> Form {
        Form {
            overlay,
            single_owner: false,
        }
    }
}
