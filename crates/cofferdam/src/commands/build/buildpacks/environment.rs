//! `--env` and `--env-file`: variables for buildpacks.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use cofferdam_buildpacks::env_name_problem;

use super::arguments::BuildpackArgs;

/// Longest file of variables: the kernel gives a program 2 MiB of environment.
const MAX_FILE: u64 = 2 << 20;

/// The variables. Flags go before files, what comes later before what came earlier; `environment` looks a variable of the caller up.
pub(super) fn variables(
    args: &BuildpackArgs,
    environment: impl Fn(&str) -> Option<String>,
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut variables = BTreeMap::new();
    for path in &args.env_file {
        let text = read(path)?;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            add(line, &environment, &mut variables)
                .with_context(|| format!("{}, line {}", path.display(), number + 1))?;
        }
    }
    for text in &args.env {
        add(text, &environment, &mut variables).context("--env")?;
    }
    Ok(variables)
}

fn add(
    text: &str,
    environment: &impl Fn(&str) -> Option<String>,
    variables: &mut BTreeMap<String, String>,
) -> anyhow::Result<()> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, environment(text)),
    };
    // The value may be a secret and is not repeated.
    if let Some(problem) = env_name_problem(name) {
        bail!("{name:?} cannot be a variable: {problem}");
    }
    // A variable that the caller does not have stays what the project makes of it.
    if let Some(value) = value {
        ensure!(!value.contains('\0'), "the value of {name} has a zero byte");
        variables.insert(name.to_owned(), value);
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<String> {
    let failed = || format!("read {}", path.display());
    let mut text = String::new();
    let file = std::fs::File::open(path).with_context(failed)?;
    let length = file.take(MAX_FILE + 1).read_to_string(&mut text).with_context(failed)?;
    ensure!(length as u64 <= MAX_FILE, "{} is larger than {MAX_FILE} bytes", path.display());
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(file: &str, flags: &[&str]) -> anyhow::Result<Vec<(String, String)>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env");
        std::fs::write(&path, file).unwrap();
        let env = flags.iter().map(|text| (*text).to_owned()).collect();
        let args = BuildpackArgs { env, env_file: vec![path], ..BuildpackArgs::default() };
        let found = variables(&args, |name| (name == "MINE").then(|| "mine".to_owned()))?;
        Ok(found.into_iter().collect())
    }

    #[test]
    fn flags_go_before_files() {
        let found = of("# note\n\n A=file \nB=1=2\nMINE\nOTHER\n", &["A=flag", "C=", "MINE=x"]);
        let expected = [("A", "flag"), ("B", "1=2"), ("C", ""), ("MINE", "x")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(found.unwrap(), expected);
        assert_eq!(of("", &["MINE", "OTHER"]).unwrap(), [("MINE".to_owned(), "mine".to_owned())]);
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused_without_their_values() {
        for text in ["=secret", "../x=secret", "a/b=secret", "a b=secret", "..=secret"] {
            let error = format!("{:#}", of("", &[text]).unwrap_err());
            assert!(error.contains("--env") && !error.contains("secret"), "{error}");
            let error = format!("{:#}", of(&format!("\n{text}"), &[]).unwrap_err());
            assert!(error.contains("line 2") && !error.contains("secret"), "{error}");
        }
        assert!(of("", &["A=\0"]).is_err());
        let missing = vec!["/no/such/file".into()];
        let args = BuildpackArgs { env_file: missing, ..BuildpackArgs::default() };
        let error = format!("{:#}", variables(&args, |_| None).unwrap_err());
        assert!(error.contains("/no/such/file"), "{error}");
    }
}
