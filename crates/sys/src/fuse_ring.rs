//! Requests of a FUSE connection through io_uring (Linux 6.14, `Documentation/filesystems/fuse/fuse-io-uring.rst`).
//!
//! A [`Ring`] belongs to one thread and holds a few [`Slot`]s. A slot is memory that the kernel writes one request into
//! and takes the answer out of, again and again: while it is the kernel's, this program does not look at it. One system
//! call sends the answers and waits for the next request.
//!
//! Source of the numbers: `include/uapi/linux/io_uring.h` and `include/uapi/linux/fuse.h`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{MapFlags, ProtFlags};

/// Bytes of a slot before its payload: a page, at whose beginning the kernel's headers lie.
pub const HEAD: usize = 4096;
/// Bytes of `fuse_uring_req_header`.
pub const HEADERS: usize = 288;

const SETUP_R_DISABLED: u32 = 1 << 6;
const SETUP_SQE128: u32 = 1 << 10;
const SETUP_SINGLE_ISSUER: u32 = 1 << 12;
const SETUP_DEFER_TASKRUN: u32 = 1 << 13;
const FEAT_SINGLE_MMAP: u32 = 1;
const ENTER_GETEVENTS: u32 = 1;
const REGISTER_ENABLE_RINGS: u32 = 12;
const OFF_SQ_RING: u64 = 0;
const OFF_SQES: u64 = 0x1000_0000;
const OP_URING_CMD: u8 = 46;
const CMD_REGISTER: u32 = 1;
const CMD_COMMIT_AND_FETCH: u32 = 2;
/// Bytes of an entry of the submission queue with `IORING_SETUP_SQE128`.
const SQE: usize = 128;
/// Bytes of an entry of the completion queue.
const CQE: usize = 16;

/// `io_sqring_offsets` and `io_cqring_offsets`: head, tail, mask, entries, flags or overflow, dropped or entries…
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct Offsets {
    head: u32,
    tail: u32,
    mask: u32,
    entries: u32,
    flags: u32,
    /// `dropped`, and `cqes` of the completion queue.
    fifth: u32,
    /// `array` of the submission queue.
    sixth: u32,
    reserved: u32,
    user_address: u64,
}

#[repr(C)]
#[derive(Debug, Default)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    thread_cpu: u32,
    thread_idle: u32,
    features: u32,
    wq_fd: u32,
    reserved: [u32; 3],
    sq: Offsets,
    cq: Offsets,
}

/// Memory from the kernel.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread, and this value alone leads to it.
unsafe impl Send for Mapping {}

impl Mapping {
    fn anonymous(length: usize) -> io::Result<Mapping> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses an address where nothing else lies.
        let start = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), length, protection, MapFlags::PRIVATE)
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { start, length })
    }

    fn of(ring: &OwnedFd, length: usize, offset: u64) -> io::Result<Mapping> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: as above.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                length,
                protection,
                MapFlags::SHARED | MapFlags::POPULATE,
                ring,
                offset,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { start, length })
    }

    /// A number that the kernel and this program share.
    fn shared(&self, at: u32) -> &AtomicU32 {
        let at = at as usize;
        assert!(at.is_multiple_of(4) && at + 4 <= self.length);
        // SAFETY: within the mapping, aligned, and reached by atomic accesses alone on both sides.
        unsafe { AtomicU32::from_ptr(self.start.as_ptr().add(at).cast()) }
    }

    /// Copies bytes to a place that the kernel does not look at just now.
    fn put<const N: usize>(&self, at: usize, bytes: [u8; N]) {
        assert!(at + N <= self.length);
        // SAFETY: within the mapping; callers write only entries that are not submitted, and no reference to them exists.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr().add(at), N) };
    }

    /// Copies bytes out that the kernel has published.
    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        assert!(at + N <= self.length);
        let mut bytes = [0; N];
        // SAFETY: within the mapping; the kernel does not write an entry again before the head is moved past it.
        unsafe { std::ptr::copy_nonoverlapping(self.start.as_ptr().add(at), bytes.as_mut_ptr(), N) };
        bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by this value, and no reference into it outlives it.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// Room for one request and its answer.
#[derive(Debug)]
struct Slot {
    queue: u16,
    memory: Mapping,
    /// Addresses of headers and payload, as the kernel reads them when the slot is registered.
    parts: Box<[libc::iovec; 2]>,
    /// It holds a request; otherwise it is the kernel's.
    ours: bool,
}

// SAFETY: the addresses in `parts` lead into `memory`, which the value owns.
unsafe impl Send for Slot {}

/// A ring of one thread.
#[derive(Debug)]
pub struct Ring {
    ring: OwnedFd,
    device: OwnedFd,
    shared: Mapping,
    entries: Mapping,
    sq: Offsets,
    cq: Offsets,
    slots: Vec<Slot>,
    /// Entries that are filled in and not yet submitted.
    pending: u32,
}

