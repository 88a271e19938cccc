//! Every blob on the disk, read as a file and compared with its name.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use cofferdam_tests::{census, digest};

/// Hashes the blobs of a data directory: those of its registry and those of its builders' stores. Gives their number.
///
/// A builder that runs may remove some meanwhile; those do not count.
pub(crate) fn check(data: &Path) -> usize {
    let mut places = Vec::new();
    for project in entries(&data.join("registry")) {
        places.extend(entries(&project.join("blobs/sha256")));
    }
    for store in census::stores(data) {
        places.extend([store.join("content"), store.join("fresh")]);
    }
    let blobs = places.iter().flat_map(|place| entries(place));
    blobs.filter(|blob| is_whole(blob)).count()
}

/// Whether the blob is still there. One that has other bytes than its name says ends the run.
fn is_whole(blob: &Path) -> bool {
    let bytes = match fs::read(blob) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return false,
        Err(error) => panic!("{}: {error}", blob.display()),
    };
    let name = blob.file_name().unwrap().to_str().unwrap();
    assert_eq!(digest(&bytes), format!("sha256:{name}"), "{} is damaged", blob.display());
    true
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(directory).into_iter().flatten().flatten();
    found.map(|entry| entry.path()).collect()
}

#[test]
fn a_damaged_blob_is_found() {
    let data = tempfile::tempdir().unwrap();
    let shard = data.path().join("registry/p/blobs/sha256/ba");
    fs::create_dir_all(&shard).unwrap();
    let blob = shard.join("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    fs::write(&blob, "abc").unwrap();
    assert_eq!(check(data.path()), 1);
    fs::write(&blob, "abd").unwrap();
    assert!(std::panic::catch_unwind(|| check(data.path())).is_err());
}
