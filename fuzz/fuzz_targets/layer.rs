//! Unpacking a layer: nothing may appear outside its directory.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let parent = tempfile::tempdir().expect("a directory");
    let inside = parent.path().join("inside");
    std::fs::create_dir(&inside).expect("a directory");
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
    let root = rustix::fs::open(&inside, flags, rustix::fs::Mode::empty()).expect("a directory");
    cofferdam_image::layer::apply_untrusted(data, std::os::fd::AsFd::as_fd(&root));
    let outside = std::fs::read_dir(parent.path()).expect("a directory").count();
    assert_eq!(outside, 1, "something was made outside the layer's directory");
});
