//! The static programs that go into other images and sandboxes, as `build.rs` built them. They run
//! as whoever the image says, and never get anything of the builder's.

/// `/cnb/lifecycle/launcher` of app images.
pub const LAUNCHER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/programs/launcher"));

/// Runs a program in a sandbox: `attempt RESULT PROGRAM ARGUMENT...` writes its exit code into the file
/// `RESULT`, as a decimal number, and succeeds.
pub const ATTEMPT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/programs/attempt"));

#[cfg(test)]
mod tests {
    use super::{ATTEMPT, LAUNCHER};

    /// The type of a program header that names a dynamic linker.
    const PT_INTERP: u32 = 3;
    /// Every app image and every sandbox gets them. Most of it is a static libc and the standard library.
    const MAX_SIZE: usize = 2 << 20;

    /// Whether a program needs a dynamic linker, by its ELF program headers (64 bit, little endian).
    fn needs_linker(program: &[u8]) -> bool {
        let number = |at: usize, size: usize| {
            program[at..at + size].iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
        };
        let (start, size, count) = (number(32, 8), number(54, 2), number(56, 2));
        (0..count).any(|index| number(start + index * size, 4) == PT_INTERP as usize)
    }

    #[test]
    fn programs_are_static_small_and_from_no_machine() {
        for (name, program) in [("launcher", LAUNCHER), ("attempt", ATTEMPT)] {
            assert!(program.starts_with(b"\x7fELF\x02\x01"), "{name}");
            assert!(!needs_linker(program), "{name} is not static");
            assert!(program.len() < MAX_SIZE, "{name} has {} bytes", program.len());
            let text = String::from_utf8_lossy(program);
            let place = env!("CARGO_MANIFEST_DIR").trim_end_matches("/crates/lifecycle");
            assert!(!text.contains(place), "{name} names the directory it was built in");
        }
    }
}
