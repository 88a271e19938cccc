#![allow(clippy::unwrap_used)]

use super::*;
use crate::error::Error;
use crate::lines::Lines;

fn nodes(text: &str) -> Vec<Node> {
    parse_nodes(text.as_bytes()).unwrap().nodes
}

fn arguments(line: &str) -> Vec<String> {
    nodes(line).remove(0).arguments
}

fn problem(text: &[u8]) -> (Option<Lines>, String) {
    let error = parse_nodes(text).unwrap_err();
    (error.lines(), error.to_string())
}

#[test]
fn continuation_lines_comments_and_ranges() {
    let text = "# syntax=docker/dockerfile:1\n\n# base\n# more\nFROM a\nRUN one \\\n  # note\n  two \\ \n\n  three\n\
                RUN \\\\\nRUN tail\\";
    let parsed = parse_nodes(text.as_bytes()).unwrap();
    let shown: Vec<_> = parsed.nodes.iter().map(|node| (node.text.as_str(), node.lines)).collect();
    assert_eq!(
        shown,
        [
            ("FROM a", Lines::single(5)),
            ("RUN one   two   three", Lines::new(6, 10)),
            ("RUN \\\\", Lines::single(11)),
            ("RUN tail", Lines::single(12)),
        ]
    );
    assert_eq!(parsed.nodes[0].comments, ["base", "more"]);
    assert!(parsed.nodes[1].comments.is_empty());
    assert_eq!(parsed.empty_continuations, [10]);
}

#[test]
fn an_empty_comment_separates() {
    assert_eq!(nodes("# far\n#\n# near\nFROM a")[0].comments, ["near"]);
}

#[test]
fn escape_directive() {
    let parsed = parse_nodes(b"# escape=`\nFROM a `\n AS b\nCOPY c:\\x\\ d:\\\n").unwrap();
    assert_eq!(parsed.escape, '`');
    assert_eq!(parsed.nodes[0].arguments, ["a", "AS", "b"]);
    assert_eq!(parsed.nodes[1].arguments, ["c:\\x\\", "d:\\"]);
    assert_eq!(parse_nodes(b"FROM a\n# escape=`\n").unwrap().escape, '\\');
    assert_eq!(problem(b"# escape=x\nFROM a").1, "invalid escape token 'x' does not match ` or \\");
    let (lines, text) = problem(b"# escape=\\\n# ESCAPE = `\nFROM a");
    assert_eq!(
        (lines, text.as_str()),
        (Some(Lines::single(2)), "only one escape parser directive can be used")
    );
}

#[test]
fn directives_are_found_in_every_form() {
    type Row = (&'static [u8], Option<(&'static str, u32)>);
    let table: [Row; 10] = [
        (b"# syntax=a/b:1\n", Some(("a/b:1", 1))),
        (b"\xef\xbb\xbf#  SYNTAX = a/b:1  \r\n", Some(("a/b:1", 1))),
        (b"#!/usr/bin/env x\n# syntax=a:1 flag\n", Some(("a:1", 2))),
        (b"# check=skip=all\n# syntax=a\n", Some(("a", 2))),
        (b"// syntax=a\n", Some(("a", 1))),
        (b"{\"syntax\": \"a:1\", \"x\": 1}", Some(("a:1", 1))),
        (b"# note\n# syntax=a\n", None),
        (b"\n# syntax=a\n", None),
        (b"# syntax=\n", None),
        (b"{\"syntax\": 3}", None),
    ];
    for (text, expected) in table {
        let found = syntax_directive(text).map(|found| (found.value, found.lines.start));
        assert_eq!(
            found,
            expected.map(|(value, line)| (value.to_owned(), line)),
            "{}",
            text.escape_ascii()
        );
    }
    assert_eq!(syntax_directive(b"# syntax=a b c").unwrap().full, "a b c");
    assert_eq!(
        check_directive(b"# check=skip=A;error=true\nFROM a").unwrap().value,
        "skip=A;error=true"
    );
    assert!(check_directive(b"// check=skip=A").is_none());
}

#[test]
fn keyword_flags_and_arguments() {
    let node = nodes("\t copy\t--from=b  --chown=\"a b\" --x\\ y -- --z d").remove(0);
    assert_eq!(node.keyword, Some(Keyword::Copy));
    assert_eq!(node.keyword_text, "copy");
    assert_eq!(node.flags, ["--from=b", "--chown=a b", "--x y"]);
    assert_eq!(node.arguments, ["--z", "d"]);
}

#[test]
fn argument_forms() {
    assert_eq!(
        arguments("ENV a=b c=\"d e\" f='g\\' h=i\\ j k="),
        ["a", "b", "=", "c", "\"d e\"", "=", "f", "'g\\'", "=", "h", "i\\ j", "=", "k", "", "="]
    );
    assert_eq!(arguments("ENV a  b  c=d"), ["a", "b  c=d", ""]);
    assert_eq!(arguments("ARG a b=c 'd e'"), ["a", "b=c", "'d e'"]);
    assert_eq!(arguments("CMD [\"a\", \"b c\"]"), ["a", "b c"]);
    assert_eq!(arguments("CMD ['a']"), ["['a']"]);
    assert_eq!(arguments("CMD [\"a\""), ["[\"a\""]);
    assert_eq!(arguments("CMD [ ]"), Vec::<String>::new());
    assert_eq!(arguments("COPY [\"a b\", \"c\"]"), ["a b", "c"]);
    assert_eq!(arguments("HEALTHCHECK --interval=1s CMD  a b"), ["CMD", "a b"]);
    assert_eq!(arguments("HEALTHCHECK CMD [\"a\"]"), ["CMD", "a"]);
    assert_eq!(arguments("ONBUILD RUN a  b"), ["RUN", "a  b"]);
    assert_eq!(arguments("NOTHING a b"), Vec::<String>::new());
    assert_eq!(arguments("WORKDIR a\u{a0}b c"), ["a\u{a0}b c"]);
}

