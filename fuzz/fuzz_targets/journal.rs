//! What a killed builder noted for the next one, as a damaged disk has it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cofferdam_store::exercise_journal(data));
