//! Where a copied-up file came from, and the inode number that it keeps because of it.
//!
//! All layers on one file system: inode numbers are the real ones. Several: the number of the file system goes into
//! the high bits, as the kernel does with `xino=on`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self, OFlags, Stat};
use sys::Dir;
use sys::handle::{FileHandle, fs_uuid};

use super::place::Entry;
use super::{Overlay, Result, errno};
use crate::handle::{Handle, Origin};
use crate::xattr::ORIGIN;

/// The file systems that the layers are on.
#[derive(Debug)]
pub(super) struct Devices {
    /// Device number and UUID of each.
    devices: Vec<(u64, [u8; 16])>,
    /// Which one each layer is on.
    of_layer: Vec<usize>,
}

/// Inode numbers below this are left alone when there are several file systems.
const INO_BITS: u32 = 56;

impl Devices {
    pub(super) fn of(layers: &[Dir]) -> io::Result<Devices> {
        let mut devices: Vec<(u64, [u8; 16])> = Vec::new();
        let mut of_layer = Vec::with_capacity(layers.len());
        for layer in layers {
            let dev = layer.metadata()?.st_dev;
            let known = devices.iter().position(|(known, _)| *known == dev);
            of_layer.push(known.unwrap_or(devices.len()));
            if known.is_none() {
                // Without a UUID all zeroes, which is what the kernel writes for such file systems.
                devices.push((dev, fs_uuid(layer.as_fd()).unwrap_or_default()));
            }
        }
        Ok(Devices { devices, of_layer })
    }

    fn uuid(&self, layer: usize) -> [u8; 16] {
        self.devices[self.of_layer[layer]].1
    }

    /// What `st_ino` shows for an inode of a layer.
    pub(super) fn ino(&self, layer: usize, ino: u64) -> u64 {
        let device = self.of_layer[layer] as u64;
        if ino >> INO_BITS == 0 {
            ino | device << INO_BITS
        } else {
            ino ^ device << (INO_BITS - 8)
        }
    }
}

impl Overlay {
    /// The `origin` value of a lower file; empty where its file system has no handles.
    pub(super) fn encode_origin(&self, layer: usize, file: BorrowedFd<'_>) -> Vec<u8> {
        match FileHandle::of(file) {
            Ok(handle) => Handle {
                upper: false,
                fid_type: handle.kind as u8,
                uuid: self.devices.uuid(layer),
                fid: handle.bytes,
            }
            .encode(),
            Err(_) => Vec::new(),
        }
    }

    /// What `st_ino` shows for a file of the upper layer: the number of what it was copied up from, or its own.
    pub(super) fn upper_ino(&self, entry: &Entry<'_>, stat: &Stat) -> u64 {
        let own = self.devices.ino(0, stat.st_ino);
        let Ok(Some(value)) = super::xattrs::get(entry, &self.options.prefix.name(ORIGIN)) else {
            return own;
        };
        match self.decode_origin(&value) {
            Ok(Some((layer, origin))) => self.devices.ino(layer, origin.st_ino),
            _ => own,
        }
    }

    /// The lower file that an `origin` value names, with a layer on its file system. `None` when it names none that
    /// can be found.
    pub(super) fn decode_origin(&self, value: &[u8]) -> Result<Option<(usize, Stat)>> {
        let Some(Origin::Handle(handle)) = Origin::parse(value) else {
            return Ok(None);
        };
        let first = usize::from(self.is_writable());
        let raw = FileHandle {
            kind: i32::from(handle.fid_type),
            bytes: handle.fid,
        };
        let mut tried = Vec::new();
        for layer in first..self.stack.layers().len() {
            let device = self.devices.of_layer[layer];
            if handle.uuid != self.devices.uuid(layer) || tried.contains(&device) {
                continue;
            }
            tried.push(device);
            match raw.open(self.stack.layers()[layer].as_fd(), OFlags::PATH) {
                Ok(fd) => return Ok(Some((layer, fs::fstat(&fd)?))),
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::STALE.raw_os_error()) => {}
                Err(error) => return Err(errno(error)),
            }
        }
        Ok(None)
    }
}
