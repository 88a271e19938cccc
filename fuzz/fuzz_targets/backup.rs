//! The manifest and the list of files of a backup, which may have come from anywhere.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cofferdam_server::backup::exercise(data));
