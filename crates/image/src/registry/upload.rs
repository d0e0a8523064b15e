//! Uploads: blobs in one piece or in several, each of which can be sent again; manifests.
//!
//! Distribution-spec, "Pushing": a blob that the repository has is not sent, one that another repository of the registry
//! has is mounted from there. A large one goes in pieces: see `pieces`.

use std::io::{self, Read};
use std::time::Duration;

use store::{Descriptor, Digest};
use ureq::http::{HeaderName, Method, header};

use super::client::{Client, DOCKER_DIGEST, version};
use super::error::RegistryError;
use super::hosts::Endpoint;
use super::http::{Answer, Ask};
use super::pieces::Kept;
use super::token::{Want, bracketed, denied};
use super::url::{Url, encode};
use crate::auth::Credentials;
use crate::progress::{Event, Progress};
use crate::reference::Reference;

/// How a blob came into the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uploaded {
    /// It was there.
    There,
    /// The registry took it from another repository.
    Mounted,
    /// It was sent.
    Sent,
}

/// Opens what is sent, from a byte on; more than once where a connection breaks.
pub type Open<'a> = &'a (dyn Fn(u64) -> io::Result<Box<dyn Read>> + Sync);

/// A repository that is pushed to.
pub(super) struct Repository<'a> {
    pub(super) client: &'a Client,
    to: &'a Reference,
    via: Endpoint,
    pub(super) what: String,
    scope: String,
    progress: &'a dyn Progress,
}

/// A body, and its length in bytes.
pub(super) type Body<'a> = Option<(&'a mut dyn Read, u64)>;

impl Client {
    fn repository<'a>(
        &'a self,
        to: &'a Reference,
        what: String,
        from: Option<&str>,
        progress: &'a dyn Progress,
    ) -> Result<Repository<'a>, RegistryError> {
        let mut scope = format!("repository:{}:pull,push", to.path());
        if let Some(from) = from {
            scope += &format!(" repository:{from}:pull");
        }
        Ok(Repository {
            client: self,
            to,
            // What stands in for a registry is not pushed to.
            via: self.own_endpoint(to.domain())?,
            what,
            scope,
            progress,
        })
    }

    /// Whether a repository has a blob.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn has_blob(
        &self,
        to: &Reference,
        digest: &Digest,
        progress: &dyn Progress,
    ) -> Result<bool, RegistryError> {
        let what = format!("the right to push to {}", to.familiar_repository());
        let repository = self.repository(to, what, None, progress)?;
        let url = repository.url(&format!("blobs/{digest}"));
        let answer = repository.patiently(&Method::HEAD, &url, &[])?;
        match answer.status {
            200..=299 => Ok(true),
            // Some answer so for a repository that is to be made by the push.
            404 => Ok(false),
            _ => Err(repository.refused(answer)),
        }
    }

    /// Asks a registry to take a blob from another of its repositories, by that one's path. It need not do so.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn mount(
        &self,
        to: &Reference,
        digest: &Digest,
        from: &str,
        progress: &dyn Progress,
    ) -> Result<bool, RegistryError> {
        let what = format!("the right to push to {}", to.familiar_repository());
        let repository = self.repository(to, what, Some(from), progress)?;
        let url = repository.url(&format!("blobs/uploads/?mount={digest}&from={}", encode(from)));
        let answer = repository.patiently(&Method::POST, &url, &[])?;
        // 202 opens an upload instead; the registry forgets one that is not used.
        Ok(answer.status == 201)
    }

    /// Sends a blob that the repository does not have, unless the registry takes it from another repository by itself. A large
    /// one goes on where `kept` says that an earlier run stopped.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn upload(
        &self,
        to: &Reference,
        blob: &Descriptor,
        open: Open<'_>,
        kept: &dyn Kept,
        progress: &dyn Progress,
    ) -> Result<Uploaded, RegistryError> {
        let what = format!("blob {} of {}", blob.digest, to.familiar_repository());
        let repository = self.repository(to, what, None, progress)?;
        let mut tries = 0;
        loop {
            let sent = match self.in_pieces(blob.size) {
                false => repository.at_once(blob, open)?,
                true => repository.in_pieces(blob, open, kept)?,
            };
            match sent {
                Ok(how) => return Ok(how),
                Err(again) => repository.pause(&again, tries)?,
            }
            tries += 1;
        }
    }

    /// Whether a blob of so many bytes is sent in pieces.
    pub fn in_pieces(&self, size: u64) -> bool {
        size > self.http.options.upload_piece
    }

    /// Puts a manifest or an index under the reference's tag, or under its own digest where `tagged` says no.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn put_manifest(
        &self,
        to: &Reference,
        (media_type, bytes): (&str, &[u8]),
        tagged: bool,
        progress: &dyn Progress,
    ) -> Result<(), RegistryError> {
        let digest = Digest::of(bytes);
        let what = format!("the manifest of {}", to.familiar());
        let repository = self.repository(to, what, None, progress)?;
        let name = version(to, (!tagged).then_some(digest));
        let url = repository.url(&format!("manifests/{name}"));
        let headers = [(header::CONTENT_TYPE, media_type.to_owned())];
        let mut tries = 0;
        let answer = loop {
            let body: Body<'_> = Some((&mut &bytes[..], bytes.len() as u64));
            match repository.ask(&Method::PUT, &url, &headers, body)? {
                Ok(answer) if !is_passing(answer.status) => break answer,
                Ok(answer) => repository.pause(&Again::after(&answer), tries)?,
                Err(reason) => repository.pause(&reason.into(), tries)?,
            }
            tries += 1;
        };
        if !answer.success() {
            return Err(repository.refused(answer));
        }
        match answer
            .header(DOCKER_DIGEST)
            .and_then(|text| text.parse::<Digest>().ok())
        {
            Some(other) if other != digest => {
                Err(repository.failed(format!("it keeps it as {other}, not as {digest}")))
            }
            _ => Ok(()),
        }
    }
}

