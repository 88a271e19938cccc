#![allow(clippy::unwrap_used)]

use super::*;

fn matches(patterns: &[&str], path: &str) -> bool {
    Matcher::new(patterns).unwrap().matches(path)
}

#[test]
fn single_patterns() {
    for (pattern, path, expected) in [
        ("**", "file", true),
        ("**", "file/", true),
        ("**/", "file", true),
        ("**", "/", true),
        ("**", "dir/file", true),
        ("**/", "dir/file", true),
        ("**/**", "dir/file", true),
        ("dir/**", "dir/file", true),
        ("dir/**", "dir/dir2/file", true),
        ("dir/**", "dir", false),
        ("dir/**", "dirx/file", false),
        ("**/dir", "dir", true),
        ("**/dir", "dir/file", true),
        ("**/dir2/*", "dir/dir2/file", true),
        ("**/dir2/*", "dir/dir2/dir3/file", true),
        ("**/dir2/**", "dir/dir2/dir3/file", true),
        ("**file", "file", true),
        ("**file", "dir/file", true),
        ("**file", "dir/prefixfile", true),
        ("**/file", "dir/file", true),
        ("**/file", "dir/prefixfile", false),
        ("**/file", "file", true),
        ("**file", "filex", false),
        ("**/file*", "dir/dir/file.txt", true),
        ("**/file*txt", "dir/dir/file.txt", true),
        ("**/file*.txt", "dir/dir/file.txt", true),
        ("**/file*.txt*", "dir/dir/file.txtt", true),
        ("**/**/*.txt", "dir/dir/file.txt", true),
        ("**/**/*.txt2", "dir/dir/file.txt", false),
        ("**/*.txt", "file.txt", true),
        ("**/**/*.txt", "file.txt", true),
        ("a**/*.txt", "a/file.txt", true),
        ("a**/*.txt", "a/dir/file.txt", true),
        ("a**/*.txt", "a/dir/dir/file.txt", true),
        ("a/*.txt", "a/dir/file.txt", false),
        ("a/*.txt", "a/file.txt", true),
        ("a/*.txt**", "a/file.txt", true),
        ("a[b-d]e", "ae", false),
        ("a[b-d]e", "ace", true),
        ("a[b-d]e", "aae", false),
        ("a[^b-d]e", "aze", true),
        (".*", ".foo", true),
        (".*", "foo", false),
        ("abc.def", "abcdef", false),
        ("abc.def", "abc.def", true),
        ("abc.def", "abcZdef", false),
        ("abc?def", "abcZdef", true),
        ("abc?def", "abc/def", false),
        ("abc?def", "abcdef", false),
        ("a\\*b", "a*b", true),
        ("a\\*b", "axb", false),
        ("a\\\\", "a\\", true),
        ("\\a", "a", true),
        ("**/foo/bar", "foo/bar", true),
        ("**/foo/bar", "dir/foo/bar", true),
        ("**/foo/bar", "dir/dir2/foo/bar", true),
        ("abc/**", "abc", false),
        ("abc/**", "abc/def", true),
        ("abc/**", "abc/def/ghi", true),
        ("**/.foo", ".foo", true),
        ("**/.foo", "bar.foo", false),
        ("a(b)c/def", "a(b)c/def", true),
        ("a(b)c/def", "a(b)c/xyz", false),
        ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
        (
            "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl",
            "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl",
            true,
        ),
        ("dist/*.whl", "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl", true),
        ("日本*", "日本語", true),
        ("日?語", "日本語", true),
        ("[日-本]x", "日x", true),
        ("a/b/../c", "a/c", true),
        ("./a", "a", true),
        ("a//b/", "a/b", true),
        ("  a  ", "a", true),
        ("#x", "#x", true),
        ("^a", "^a", true),
        ("a]b", "a]b", true),
        ("x&&y", "x&&y", true),
        ("a-b", "a-b", true),
        ("a~b", "a~b", true),
    ] {
        assert_eq!(matches(&[pattern], path), expected, "{pattern:?} on {path:?}");
    }
}

