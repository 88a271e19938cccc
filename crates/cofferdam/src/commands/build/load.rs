//! Hands an image to the docker or podman of this machine, as a tar on its standard input.

use std::process::{Output, Stdio};

use anyhow::{Context, bail};
use tokio::process::{Child, ChildStdin, Command};

/// Programs that can take an image, in the order they are tried.
const PROGRAMS: &[&str] = &["docker", "podman"];

/// A program that waits for an image.
#[derive(Debug)]
pub(super) struct Loader {
    program: &'static str,
    child: Child,
}

impl Loader {
    /// Starts the first program that works; the image is written to the second value.
    pub(super) async fn start() -> anyhow::Result<(Self, ChildStdin)> {
        for program in PROGRAMS {
            if works(program).await {
                return Self::with(program);
            }
        }
        bail!(
            "--load needs docker or podman on this machine, installed and running; \
             to have the image as a file, use -o type=docker,dest=image.tar"
        )
    }

    fn with(program: &'static str) -> anyhow::Result<(Self, ChildStdin)> {
        let mut command = Command::new(program);
        command
            .arg("load")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("start {program} load"))?;
        let input = child.stdin.take().with_context(|| format!("start {program} load"))?;
        Ok((Self { program, child }, input))
    }

    /// Waits until the image is loaded; gives what the program said.
    pub(super) async fn finish(self) -> anyhow::Result<String> {
        let Self { program, child } = self;
        let Output { status, stdout, stderr } =
            child.wait_with_output().await.with_context(|| format!("wait for {program} load"))?;
        if !status.success() {
            bail!("{program} load failed ({status}): {}", String::from_utf8_lossy(&stderr).trim());
        }
        Ok(format!("{program}: {}", String::from_utf8_lossy(&stdout).trim()))
    }
}

/// Whether the program is there and reaches its daemon, if it needs one.
async fn works(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().await.is_ok_and(|status| status.success())
}
