#![allow(clippy::unwrap_used)]
use super::*;

fn at(milliseconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_700_000_000_000 + milliseconds).unwrap()
}

fn step(name: &str, started: Option<i64>, completed: Option<i64>) -> Step {
    Step {
        digest: "sha256:aa".into(),
        name: name.into(),
        started_at: started.map(at),
        completed_at: completed.map(at),
        cached: false,
        error: None,
        has_logs: false,
    }
}

fn steps() -> Vec<Step> {
    vec![
        step("[internal] load build definition", Some(0), Some(1000)),
        Step { cached: true, ..step("[1/3] FROM busybox", Some(1000), Some(1000)) },
        step("[2/3] RUN make", Some(1000), Some(6000)),
        Step {
            error: Some("exit code: 1".into()),
            ..step("[3/3] RUN test", Some(6000), Some(8500))
        },
        step("exporting", Some(8000), None),
        step("last", None, None),
    ]
}

fn style(columns: usize, unicode: bool, color: bool) -> Style {
    Style { columns, unicode, color }
}

#[test]
fn ascii() {
    let drawn = draw(&steps(), at(10_000), style(80, false, false));
    assert_eq!(
        drawn,
        "\
1  [internal] load build definitio  ###                            1.0s
2  [1/3] FROM busybox                 -                              0s  cached
3  [2/3] RUN make                     ##############               5.0s
4  [3/3] RUN test                                  xxxxxxx         2.5s  failed
5  exporting                                            >>>>>>     2.0s  running
6  last                                                                  waiting
"
    );
}

#[test]
fn unicode_is_finer() {
    let drawn = draw(&steps(), at(10_000), style(80, true, false));
    let lines: Vec<&str> = drawn.lines().collect();
    assert!(lines[0].contains("  ██▋  "), "{drawn}");
    assert!(lines[3].contains("  ███████▏  "), "{drawn}");
    assert!(lines[1].contains("  ▋  ") && lines[1].ends_with("  0s  cached"), "{drawn}");
    assert!(!drawn.contains('#'), "{drawn}");
}

#[test]
fn colours_have_meanings() {
    let drawn = draw(&steps(), at(10_000), style(80, false, true));
    assert!(drawn.contains("\x1b[31mfailed\x1b[0m") && drawn.contains("\x1b[34mcached\x1b[0m"));
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    let mut steps = steps();
    steps.push(step(&"日本語の名前".repeat(40), Some(0), Some(10_000)));
    for columns in 30..200 {
        for unicode in [false, true] {
            for line in draw(&steps, at(10_000), style(columns, unicode, false)).lines() {
                assert!(text::width(line) <= columns, "{columns}: {line:?}");
            }
        }
    }
    assert!(!draw(&steps, at(10_000), style(40, false, false)).contains('#'), "no room for bars");
}

#[test]
fn strange_times_are_drawn_somehow() {
    let strange = vec![
        step("ends before it begins", Some(5000), Some(0)),
        step("in the future", Some(99_000), None),
        step("never began", None, Some(1)),
    ];
    for unicode in [false, true] {
        assert_eq!(draw(&strange, at(10_000), style(80, unicode, false)).lines().count(), 3);
    }
    let never = draw(&strange[2..], at(0), style(80, true, false));
    assert_eq!(never, "1  never began\n");
    assert_eq!(draw(&[], at(0), style(80, true, false)), "");
    let same = [step("a", Some(0), Some(0))];
    assert!(draw(&same, at(0), style(80, false, false)).contains('#'));
}

#[test]
fn names_control_nothing() {
    let hostile = [step("[1/1] RUN \x1b[2Jx\r\ny\u{202e}", Some(0), Some(1))];
    let drawn = draw(&hostile, at(1), style(80, false, false));
    assert_eq!(drawn.lines().count(), 1);
    assert!(drawn.starts_with("1  [1/1] RUN [2Jx y "), "{drawn:?}");
}
