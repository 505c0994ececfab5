//! Memory for secrets: pages that are not swapped, not dumped and not read by others; wiped when freed.
//!
//! The one module of Keyrail with `unsafe`. Slots of 32 bytes are cut from chunks of pages. Where the kernel
//! offers `memfd_secret(2)` (Linux 5.14 and later) the pages are not even mapped in the kernel; elsewhere they
//! are locked with `mlock(2)` and left out of core dumps. If the process may lock no more memory, plain pages
//! without dump are used and [`protection`] says so.
#![expect(
    unsafe_code,
    reason = "mapping and locking pages has no safe interface; this module is the reviewed place for it"
)]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use zeroize::Zeroize;

use crate::CryptoError;

/// Size of a slot, in bytes.
pub const SLOT_LEN: usize = 32;

/// Size of a chunk, in bytes.
const CHUNK_LEN: usize = 64 * 1024;

/// How many chunks there may be: 16 MiB of secrets, half a million keys.
const CHUNKS_MAX: usize = 256;

/// How well the pages are protected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protection {
    /// Pages that only this process has mapped, not even the kernel.
    SecretMemory,
    /// Pages that are locked and left out of core dumps.
    Locked,
    /// Pages that are left out of core dumps, and may be swapped: the limit for locked memory is reached.
    Unlocked,
}

impl Protection {
    /// The word for people and programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SecretMemory => "secret-memory",
            Self::Locked => "locked",
            Self::Unlocked => "unlocked",
        }
    }
}

/// The weakest protection that was used so far.
pub fn protection() -> Protection {
    match WEAKEST.load(Ordering::Relaxed) {
        0 => Protection::SecretMemory,
        1 => Protection::Locked,
        _ => Protection::Unlocked,
    }
}

static WEAKEST: AtomicU8 = AtomicU8::new(0);

static ARENA: Mutex<Arena> = Mutex::new(Arena { free: Vec::new(), chunks: 0 });

struct Arena {
    free: Vec<Slot>,
    chunks: usize,
}

struct Slot(NonNull<[u8; SLOT_LEN]>);

// SAFETY: a slot is plain memory that nobody else points to; whoever holds the `Slot` owns it.
unsafe impl Send for Slot {}

/// 32 bytes in protected pages, zero at first, wiped and given back when dropped.
pub(crate) struct LockedBytes(Slot);

// SAFETY: shared access only reads (`as_array`), writing needs `&mut`.
unsafe impl Sync for LockedBytes {}

impl LockedBytes {
    /// Takes a slot.
    pub(crate) fn zeroed() -> Result<Self, CryptoError> {
        let mut arena = arena();
        if arena.free.is_empty() {
            arena.grow()?;
        }
        let slot = arena.free.pop().ok_or(CryptoError::System { what: "memory for secrets" })?;
        Ok(Self(slot))
    }

    pub(crate) fn as_array(&self) -> &[u8; SLOT_LEN] {
        // SAFETY: the slot lies in a chunk that is never unmapped, is aligned for bytes and initialized (mapped zero).
        unsafe { self.0.0.as_ref() }
    }

    pub(crate) fn as_array_mut(&mut self) -> &mut [u8; SLOT_LEN] {
        // SAFETY: as above, and `&mut self` makes this the only reference.
        unsafe { self.0.0.as_mut() }
    }
}

impl Drop for LockedBytes {
    fn drop(&mut self) {
        self.as_array_mut().zeroize();
        arena().free.push(Slot(self.0.0));
    }
}

fn arena() -> MutexGuard<'static, Arena> {
    // A panic elsewhere leaves the free list whole: it is only pushed to and popped from.
    ARENA.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Arena {
    fn grow(&mut self) -> Result<(), CryptoError> {
        if self.chunks >= CHUNKS_MAX {
            return Err(CryptoError::System { what: "memory for secrets: the limit is reached" });
        }
        let (base, protection) = map_chunk()?;
        WEAKEST.fetch_max(protection as u8, Ordering::Relaxed);
        self.chunks += 1;
        self.free.reserve(CHUNK_LEN / SLOT_LEN);
        for index in 0..CHUNK_LEN / SLOT_LEN {
            // SAFETY: the offset lies within the chunk that was just mapped.
            let slot = unsafe { base.byte_add(index * SLOT_LEN) };
            self.free.push(Slot(slot.cast()));
        }
        Ok(())
    }
}

fn map_chunk() -> Result<(NonNull<u8>, Protection), CryptoError> {
    if let Some(base) = map_secret_memory() {
        return Ok((base, Protection::SecretMemory));
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let base = map(flags, -1).ok_or(CryptoError::System { what: "memory for secrets" })?;
    // SAFETY: the range was just mapped; these calls change how the kernel treats it and no content.
    let locked = unsafe {
        libc::madvise(base.as_ptr().cast(), CHUNK_LEN, libc::MADV_DONTDUMP);
        libc::madvise(base.as_ptr().cast(), CHUNK_LEN, libc::MADV_WIPEONFORK);
        libc::mlock(base.as_ptr().cast(), CHUNK_LEN) == 0
    };
    Ok((base, if locked { Protection::Locked } else { Protection::Unlocked }))
}

/// Pages from `memfd_secret(2)`, or `None` where the kernel refuses.
fn map_secret_memory() -> Option<NonNull<u8>> {
    // SAFETY: the call takes one flag and gives a file descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    let fd = libc::c_int::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: the descriptor is ours; it may be closed once the mapping holds it.
    let base = unsafe {
        let sized = libc::ftruncate(fd, CHUNK_LEN as libc::off_t) == 0;
        let base = if sized { map(libc::MAP_SHARED, fd) } else { None };
        libc::close(fd);
        base
    }?;
    // SAFETY: the range was just mapped.
    unsafe {
        libc::madvise(base.as_ptr().cast(), CHUNK_LEN, libc::MADV_DONTDUMP);
        // A child must not inherit the pages: it would share them.
        libc::madvise(base.as_ptr().cast(), CHUNK_LEN, libc::MADV_DONTFORK);
    }
    Some(base)
}

fn map(flags: libc::c_int, fd: libc::c_int) -> Option<NonNull<u8>> {
    // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), CHUNK_LEN, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0) };
    if base == libc::MAP_FAILED { None } else { NonNull::new(base.cast()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    static_assertions::assert_not_impl_any!(LockedBytes: std::fmt::Debug, Clone, Copy, PartialEq, AsRef<[u8]>, std::ops::Deref);

    /// One test, because all tests of a process share the arena.
    #[test]
    fn slots_do_not_overlap_and_are_wiped_before_they_are_given_out_again() {
        let mut slots: Vec<_> = (0..5000_usize).map(|_| LockedBytes::zeroed().unwrap()).collect();
        for (index, slot) in slots.iter_mut().enumerate() {
            slot.as_array_mut()[..8].copy_from_slice(&(index + 1).to_be_bytes());
        }
        assert!(slots.iter().enumerate().all(|(index, slot)| slot.as_array()[..8] == (index + 1).to_be_bytes()));
        let places: std::collections::HashSet<_> = slots.iter().map(|slot| slot.as_array().as_ptr()).collect();
        drop(slots);
        let again: Vec<_> = (0..5000).map(|_| LockedBytes::zeroed().unwrap()).collect();
        assert!(again.iter().all(|slot| *slot.as_array() == [0; SLOT_LEN]));
        assert!(again.iter().filter(|slot| places.contains(&slot.as_array().as_ptr())).count() > 4000);
    }
}
