//! What is known of files whose blocks several layers share.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::Store;
use crate::db::{Durability, int, unsigned};
use crate::error::Fault;
use crate::layout::INGEST;

/// Bytes that are shared to see whether it can be done: a block, wherever blocks are shared.
const TRIAL: usize = 64 << 10;

/// Content that files of a layer have on the same blocks as files elsewhere with that content.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Clones {
    /// XXH3-128 of the content, and its size in bytes.
    pub content: (u128, u64),
    /// The layer's number.
    pub n: u64,
    /// How many of its files.
    pub files: u64,
    /// Bytes on disk of one of them.
    pub bytes: u64,
}

impl Store {
    /// Whether the store's file system shares blocks between files: two that are equal are made for it, and have no names.
    pub fn shares_blocks(&self) -> Result<bool, Fault> {
        let fault = |error| {
            self.layout
                .fault("trying out what can be shared in", INGEST, error)
        };
        let dir = self.layout.ingest()?;
        let equal = || -> io::Result<File> {
            let flags = OFlags::RDWR | OFlags::TMPFILE;
            let mut file = dir.open_file(".", flags, Mode::RUSR | Mode::WUSR)?;
            file.write_all(&[b'x'; TRIAL])?;
            Ok(file)
        };
        let (from, to) = (equal().map_err(fault)?, equal().map_err(fault)?);
        match sys::dedupe::share(from.as_fd(), to.as_fd(), TRIAL as u64) {
            Ok(_) => Ok(true),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOTTY) => Ok(false),
                _ => Err(fault(error)),
            },
        }
    }

    /// Every content that is known to be shared.
    pub fn clones(&self) -> Result<Vec<Clones>, Fault> {
        let sql = "SELECT content, n, files, bytes FROM layer_clones";
        self.db.read(|q| {
            q.all(sql, (), |row| {
                let content: [u8; 24] = row.get(0)?;
                let (digest, size) = content.split_at(16);
                let digest = digest.try_into().map(u128::from_be_bytes).unwrap_or_default();
                let size = size.try_into().map(u64::from_be_bytes).unwrap_or_default();
                Ok(Clones {
                    content: (digest, size),
                    n: unsigned(row, 1)?,
                    files: unsigned(row, 2)?,
                    bytes: unsigned(row, 3)?,
                })
            })
        })
    }

    /// Writes down what was found to be shared, once it is so on disk. Layers that are gone meanwhile are passed over.
    pub fn put_clones(&self, clones: &[Clones]) -> Result<(), Fault> {
        self.sync_disk()?;
        self.db.write(Durability::Full, |q| {
            for one in clones {
                let mut content = [0; 24];
                content[..16].copy_from_slice(&one.content.0.to_be_bytes());
                content[16..].copy_from_slice(&one.content.1.to_be_bytes());
                q.run(
                    "INSERT INTO layer_clones (content, n, files, bytes)
                     SELECT ?1, ?2, ?3, ?4 FROM layers WHERE n = ?2
                     ON CONFLICT (content, n) DO UPDATE SET files = excluded.files, bytes = excluded.bytes",
                    (content, int(one.n), int(one.files), int(one.bytes)),
                )?;
            }
            Ok(())
        })
    }
}
