//! Blobs: large downloads that break off and go on, and in ranges where one connection is slow.

use std::io::{self, Read, Write};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use store::{Descriptor, Digest};
use ureq::http::{HeaderName, Method, header};

use super::client::{Call, Client};
use super::error::RegistryError;
use super::host_of;
use super::hosts::Capability;
use super::http::{Answer, Ask};
use super::mirrors::Turn;
use super::ranges::{Alone, Ranges};
use super::token::bracketed;
use super::url::Url;
use crate::progress::{Event, Progress};
use crate::reference::Reference;
use crate::text::printable;

/// Bytes that a broken download must have brought to start counting its retries anew.
const GOOD_PROGRESS: u64 = 64 << 10;
/// Bytes read and written at once.
const PIECE: usize = 256 << 10;

/// A blob on its way.
pub(super) struct Download<'a> {
    pub(super) what: String,
    host: &'a str,
    pub(super) blob: &'a Descriptor,
    /// Bytes that have been written.
    pub(super) done: u64,
    /// How long a connection may bring nothing.
    patience: Duration,
    /// Whether another is fetched in ranges.
    in_ranges: &'a AtomicBool,
    to: &'a mut dyn Write,
    pub(super) progress: &'a dyn Progress,
}

/// How an answer's body ended.
enum Taken<'a> {
    /// The blob is complete.
    Whole,
    /// It broke off, for this reason.
    Broken(String),
    /// It goes on, but slowly, and what is missing can be had in ranges, as long as no other is.
    Slow(Alone<'a>),
}

