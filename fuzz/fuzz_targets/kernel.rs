//! Images of kernels, which are unpacked for Firecracker.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cofferdam_microvm::exercise_kernel(data));
