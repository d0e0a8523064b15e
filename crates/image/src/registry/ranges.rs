//! A large blob that comes slowly by one connection is fetched by several, a range each, as far as that goes well.
//!
//! It is written in the order of its bytes all the same, since its layer is unpacked while it arrives: each connection holds
//! one part until its turn. Whatever goes wrong with one ends it, and the blob goes on by one connection, which knows what to
//! do about it. One blob at a time: of several that are slow the others go on by one connection each.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use ureq::http::{Method, header};

use super::blob::{Download, content_range};
use super::client::{Call, Client};
use super::error::RegistryError;
use super::mirrors::Turn;
use crate::reference::Reference;

/// When a blob is fetched in ranges, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges {
    /// Bytes that must be missing.
    pub missing: u64,
    /// How long one connection is given to show what it brings,
    pub after: Duration,
    /// and the bytes that it must have brought by then.
    pub enough: u64,
    /// Bytes of a range, which are kept in memory.
    pub part: u64,
    /// How many are fetched beside each other.
    pub connections: usize,
}

impl Default for Ranges {
    /// By four connections, when of a blob of which 64 MiB are missing fewer than 64 came in two seconds. With a part that is
    /// being written, five MiB of memory.
    fn default() -> Ranges {
        Ranges {
            missing: 64 << 20,
            after: Duration::from_secs(2),
            enough: 64 << 20,
            part: 1 << 20,
            connections: 4,
        }
    }
}

impl Ranges {
    /// Whether more connections are worth a try, where one has `brought` so many bytes in `time`.
    pub(super) fn help(&self, missing: u64, brought: u64, time: Duration) -> bool {
        missing >= self.missing && time >= self.after && brought < self.enough
    }
}

/// Held by the one blob of a client's that is fetched in ranges, so that the memory for parts is bounded whatever the image.
pub(super) struct Alone<'a>(&'a AtomicBool);

impl<'a> Alone<'a> {
    /// `None` while another has it.
    pub(super) fn take(taken: &'a AtomicBool) -> Option<Alone<'a>> {
        (!taken.swap(true, Ordering::AcqRel)).then(|| Alone(taken))
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Client {
    /// Brings what is missing of a blob, in ranges, or some of it.
    pub(super) fn in_ranges(
        &self,
        turn: &Turn<'_>,
        download: &mut Download<'_>,
        reference: &Reference,
    ) -> Result<(), RegistryError> {
        let Ranges {
            part, connections, ..
        } = self.http.options.ranges;
        let (first, size) = (download.done, download.blob.size);
        let (what, path) = (download.what.clone(), format!("blobs/{}", download.blob.digest));
        let progress = download.progress;
        let fetch = |begin: u64| {
            let end = size.min(begin + part);
            let call = Call {
                what: &what,
                from: reference,
                to: turn,
                method: Method::GET,
                path: &path,
                headers: vec![(header::RANGE, format!("bytes={begin}-{}", end - 1))],
            };
            let answer = self.ask(call, progress).ok()?;
            let range = answer.header(header::CONTENT_RANGE).unwrap_or_default();
            if answer.status != 206 || content_range(range) != (Some(begin), Some(size)) {
                return None;
            }
            let mut bytes = Vec::with_capacity((end - begin) as usize);
            let body = answer.body.into_reader();
            body.take(end - begin).read_to_end(&mut bytes).ok()?;
            (bytes.len() as u64 == end - begin).then_some(bytes)
        };
        thread::scope(|scope| {
            let mut coming = Vec::new();
            for turn in 0..connections as u64 {
                // Without room: whoever has a part waits until it is taken.
                let (tell, told) = sync_channel(0);
                let fetch = &fetch;
                scope.spawn(move || {
                    let begins = (first + turn * part..size).step_by((connections as u64 * part) as usize);
                    for begin in begins {
                        let fetched = fetch(begin);
                        let failed = fetched.is_none();
                        // Nobody takes it where an earlier part failed.
                        if tell.send(fetched).is_err() || failed {
                            return;
                        }
                    }
                });
                coming.push(told);
            }
            while download.done < size {
                let next = (download.done - first) / part;
                match coming[next as usize % connections].recv() {
                    Ok(Some(bytes)) => download.put(&bytes)?,
                    _ => return Ok(()),
                }
            }
            Ok(())
        })
    }
}