/// Why a request is worth another attempt, and the pause that the registry asks for.
pub(super) struct Again {
    reason: String,
    status: Option<u16>,
    after: Option<Duration>,
}

impl Again {
    pub(super) fn after(answer: &Answer) -> Again {
        Again {
            reason: format!("the registry answered {}", answer.status),
            status: Some(answer.status),
            after: answer.retry_after(),
        }
    }
}

impl From<String> for Again {
    fn from(reason: String) -> Again {
        Again {
            reason,
            status: None,
            after: None,
        }
    }
}

/// An answer that another attempt may change.
pub(super) fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

impl Repository<'_> {
    fn url(&self, path: &str) -> Url {
        self.via
            .url(&format!("{}/{path}", self.to.path()), self.to.domain())
    }

    fn host(&self) -> &str {
        &self.via.base.authority
    }

    fn want<'a>(&'a self, credentials: Option<&'a Credentials>) -> Want<'a> {
        Want {
            what: &self.what,
            host: self.host(),
            scope: &self.scope,
            credentials,
            via: Some(&self.via),
        }
    }

    fn failed(&self, reason: String) -> RegistryError {
        RegistryError::Upload {
            what: self.what.clone(),
            host: self.host().to_owned(),
            reason,
        }
    }

    pub(super) fn refused(&self, answer: Answer) -> RegistryError {
        let status = answer.status;
        let reason = answer.explanation();
        match status {
            401 | 403 => denied(&self.want(None), reason),
            _ => self.failed(format!("it answered {status}{}", bracketed(&reason))),
        }
    }

    /// Waits before another attempt, if there is to be one.
    pub(super) fn pause(&self, again: &Again, tries: u32) -> Result<(), RegistryError> {
        let http = &self.client.http;
        let (what, after) = (self.what.clone(), again.after);
        if http.aborted() {
            return Err(RegistryError::Aborted { what });
        }
        let late = after.is_some_and(|after| after > http.options.longest_wait);
        if late || tries >= http.options.retries {
            let host = self.host().to_owned();
            return Err(match again.status {
                Some(429) => RegistryError::TooManyRequests { what, host, after },
                _ => self.failed(again.reason.clone()),
            });
        }
        http.pause(&what, self.host(), &again.reason, tries, after, self.progress)
    }

    /// One request, with the login that the registry asks for; the inner error says why there was no answer. A body is
    /// sent once: whoever has one has asked for something else before, and is logged in.
    pub(super) fn ask(
        &self,
        method: &Method,
        url: &Url,
        headers: &[(HeaderName, String)],
        body: Body<'_>,
    ) -> Result<Result<Answer, String>, RegistryError> {
        let http = &self.client.http;
        // Some keep uploads at another address; what is meant for the registry does not go there.
        let ours = self.via.base.same_origin(url);
        let ask = |authorization: Option<String>| Ask {
            method: method.clone(),
            headers: headers.to_vec(),
            authorization: authorization.filter(|_| ours),
            via: ours.then_some(&self.via),
            ..Ask::get(&self.what, url.clone())
        };
        if !url.https && self.via.base.https {
            let (what, host) = (self.what.clone(), url.authority.clone());
            return Err(RegistryError::PlainHttp { what, host });
        }
        let known = self.client.tokens.get(self.host(), &self.scope);
        let first = match body {
            Some((body, length)) => http.once_with(&ask(known), Some((body, length))),
            None => http.once_with(&ask(known), Some((&mut io::empty(), 0))),
        };
        let answer = match first {
            Err(broken) if http.aborted() || !broken.transient => {
                return match http.aborted() {
                    true => Err(RegistryError::Aborted {
                        what: self.what.clone(),
                    }),
                    false => Err(self.failed(broken.reason)),
                };
            }
            Err(broken) => return Ok(Err(broken.reason)),
            Ok(answer) if answer.status != 401 || !ours => return Ok(Ok(answer)),
            Ok(answer) => answer,
        };
        let credentials = self.client.credentials_for(self.to, &self.via, self.progress)?;
        let want = self.want(credentials.as_ref());
        let Some(value) = self.client.tokens.answer(http, &want, &answer, self.progress)? else {
            return Err(denied(&want, answer.explanation()));
        };
        let again = http.once_with(&ask(Some(value)), Some((&mut io::empty(), 0)));
        Ok(again
            .map_err(|broken| broken.reason)
            .and_then(|answer| match answer.status {
                401 => Ok(answer),
                // The token had run out; the body goes with the next attempt.
                _ if method == Method::PUT || method == Method::PATCH => {
                    Err("the login had run out".to_owned())
                }
                _ => Ok(answer),
            }))
    }

    /// A request without a body, made again as long as that may help.
    pub(super) fn patiently(
        &self,
        method: &Method,
        url: &Url,
        headers: &[(HeaderName, String)],
    ) -> Result<Answer, RegistryError> {
        let mut tries = 0;
        loop {
            match self.ask(method, url, headers, None)? {
                Ok(answer) if !is_passing(answer.status) => return Ok(answer),
                Ok(answer) => self.pause(&Again::after(&answer), tries)?,
                Err(reason) => self.pause(&reason.into(), tries)?,
            }
            tries += 1;
        }
    }

    /// Begins an upload of a blob: where it goes. `None` where the registry has the blob in another repository and took it from
    /// there, which it may do unasked (distribution-spec 1.1, "Mounting a blob from another repository"); those that do not
    /// know of it begin an upload.
    pub(super) fn begin(&self, digest: &Digest) -> Result<Option<Url>, RegistryError> {
        let begin = |path: &str| self.patiently(&Method::POST, &self.url(path), &[]);
        let mut answer = begin(&format!("blobs/uploads/?mount={digest}"))?;
        if matches!(answer.status, 400 | 404 | 405 | 422 | 501) {
            answer = begin("blobs/uploads/")?;
        }
        match answer.status {
            201 => Ok(None),
            202 => self.next(&answer).map(Some),
            _ => Err(self.refused(answer)),
        }
    }

    /// Where an upload goes on.
    pub(super) fn next(&self, answer: &Answer) -> Result<Url, RegistryError> {
        let location = answer.header(header::LOCATION);
        location
            .and_then(|location| answer.url.join(location))
            .ok_or_else(|| self.failed("it does not say where to".to_owned()))
    }

    /// The address that ends an upload.
    pub(super) fn ended(url: &Url, digest: &Digest) -> Url {
        let mut url = url.clone();
        url.path.push(if url.path.contains('?') { '&' } else { '?' });
        url.path.push_str(&format!("digest={digest}"));
        url
    }

    /// A small blob, in one request; the inner error says why it is worth another attempt.
    fn at_once(&self, blob: &Descriptor, open: Open<'_>) -> Result<Result<Uploaded, Again>, RegistryError> {
        let Some(to) = self.begin(&blob.digest)? else {
            return Ok(Ok(Uploaded::Mounted));
        };
        let mut body = self.body(blob, open, 0, blob.size)?;
        let headers = [(header::CONTENT_TYPE, "application/octet-stream".to_owned())];
        let sent: Body<'_> = Some((&mut body, blob.size));
        let answer = self.ask(&Method::PUT, &Self::ended(&to, &blob.digest), &headers, sent)?;
        self.taken(body, answer)
    }

    pub(super) fn taken(
        &self,
        body: Sending<'_>,
        answer: Result<Answer, String>,
    ) -> Result<Result<Uploaded, Again>, RegistryError> {
        body.check(&self.what)?;
        match answer {
            Ok(answer) if answer.success() => Ok(Ok(Uploaded::Sent)),
            Ok(answer) if is_passing(answer.status) || answer.status == 416 => Ok(Err(Again::after(&answer))),
            Ok(answer) => Err(self.refused(answer)),
            Err(reason) => Ok(Err(reason.into())),
        }
    }

    /// A part of a blob as the body of a request.
    pub(super) fn body<'b>(
        &'b self,
        blob: &'b Descriptor,
        open: Open<'_>,
        offset: u64,
        length: u64,
    ) -> Result<Sending<'b>, RegistryError> {
        let failed = |source| RegistryError::Read {
            what: self.what.clone(),
            source,
        };
        Ok(Sending {
            from: open(offset).map_err(failed)?.take(length),
            blob,
            done: offset,
            error: None,
            progress: self.progress,
        })
    }
}

/// A part of a blob on its way.
pub(super) struct Sending<'a> {
    from: io::Take<Box<dyn Read>>,
    blob: &'a Descriptor,
    /// Bytes of the blob that were read so far.
    done: u64,
    /// Why it could not be read.
    error: Option<io::Error>,
    progress: &'a dyn Progress,
}

impl Sending<'_> {
    /// Whatever the registry made of it: it could be read.
    pub(super) fn check(self, what: &str) -> Result<(), RegistryError> {
        match self.error {
            None => Ok(()),
            Some(source) => Err(RegistryError::Read {
                what: what.to_owned(),
                source,
            }),
        }
    }
}

impl Read for Sending<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self.from.read(buffer) {
            Ok(0) if self.from.limit() > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            other => other,
        };
        match read {
            Ok(read) => {
                self.done += read as u64;
                // The last byte is told when the registry has it.
                self.progress.event(&Event::Sent {
                    digest: &self.blob.digest,
                    bytes: self.done.min(self.blob.size.saturating_sub(1)),
                });
                Ok(read)
            }
            Err(error) => {
                let kind = error.kind();
                self.error = Some(error);
                Err(kind.into())
            }
        }
    }
}
