//! Memory of one's own process: how it is allotted, and which pages of its program stay in memory.

use std::ffi::{c_int, c_void};
use std::ptr;

/// Has all threads allot from one heap. Where each has its own, memory that one thread takes and another gives back
/// belongs to the first for good, and a heap that is not the first grows by a system call a page.
pub fn one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt with a parameter that glibc documents; it takes the allocator's own lock.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Lets go of the pages of the program and its libraries that are in memory: what is used from now on comes back from
/// the page cache, what only the start needed does not. For a process that starts once and serves for long.
pub fn release_program() {
    // SAFETY: `release` has the type that is asked for, takes no data and does not unwind.
    unsafe {
        libc::dl_iterate_phdr(Some(release), ptr::null_mut());
    }
}

/// Lets go of the segments of one object that nothing ever wrote.
unsafe extern "C" fn release(object: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
    // SAFETY: dl_iterate_phdr gives a valid object, and holds the lock under which objects come and go.
    let object = unsafe { &*object };
    if object.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: as many headers are there as the object says; they live as long as it is loaded.
    let headers = unsafe { std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum)) };
    for header in headers {
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let start = (object.dlpi_addr + header.p_vaddr) as usize & !(PAGE - 1);
        // Pages are mapped whole; what another segment has on the last one is mapped elsewhere.
        let end = (object.dlpi_addr + header.p_vaddr + header.p_memsz) as usize;
        // SAFETY: the range is a private mapping of a file that may not be written and, code being relocated nowhere but
        // in writable segments, never was: what is read there next is what was there before.
        unsafe {
            libc::madvise(
                ptr::with_exposed_provenance_mut(start),
                end - start,
                libc::MADV_DONTNEED,
            );
        }
    }
    0
}

const PAGE: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn resident(field: &str) -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim_end_matches("kB").trim().parse().unwrap()
    }

    #[test]
    fn what_was_released_comes_back_when_it_is_used() {
        let before = resident("RssFile:");
        release_program();
        let after = resident("RssFile:");
        assert!(after < before, "{after} KiB, {before} before");
        // What was relocated at the start is still so: this calls through a table.
        let shown: Vec<Box<dyn std::fmt::Display>> = vec![Box::new(1), Box::new("two")];
        let shown: Vec<String> = shown.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["1", "two"]);
    }
}