/// Whether this process may use the ring that it was given: a filter may refuse the calls that follow, and what a kernel
/// is promised and never hears of it waits for.
fn permitted(ring: &OwnedFd) -> io::Result<()> {
    /// No such operation: `EINVAL`.
    const NONE: libc::c_uint = 0x7fff;
    let null = std::ptr::null::<libc::c_void>();
    let fd = ring.as_raw_fd();
    // SAFETY: the call is given no memory, and an operation that does not exist.
    let registered = unsafe { libc::syscall(libc::SYS_io_uring_register, fd, NONE, null, 0) };
    let registered = (registered, io::Error::last_os_error());
    // SAFETY: nothing is submitted and nothing waited for; a ring that is not enabled yet answers EBADFD.
    let entered = unsafe { libc::syscall(libc::SYS_io_uring_enter, fd, 0, 0, 0, null, 0usize) };
    let entered = (entered, io::Error::last_os_error());
    for (answer, error) in [registered, entered] {
        if answer < 0
            && matches!(
                error.raw_os_error(),
                Some(libc::EPERM | libc::ENOSYS | libc::EACCES)
            )
        {
            return Err(error);
        }
    }
    Ok(())
}

impl Ring {
    /// A ring for the connection `device`, with one slot for each of `queues`, whose payload has `payload` bytes. Nothing
    /// arrives before [`Ring::register`].
    ///
    /// `ENOSYS`, `EPERM` where there is no io_uring for this process; `EINVAL` before Linux 6.1.
    pub fn new(device: OwnedFd, queues: &[u16], payload: usize) -> io::Result<Ring> {
        let mut params = Params {
            flags: SETUP_R_DISABLED | SETUP_SQE128 | SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN,
            ..Params::default()
        };
        let wanted = queues.len().max(1).next_power_of_two() as libc::c_uint;
        // SAFETY: the call reads and writes `params`, which has the layout of `io_uring_params`.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, wanted, &raw mut params) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, and nobody else's. The kernel makes it close-on-exec.
        let ring = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        permitted(&ring)?;
        if params.features & FEAT_SINGLE_MMAP == 0 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let (sq, cq) = (params.sq, params.cq);
        let end_of_array = sq.sixth as usize + params.sq_entries as usize * 4;
        let end_of_completions = cq.fifth as usize + params.cq_entries as usize * CQE;
        let shared = Mapping::of(&ring, end_of_array.max(end_of_completions), OFF_SQ_RING)?;
        let entries = Mapping::of(&ring, params.sq_entries as usize * SQE, OFF_SQES)?;
        let slot = |queue: &u16| -> io::Result<Slot> {
            let memory = Mapping::anonymous(HEAD + payload)?;
            let part = |from: usize, length| libc::iovec {
                iov_base: memory.start.as_ptr().wrapping_add(from).cast(),
                iov_len: length,
            };
            let parts = Box::new([part(0, HEADERS), part(HEAD, payload)]);
            Ok(Slot {
                queue: *queue,
                memory,
                parts,
                ours: true,
            })
        };
        let slots = queues.iter().map(slot).collect::<io::Result<Vec<_>>>()?;
        Ok(Ring {
            ring,
            device,
            shared,
            entries,
            sq,
            cq,
            slots,
            pending: 0,
        })
    }