#[test]
fn heredocs() {
    let text = "RUN <<EOF cat <<-'X' 3<<\"Y Z\"\na\n\tEOF\nEOF\n\tb\n\tX\r\nc\nY Z\nRUN ok";
    let nodes = nodes(text);
    let shown: Vec<_> = nodes[0]
        .heredocs
        .iter()
        .map(|doc| {
            (doc.name.as_str(), doc.descriptor, doc.expand, doc.strip_tabs, doc.content.as_str())
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("EOF", 0, true, false, "a\n\tEOF\n"),
            ("X", 0, false, true, "\tb\n"),
            ("Y Z", 3, false, false, "c\n"),
        ]
    );
    assert_eq!(nodes[0].lines, Lines::new(1, 8));
    assert_eq!(nodes[1].lines, Lines::single(9));
    assert_eq!(strip_tabs("\ta\n\t\tb\n c\n"), "a\nb\n c\n");
}

#[test]
fn what_is_no_heredoc() {
    for line in [
        "RUN a <<<b",
        "RUN echo \"<<EOF\"",
        "CMD <<EOF",
        "RUN [\"<<EOF\"]",
        "RUN echo 'x <<EOF",
        "RUN x <<",
    ] {
        assert!(nodes(line)[0].heredocs.is_empty(), "{line}");
    }
    assert_eq!(nodes("COPY << EOF /x\nEOF")[0].heredocs[0].name, "EOF");
    assert_eq!(nodes("RUN cat <<$X\n$X")[0].heredocs[0].name, "$X");
    assert_eq!(nodes("ONBUILD COPY <<E /x\na\nE")[0].heredocs[0].content, "a\n");
    assert!(parse_heredoc("x<<E").is_none());
    assert!(parse_heredoc("<<'E").is_none());
}

#[test]
fn errors_name_their_lines() {
    type Row = (&'static [u8], Option<(u32, u32)>, &'static str);
    let table: [Row; 11] = [
        (b"", None, "the Dockerfile cannot be empty"),
        (b"# only\n\n", Some((2, 2)), "file with no instructions"),
        (b"\\", Some((1, 1)), "file with no instructions"),
        (b"FROM a\nENV x", Some((2, 2)), "ENV must have two arguments"),
        (
            b"LABEL \\\n a=b \\\n c",
            Some((1, 3)),
            "Syntax error - can't find = in \"c\". Must be of the form: name=value",
        ),
        (
            b"CMD [\"a\", [\"b\"]]",
            Some((1, 1)),
            "when using JSON array syntax, arrays must be comprised of strings only",
        ),
        (b"RUN <<EOF\na\nb\n", Some((1, 3)), "unterminated heredoc"),
        (
            b"RUN a\0b",
            Some((1, 1)),
            "instruction contains a NUL byte, a dockerfile must be UTF-8 text",
        ),
        (
            b"RUN <<E\n\0\nE",
            Some((1, 3)),
            "instruction contains a NUL byte, a dockerfile must be UTF-8 text",
        ),
        (
            b"CMD [\"a\\u0000\"]",
            Some((1, 1)),
            "instruction contains a NUL byte, a dockerfile must be UTF-8 text",
        ),
        (b"ONBUILD ENV x", Some((1, 1)), "ENV must have two arguments"),
    ];
    for (text, lines, expected) in table {
        let lines = lines.map(|(start, end)| Lines::new(start, end));
        assert_eq!(problem(text), (lines, expected.to_owned()), "{}", text.escape_ascii());
    }
}

#[test]
fn limits() {
    let long = format!("FROM a\nRUN {}", "x".repeat(70_000));
    assert_eq!(
        problem(long.as_bytes()).1,
        "dockerfile line greater than max allowed size of 65535"
    );
    assert_eq!(
        problem(&vec![b'\n'; MAX_FILE + 1]).1,
        "dockerfile greater than max allowed size of 1048576"
    );
    let many = "FROM a\n".repeat(MAX_INSTRUCTIONS + 1);
    assert!(matches!(
        parse_nodes(many.as_bytes()),
        Err(Error::TooMany { limit: MAX_INSTRUCTIONS, .. })
    ));
    let nested = format!("{} x", "ONBUILD \\\n".repeat(100_000));
    assert_eq!(nodes(&nested)[0].arguments[0], "ONBUILD");
}

#[test]
fn bytes_outside_utf8_are_kept_readable() {
    let parsed = parse_nodes(b"# caf\xe9\nFROM a\nLABEL x=\xff\xfe\n").unwrap();
    assert_eq!(parsed.nodes[1].arguments, ["x", "\u{fffd}\u{fffd}", "="]);
}