#[test]
fn a_directory_covers_what_is_below_it() {
    assert!(matches(&["a"], "a/b/c"));
    assert!(matches(&["a/b"], "a/b/c"));
    assert!(matches(&["*"], "a/b/c"));
    assert!(matches(&["*/b"], "a/b/c"));
    assert!(!matches(&["b"], "a/b"));
    assert!(!matches(&["a/b"], "a"));
    assert!(!matches(&["a"], "ab/c"));
}

#[test]
fn later_patterns_win() {
    for (patterns, path, expected) in [
        (&["*", "!a"][..], "a", false),
        (&["*", "!a"], "b", true),
        (&["!a", "*"], "a", true),
        (&["a", "!a/b"], "a/b", false),
        (&["a", "!a/b"], "a/c", true),
        (&["a", "!a/b", "a/b/c"], "a/b/c", true),
        (&["a", "!a/b", "a/b/c"], "a/b/d", false),
        (&["**", "!a/b"], "a", true),
        (&["**", "!a/b"], "a/b/x", false),
        (&["docs", "!docs/**/*.md"], "docs/a/b.md", false),
        (&["docs", "!docs/**/*.md"], "docs/a/b.txt", true),
        (&["*.md", "!README*.md", "README-secret.md"], "README.md", false),
        (&["*.md", "!README*.md", "README-secret.md"], "README-secret.md", true),
        (&["*.md", "README-secret.md", "!README*.md"], "README-secret.md", false),
        (&["**/*.go", "!**/a.go"], "x/a.go", false),
        (&["", " ", "a"], "a", true),
        (&[], "a", false),
    ] {
        assert_eq!(matches(patterns, path), expected, "{patterns:?} on {path:?}");
    }
}

#[test]
fn knowledge_of_parents_does_not_change_the_outcome() {
    let lists: [&[&str]; 6] = [
        &["a", "!a/b"],
        &["**/b", "!a/b/c"],
        &["*", "!a/b", "a/b/c"],
        &["!x", "a/*/c"],
        &["a/**", "!a/b/**"],
        &["**", "!**/c"],
    ];
    for list in lists {
        let matcher = Matcher::new(list).unwrap();
        for path in ["a/b/c", "a/b/d", "a/x/c", "b/a/b", "x/y/z"] {
            let mut info = None;
            let mut last = false;
            for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
                let (matched, next) = matcher.matches_below(&path[..end], info.as_ref());
                (last, info) = (matched, Some(next));
            }
            assert_eq!(last, matcher.matches(path), "{list:?} on {path}");
        }
    }
}

#[test]
fn malformed_patterns_are_errors() {
    for pattern in ["!", "[", "a[", "[]a]", "a\\", "[-x]", "[^", " ! "] {
        assert!(Matcher::new([pattern]).is_err(), "{pattern:?}");
    }
}

#[test]
fn hostile_patterns_stay_linear() {
    let pattern = "*a".repeat(200) + "b";
    let path = "a".repeat(4000);
    let started = std::time::Instant::now();
    assert!(!matches(&[&pattern], &path));
    assert!(!matches(&[&"**/x*/".repeat(300)], &path));
    assert!(started.elapsed() < std::time::Duration::from_secs(5));
}

#[test]
fn oversized_expressions_are_refused_not_built() {
    let pattern = "[^x]".repeat(100_000);
    assert!(matches!(Matcher::new([&pattern]), Err(PatternError::TooComplex { .. })));
}

#[test]
fn cleaning_is_textual() {
    for (path, expected) in [
        ("", "."),
        ("/", "/"),
        ("a/..", "."),
        ("../a", "../a"),
        ("a/../../b", "../b"),
        ("/../a", "/a"),
        ("a/./b//c/", "a/b/c"),
    ] {
        assert_eq!(clean(path), expected, "{path}");
    }
}
