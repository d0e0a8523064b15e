//! Rings for FUSE over io_uring: which threads there are, and which processors' requests they answer.
//!
//! The kernel has one queue a possible processor, and puts a request into the queue of the processor that its caller
//! runs on; every queue must have a slot before any is used. Two threads wait at each queue, so that one request that
//! takes long (a copy-up, an `fsync`) does not hold up all others from that processor. Where there are many processors a
//! pair of threads serves several queues, which bounds threads and memory.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::thread::CpuSet;
use sys::fuse_ring::Ring;

use super::{MAX_PAGES, MAX_WRITE};

/// A ring, and the processors of its queues.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) ring: Ring,
    cpus: Vec<u16>,
}

impl Seat {
    /// Keeps the calling thread on the processors whose requests it answers: the caller stops there while it waits, and
    /// no other processor is woken. A set of processors that this process was confined to is not left.
    pub(crate) fn stay(&self) {
        let Ok(allowed) = rustix::thread::sched_getaffinity(None) else {
            return;
        };
        let mut set = CpuSet::new();
        for cpu in self.cpus.iter().map(|cpu| usize::from(*cpu)) {
            if cpu < CpuSet::MAX_CPU && allowed.is_set(cpu) {
                set.set(cpu);
            }
        }
        if set.count() > 0 {
            // It is faster so, and right either way.
            let _ = rustix::thread::sched_setaffinity(None, &set);
        }
    }
}

/// Rings for at most `pairs` pairs of threads, or for one thread when `pairs` is 0.
pub(crate) fn make(device: BorrowedFd<'_>, pairs: usize) -> io::Result<Vec<Seat>> {
    let possible = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let queues = queues(&possible).ok_or(io::ErrorKind::InvalidData)?;
    // The larger of the two bounds a request.
    let payload = MAX_WRITE.max(usize::from(MAX_PAGES) * 4096);
    shares(queues, pairs)
        .into_iter()
        .map(|cpus| {
            let device = device.try_clone_to_owned()?;
            let ring = Ring::new(device, &cpus, payload)?;
            Ok(Seat { ring, cpus })
        })
        .collect()
}

/// How many queues the kernel has, of the list of possible processors (`0-7`).
fn queues(possible: &str) -> Option<u16> {
    let last = possible.trim().rsplit(['-', ',']).next()?;
    last.parse::<u16>().ok()?.checked_add(1)
}

/// The queues of each thread.
fn shares(queues: u16, pairs: usize) -> Vec<Vec<u16>> {
    let groups = pairs.clamp(1, usize::from(queues));
    let threads = if pairs == 0 { 1 } else { 2 };
    (0..groups * threads)
        .map(|thread| (0..queues).skip(thread % groups).step_by(groups).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_queues_as_possible_processors() {
        assert_eq!(queues("0\n"), Some(1));
        assert_eq!(queues("0-239\n"), Some(240));
        assert_eq!(queues("0-3,8-11\n"), Some(12));
        assert_eq!(queues("\n"), None);
    }

    #[test]
    fn two_threads_wait_at_every_queue() {
        assert_eq!(shares(2, 2), [vec![0], vec![1], vec![0], vec![1]]);
        assert_eq!(shares(3, 0), [vec![0, 1, 2]]);
        let many = shares(20, 8);
        assert_eq!(many.len(), 16);
        for queue in 0..20 {
            assert_eq!(many.iter().filter(|share| share.contains(&queue)).count(), 2);
        }
    }
}
