#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use chrono::{DateTime, Utc};

use super::*;
use crate::status::{LogEntry, StatusEntry, VertexEntry, WarningEntry};

#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl Write for Screen {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Screen {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn at(millis: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(1_700_000_000_000 + millis)
}

fn vertex(digest: &str, started: Option<i64>, completed: Option<i64>) -> VertexEntry {
    VertexEntry {
        digest: digest.into(),
        name: format!("[{digest}] RUN it\x1b[2J"),
        started: started.and_then(at),
        completed: completed.and_then(at),
        ..VertexEntry::default()
    }
}

fn log(digest: &str, millis: i64, data: &str) -> LogEntry {
    LogEntry { vertex: digest.into(), stream: 1, data: data.into(), timestamp: at(millis) }
}

fn messages() -> Vec<SolveStatus> {
    let vertexes = |vertexes| SolveStatus { vertexes, ..SolveStatus::default() };
    let logs = |logs| SolveStatus { logs, ..SolveStatus::default() };
    vec![
        vertexes(vec![vertex("a", None, None), vertex("b", None, None)]),
        vertexes(vec![vertex("a", Some(0), None)]),
        logs(vec![log("a", 100, "one\ntw"), log("a", 250, "o\n")]),
        SolveStatus {
            statuses: vec![StatusEntry {
                id: "sha256:x".into(),
                vertex: "a".into(),
                current: 1500,
                total: 2_000_000,
                started: at(0),
                timestamp: at(300),
                ..StatusEntry::default()
            }],
            ..SolveStatus::default()
        },
        vertexes(vec![VertexEntry { cached: true, ..vertex("b", Some(10), Some(10)) }]),
        logs(vec![log("a", 400, "no newline")]),
        vertexes(vec![VertexEntry {
            error: "exit code: 1".into(),
            ..vertex("a", Some(0), Some(1500))
        }]),
    ]
}

fn run(mode: ProgressMode, error: Option<&SolveError>) -> (String, Summary) {
    let screen = Screen::default();
    let mut progress = Progress::new(mode, Box::new(screen.clone()), || Some((60, 20)));
    for message in messages() {
        progress.update(&message);
        progress.tick();
    }
    let summary = progress.finish(error);
    drop(progress);
    (screen.text(), summary)
}

fn failure() -> SolveError {
    SolveError::Failed(Box::new(connectrpc::ConnectError::unknown("exit code: 1")))
}

#[test]
fn plain_lines() {
    let (text, _) = run(ProgressMode::Plain, Some(&failure()));
    let expected = "#1 [a] RUN it[2J\n#1 0.100 one\n#1 0.250 two\n#1 sha256:x 1.50kB / 2.00MB 0.3s\n\
                    #1 1.500 no newline\n#1 ERROR: exit code: 1\n\n#2 [b] RUN it[2J\n#2 CACHED\n\
                    ------\n > [a] RUN it[2J:\none\ntwo\nno newline\n------\n";
    assert_eq!(text, expected);
}

#[test]
fn a_silent_step_gives_way() {
    let mut plain = Plain::default();
    let mut tracker = Tracker::default();
    let mut feed = |vertexes, logs, now| {
        let status = SolveStatus { vertexes, logs, ..SolveStatus::default() };
        let changes = tracker.apply(&status);
        plain.take(&tracker, changes);
        plain.flush(&tracker, at(now).unwrap(), false)
    };
    let both = vec![vertex("a", Some(0), None), vertex("b", Some(0), None)];
    assert!(feed(both, vec![log("a", 0, "x\n")], 0).starts_with("#1 "));
    assert_eq!(feed(vec![], vec![log("b", 1000, "y\n")], 1000), "");
    let text = feed(vec![], vec![], 3000);
    assert_eq!(text, "#1 ...\n\n#2 [b] RUN it[2J\n#2 1.000 y\n");
    let text = feed(vec![vertex("b", Some(0), Some(3100))], vec![log("a", 3050, "z\n")], 3100);
    assert_eq!(text, "#2 DONE 3.1s\n\n#1 [a] RUN it[2J\n#1 3.050 z\n");
}

