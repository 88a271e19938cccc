//! Scripts that prepare what a test works on, git repositories above all.
//!
//! Never to be given what comes out of a build: they run on the host, as whoever runs the tests.

use std::path::Path;
use std::process::Command;

/// Runs a script in a directory, where git does not know the settings of whoever runs the tests; gives what it printed, without the
/// space around it.
///
/// # Panics
/// With what it complained about when it fails.
pub fn sh(directory: &Path, script: &str) -> String {
    let out = Command::new("sh")
        .args(["-c", script])
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}
