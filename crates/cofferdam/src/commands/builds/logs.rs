//! `cofferdam builds logs`: what steps wrote, also while they still write.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use clap::Args;
use cofferdam_apiclient::{ApiClient, ApiError, BuildStatus, LogCursor, LogLine, Step};
use cofferdam_client::text;
use serde::Serialize;
use tokio::time::sleep;

use super::steps;
use crate::terminal::{print, print_json_line};

/// Between two looks at a running build.
const PAUSE: Duration = Duration::from_secs(1);

/// Failures in a row that may pass while following.
const PATIENCE: u32 = 30;

/// Which logs.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogsArgs {
    /// The build
    id: String,

    /// Go on until the build has ended
    #[arg(short, long)]
    follow: bool,

    /// Only this step, by its number in `builds show` or its digest
    #[arg(long, value_name = "N|DIGEST")]
    step: Option<Which>,
}

/// One step of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Which {
    Number(usize),
    Digest(String),
}

impl std::str::FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("sha256:") {
            return Ok(Self::Digest(text.to_owned()));
        }
        match text.parse() {
            Ok(number) if number > 0 => Ok(Self::Number(number)),
            _ => Err("expected a number from 1 on, or a digest sha256:…".to_owned()),
        }
    }
}

impl Which {
    fn is(&self, index: usize, step: &Step) -> bool {
        match self {
            Self::Number(number) => *number == index + 1,
            // The beginning of a digest will do.
            Self::Digest(digest) => step.digest.starts_with(digest),
        }
    }
}

/// How far each step's log was shown.
#[derive(Default)]
struct Reading {
    cursors: HashMap<String, LogCursor>,
    /// Steps that had ended when their log was last read to its end.
    ended: HashMap<String, bool>,
    /// Whose lines were shown last.
    speaker: Option<usize>,
}

/// Shows the logs of a build.
pub(super) async fn logs(client: &ApiClient, args: &LogsArgs, json: bool) -> anyhow::Result<()> {
    let project = client.build_place(&args.id).await?.project;
    let mut reading = Reading::default();
    let mut failures = 0;
    loop {
        match round(client, &project, args, json, &mut reading).await {
            Ok(Ended(true)) => return Ok(()),
            Ok(Ended(false)) if !args.follow => return Ok(()),
            Ok(Ended(false)) => failures = 0,
            Err(error) if args.follow && failures < PATIENCE && is_passing(&error) => failures += 1,
            Err(error) => return Err(error),
        }
        sleep(PAUSE).await;
    }
}

fn is_passing(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref().is_some_and(ApiError::is_passing))
}

/// Whether the build has ended, so that nothing can follow.
struct Ended(bool);

/// Shows what is new.
async fn round(
    client: &ApiClient,
    project: &str,
    args: &LogsArgs,
    json: bool,
    reading: &mut Reading,
) -> anyhow::Result<Ended> {
    // Asked for first: what a build has written when it has ended is complete.
    let running = client.build(&args.id).await?.status == BuildStatus::Running;
    let steps = steps(client, project, &args.id).await?;
    let wanted = |(index, step): &(usize, &Step)| {
        args.step.as_ref().is_none_or(|which| which.is(*index, step))
    };
    let mut found = false;
    for (index, step) in steps.iter().enumerate().filter(wanted) {
        found = true;
        if step.has_logs && !reading.ended.get(&step.digest).copied().unwrap_or(false) {
            read(client, project, args, json, reading, (index, step)).await?;
        }
        // Read once more after its end was seen: the last lines may come after it.
        if step.completed_at.is_some() {
            reading
                .ended
                .entry(step.digest.clone())
                .and_modify(|done| *done = true)
                .or_insert(false);
        }
    }
    if !found && args.step.is_some() && !(args.follow && running) {
        bail!("build {} has no such step: it has {}", args.id, steps.len());
    }
    Ok(Ended(!running))
}

async fn read(
    client: &ApiClient,
    project: &str,
    args: &LogsArgs,
    json: bool,
    reading: &mut Reading,
    (index, step): (usize, &Step),
) -> anyhow::Result<()> {
    let cursor = reading.cursors.entry(step.digest.clone()).or_default();
    loop {
        let (lines, more) = client
            .log_lines(project, &args.id, &step.digest, cursor)
            .await
            .with_context(|| format!("read the log of step {}", index + 1))?;
        if json {
            for line in &lines {
                print_json_line(&JsonLine { step: index + 1, digest: &step.digest, line })?;
            }
        } else if !lines.is_empty() {
            let alone = args.step.is_some();
            let mut out = String::new();
            if !alone && reading.speaker != Some(index) {
                out.push_str(&heading(index, step, reading.speaker.is_some()));
                reading.speaker = Some(index);
            }
            for line in &lines {
                out.push_str(&shown(line, (!alone).then_some((index, step.started_at))));
            }
            print(&out)?;
        }
        if !more {
            return Ok(());
        }
    }
}

#[derive(Serialize)]
struct JsonLine<'a> {
    step: usize,
    digest: &'a str,
    #[serde(flatten)]
    line: &'a LogLine,
}

fn heading(index: usize, step: &Step, apart: bool) -> String {
    let before = if apart { "\n" } else { "" };
    format!("{before}#{} {}\n", index + 1, text::single_line(&step.name))
}

/// A line of a log; with the step's number and the time since its start, unless it is shown alone.
fn shown(line: &LogLine, of: Option<(usize, Option<DateTime<Utc>>)>) -> String {
    let before = of.map(|(index, start)| {
        let since = line.at.zip(start).and_then(|(at, start)| (at - start).to_std().ok());
        let since = since.map(|since| format!("{:.3} ", since.as_secs_f64()));
        format!("#{} {}", index + 1, since.unwrap_or_default())
    });
    let before = before.unwrap_or_default();
    let message = line.message.strip_suffix('\n').unwrap_or(&line.message);
    message.split('\n').map(|part| format!("{before}{}\n", text::log_line(part))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn step(digest: &str) -> Step {
        Step {
            digest: digest.into(),
            name: "[2/4] RUN \x1b[31mmake".into(),
            started_at: DateTime::from_timestamp(100, 0),
            completed_at: None,
            cached: false,
            error: None,
            has_logs: true,
        }
    }

    #[test]
    fn steps_by_number_or_digest() {
        let which = |text: &str| text.parse::<Which>();
        assert_eq!(which("3"), Ok(Which::Number(3)));
        assert!(which("0").is_err() && which("-1").is_err() && which("RUN").is_err());
        let step = step("sha256:abcd");
        assert!(which("3").unwrap().is(2, &step) && !which("3").unwrap().is(3, &step));
        assert!(
            which("sha256:ab").unwrap().is(9, &step) && !which("sha256:b").unwrap().is(9, &step)
        );
    }

    #[test]
    fn lines_say_whose_and_when() {
        let line = |message: &str| LogLine {
            at: DateTime::from_timestamp(101, 500_000_000),
            message: message.into(),
        };
        let step = step("sha256:abcd");
        assert_eq!(heading(2, &step, true), "\n#3 [2/4] RUN [31mmake\n");
        let of = Some((2, step.started_at));
        assert_eq!(shown(&line("hello\n"), of), "#3 1.500 hello\n");
        assert_eq!(shown(&line("a\nb"), of), "#3 1.500 a\n#3 1.500 b\n");
        assert_eq!(shown(&line(""), None), "\n");
        assert_eq!(shown(&line("\x1b[31mred\x1b[0m\x1b]0;title\x07"), None), "red\n");
    }
}