    /// The descriptor of the connection.
    pub fn device(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.device)
    }

    /// Offers all slots to the kernel. From here on only the calling thread may use the ring.
    ///
    /// When the kernel refuses one, it serves the whole connection through the device instead.
    pub fn register(&mut self) -> io::Result<()> {
        // SAFETY: the request takes no argument.
        let enabled = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                self.ring.as_raw_fd(),
                REGISTER_ENABLE_RINGS,
                std::ptr::null::<libc::c_void>(),
                0,
            )
        };
        if enabled < 0 {
            return Err(io::Error::last_os_error());
        }
        for index in 0..self.slots.len() {
            self.submit(index, CMD_REGISTER, 0);
        }
        // What is refused is answered at once.
        while self.pending > 0 {
            self.enter(0)?;
        }
        match self.completed() {
            Some((_, result)) if result < 0 => Err(io::Error::from_raw_os_error(-result)),
            Some(_) => Err(io::ErrorKind::InvalidData.into()),
            None => Ok(()),
        }
    }

    /// Sends what was answered, and waits for a request; the number of the slot that holds it. An error when the
    /// connection has ended (`ENOTCONN`, `ECONNABORTED`).
    pub fn receive(&mut self) -> io::Result<usize> {
        loop {
            if let Some((index, result)) = self.completed() {
                return match result {
                    0.. => Ok(index),
                    _ => Err(io::Error::from_raw_os_error(-result)),
                };
            }
            self.enter(1)?;
        }
    }

    /// Memory of a slot that holds a request: headers at the beginning, the payload from byte [`HEAD`] on.
    ///
    /// # Panics
    /// When the slot is the kernel's.
    pub fn memory(&mut self, index: usize) -> &mut [u8] {
        let slot = &mut self.slots[index];
        assert!(slot.ours, "the kernel has the slot");
        // SAFETY: the kernel has completed its command and does not touch the memory before the next one is submitted,
        // which takes `&mut self`; the bytes are initialised, because fresh memory is zero.
        unsafe { std::slice::from_raw_parts_mut(slot.memory.start.as_ptr(), slot.memory.length) }
    }

    /// The slot's answer is ready, as that of request `unique`. It is sent by the next [`Ring::receive`].
    pub fn commit(&mut self, index: usize, unique: u64) {
        self.submit(index, CMD_COMMIT_AND_FETCH, unique);
    }

    fn submit(&mut self, index: usize, command: u32, unique: u64) {
        let slot = &mut self.slots[index];
        assert!(slot.ours, "the kernel has the slot");
        slot.ours = false;
        let mask = self.shared.shared(self.sq.mask).load(Ordering::Relaxed);
        let tail = self.shared.shared(self.sq.tail).load(Ordering::Relaxed);
        let place = tail & mask;
        let at = place as usize * SQE;
        self.entries.put(at, [0u8; SQE]);
        self.entries.put(at, [OP_URING_CMD]);
        self.entries.put(at + 4, self.device.as_raw_fd().to_ne_bytes());
        self.entries.put(at + 8, command.to_ne_bytes());
        if command == CMD_REGISTER {
            self.entries
                .put(at + 16, (slot.parts.as_ptr() as u64).to_ne_bytes());
            self.entries.put(at + 24, 2u32.to_ne_bytes());
        }
        self.entries.put(at + 32, (index as u64).to_ne_bytes());
        // `fuse_uring_cmd_req`: flags, the request, the queue.
        self.entries.put(at + 56, unique.to_ne_bytes());
        self.entries.put(at + 64, slot.queue.to_ne_bytes());
        self.shared
            .shared(self.sq.sixth + place * 4)
            .store(place, Ordering::Relaxed);
        self.shared
            .shared(self.sq.tail)
            .store(tail.wrapping_add(1), Ordering::Release);
        self.pending += 1;
    }

    fn enter(&mut self, wait_for: u32) -> io::Result<()> {
        // SAFETY: the call is given no memory besides the ring's own; every slot it writes to is marked as the kernel's.
        let taken = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.ring.as_raw_fd(),
                self.pending,
                wait_for,
                ENTER_GETEVENTS,
                std::ptr::null::<libc::c_void>(),
                0usize,
            )
        };
        if taken >= 0 {
            self.pending -= taken as u32;
            return Ok(());
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            error => Err(error),
        }
    }

    /// The next completion: number of its slot, which is ours again, and the result.
    fn completed(&mut self) -> Option<(usize, i32)> {
        let head = self.shared.shared(self.cq.head).load(Ordering::Relaxed);
        if head == self.shared.shared(self.cq.tail).load(Ordering::Acquire) {
            return None;
        }
        let mask = self.shared.shared(self.cq.mask).load(Ordering::Relaxed);
        let at = self.cq.fifth as usize + (head & mask) as usize * CQE;
        let index = u64::from_ne_bytes(self.shared.get(at)) as usize;
        let result = i32::from_ne_bytes(self.shared.get(at + 8));
        self.shared
            .shared(self.cq.head)
            .store(head.wrapping_add(1), Ordering::Release);
        self.slots[index].ours = true;
        Some((index, result))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel lets go of its slots only after the descriptor is closed, and not at once: their memory stays.
        for slot in self.slots.drain(..) {
            if !slot.ours {
                std::mem::forget(slot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_structures() {
        assert_eq!((size_of::<Params>(), size_of::<Offsets>()), (120, 40));
    }

    /// `/dev/zero` stands for a device that knows no such command: every slot is refused, and all come back.
    #[test]
    fn a_device_without_rings_is_told() {
        let device = OwnedFd::from(std::fs::File::open("/dev/zero").unwrap());
        let mut ring = match Ring::new(device, &[0, 1, 2], 8192) {
            Ok(ring) => ring,
            // Not permitted here: that is an answer too.
            Err(error) => {
                assert!(matches!(
                    error.raw_os_error(),
                    Some(libc::EPERM | libc::ENOSYS | libc::EINVAL)
                ));
                return;
            }
        };
        assert_eq!(
            ring.register().unwrap_err().raw_os_error(),
            Some(libc::EOPNOTSUPP)
        );
        assert_eq!(ring.memory(0).len(), HEAD + 8192);
    }
}
