//! How the program ends when it is asked in a wrong way, and that it says so.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn cofferdam(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cofferdam"))
        .args(arguments)
        .env_remove("COFFERDAM_BUILDER")
        .env_remove("BUILDKIT_HOST")
        .output()
        .unwrap()
}

#[test]
fn help_is_success() {
    for arguments in
        [&["--help"][..], &["build", "--help"], &["builder", "--help"], &["doctor", "--help"]]
    {
        let output = cofferdam(arguments);
        assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn arguments_without_sense_are_usage_errors() {
    for arguments in [&[][..], &["explode"], &["build", "--explode"], &["builder", "--debug=maybe"]]
    {
        assert_eq!(cofferdam(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn failures_are_one_line_with_the_reason() {
    let cases: &[(&[&str], &str)] = &[
        (&["build", "/no/such/directory"], "/no/such/directory"),
        (&["build", "--secret", "id=x,src=/no/such/file", "."], "/no/such/file"),
        (&["build", "--network", "bridge", "."], "--network"),
        (&["build", "--addr", "unix:///no/such/socket", "."], "/no/such/socket"),
        (&["build", "--addr", "npipe://x", "."], "npipe://x"),
        (&["build", "--builder", "x", "--target", "y", "."], "--target"),
        (&["build", "--builder", "x", "/no/such/app"], "/no/such/app"),
        (&["build", "--builder", "x", "--volume", "/tmp:/x:rw", "."], "--volume"),
        (&["build", "--builder", "x", "--cache-image", "y", "."], "--push"),
        (&["build", "--file", "x", "--env", "A=1", "."], "--env"),
        (&["builder-image", "create", "x", "--config", "/no/such/file"], "/no/such/file"),
        (&["buildpack", "package", "x", "--path", "/no/such/directory"], "/no/such/directory"),
        (&["buildpack", "new", "../x"], "../x"),
        (&["inspect", "/no/such/layout"], "/no/such/layout"),
        (&["sbom", "download", "./no-such.tar"], "no-such.tar"),
        (&["trust", "deny", "no image"], "no image"),
        (&["builder", "--addr", "npipe://x"], "npipe://x"),
        (&["builder", "--tlscert", "x"], "TLS"),
    ];
    for (arguments, reason) in cases {
        let output = cofferdam(arguments);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
        assert!(
            message.starts_with("cofferdam: ") && message.contains(reason),
            "{arguments:?}: {message}"
        );
        assert_eq!(message.lines().count(), 1, "{arguments:?}: {message}");
    }
}
