#![allow(clippy::unwrap_used)]

use std::collections::HashSet;

use super::*;
use crate::instructions::parse;

/// One finding of every rule, in the order of the table.
fn samples() -> Vec<(Finding<'static>, &'static str)> {
    let mut samples = file_samples();
    samples.extend(value_samples());
    samples
}

fn file_samples() -> Vec<(Finding<'static>, &'static str)> {
    vec![
        (Finding::StageNameCasing { stage: "Base" }, "Stage name 'Base' should be lowercase"),
        (
            Finding::FromAsCasing { from: "FROM", as_keyword: "as" },
            "'as' and 'FROM' keywords' casing do not match",
        ),
        (Finding::NoEmptyContinuation, "Empty continuation line"),
        (
            Finding::ConsistentInstructionCasing { keyword: "run", casing: "uppercase" },
            "Command 'run' should match the case of the command majority (uppercase)",
        ),
        (
            Finding::DuplicateStageName { stage: "b" },
            "Duplicate stage name \"b\", stage names should be unique",
        ),
        (
            Finding::ReservedStageName { stage: "scratch" },
            "Stage name should not use the same name as reserved stage \"scratch\"",
        ),
        (
            Finding::JsonArgsRecommended { keyword: "CMD" },
            "JSON arguments recommended for CMD to prevent unintended behavior related to OS signals",
        ),
        (
            Finding::MaintainerDeprecated,
            "Maintainer instruction is deprecated in favor of using label",
        ),
        (
            Finding::UndefinedArgInFrom { arg: "taag", suggestion: Some("tag") },
            "FROM argument 'taag' is not declared (did you mean tag?)",
        ),
        (
            Finding::WorkdirRelativePath { path: "app/" },
            "Relative workdir \"app/\" can have unexpected results if the base image changes",
        ),
        (
            Finding::UndefinedVar { variable: "foo", suggestion: None },
            "Usage of undefined variable '$foo'",
        ),
    ]
}

fn value_samples() -> Vec<(Finding<'static>, &'static str)> {
    vec![
        (
            Finding::MultipleInstructionsDisallowed { keyword: "CMD" },
            "Multiple CMD instructions should not be used in the same stage because only the last one will be used",
        ),
        (
            Finding::LegacyKeyValueFormat { keyword: "ENV" },
            "\"ENV key=value\" should be used instead of legacy \"ENV key value\" format",
        ),
        (
            Finding::InvalidBaseImagePlatform {
                image: "a",
                expected: "linux/arm64",
                actual: "linux/amd64",
            },
            "Base image a was pulled with platform \"linux/amd64\", expected \"linux/arm64\" for current build",
        ),
        (
            Finding::RedundantTargetPlatform { variable: "$TARGETPLATFORM" },
            "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
        ),
        (
            Finding::SecretsUsedInArgOrEnv { instruction: "ARG", key: "TOKEN" },
            "Do not use ARG or ENV instructions for sensitive data (ARG \"TOKEN\")",
        ),
        (
            Finding::InvalidDefaultArgInFrom { base: "${a}" },
            "Default value for ARG ${a} results in empty or invalid base image name",
        ),
        (
            Finding::FromPlatformFlagConstDisallowed { platform: "linux/amd64" },
            "FROM --platform flag should not use constant value \"linux/amd64\"",
        ),
        (
            Finding::CopyIgnoredFile { instruction: "Add", file: "x" },
            "Attempting to Add file \"x\" that is excluded by .dockerignore",
        ),
        (
            Finding::InvalidDefinitionDescription { instruction: "ARG", name: "a" },
            "Comment for ARG should follow the format: `# a <description>`",
        ),
        (
            Finding::ExposeProtoCasing { port: "80/TCP" },
            "Defined protocol '80/TCP' in EXPOSE instruction should be lowercase",
        ),
        (
            Finding::ExposeInvalidFormat { port: "1:2" },
            "EXPOSE instruction should not define an IP address or host-port mapping, found '1:2'",
        ),
    ]
}

