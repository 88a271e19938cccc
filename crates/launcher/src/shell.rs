//! Commands that a shell runs: old buildpacks' processes and users' own.
//!
//! One bash reads the profile scripts, then becomes another that runs the command, which so sees what
//! the scripts exported and nothing else of them. The command itself is never part of a script's
//! text: it comes in as an argument.

use std::fmt::Write;

/// The only shell there is: the specification names it.
pub(crate) const BASH: &str = "/bin/bash";

/// The script of the first shell: `$1` is the command, further arguments are its `args`.
///
/// Without arguments the command is a script by itself. With some, each word including the command is
/// expanded once, as if in double quotes.
pub(crate) fn script(profiles: &[String], working_dir: &str, args: usize) -> String {
    let mut script = String::new();
    for profile in profiles {
        script.push_str(&format!("source {}\n", quoted(profile)));
    }
    script.push_str(&format!("cd {} || exit 82\n", quoted(working_dir)));
    if args == 0 {
        script.push_str(&format!("exec {BASH} -c \"$1\"\n"));
    } else {
        let words = quoted(&words(args + 1));
        script.push_str(&format!("exec {BASH} -c {words} \"$0\" \"$@\"\n"));
    }
    script
}

/// A command of so many words. One simple command, so that the shell gives its place to it.
fn words(count: usize) -> String {
    let mut script = String::new();
    for word in 1..=count {
        // `printf`, because `echo` swallows words like `-n`. Writing to a string cannot fail.
        let _ = write!(script, r#""$(eval "printf %s \"${{{word}}}\"")" "#);
    }
    script
}

/// Text that a shell takes as it is.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::process::Command;

    fn run(profiles: &[String], dir: &str, command: &[&str]) -> String {
        let script = script(profiles, dir, command.len() - 1);
        let output = Command::new(BASH)
            .args(["-c", &script, "caller"])
            .args(command)
            .env("HOME", "/h o m e")
            .env("X", "a\"b; $(c)")
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_command_alone_is_a_script() {
        assert_eq!(run(&[], "/", &["echo $HOME; pwd"]), "/h o m e\n/\n");
    }

    #[test]
    fn words_are_expanded_once_and_stay_words() {
        let show = ["printf", "<%s>"];
        let words = |words: &[&str]| run(&[], "/", &[&show, words].concat());
        assert_eq!(words(&["$HOME", "a b", "*", "'$X'"]), "</h o m e><a b><*><'a\"b; $(c)'>");
        assert_eq!(words(&["-n", "-e", ""]), "<-n><-e><>");
        assert_eq!(words(&["\\$HOME", "~"]), "<$HOME><~>");
        assert_eq!(words(&["1"; 12]), "<1>".repeat(12));
    }

    #[test]
    fn profiles_come_first_and_only_exports_remain() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it's $HOME.sh");
        std::fs::write(&path, "export A=1\nB=2\ncd /usr\n").unwrap();
        let profiles = [path.to_str().unwrap().to_owned()];
        assert_eq!(run(&profiles, "/", &["echo A=$A B=$B; pwd"]), "A=1 B=\n/\n");
        assert_eq!(run(&profiles, "/tmp", &["printf", "%s", "A=$A B=$B"]), "A=1 B=");
        assert_eq!(run(&[], "/no such dir", &["echo no"]), "");
    }
}
