//! What directories take of a disk, told by `du`: a witness that shares nothing with the product's own counting.

use std::path::Path;
use std::process::Command;

/// Bytes of disk that a directory takes. Files that go while it counts make it complain, and no difference.
///
/// # Panics
/// When it prints no number.
#[must_use]
pub fn du(directory: &Path) -> u64 {
    let output = Command::new("du").args(["-s", "--block-size=1"]).arg(directory).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// Expects what was told of a directory to be what it takes, within a hundredth.
///
/// # Panics
/// When it is not.
pub fn assert_close(told: u64, directory: &Path) {
    let found = du(directory);
    assert!(told.abs_diff(found) <= found / 100, "told {told}, found {found}");
}