#[test]
fn blank_and_endless_lines_are_kept_apart() {
    let mut tracker = Tracker::default();
    let vertexes = vec![vertex("a", Some(0), None)];
    let endless = "x".repeat(20_000);
    let logs = vec![log("a", 1, "\n\none\r\n\ntwo"), log("a", 2, &endless)];
    tracker.apply(&SolveStatus { vertexes, logs, ..SolveStatus::default() });
    let lines: Vec<&str> = tracker.steps[0].tail(10).collect();
    assert_eq!(&lines[..4], ["", "", "one", ""]);
    assert_eq!(lines[4].len(), 16 << 10);
}

#[test]
fn raw_json_is_one_value_per_message() {
    let (text, _) = run(ProgressMode::RawJson, Some(&failure()));
    let values: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(values.len(), messages().len());
    assert_eq!(values[2]["logs"][0]["data"], "b25lCnR3");
    assert_eq!(values[1]["vertexes"][0]["started"], "2023-11-14T22:13:20Z");
    assert!(values[0]["vertexes"][0].get("started").is_none());
}

#[test]
fn the_terminal_is_redrawn_within_its_size_and_given_back() {
    let (text, _) = run(ProgressMode::Tty, Some(&failure()));
    assert!(text.starts_with("\x1b[?25l") && text.contains("\x1b[?25h"));
    assert!(text.contains("=> CACHED [b] RUN it[2J") && text.contains("=> ERROR [a] RUN it[2J"));
    assert!(text.contains("=> => # two") && text.contains("sha256:x 1.50kB / 2.00MB"));
    assert!(!text.contains("\x1b[2J"));
    for line in text.lines().filter(|line| line.contains("RUN it")) {
        let bare = text::log_line(line);
        assert!(text::width(&bare) <= 60, "{bare:?}");
    }
}

#[test]
fn a_small_terminal_shows_the_newest() {
    let screen = Screen::default();
    let mut progress = Progress::new(ProgressMode::Tty, Box::new(screen.clone()), || Some((30, 8)));
    let vertexes = (0..50).map(|index| vertex(&format!("s{index}"), Some(index), None)).collect();
    progress.update(&SolveStatus { vertexes, ..SolveStatus::default() });
    progress.tick();
    let text = screen.text();
    assert!(text.lines().count() <= 7 && text.contains("s49") && text.contains("Building"));
}

#[test]
fn quiet_says_only_why_it_failed() {
    assert_eq!(run(ProgressMode::Quiet, None).0, "");
    assert!(run(ProgressMode::Quiet, Some(&failure())).0.contains("no newline"));
}

#[test]
fn the_summary_knows_what_was_cached() {
    let (_, summary) = run(ProgressMode::Quiet, None);
    assert_eq!((summary.total(), summary.cached()), (2, 1));
    assert_eq!(summary.spent(), Duration::from_millis(1500));
    assert_eq!(summary.steps[0].error, "exit code: 1");
    let own = StepSummary { name: "[internal] load".into(), ..StepSummary::default() };
    assert!(!own.is_user_step());
}

#[test]
fn warnings_come_at_the_end() {
    let screen = Screen::default();
    let mut progress = Progress::new(ProgressMode::Plain, Box::new(screen.clone()), || None);
    let warning = WarningEntry {
        short: b"Bad\x1b[31m casing".to_vec(),
        url: "https://example.com/rule".into(),
        ..WarningEntry::default()
    };
    progress.update(&SolveStatus { warnings: vec![warning], ..SolveStatus::default() });
    let summary = progress.finish(None);
    assert_eq!(summary.warnings, ["Bad[31m casing"]);
    assert!(screen.text().contains(" 1 warning found:\n - Bad[31m casing\n   More info: https"));
}

#[test]
fn modes_have_names() {
    assert_eq!("plain".parse(), Ok(ProgressMode::Plain));
    assert_eq!("".parse(), Ok(ProgressMode::Auto));
    assert!("fancy".parse::<ProgressMode>().is_err());
}
