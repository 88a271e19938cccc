//! What keeps a server that runs for weeks, and builders that wait, as small as what they use: how the C library's allocator divides
//! memory between threads, and when it gives back what is free.
//!
//! Left alone it makes an arena for each thread, up to eight a processor, and gives back only what is free at an arena's end. After
//! an hour of builds two thirds of what the server held were such gaps. Nothing here may change what the server does.

use std::ffi::c_int;
use std::time::Duration;

/// Arenas that all threads share: builds wait for the network, seldom for the allocator.
const ARENAS: c_int = 2;
/// Bytes from which on a buffer is mapped by itself, and gone when it is freed. A fixed number also keeps the allocator from raising it.
const MAPPED: c_int = 64 << 10;
/// How often free pages are given back.
const EVERY: Duration = Duration::from_secs(15);

/// Sets how the server's memory is divided. To be called before the first thread is started; an allocator that knows no such settings
/// does as it always did.
pub fn bound_memory() {
    set(Setting::Arenas, ARENAS);
    set(Setting::Mapped, MAPPED);
}

/// Sets how a builder's memory is divided: threads that work at the same time should not wait for each other, and each of the many that
/// wait needs no arena of its own. To be called likewise.
pub fn bound_builders_memory() {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    set(Setting::Arenas, c_int::try_from(processors).map_or(ARENAS, |count| count.max(ARENAS)));
}

/// What the allocator is told.
#[derive(Debug, Clone, Copy)]
enum Setting {
    /// How many arenas there are at most.
    Arenas,
    /// From how many bytes on a buffer is mapped by itself.
    Mapped,
}

#[cfg(target_env = "gnu")]
fn set(setting: Setting, value: c_int) {
    let number = match setting {
        Setting::Arenas => libc::M_ARENA_MAX,
        Setting::Mapped => libc::M_MMAP_THRESHOLD,
    };
    // SAFETY: it takes two numbers by value, and the allocator locks what it changes.
    let known = unsafe { libc::mallopt(number, value) };
    debug_assert_eq!(known, 1, "{setting:?} of the allocator");
}

#[cfg(not(target_env = "gnu"))]
fn set(_: Setting, _: c_int) {}

/// Gives back what is free, again and again, for as long as the server runs.
pub(crate) async fn give_back() {
    loop {
        tokio::time::sleep(EVERY).await;
        // It takes the lock of each arena for the time that it walks through it.
        if let Err(error) = tokio::task::spawn_blocking(give_back_memory).await {
            tracing::warn!(%error, "free memory could not be given back");
        }
    }
}

/// Gives back what is free now. Blocks for as long as it takes to walk through all that is free.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number by value, and touches free memory alone, under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Memory of this process that nobody shares, in bytes.
    fn own() -> u64 {
        let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        let line = text.lines().find(|line| line.starts_with("Private_Dirty:")).unwrap();
        let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kilobytes << 10
    }

    #[test]
    fn what_is_free_between_what_is_used_is_given_back() {
        const SIZE: usize = 1 << 10;
        // Each sixteenth stays: no arena can be given back from its end.
        let mut blocks: Vec<Option<Vec<u8>>> = (0..96 << 10).map(|_| Some(vec![7; SIZE])).collect();
        let full = own();
        for (number, block) in blocks.iter_mut().enumerate() {
            if number % 16 != 0 {
                *block = None;
            }
        }
        let kept = own();
        give_back_memory();
        let left = own();
        assert!(kept > full - (16 << 20), "control: {full} bytes, then {kept}");
        assert!(left < full - (32 << 20), "{full} bytes, then {left}");
        assert_eq!(blocks.iter().flatten().count(), 6 << 10);
    }
}
