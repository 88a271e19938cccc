//! The program without a server to talk to.

use std::process::Command;

#[test]
fn what_is_missing_is_said() {
    let output = Command::new(env!("CARGO_BIN_EXE_customer"))
        .env_remove("COFFERDAM_SERVER")
        .output()
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("COFFERDAM_SERVER"));
}
