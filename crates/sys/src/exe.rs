//! The file that the calling process was executed from (`/proc/self/exe`), exchanged in place for another opening of it: on
//! another mount, say, through which it cannot be written to.
//!
//! Executing the program again from there does the same, and takes a millisecond and a half: most of what it takes to
//! start a program is done twice then. Here the parts of the file that are mapped are mapped anew, those that were written
//! to become memory without a file, and the kernel, which takes no other file while one page of the old one is mapped, is
//! told the new one (prctl(2), `PR_SET_MM_MAP`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// `struct prctl_mm_map` (linux/prctl.h).
#[repr(C)]
struct Layout {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: *mut u64,
    auxv_size: u32,
    exe_fd: u32,
}

/// One line of `/proc/self/maps`.
struct Mapping<'a> {
    start: usize,
    end: usize,
    protection: i32,
    shared: bool,
    offset: i64,
    /// Device and inode: the kernel's own names of them, which stat(2) need not tell.
    file: (&'a str, &'a str),
}

/// Makes `file` what the calling process is executed from. It must be the same file as now, opened for reading. The process
/// has one thread, and `CAP_SYS_ADMIN` or `CAP_CHECKPOINT_RESTORE` in its user namespace.
///
/// # Errors
/// The kernel's, or that it was built without `CONFIG_CHECKPOINT_RESTORE` (`EINVAL`). The process goes on as before.
pub fn replace(file: BorrowedFd<'_>) -> io::Result<()> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let all: Vec<Mapping<'_>> = maps.lines().filter_map(Mapping::parse).collect();
    let here = replace as fn(BorrowedFd<'_>) -> io::Result<()> as usize;
    let own = all.iter().find(|one| (one.start..one.end).contains(&here));
    let own = own.ok_or(io::ErrorKind::NotFound)?;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let told = layout(&stat).ok_or(io::ErrorKind::InvalidData)?;
    for one in all.iter().filter(|one| one.file == own.file) {
        if one.shared {
            return Err(io::ErrorKind::Unsupported.into());
        }
        // Relocations and data, the only parts that are written to, lie behind the code.
        let unwritten = one.protection & libc::PROT_EXEC != 0
            || one.protection & libc::PROT_WRITE == 0 && one.start < own.start;
        match unwritten {
            true => one.map_anew(file)?,
            false => one.detach()?,
        }
    }
    let map = Layout {
        exe_fd: file.as_raw_fd().cast_unsigned(),
        ..told
    };
    // SAFETY: the kernel reads one `prctl_mm_map`, which lives across the call. Everything in it but the file is what the
    // kernel just said of this process, so that it changes nothing.
    let result = unsafe {
        libc::prctl(
            libc::PR_SET_MM,
            libc::PR_SET_MM_MAP,
            &raw const map,
            size_of::<Layout>(),
            0,
        )
    };
    answer(result == 0)
}

/// Whether the kernel lets the calling process do that.
pub fn can_be_replaced() -> bool {
    let mut size: libc::c_uint = 0;
    // SAFETY: the kernel writes one `unsigned int`, the size of `prctl_mm_map`; one that has none answers with an error.
    let asked = unsafe { libc::prctl(libc::PR_SET_MM, libc::PR_SET_MM_MAP_SIZE, &raw mut size, 0, 0) };
    let rights = ["SYS_ADMIN", "CHECKPOINT_RESTORE"];
    let has = |own: crate::caps::Sets| {
        let named = rights.iter().filter_map(|name| crate::caps::Set::named(name));
        named.into_iter().any(|right| own.effective.contains(right))
    };
    asked == 0 && size as usize == size_of::<Layout>() && crate::caps::current().is_ok_and(has)
}

fn answer(succeeded: bool) -> io::Result<()> {
    match succeeded {
        true => Ok(()),
        false => Err(io::Error::last_os_error()),
    }
}

impl<'a> Mapping<'a> {
    fn parse(line: &'a str) -> Option<Mapping<'a>> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let rights = words.next()?;
        let offset = i64::from_str_radix(words.next()?, 16).ok()?;
        let file = (words.next()?, words.next()?);
        let bit = |letter, bit| if rights.contains(letter) { bit } else { 0 };
        Some(Mapping {
            start: usize::from_str_radix(start, 16).ok()?,
            end: usize::from_str_radix(end, 16).ok()?,
            protection: bit('r', libc::PROT_READ) | bit('w', libc::PROT_WRITE) | bit('x', libc::PROT_EXEC),
            shared: rights.contains('s'),
            offset,
            file,
        })
    }

    fn length(&self) -> usize {
        self.end - self.start
    }

    fn address(&self) -> *mut libc::c_void {
        ptr::with_exposed_provenance_mut(self.start)
    }

    /// Maps the same bytes from `file`.
    fn map_anew(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: the bytes at this address are the same before and after, at every moment, since the file is the same
        // and nothing has written to this part of it in memory; the kernel exchanges one mapping for the other at once.
        let mapped = unsafe {
            libc::mmap(
                self.address(),
                self.length(),
                self.protection,
                libc::MAP_PRIVATE | libc::MAP_FIXED,
                file.as_raw_fd(),
                self.offset,
            )
        };
        answer(mapped != libc::MAP_FAILED)
    }

    /// Puts a copy in memory that belongs to no file in its place.
    fn detach(&self) -> io::Result<()> {
        let length = self.length();
        // SAFETY: new memory, as long as asked for, is written to and then nobody's but the mapping's; the old is readable,
        // since the dynamic linker read it. In a process of one thread nothing writes to it between the copy and its move,
        // which the kernel makes at once, so that what is at this address never changes.
        unsafe {
            let read_write = libc::PROT_READ | libc::PROT_WRITE;
            // All of it is written to: the kernel need not be asked for each page.
            let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
            let copy = libc::mmap(ptr::null_mut(), length, read_write, private, -1, 0);
            answer(copy != libc::MAP_FAILED)?;
            ptr::copy_nonoverlapping(self.address().cast::<u8>().cast_const(), copy.cast(), length);
            let there = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            let moved = libc::mprotect(copy, length, self.protection) == 0
                && libc::mremap(copy, length, length, there, self.address()) != libc::MAP_FAILED;
            let result = answer(moved);
            if !moved {
                libc::munmap(copy, length);
            }
            result
        }
    }
}

/// Where the parts of the process lie, from `/proc/self/stat` (proc_pid_stat(5)).
fn layout(stat: &str) -> Option<Layout> {
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_ascii_whitespace().collect();
    // The third is the first behind the name.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    // SAFETY: asks where the break is, and changes nothing.
    let brk = unsafe { libc::syscall(libc::SYS_brk, 0) };
    Some(Layout {
        start_code: field(26)?,
        end_code: field(27)?,
        start_data: field(45)?,
        end_data: field(46)?,
        start_brk: field(47)?,
        brk: u64::try_from(brk).ok()?,
        start_stack: field(28)?,
        arg_start: field(48)?,
        arg_end: field(49)?,
        env_start: field(50)?,
        env_end: field(51)?,
        auxv: ptr::null_mut(),
        auxv_size: 0,
        exe_fd: 0,
    })
}
