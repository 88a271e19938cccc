#![allow(clippy::unwrap_used, missing_docs)]
mod common;
use std::os::fd::AsFd;
use std::time::Instant;
use cofferdam_image::layer::*;
#[test]
#[ignore = "a measurement"]
fn speed() {
    let root = std::env::var("TREE").unwrap();
    let fd = common::dir_fd(std::path::Path::new(&root));
    let started = Instant::now();
    write_tree(fd.as_fd(), &TreeOptions::default(), std::io::sink()).unwrap();
    println!("walk only {:?}", started.elapsed());
    for compression in [Compression::Uncompressed, Compression::Gzip(1), Compression::Gzip(2), Compression::Gzip(3), Compression::Gzip(4), Compression::Gzip(6), Compression::Zstd(1), Compression::Zstd(3)] {
        let out = tempfile::NamedTempFile::new().unwrap();
        let started = Instant::now();
        let options = PackOptions { compression, index: true, ..PackOptions::default() };
        let packed = pack(fd.as_fd(), &options, out.reopen().unwrap()).unwrap();
        println!("{compression:?} {:?} {} of {} blocks {}", started.elapsed(), packed.size, packed.uncompressed_size, packed.blocks.len());
        let prior = PriorBlob::new(out.reopen().unwrap(), &packed.blocks);
        let started = Instant::now();
        let out2 = tempfile::NamedTempFile::new().unwrap();
        let options = PackOptions { prior: Some(&prior), ..options };
        let again = pack(fd.as_fd(), &options, out2.reopen().unwrap()).unwrap();
        println!("   again {:?} reused {}", started.elapsed(), again.reused_blocks);
        let dir = tempfile::tempdir().unwrap();
        let started = Instant::now();
        apply(out.reopen().unwrap(), compression.media_type(true), common::dir_fd(dir.path()).as_fd(), &ApplyOptions::default()).unwrap();
        println!("   apply {:?}", started.elapsed());
    }
}
