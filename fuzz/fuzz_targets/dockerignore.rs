//! Ignore files and the patterns in them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let patterns = cofferdam_dockerfile::ignore_patterns(data);
    if let Ok(matcher) = cofferdam_session::patterns::Matcher::new(&patterns) {
        let _ = matcher.matches("a/b/c");
    }
});
