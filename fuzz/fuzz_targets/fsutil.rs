//! A stream of file transfer packets: nothing may appear outside its directory.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let parent = tempfile::tempdir().expect("a directory");
    let inside = parent.path().join("inside");
    std::fs::create_dir(&inside).expect("a directory");
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
    let root = rustix::fs::open(&inside, flags, rustix::fs::Mode::empty()).expect("a directory");
    let _ = cofferdam_session::fsutil::receive_bytes(data, root, Default::default());
    let outside = std::fs::read_dir(parent.path()).expect("a directory").count();
    assert_eq!(outside, 1, "something was made outside the transfer's directory");
});
