#![allow(clippy::unwrap_used)]

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::*;
use crate::error::Error;
use crate::instructions::Dockerfile;
use crate::lint::LintWarning;

const VALID: [&str; 4] = ["everything", "heredocs", "backtick", "legacy"];
/// Far above what any input here needs, far below what an unbounded one takes.
const SOON: Duration = Duration::from_secs(20);

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

fn dump(text: &[u8]) -> String {
    let mut warnings = Warnings::default();
    let Dockerfile { escape, global_args, stages } = parse(text, &mut warnings).unwrap();
    let mut out = format!("escape {escape}\n");
    let line = |out: &mut String, instruction: &Instruction| {
        let lines = instruction.lines;
        writeln!(out, "{}-{} {:?}", lines.start, lines.end, instruction.command).unwrap();
    };
    global_args.iter().for_each(|instruction| line(&mut out, instruction));
    for stage in &stages {
        let name = stage.name.as_deref().unwrap_or_default();
        writeln!(
            out,
            "{} stage {:?} from {:?} on {:?}",
            stage.lines.start, name, stage.base, stage.platform
        )
        .unwrap();
        stage.instructions.iter().for_each(|instruction| line(&mut out, instruction));
    }
    for warning in warnings.kept().iter().map(LintWarning::short) {
        writeln!(out, "{warning}").unwrap();
    }
    out
}

/// `UPDATE_EXPECTED=1` records anew.
#[test]
fn valid_files_read_as_recorded() {
    for name in VALID {
        let text = std::fs::read(testdata(&format!("valid/{name}.Dockerfile"))).unwrap();
        let recorded = std::fs::read_to_string(testdata(&format!("valid/{name}.expected")))
            .unwrap_or_default();
        let dumped = dump(&text);
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            std::fs::write(testdata(&format!("valid/{name}.expected")), &dumped).unwrap();
        } else {
            assert_eq!(dumped, recorded, "{name}");
        }
        parse_untrusted(&text);
    }
}

#[test]
fn hostile_files_end_with_the_right_word() {
    let nul = "instruction contains a NUL byte, a dockerfile must be UTF-8 text";
    let table = [
        ("unterminated", "unterminated heredoc"),
        ("nul", nul),
        ("utf16", nul),
        ("open-quotes", "Syntax error - can't find = in \"'a\". Must be of the form: name=value"),
        ("nested-json", ""),
        ("mixed-json", "when using JSON array syntax, arrays must be comprised of strings only"),
        ("doublings", ""),
        ("replacements", ""),
        ("nested", ""),
        ("patterns", ""),
        ("flags", "dockerfile parse error on line 2: missing a value on flag: --network"),
    ];
    for (name, expected) in table {
        let text = std::fs::read(testdata(&format!("hostile/{name}.Dockerfile"))).unwrap();
        let result = parse(&text, &mut Warnings::default());
        let error = result.err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(error, expected, "{name}");
        soon(name, &text);
    }
}

fn soon(name: &str, text: &[u8]) {
    let start = Instant::now();
    parse_untrusted(text);
    assert!(start.elapsed() < SOON, "{name} took {:?}", start.elapsed());
}

#[test]
fn large_inputs_are_refused_or_read_soon() {
    const FULL: usize = 1 << 20;
    let units = [
        "FROM a\n",
        "FROM",
        "RUN \\\n",
        "\\\n",
        "\\\n\n",
        "# x\n",
        "ONBUILD ",
        "ONBUILD \\\n",
        "RUN <<E\nE\n",
        "ARG a\n",
        "EXPOSE 1\n",
        "\"",
        "'",
        "${a:-",
        "${a/b/",
        "[",
        "--x ",
        "--\" ",
        "\u{feff}",
        "\u{2028}",
        "\r",
        "\n",
    ];
    for unit in units {
        soon(unit, unit.repeat(FULL / unit.len()).as_bytes());
    }
    let value = "ab".repeat(10_000);
    for unit in
        ["<<E ", "--mount=type=bind,from=a ", "${x//a/b}", "$x", "\"a", "${x#*a*b}", "${x:-${x}}"]
    {
        // Long lines are made of short ones, as in a generated file.
        let line = format!("{} \\\n", unit.repeat(1_000));
        let body = line.repeat((FULL - 30_000) / line.len());
        for keyword in ["RUN", "ADD", "ENV y=", "LABEL", "ONBUILD COPY"] {
            soon(unit, format!("FROM a\nENV x={value}\n{keyword} {body}/").as_bytes());
        }
    }
}

#[test]
fn a_million_stages_are_refused_early() {
    let text = "FROM a\n".repeat(1_000_000);
    let error = parse(text.as_bytes(), &mut Warnings::default()).unwrap_err();
    assert!(matches!(error, Error::Text { lines: None, .. }));
    let text = "FROM a\n".repeat(9_000);
    assert!(matches!(
        parse(text.as_bytes(), &mut Warnings::default()),
        Err(Error::TooMany { what: "stages", .. })
    ));
}

/// Cuts and splices of valid files: no panic, whatever the result.
#[test]
fn mutilated_files_do_not_panic() {
    let junk: [&[u8]; 12] =
        [b"\0", b"\xff", b"\"", b"'", b"\\", b"`", b"${", b"}", b"<<E", b"\n", b"\xe2\x80", b"[\""];
    for name in VALID {
        let text = std::fs::read(testdata(&format!("valid/{name}.Dockerfile"))).unwrap();
        for cut in 0..text.len() {
            let (front, back) = text.split_at(cut);
            parse_untrusted(front);
            parse_untrusted(back);
            parse_untrusted(&[front, junk[cut % junk.len()], back].concat());
        }
    }
}