#[test]
fn every_rule_has_a_message_and_its_own_name() {
    let samples = samples();
    assert_eq!(samples.len(), RULES.len());
    let mut names = HashSet::new();
    for ((finding, message), expected) in samples.iter().zip(&RULES) {
        assert_eq!(finding.rule(), expected);
        assert_eq!(finding.message(), *message);
        assert!(names.insert(expected.name));
        assert!(!expected.description.is_empty());
        let variant = format!("{finding:?}");
        assert!(variant.to_lowercase().starts_with(&expected.name.to_lowercase()), "{variant}");
        let words = expected.url.trim_end_matches('/').rsplit('/').next().unwrap().replace('-', "");
        assert!(expected.url.is_empty() || words == expected.name.to_lowercase());
    }
}

#[test]
fn options() {
    let config = LintConfig::parse(" skip=A, B ;experimental=all;error=true").unwrap();
    assert!(config.error && config.experimental_all && !config.skip_all);
    assert_eq!(config.skip.into_iter().collect::<Vec<_>>(), ["A", "B"]);
    assert!(LintConfig::parse("skip=all").unwrap().skip_all);
    assert_eq!(LintConfig::parse("").unwrap(), LintConfig::default());
    for bad in ["x", "x=y", "error=maybe"] {
        assert!(LintConfig::parse(bad).is_err(), "{bad}");
    }
}

fn findings(text: &str, options: &str) -> Vec<String> {
    let mut warnings = Warnings::new(LintConfig::parse(options).unwrap());
    parse(text.as_bytes(), &mut warnings).unwrap();
    warnings.kept().iter().map(LintWarning::short).collect()
}

#[test]
fn findings_of_a_file() {
    let text =
        "FROM scratch AS Context\nRUN a \\\n\n b\nfrom scratch AS context\nMAINTAINER x\nRun y\n";
    assert_eq!(
        findings(text, ""),
        [
            "NoEmptyContinuation: Empty continuation line (line 4)",
            "StageNameCasing: Stage name 'Context' should be lowercase (line 1)",
            "FromAsCasing: 'AS' and 'from' keywords' casing do not match (line 5)",
            "MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 6)",
            "ReservedStageName: Stage name should not use the same name as reserved stage \"context\" (line 1)",
            "ReservedStageName: Stage name should not use the same name as reserved stage \"context\" (line 5)",
            "DuplicateStageName: Duplicate stage name \"context\", stage names should be unique (line 5)",
            "ConsistentInstructionCasing: Command 'from' should match the case of the command majority (uppercase) (line 5)",
            "ConsistentInstructionCasing: Command 'Run' should match the case of the command majority (uppercase) (line 7)",
        ]
    );
    assert!(findings(text, "skip=all").is_empty());
    assert_eq!(findings("from a\nrun b", ""), Vec::<String>::new());
}

#[test]
fn configuration_above_an_instruction_and_failure() {
    assert!(
        findings("# check=skip=StageNameCasing\nFROM a AS B", "").len() == 1,
        "a directive is no such comment"
    );
    assert!(findings("#\n# check=skip=StageNameCasing\nFROM a AS B", "").is_empty());
    let described = "# other text\nARG a\n# b is it\nARG b\nFROM x";
    assert!(findings(described, "").is_empty());
    assert_eq!(
        findings(described, "experimental=InvalidDefinitionDescription"),
        [
            "InvalidDefinitionDescription: Comment for ARG should follow the format: `# a <description>` (line 2)"
        ]
    );
    let mut warnings = Warnings::new(LintConfig::parse("error=true").unwrap());
    assert_eq!(warnings.failure(), None);
    parse(b"FROM a AS B\nMAINTAINER x\nMAINTAINER y", &mut warnings).unwrap();
    assert_eq!(
        warnings.failure().unwrap(),
        "lint violation found for rules: MaintainerDeprecated, StageNameCasing"
    );
}

#[test]
fn secret_names() {
    for name in ["TOKEN", "github_token", "API_KEY", "Auth", "my_passwd_x"] {
        assert!(looks_secret(name), "{name}");
    }
    for name in ["TOKENS", "PUBLIC_KEY", "TOKEN_FILE", "KEY_VERSION", "monkey", ""] {
        assert!(!looks_secret(name), "{name}");
    }
}
