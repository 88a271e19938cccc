//! What `cofferdam doctor` says about gVisor on this machine.
//!
//! The program is really run, once per platform, in a directory that is gone afterwards.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::probe::Runsc;
use crate::doctor::Finding;

/// What a run takes at the very most.
const PATIENCE: Duration = Duration::from_secs(20);

/// Longest answer that is passed on.
const MAX_ANSWER: usize = 300;

/// Looks for `runsc` and tries it as the calling user. Takes some tenths of a second.
#[must_use]
pub fn gvisor_findings() -> Vec<Finding> {
    let found = match Runsc::find() {
        Ok(found) => found,
        Err(error) => return vec![program(false, error.to_string())],
    };
    let mut findings =
        vec![program(true, format!("{} {}", found.path().display(), found.version()))];
    let tried: Vec<(&str, Result<(), String>)> = found
        .platforms()
        .iter()
        .map(|platform| (*platform, try_platform(&found, platform)))
        .collect();
    let works = tried.iter().find(|(_, result)| result.is_ok());
    let detail = match works {
        Some((platform, _)) => format!("{platform} works"),
        None => {
            let reasons = tried.iter().filter_map(|(platform, result)| {
                result.as_ref().err().map(|reason| format!("{platform}: {reason}"))
            });
            reasons.collect::<Vec<_>>().join("; ")
        }
    };
    findings.push(Finding {
        name: "gVisor platform",
        present: works.is_some(),
        required: true,
        detail,
    });
    findings.extend(works.map(|(platform, _)| listing(&found, platform)));
    findings
}

/// Whether the system's own `ls` works: that of a recent system asks for something that old releases of gVisor refuse.
fn listing(runsc: &Runsc, platform: &str) -> Finding {
    let outcome = try_program(runsc, platform, &["/bin/ls", "-d", "/"], "/");
    Finding {
        name: "ls and stat under gVisor",
        present: outcome.is_ok(),
        required: false,
        detail: match outcome {
            Ok(()) => "the system's own ls works".to_owned(),
            Err(reason) => format!(
                "the system's own ls fails ({reason}); so will those of images with coreutils 9.1 or newer; a newer runsc is at \
                 https://gvisor.dev/docs/user_guide/install"
            ),
        },
    }
}

fn program(present: bool, detail: String) -> Finding {
    Finding { name: "gVisor (runsc)", present, required: true, detail }
}

fn try_platform(runsc: &Runsc, platform: &str) -> Result<(), String> {
    let program = runsc.path().to_string_lossy();
    try_program(runsc, platform, &[&program, "--version"], "runsc version")
}

/// Runs one command by the program's own means for that; `expected` has to be in what it says.
fn try_program(
    runsc: &Runsc,
    platform: &str,
    command: &[&str],
    expected: &str,
) -> Result<(), String> {
    let state = std::env::temp_dir().join(format!("cofferdam-runsc-{}", std::process::id()));
    std::fs::create_dir(&state).map_err(|error| format!("{}: {error}", state.display()))?;
    let outcome = run(runsc, platform, &state, command).and_then(|said| {
        if said.contains(expected) { Ok(()) } else { Err(format!("it says {said:?}")) }
    });
    std::fs::remove_dir_all(&state).ok();
    outcome
}

fn run(
    runsc: &Runsc,
    platform: &str,
    state: &std::path::Path,
    program: &[&str],
) -> Result<String, String> {
    let mut command = Command::new(runsc.path());
    command.arg(format!("--root={}", state.display()));
    command.arg(format!("--platform={platform}"));
    command.args(["--network=none", "--ignore-cgroups=true"]);
    if !rustix::process::geteuid().is_root() {
        command.arg("--rootless=true");
    }
    command.arg("do").args(program);
    let mut child = command
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let deadline = Instant::now() + PATIENCE;
    // What it says is far less than a pipe holds.
    while child.try_wait().map_err(|error| error.to_string())?.is_none() {
        if Instant::now() > deadline {
            child.kill().ok();
            child.wait().ok();
            return Err(format!("no answer within {} s", PATIENCE.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let words =
        |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().chars().take(MAX_ANSWER).collect();
    if output.status.success() {
        return Ok(words(&output.stdout));
    }
    let said: String = words(&output.stderr);
    Err(format!("{}: {said}", output.status))
}
