//! The build page as text; `tests/chromium.rs` looks at it in a browser.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::*;
use crate::step::{LogLine, LogView, StepView};

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn step(ordinal: u64, error: Option<&str>) -> StepView {
    StepView {
        ordinal,
        digest: "sha256:0".into(),
        name: format!("RUN {ordinal}"),
        started_at: Some(at(1)),
        completed_at: Some(at(2)),
        cached: false,
        error: error.map(str::to_owned),
        saved: Duration::ZERO,
        log: None,
        connections: Vec::new(),
    }
}

fn page(status: Status, steps: Vec<StepView>) -> BuildPage {
    BuildPage {
        audience: Audience::Member(Viewer::SignedIn { organization: "Example".into() }),
        project: ProjectRef { id: "prj".into(), name: "shop <1>".into() },
        build: BuildView {
            id: "bld".into(),
            status,
            error: None,
            command: None,
            created_at: at(0),
            started_at: None,
            finished_at: (status != Status::Running).then(|| at(10)),
            cached_steps: 0,
            total_steps: steps.len() as u64,
            saved: Duration::ZERO,
        },
        steps,
        more_steps: false,
        connections: Vec::new(),
        refresh: true,
        now: at(30),
    }
}

#[test]
fn the_title_says_how_it_stands() {
    for (status, word) in [
        (Status::Running, "Running"),
        (Status::Success, "Succeeded"),
        (Status::Failed, "Failed"),
        (Status::Error, "Error"),
        (Status::Canceled, "Canceled"),
    ] {
        let html = page(status, vec![]).render();
        let title = format!("<title>{word} · shop &#60;1&#62; · build bld – Cofferdam</title>");
        assert!(html.contains(&title), "{html:.700}");
        assert!(html.contains(status.icon()));
    }
}

#[test]
fn only_running_builds_load_again() {
    let refreshing = |page: &BuildPage| page.render().contains("http-equiv=\"refresh\"");
    let mut running = page(Status::Running, vec![]);
    assert!(refreshing(&running));
    running.refresh = false;
    assert!(!refreshing(&running));
    assert!(running.render().contains("<a href=\"?\">Follow the build</a>"));
    assert!(!refreshing(&page(Status::Success, vec![])));
}

#[test]
fn failed_steps_are_open_and_pointed_to() {
    let mut failed = page(Status::Failed, vec![step(0, None), step(7, Some("exit code: 1"))]);
    failed.build.error = Some("failed to solve".into());
    failed.steps[0].name = format!("RUN {}", "x".repeat(1_000));
    let html = failed.render();
    assert_eq!(html.matches("<details open>").count(), 1);
    assert!(html.contains("<li id=\"step-7\" class=\"step failed\">\n<details open>"));
    assert!(html.contains("<a href=\"#step-7\">step 8: <bdi>RUN 7</bdi></a>"));
    // A name that is too long for its row is whole below it.
    assert!(html.contains(&format!("<pre class=\"whole\">RUN {}</pre>", "x".repeat(1_000))));
    assert!(html.contains("exit code: 1") && html.contains("failed to solve"));
}

#[test]
fn a_shared_page_leads_nowhere() {
    let log = LogView {
        lines: vec![LogLine { at: None, message: "x".into() }],
        more: true,
        full: Some("/shared/secret/logs/0".into()),
        ..LogView::default()
    };
    let mut shared = page(Status::Success, vec![StepView { log: Some(log), ..step(0, None) }]);
    assert!(shared.render().contains("cofferdam builds logs bld"));
    shared.audience = Audience::Shared;
    let html = shared.render();
    for leading in ["<nav", "/projects", "/login", "prj", "cofferdam builds", "Example"] {
        assert!(!html.contains(leading), "{leading}");
    }
    assert!(html.contains("Shared build") && html.contains("/shared/secret/logs/0"));
}

#[test]
fn builds_without_steps_say_why() {
    assert!(page(Status::Running, vec![]).render().contains("Waiting for the first step."));
    assert!(page(Status::Error, vec![]).render().contains("ended before its first step"));
}

#[test]
fn steps_beyond_the_bound_are_counted() {
    let steps = (0..MAX_STEPS as u64 + 5).map(|ordinal| step(ordinal, None)).collect();
    let mut many = page(Status::Success, steps);
    let html = many.render();
    assert_eq!(html.matches("<li id=\"step-").count(), MAX_STEPS);
    assert!(html.contains("5 more steps not shown."));
    many.more_steps = true;
    assert!(many.render().contains("There are more steps than this page shows."));
}

/// However much a build writes, its page stays one that a browser opens.
#[test]
fn the_document_is_bounded() {
    let line = LogLine { at: Some(at(1)), message: "\u{202e}<&>".repeat(300) };
    let log = LogView { lines: vec![line; 20], ..LogView::default() };
    let connection = |n: u16| ConnectionView {
        protocol: "tcp".into(),
        host: "\u{202e}".repeat(100),
        address: String::new(),
        port: n,
        allowed: false,
        sent: u64::MAX,
        received: u64::MAX,
        opened_at: at(1),
    };
    let noisy = |ordinal| StepView {
        name: "\u{202e}\"".repeat(3_000),
        error: Some("\u{202e}<\n".repeat(3_000)),
        log: Some(log.clone()),
        connections: (0..300).map(connection).collect(),
        ..step(ordinal, None)
    };
    let mut all = page(Status::Failed, (0..MAX_STEPS as u64).map(noisy).collect());
    all.build.error = Some("\u{202e}".repeat(1_000_000));
    all.project.name = "\u{202e}".repeat(1_000_000);
    let html = all.render();
    assert!(html.len() < 30_000_000, "{}", html.len());
    assert!(html.contains("more than this page has room for"));
    assert!(!html.contains('\u{202e}'));
}

#[test]
fn impossible_times_do_no_harm() {
    let mut odd = page(Status::Success, vec![step(0, None)]);
    odd.build.finished_at = Some(at(-100));
    odd.steps[0].started_at = Some(at(500));
    odd.steps[0].completed_at = Some(at(-500));
    odd.now = at(0) - TimeDelta::days(10_000);
    assert!(odd.render().contains("</main>"));
}
