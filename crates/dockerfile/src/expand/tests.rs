#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::*;

fn variables() -> BTreeMap<String, String> {
    [
        ("HOME", "/root"),
        ("EMPTY", ""),
        ("PATH", "/bin:/usr/bin"),
        ("SPACED", "two  words"),
        ("FILE", "archive.tar.gz"),
        ("STAR", "a*b*c"),
        ("1", "one"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

fn text(word: &str) -> String {
    match Expander::new('\\').expand(word, &variables()) {
        Ok(expanded) => expanded.text,
        Err(error) => format!("error: {}", error.problem),
    }
}

#[test]
fn words_and_modifiers() {
    let table = [
        ("plain", "plain"),
        ("$HOME", "/root"),
        ("${HOME}/x", "/root/x"),
        ("$HOMEx", ""),
        ("a $ b", "a $ b"),
        ("$1x", "onex"),
        (r"\$HOME", "$HOME"),
        (r"a\\b", r"a\b"),
        (r"tail\", "tail"),
        ("'$HOME'", "$HOME"),
        ("\"$HOME\"", "/root"),
        (r#""\$HOME \x \"q\"""#, r#"$HOME \x "q""#),
        ("${NONE:-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY-d}", ""),
        ("${NONE-$HOME}", "/root"),
        ("${NONE:-${OTHER:-${HOME}}}", "/root"),
        ("${HOME:+set}${EMPTY:+set}${EMPTY+set}${NONE+set}", "setset"),
        ("${FILE#*.}", "tar.gz"),
        ("${FILE##*.}", "gz"),
        ("${FILE%.*}", "archive.tar"),
        ("${FILE%%.*}", "archive"),
        ("${FILE%.zip}", "archive.tar.gz"),
        ("${PATH/bin/sbin}", "/sbin:/usr/bin"),
        ("${PATH//bin/sbin}", "/sbin:/usr/sbin"),
        (r"${PATH//\//-}", "-bin:-usr-bin"),
        (r"${STAR#a\*}", "b*c"),
        ("${STAR//?/x}", "xxxxx"),
        ("${HOME?must}", "/root"),
        ("<< EOF", "<< EOF"),
        ("é${HOME}ü", "é/rootü"),
    ];
    for (word, expected) in table {
        assert_eq!(text(word), expected, "{word}");
    }
}

#[test]
fn errors_have_the_known_texts() {
    let table = [
        ("${", "syntax error: missing '}'"),
        ("${HOME", "unsupported modifier (\u{fffd}) in substitution"),
        ("${HOME:-x", "syntax error: missing '}'"),
        ("${}", "syntax error: bad substitution"),
        ("${{HOME}}", "syntax error: bad substitution"),
        ("${:x}", "syntax error: bad substitution"),
        ("${HOME:=x}", "unsupported modifier (:=) in substitution"),
        ("${HOME@Q}", "unsupported modifier (@) in substitution"),
        ("${HOME:#x}", "unsupported modifier (:#) in substitution"),
        ("${FOO:?foo missing}", "FOO: foo missing"),
        ("${FOO?}", "FOO: is not allowed to be unset"),
        ("${EMPTY:?}", "EMPTY: is not allowed to be empty"),
        ("${HOME/x", "syntax error: missing '/' in ${}"),
        ("${HOME/x/y", "syntax error: missing '}'"),
        (r"${HOME#\x}", r"invalid pattern (\x) in substitution: invalid escape '\x'"),
        ("'open", "unexpected end of statement while looking for matching single-quote"),
        ("\"open", "unexpected end of statement while looking for matching double-quote"),
    ];
    for (word, expected) in table {
        assert_eq!(text(word), format!("error: {expected}"), "{word}");
    }
    let error = Expander::new('\\').expand("${FOO:?foo missing}", &()).unwrap_err();
    assert_eq!(error.to_string(), "failed to process \"${FOO:?foo missing}\": FOO: foo missing");
}

#[test]
fn splits_words_and_reports_names() {
    let expanded = Expander::new('\\')
        .expand("80 $SPACED '$x y' \"$HOME z\" $NO ${MORE:-d}", &variables())
        .unwrap();
    assert_eq!(expanded.words, ["80", "two", "words", "$x y", "/root z", "d"]);
    assert_eq!(expanded.matched.into_iter().collect::<Vec<_>>(), ["HOME", "SPACED"]);
    assert_eq!(expanded.unmatched.into_iter().collect::<Vec<_>>(), ["MORE", "NO"]);
}

#[test]
fn switches() {
    let expander = Expander::new('\\');
    let raw = expander.clone().raw_quotes().keep_unset();
    assert_eq!(raw.expand("'a' $x ${y} ${z:-\"q\"}", &()).unwrap().text, "'a' $x ${y} ${z:-\"q\"}");
    assert_eq!(expander.clone().raw_escapes().expand(r"a\ b", &()).unwrap().words, [r"a\ b"]);
    let body = expander.literal_quotes().expand("it's $HOME\n\\$x", &variables()).unwrap();
    assert_eq!(body.text, "it's /root\n$x");
    assert_eq!(Expander::new('`').expand(r"C:\x`$y", &()).unwrap().text, r"C:\x$y");
}

#[test]
fn doublings_stop_at_the_budget() {
    let expander = Expander::new('\\');
    let mut value = "x".to_owned();
    let problem = loop {
        let variables = BTreeMap::from([("x".to_owned(), value.clone())]);
        match expander.expand("$x$x", &variables) {
            Ok(expanded) => value = expanded.text,
            Err(error) => break error.problem,
        }
        assert!(value.len() <= 1 << 21);
    };
    assert_eq!(problem, ExpandProblem::TooLarge(1 << 20));
}

#[test]
fn replacing_everything_stops_at_the_budget() {
    let variables = BTreeMap::from([
        ("x".to_owned(), "y".repeat(60_000)),
        ("r".to_owned(), "z".repeat(60_000)),
    ]);
    let error = Expander::new('\\').expand("${x//?/$r}", &variables).unwrap_err();
    assert!(matches!(error.problem, ExpandProblem::TooLarge(_)));
    let pattern = format!("${{x#{}}}", "*a".repeat(10_000));
    let error = Expander::new('\\').expand(&pattern, &variables).unwrap_err();
    assert!(matches!(error.problem, ExpandProblem::Pattern { .. }));
}

#[test]
fn nesting_is_bounded() {
    let word = format!("{}x{}", "${a:-".repeat(100_000), "}".repeat(100_000));
    let error = Expander::new('\\').expand(&word, &()).unwrap_err();
    assert_eq!(error.problem, ExpandProblem::TooDeep(MAX_NESTING));
    assert!(error.word.len() < 2000);
    let quoted = "\"${a:-".repeat(100_000);
    assert!(Expander::new('\\').expand(&quoted, &()).is_err());
}

const MAX_NESTING: usize = 64;
