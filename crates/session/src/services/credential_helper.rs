//! Docker's credential helpers: `docker-credential-<name> get`.
//!
//! The helper is the user's own program from the user's own configuration. What it prints is a
//! secret: it is parsed and dropped, never shown, whatever happens.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::calls::auth::Credentials;

/// A helper may ask its user to unlock something.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Largest answer; tokens are a few KiB.
const MAX_ANSWER: u64 = 64 << 10;

/// What helpers print when they know nothing for a host.
const NOT_FOUND: &str = "credentials not found in native keychain";

/// User name with which a helper says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// A helper that gave no answer. What it printed is not part of the error.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// The configured name is no plain program name.
    #[error("invalid credential helper name {name:?}")]
    Name {
        /// The name.
        name: String,
    },
    /// The program did not run.
    #[error("run docker-credential-{name}")]
    Run {
        /// The name.
        name: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The program failed.
    #[error("docker-credential-{name} failed")]
    Failed {
        /// The name.
        name: String,
    },
    /// The program took too long.
    #[error("docker-credential-{name} did not answer in time")]
    Timeout {
        /// The name.
        name: String,
    },
    /// The answer is not what helpers print.
    #[error("docker-credential-{name} printed no credentials")]
    Answer {
        /// The name.
        name: String,
    },
}

impl HelperError {
    /// Whether there is no such program.
    pub(super) fn is_not_installed(&self) -> bool {
        matches!(self, Self::Run { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Username", default)]
    username: String,
    #[serde(rename = "Secret", default)]
    secret: String,
}

/// Asks helper `name` for `server`; anonymous when it knows nothing.
pub(super) async fn get(name: &str, server: &str) -> Result<Credentials, HelperError> {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    if name.is_empty() || !name.chars().all(plain) {
        return Err(HelperError::Name { name: name.to_string() });
    }
    let run = run(name, server);
    let (success, output) = tokio::time::timeout(TIMEOUT, run)
        .await
        .map_err(|_| HelperError::Timeout { name: name.to_string() })?
        .map_err(|source| HelperError::Run { name: name.to_string(), source })?;
    if !success {
        if String::from_utf8_lossy(&output).contains(NOT_FOUND) {
            return Ok(Credentials::default());
        }
        return Err(HelperError::Failed { name: name.to_string() });
    }
    let answer: Answer = serde_json::from_slice(&output)
        .map_err(|_| HelperError::Answer { name: name.to_string() })?;
    let username = if answer.username == TOKEN_USER { String::new() } else { answer.username };
    Ok(Credentials { username, secret: answer.secret })
}

async fn run(name: &str, server: &str) -> io::Result<(bool, Vec<u8>)> {
    let mut child = Command::new(format!("docker-credential-{name}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // A helper that does not read its question fails in its own way.
        let _ = input.write_all(server.as_bytes()).await;
    }
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_ANSWER).read_to_end(&mut output).await?;
    }
    Ok((child.wait().await?.success(), output))
}