impl Client {
    /// Fetches a blob from `offset` on into `to`, going on where it broke off as often as that brings something.
    /// `urls` are where a blob may be that the registry does not have. The number of bytes is checked here, the
    /// digest by whoever has them all.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn blob(
        &self,
        reference: &Reference,
        blob: &Descriptor,
        urls: &[String],
        offset: u64,
        to: &mut dyn Write,
        progress: &dyn Progress,
    ) -> Result<(), RegistryError> {
        let what = format!("blob {} of {}", blob.digest, reference.familiar_repository());
        let mut done = offset;
        self.by_turns(
            reference,
            Capability::Pull,
            Some(&blob.digest),
            progress,
            |turn| {
                let mut download = Download {
                    what: what.clone(),
                    host: &turn.via.base.authority,
                    blob,
                    done,
                    patience: self.http.options.stall_timeout,
                    in_ranges: &self.in_ranges,
                    to,
                    progress,
                };
                let result = self.blob_from(&turn, &mut download, reference, urls);
                if download.done > done {
                    self.gave(&blob.digest, turn.via);
                }
                // What one host has brought the next need not.
                done = download.done;
                result
            },
        )
    }

    /// Fetches from one host, as often as it breaks off and as that brings something.
    fn blob_from(
        &self,
        turn: &Turn<'_>,
        download: &mut Download<'_>,
        reference: &Reference,
        urls: &[String],
    ) -> Result<(), RegistryError> {
        let retries = if turn.last { self.http.options.retries } else { 0 };
        let (host, progress, size) = (download.host, download.progress, download.blob.size);
        let mut ranges = self.http.options.ranges.clone();
        let mut tries = 0;
        while download.done < size || size == 0 {
            let before = download.done;
            let answer = self.blob_rest(turn, download, reference, urls)?;
            let reason = match download.take(answer, &ranges)? {
                Taken::Whole => return Ok(()),
                Taken::Broken(reason) => reason,
                Taken::Slow(_alone) => {
                    let before = download.done;
                    self.in_ranges(turn, download, reference)?;
                    if download.done == before {
                        // Not here.
                        ranges.missing = u64::MAX;
                    }
                    tries = 0;
                    continue;
                }
            };
            let what = &download.what;
            let came = download.done - before >= GOOD_PROGRESS;
            if came {
                tries = 0;
            }
            if self.http.aborted() {
                return Err(RegistryError::Aborted { what: what.clone() });
            }
            if tries >= retries && !came {
                return Err(RegistryError::Unreachable {
                    what: what.clone(),
                    host: host.to_owned(),
                    reason,
                });
            }
            self.http.pause(what, host, &reason, tries, None, progress)?;
            tries += 1;
        }
        Ok(())
    }

    /// Asks for what is still missing.
    fn blob_rest(
        &self,
        turn: &Turn<'_>,
        download: &Download<'_>,
        reference: &Reference,
        urls: &[String],
    ) -> Result<Answer, RegistryError> {
        let headers = match download.done {
            0 => Vec::new(),
            done => vec![(header::RANGE, format!("bytes={done}-"))],
        };
        let call = Call {
            what: &download.what,
            from: reference,
            to: turn,
            method: Method::GET,
            path: &format!("blobs/{}", download.blob.digest),
            headers: headers.clone(),
        };
        match self.ask(call, download.progress) {
            Err(RegistryError::NotFound { .. }) if turn.last && !urls.is_empty() => {
                self.elsewhere(&download.what, urls, &headers, download.progress)
            }
            other => other,
        }
    }

    /// A blob that is kept outside the registry, from the first of its addresses that has it. No credential goes
    /// there (CVE-2020-15157).
    fn elsewhere(
        &self,
        what: &str,
        urls: &[String],
        headers: &[(HeaderName, String)],
        progress: &dyn Progress,
    ) -> Result<Answer, RegistryError> {
        let mut last = RegistryError::Setup(format!("{what} has no address that can be asked"));
        for url in urls.iter().filter_map(|url| Url::parse(url)) {
            let host = url.authority.clone();
            let ask = Ask {
                headers: headers.to_vec(),
                ..Ask::get(what, url)
            };
            match self.http.send(ask, progress) {
                Ok(answer) if answer.success() => return Ok(answer),
                Ok(answer) => {
                    let (status, what) = (answer.status, what.to_owned());
                    let reason = bracketed(&answer.explanation());
                    last = RegistryError::Status {
                        what,
                        host,
                        status,
                        reason,
                    };
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Fetches a small blob into memory and verifies it.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn blob_bytes(
        &self,
        reference: &Reference,
        blob: &Descriptor,
        progress: &dyn Progress,
    ) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::new();
        self.blob(reference, blob, &[], 0, &mut bytes, progress)?;
        match Digest::of(&bytes) {
            got if got == blob.digest => Ok(bytes),
            got => Err(RegistryError::Digest {
                what: format!("blob {} of {}", blob.digest, reference.familiar_repository()),
                host: host_of(reference.domain()).to_owned(),
                expected: blob.digest,
                got,
            }),
        }
    }
}

impl<'a> Download<'a> {
    /// Takes one answer's body.
    fn take(&mut self, answer: Answer, ranges: &Ranges) -> Result<Taken<'a>, RegistryError> {
        let (begun, from_there) = (Instant::now(), self.done);
        let knows_ranges = answer.status == 206
            || answer
                .header(header::ACCEPT_RANGES)
                .is_some_and(|unit| unit.trim() == "bytes");
        // A server that does not know ranges sends the whole again: what is there already is passed over.
        let mut skip = self.done;
        if answer.status == 206 {
            let range = answer.header(header::CONTENT_RANGE).unwrap_or_default();
            let (start, total) = content_range(range);
            if start != Some(self.done) {
                return Ok(Taken::Broken(format!(
                    "it sent another range than asked for: {}",
                    printable(range)
                )));
            }
            if let Some(total) = total.filter(|total| *total != self.blob.size) {
                return Err(self.wrong_size(total));
            }
            skip = 0;
        } else if let Some(length) = answer
            .body
            .content_length()
            .filter(|length| *length != self.blob.size)
        {
            return Err(self.wrong_size(length));
        }
        let mut from = answer.body.into_reader();
        let mut piece = vec![0; PIECE];
        loop {
            let read = match from.read(&mut piece) {
                Ok(0) if self.done == self.blob.size => return Ok(Taken::Whole),
                Ok(0) => {
                    let (done, size) = (self.done, self.blob.size);
                    let reason = format!("the connection ended after {done} of {size} bytes");
                    return Ok(Taken::Broken(reason));
                }
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if is_timeout(&error) => {
                    let reason = format!("nothing came for {} s", self.patience.as_secs_f32());
                    return Ok(Taken::Broken(reason));
                }
                Err(error) => return Ok(Taken::Broken(printable(&error.to_string()))),
            };
            let passed = (read as u64).min(skip);
            skip -= passed;
            let fresh = &piece[passed as usize..read];
            self.put(fresh)?;
            let left = self.blob.size - self.done;
            if knows_ranges
                && ranges.help(left, self.done - from_there, begun.elapsed())
                && let Some(alone) = Alone::take(self.in_ranges)
            {
                return Ok(Taken::Slow(alone));
            }
        }
    }

    /// Writes what comes next.
    pub(super) fn put(&mut self, fresh: &[u8]) -> Result<(), RegistryError> {
        let done = self.done + fresh.len() as u64;
        if done > self.blob.size {
            return Err(self.wrong_size(done));
        }
        let written = self.to.write_all(fresh);
        written.map_err(|source| RegistryError::Write {
            what: self.what.clone(),
            source,
        })?;
        self.done = done;
        self.progress.event(&Event::Fetched {
            digest: &self.blob.digest,
            bytes: done,
        });
        Ok(())
    }

    fn wrong_size(&self, got: u64) -> RegistryError {
        let (what, host) = (self.what.clone(), self.host.to_owned());
        RegistryError::Size {
            what,
            host,
            expected: self.blob.size,
            got,
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(ureq::Error::Timeout(_)))
}

/// First byte and size of the whole, of a `Content-Range: bytes 5-9/10`.
pub(super) fn content_range(value: &str) -> (Option<u64>, Option<u64>) {
    let (range, total) = match value
        .trim()
        .strip_prefix("bytes ")
        .and_then(|v| v.split_once('/'))
    {
        Some(parts) => parts,
        None => return (None, None),
    };
    let start = range
        .split_once('-')
        .and_then(|(start, _)| start.trim().parse().ok());
    (start, total.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(content_range("bytes 5-9/10"), (Some(5), Some(10)));
        assert_eq!(content_range("bytes 5-9/*"), (Some(5), None));
        assert_eq!(content_range("items 5-9/10"), (None, None));
        assert_eq!(content_range(""), (None, None));
    }
}
