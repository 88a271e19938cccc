//! The channel of a virtual machine, as the host reads it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cofferdam_microvm::exercise_channel(data));
