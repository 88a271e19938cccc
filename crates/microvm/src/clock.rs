//! The rate of this machine's time stamp counter.
//!
//! The emulated `microvm` has neither HPET nor PM timer, so the guest's kernel measures its counter against the PIT; under load
//! that fails in about one start of three and the guest hangs before init. Told the rate (`tsc_early_khz`), it need not measure.

use std::time::{Duration, Instant};

/// Long enough for a rate that is right to some parts in 100,000.
const MEASURE: Duration = Duration::from_millis(50);

/// Kilohertz of the time stamp counter, which an emulated processor passes on unchanged.
#[must_use]
pub(crate) fn tsc_khz() -> u64 {
    let (start, first) = (Instant::now(), counter());
    std::thread::sleep(MEASURE);
    let (length, last) = (start.elapsed(), counter());
    let ticks = u128::from(last.saturating_sub(first));
    u64::try_from(ticks * 1_000_000 / length.as_nanos().max(1)).unwrap_or(0)
}

#[cfg(target_arch = "x86_64")]
fn counter() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and it touches no memory.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn counter() -> u64 {
    0
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    #[test]
    fn the_rate_is_one_of_processors_and_stays() {
        let (a, b) = (super::tsc_khz(), super::tsc_khz());
        assert!((500_000..10_000_000).contains(&a), "{a}");
        assert!(a.abs_diff(b) < a / 100, "{a} {b}");
    }
}
