//! Large blobs are uploaded in pieces. What arrived is not sent again: the registry is asked for it after a connection that
//! broke, and by the next run too, where somebody [kept](Kept) where the upload goes on.

use store::Descriptor;
use ureq::http::{HeaderName, Method, header};

use super::error::RegistryError;
use super::http::Answer;
use super::upload::{Again, Body, Open, Repository, Uploaded, is_passing};
use super::url::Url;

/// Keeps where an upload goes on, from one run to the next.
pub trait Kept {
    /// What was last kept: an address, which may hold a secret of the registry's.
    fn place(&self) -> Option<String>;
    /// There is this to go on with, or nothing any more. Failing to keep it only costs sending it again.
    fn keep(&self, place: Option<&str>);
}

/// Keeps nothing.
impl Kept for () {
    fn place(&self) -> Option<String> {
        None
    }

    fn keep(&self, _: Option<&str>) {}
}

impl Repository<'_> {
    /// Sends a blob; the inner error says why it is worth another attempt, from the beginning.
    pub(super) fn in_pieces(
        &self,
        blob: &Descriptor,
        open: Open<'_>,
        kept: &dyn Kept,
    ) -> Result<Result<Uploaded, Again>, RegistryError> {
        let left = self.left(blob, kept)?;
        let resumed = left.is_some();
        let (mut to, mut done) = match left {
            Some(left) => left,
            None => match self.begin(&blob.digest)? {
                Some(to) => (to, 0),
                None => return Ok(Ok(Uploaded::Mounted)),
            },
        };
        let mut tries = 0;
        while done < blob.size {
            let end = blob.size.min(done + self.client.http.options.upload_piece);
            let mut body = self.body(blob, open, done, end - done)?;
            let headers = [
                (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
                (header::CONTENT_RANGE, format!("{done}-{}", end - 1)),
            ];
            let sent: Body<'_> = Some((&mut body, end - done));
            let answer = self.ask(&Method::PATCH, &to, &headers, sent)?;
            body.check(&self.what)?;
            let again = match answer {
                Ok(answer) if answer.status == 202 => {
                    to = self.next(&answer)?;
                    (done, tries) = (arrived(&answer).unwrap_or(end), 0);
                    kept.keep(Some(&to.to_string()));
                    continue;
                }
                Ok(answer) if answer.status == 416 || is_passing(answer.status) => Again::after(&answer),
                Ok(answer) => {
                    kept.keep(None);
                    return Err(self.refused(answer));
                }
                Err(reason) => reason.into(),
            };
            self.pause(&again, tries)?;
            tries += 1;
            // How much of it is there?
            let answer = self.patiently(&Method::GET, &to, &[])?;
            match self.goes_on(&answer, blob) {
                Some(left) => (to, done) = left,
                // It has forgotten the upload.
                None => {
                    kept.keep(None);
                    return Ok(Err(again));
                }
            }
        }
        let answer = self.ask(&Method::PUT, &Self::ended(&to, &blob.digest), &[], None)?;
        let taken = self.taken(self.body(blob, open, blob.size, 0)?, answer);
        if !matches!(taken, Ok(Err(_))) {
            kept.keep(None);
        }
        match taken {
            // What an earlier run sent may have been the fault.
            Err(error) if resumed => Ok(Err(error.to_string().into())),
            other => other,
        }
    }

    /// What an earlier run left, as far as the registry still knows it.
    fn left(&self, blob: &Descriptor, kept: &dyn Kept) -> Result<Option<(Url, u64)>, RegistryError> {
        let Some(place) = kept.place().and_then(|place| Url::parse(&place)) else {
            return Ok(None);
        };
        match self.ask(&Method::GET, &place, &[], None) {
            Ok(Ok(answer)) => Ok(self.goes_on(&answer, blob)),
            Err(error @ RegistryError::Aborted { .. }) => Err(error),
            // Whatever keeps it from answering, another upload can be begun.
            Ok(Err(_)) | Err(_) => Ok(None),
        }
    }

    /// Where an upload goes on, and how much of the blob has arrived, by the answer to a question after it.
    fn goes_on(&self, answer: &Answer, blob: &Descriptor) -> Option<(Url, u64)> {
        let arrived = arrived(answer).filter(|there| answer.success() && *there <= blob.size)?;
        Some((self.next(answer).ok()?, arrived))
    }
}

/// How many bytes of an upload the registry has, by its `Range`: `0-99` is a hundred, and `0-0` none, for nobody sends
/// one byte.
fn arrived(answer: &Answer) -> Option<u64> {
    let range = answer.header(HeaderName::from_static("range"))?;
    let (_, last) = range.trim_start_matches("bytes=").split_once('-')?;
    match last.trim().parse().ok()? {
        0 => Some(0),
        last => Some(last + 1),
    }
}
