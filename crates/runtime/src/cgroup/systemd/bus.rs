//! A connection to a systemd, at the socket that it keeps for its own tools: no bus has to run, and no library is needed
//! whose every call waits on an async runtime.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::wire::{self, Message, Writer};

/// How long systemd may take to answer, or to make a unit: under load it is slow, and callers of runc's wait as long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why systemd did not do something.
#[derive(Debug, thiserror::Error)]
pub(super) enum BusError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{text}")]
    Refused {
        /// `org.freedesktop.systemd1.NoSuchUnit` and the like.
        name: String,
        text: String,
    },
    #[error("the job ended so: {0}")]
    Job(String),
}

type Result<T> = std::result::Result<T, BusError>;

pub(super) struct Bus {
    stream: BufReader<UnixStream>,
    serial: u32,
    /// Jobs that have ended, and how.
    ended: Vec<(String, String)>,
}

impl Bus {
    /// Connects. Who we are the kernel tells.
    pub(super) fn connect(socket: &Path) -> Result<Bus> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        let mut stream = BufReader::new(stream);
        for expected in ["DATA", "OK"] {
            let mut line = String::new();
            stream.by_ref().take(256).read_line(&mut line)?;
            if !line.starts_with(expected) {
                let text = format!("it does not take the connection: {:?}", line.trim_end());
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, text).into());
            }
        }
        Ok(Bus {
            stream,
            serial: 0,
            ended: Vec::new(),
        })
    }

    /// Calls a method, and gives the strings of the answer.
    pub(super) fn call(&mut self, target: [&str; 3], signature: &str, body: &Writer) -> Result<Vec<String>> {
        self.serial += 1;
        let bytes = wire::call(self.serial, target, signature, body);
        self.stream.get_mut().write_all(&bytes)?;
        loop {
            let message = self.next()?;
            match message.kind {
                wire::REPLY if message.answers == self.serial => return Ok(message.texts),
                wire::ERROR if message.answers == self.serial => {
                    let text = message.texts.into_iter().next();
                    return Err(BusError::Refused {
                        text: text.unwrap_or_else(|| message.error.clone()),
                        name: message.error,
                    });
                }
                _ => self.note(message),
            }
        }
    }

    /// Waits until a job has been done.
    pub(super) fn wait_for(&mut self, job: &str) -> Result<()> {
        loop {
            if let Some((_, how)) = self.ended.iter().find(|(known, _)| known == job) {
                return match how.as_str() {
                    "done" => Ok(()),
                    how => Err(BusError::Job(how.to_owned())),
                };
            }
            let message = self.next()?;
            self.note(message);
        }
    }

    fn note(&mut self, message: Message) {
        // Its strings: the job, the unit, the result.
        if message.kind == wire::SIGNAL
            && message.member == "JobRemoved"
            && let [job, _, how] = message.texts.as_slice()
        {
            self.ended.push((job.clone(), how.clone()));
        }
    }

    fn next(&mut self) -> Result<Message> {
        let mut bytes = vec![0; wire::FIXED];
        self.read(&mut bytes)?;
        let fixed = bytes.first_chunk().ok_or_else(wire::malformed)?;
        let rest = wire::rest(fixed)?;
        bytes.resize(wire::FIXED + rest, 0);
        self.read_at(&mut bytes)?;
        Ok(Message::parse(&bytes)?)
    }

    fn read_at(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.read(&mut bytes[wire::FIXED..])
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.stream
            .read_exact(bytes)
            .map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "it does not answer"),
                _ => error,
            })?;
        Ok(())
    }
}
