//! A drive with a cache of its own that a power cut empties.
//!
//! The drive is a file served through FUSE, the only one of its file system; a loop device on it is the block device. It
//! sees each write, and each flush as an fsync (the block layer makes flushes of `FUA` writes too, since a loop device
//! has none). A write is in the cache until the flush after it, and only what was flushed is certain to be there when
//! power comes back. That is all that drives promise, and more than a copy of the file could show: there everything
//! that was ever written is there, in order.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use fuse::abi::reply::{InitOut, Reply};
use fuse::abi::{InitFlags, MINOR, OpenReply, Operation, Request};
use rustix::io::Errno;
use sys::mount::{FsContext, MountAttrFlags};

use crate::random::Random;

/// Bytes that a drive writes wholly or not at all. File systems rely on it: btrfs writes its only valid superblock in place.
const ATOMIC: usize = 4096;
/// Pages of the largest request, and its bytes.
const MAX_PAGES: u16 = 256;
const MAX_WRITE: usize = MAX_PAGES as usize * 4096;

/// What of the cache has reached the medium when power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// All that was written, as if every write were flushed.
    All,
    /// Nothing that was not flushed.
    Flushed,
    /// What was flushed, and of the rest each page with this chance in a hundred: drives write in what order they like.
    Some(u64),
}

impl Kept {
    /// One of them.
    pub fn choose(random: &mut Random) -> Kept {
        match random.below(4) {
            0 => Kept::All,
            1 => Kept::Flushed,
            _ => Kept::Some(*random.choose(&[5, 30, 60, 90, 98])),
        }
    }
}

/// A drive in service. It is mounted over its file's place until [`Drive::hide`], and ends with its last user.
#[derive(Debug)]
pub struct Drive {
    place: PathBuf,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    /// What readers see: every write is in it.
    latest: File,
    /// What every flushed write is in, and no other.
    flushed: File,
    /// Writes since the last flush, the oldest first.
    cache: Vec<(u64, Vec<u8>)>,
}

impl Drive {
    /// Serves the formatted drive in the file `latest`; its second form is cloned to a file beside it. Answers when it is
    /// there, at `place`, a file that is made.
    pub fn serve(latest: &Path, place: &Path) -> Drive {
        let open = |path: &Path, make| {
            let mut options = File::options();
            let file = options.read(true).write(true).create_new(make).open(path);
            file.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let (latest, flushed) = (open(latest, false), open(&latest.with_extension("flushed"), true));
        rustix::fs::ioctl_ficlone(&flushed, &latest).expect("a file system that clones files");
        let state = State {
            latest,
            flushed,
            cache: Vec::new(),
        };
        let state = Arc::new(Mutex::new(state));
        let device = sys::fuse::open_device().expect("/dev/fuse");
        let mount = mount(&device).unwrap_or_else(|error| panic!("a FUSE file system: {error}"));
        let thread = std::thread::spawn({
            let state = state.clone();
            move || Server { device, state }.run()
        });
        open(place, true);
        sys::mount::attach_at(mount.as_fd(), place).expect("a place for it");
        Drive {
            place: place.to_owned(),
            state,
            thread: Some(thread),
        }
    }

    /// Takes it from the tree of files; who has it open keeps it.
    pub fn hide(&self) {
        sys::mount::detach_at(&self.place).expect("it was mounted there");
    }

    /// Makes `copy` what a power cut in this instant would leave of the drive. Goes on as if nothing had been.
    pub fn cut(&self, copy: &File, kept: Kept, random: &mut Random) {
        let state = lock(&self.state);
        let of = if kept == Kept::All {
            &state.latest
        } else {
            &state.flushed
        };
        rustix::fs::ioctl_ficlone(copy, of).expect("a file system that clones files");
        let Kept::Some(percent) = kept else { return };
        for (offset, data) in &state.cache {
            // Requests begin and end at blocks of the file system; a page never straddles two.
            let head = (ATOMIC - *offset as usize % ATOMIC).min(data.len());
            let (head, rest) = data.split_at(head);
            let mut at = *offset;
            for page in std::iter::once(head).chain(rest.chunks(ATOMIC)) {
                if random.below(100) < percent {
                    copy.write_all_at(page, at).expect("a copy has room");
                }
                at += page.len() as u64;
            }
        }
    }

    /// Waits until its last user is gone.
    pub(crate) fn end(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server of a drive");
        }
    }
}

fn mount(device: &OwnedFd) -> Result<OwnedFd, sys::mount::ConfigError> {
    let context = FsContext::open("fuse")?;
    context.set("source", "strata-drive")?;
    context.set("fd", device.as_raw_fd().to_string())?;
    // Its root is no directory: it is the drive.
    context.set("rootmode", "100600")?;
    context.set("user_id", "0")?;
    context.set("group_id", "0")?;
    context.mount(MountAttrFlags::empty())
}

struct Server {
    device: OwnedFd,
    state: Arc<Mutex<State>>,
}

impl Server {
    /// One thread, one request at a time: when a flush is read, every write before it was answered, and none other is
    /// in the cache.
    fn run(self) {
        let mut buffer = vec![0; MAX_WRITE + (1 << 16)];
        let mut reply = Reply::default();
        loop {
            let length = match rustix::io::read(&self.device, &mut buffer) {
                Ok(length) => length,
                // The one was interrupted while it waited for us, the other before we saw it.
                Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => continue,
                // Nobody has it any more.
                Err(_) => return,
            };
            let request = Request::decode(&buffer[..length], false).expect("the kernel speaks its protocol");
            reply.clear();
            let result = match self.answer(&request.operation, &mut reply) {
                Ok(true) => Ok(()),
                Ok(false) => continue,
                Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
            };
            // Nobody waits for the answer to what was interrupted.
            let _ = rustix::io::write(&self.device, reply.finish(request.unique, result, 0));
        }
    }

    /// Whether there is an answer.
    fn answer(&self, operation: &Operation<'_>, reply: &mut Reply) -> io::Result<bool> {
        let mut state = lock(&self.state);
        match operation {
            Operation::Init(init) => reply.init(&InitOut {
                minor: init.minor.min(MINOR),
                max_readahead: init.max_readahead,
                flags: (InitFlags::BIG_WRITES | InitFlags::MAX_PAGES | InitFlags::ASYNC_DIO)
                    & InitFlags::from_bits_retain(init.flags),
                max_background: 64,
                max_write: MAX_WRITE as u32,
                max_pages: MAX_PAGES,
                max_stack_depth: 0,
            }),
            Operation::GetAttr { .. } => {
                reply.attr_out(&rustix::fs::fstat(&state.latest)?, Duration::from_secs(3600));
            }
            // Every read and write comes here as it is made.
            Operation::Open { .. } => reply.open(0, OpenReply::DIRECT_IO, 0),
            Operation::Read { offset, size, .. } => {
                let mut data = vec![0; *size as usize];
                state.latest.read_exact_at(&mut data, *offset)?;
                reply.bytes(&data);
            }
            Operation::Write { offset, data, .. } => {
                state.latest.write_all_at(data, *offset)?;
                state.cache.push((*offset, data.to_vec()));
                reply.u32(data.len() as u32);
                reply.u32(0);
            }
            Operation::FSync { .. } => {
                for (offset, data) in std::mem::take(&mut state.cache) {
                    state.flushed.write_all_at(&data, offset)?;
                }
            }
            Operation::Release { .. } | Operation::Destroy => {}
            Operation::Forget { .. } | Operation::BatchForget(_) | Operation::Interrupt { .. } => {
                return Ok(false);
            }
            _ => return Err(Errno::NOSYS.into()),
        }
        Ok(true)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
