//! Findings: a rule together with what its message needs.

use super::rules::{RULES, Rule};

/// Something a rule found. Fields hold the text as it appears in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are named for their place in the message")]
pub enum Finding<'a> {
    /// A stage name has capitals.
    StageNameCasing { stage: &'a str },
    /// `FROM` and `AS` differ in case.
    FromAsCasing { from: &'a str, as_keyword: &'a str },
    /// An empty line follows a continuation.
    NoEmptyContinuation,
    /// An instruction differs in case from most others; `casing` is `lowercase` or `uppercase`.
    ConsistentInstructionCasing { keyword: &'a str, casing: &'a str },
    /// Two stages have one name.
    DuplicateStageName { stage: &'a str },
    /// A stage is called `context` or `scratch`.
    ReservedStageName { stage: &'a str },
    /// Shell form where the exec form is better.
    JsonArgsRecommended { keyword: &'a str },
    /// `MAINTAINER` is used.
    MaintainerDeprecated,
    /// `FROM` uses a variable no global `ARG` declares.
    UndefinedArgInFrom { arg: &'a str, suggestion: Option<&'a str> },
    /// `WORKDIR` is relative to a directory the base image chooses.
    WorkdirRelativePath { path: &'a str },
    /// A variable is used without being defined.
    UndefinedVar { variable: &'a str, suggestion: Option<&'a str> },
    /// Only the last of several such instructions counts.
    MultipleInstructionsDisallowed { keyword: &'a str },
    /// `ENV name value`.
    LegacyKeyValueFormat { keyword: &'a str },
    /// The base image is for another platform.
    InvalidBaseImagePlatform { image: &'a str, expected: &'a str, actual: &'a str },
    /// `FROM --platform=$TARGETPLATFORM`.
    RedundantTargetPlatform { variable: &'a str },
    /// A variable's name suggests a secret.
    SecretsUsedInArgOrEnv { instruction: &'a str, key: &'a str },
    /// Without build arguments the base name is empty or invalid.
    InvalidDefaultArgInFrom { base: &'a str },
    /// `FROM --platform=linux/amd64`.
    FromPlatformFlagConstDisallowed { platform: &'a str },
    /// A source is excluded; `instruction` is `Copy` or `Add`.
    CopyIgnoredFile { instruction: &'a str, file: &'a str },
    /// A comment above a definition does not describe it.
    InvalidDefinitionDescription { instruction: &'a str, name: &'a str },
    /// A protocol in capitals.
    ExposeProtoCasing { port: &'a str },
    /// `EXPOSE` with an address or host port.
    ExposeInvalidFormat { port: &'a str },
}

impl Finding<'_> {
    /// The rule that found it.
    #[must_use]
    pub fn rule(&self) -> &'static Rule {
        &RULES[match self {
            Self::StageNameCasing { .. } => 0,
            Self::FromAsCasing { .. } => 1,
            Self::NoEmptyContinuation => 2,
            Self::ConsistentInstructionCasing { .. } => 3,
            Self::DuplicateStageName { .. } => 4,
            Self::ReservedStageName { .. } => 5,
            Self::JsonArgsRecommended { .. } => 6,
            Self::MaintainerDeprecated => 7,
            Self::UndefinedArgInFrom { .. } => 8,
            Self::WorkdirRelativePath { .. } => 9,
            Self::UndefinedVar { .. } => 10,
            Self::MultipleInstructionsDisallowed { .. } => 11,
            Self::LegacyKeyValueFormat { .. } => 12,
            Self::InvalidBaseImagePlatform { .. } => 13,
            Self::RedundantTargetPlatform { .. } => 14,
            Self::SecretsUsedInArgOrEnv { .. } => 15,
            Self::InvalidDefaultArgInFrom { .. } => 16,
            Self::FromPlatformFlagConstDisallowed { .. } => 17,
            Self::CopyIgnoredFile { .. } => 18,
            Self::InvalidDefinitionDescription { .. } => 19,
            Self::ExposeProtoCasing { .. } => 20,
            Self::ExposeInvalidFormat { .. } => 21,
        }]
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::StageNameCasing { stage } => format!("Stage name '{stage}' should be lowercase"),
            Self::FromAsCasing { from, as_keyword } => {
                format!("'{as_keyword}' and '{from}' keywords' casing do not match")
            }
            Self::NoEmptyContinuation => "Empty continuation line".to_owned(),
            Self::ConsistentInstructionCasing { keyword, casing } => {
                format!(
                    "Command '{keyword}' should match the case of the command majority ({casing})"
                )
            }
            Self::DuplicateStageName { stage } => {
                format!("Duplicate stage name {stage:?}, stage names should be unique")
            }
            Self::ReservedStageName { stage } => {
                format!("Stage name should not use the same name as reserved stage {stage:?}")
            }
            Self::JsonArgsRecommended { keyword } => format!(
                "JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
            ),
            Self::MaintainerDeprecated => {
                "Maintainer instruction is deprecated in favor of using label".to_owned()
            }
            Self::UndefinedArgInFrom { arg, suggestion } => {
                format!("FROM argument '{arg}' is not declared{}", hint("", *suggestion))
            }
            Self::WorkdirRelativePath { path } => {
                format!(
                    "Relative workdir {path:?} can have unexpected results if the base image changes"
                )
            }
            Self::UndefinedVar { variable, suggestion } => {
                format!("Usage of undefined variable '${variable}'{}", hint("$", *suggestion))
            }
            _ => self.later_message(),
        }
    }

    /// The messages of the second half of the table.
    fn later_message(&self) -> String {
        match self {
            Self::MultipleInstructionsDisallowed { keyword } => format!(
                "Multiple {keyword} instructions should not be used in the same stage because only the last one will be used"
            ),
            Self::LegacyKeyValueFormat { keyword } => format!(
                "\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"
            ),
            Self::InvalidBaseImagePlatform { image, expected, actual } => format!(
                "Base image {image} was pulled with platform {actual:?}, expected {expected:?} for current build"
            ),
            Self::RedundantTargetPlatform { variable } => {
                format!(
                    "Setting platform to predefined {variable} in FROM is redundant as this is the default behavior"
                )
            }
            Self::SecretsUsedInArgOrEnv { instruction, key } => {
                format!(
                    "Do not use ARG or ENV instructions for sensitive data ({instruction} {key:?})"
                )
            }
            Self::InvalidDefaultArgInFrom { base } => {
                format!("Default value for ARG {base} results in empty or invalid base image name")
            }
            Self::FromPlatformFlagConstDisallowed { platform } => {
                format!("FROM --platform flag should not use constant value {platform:?}")
            }
            Self::CopyIgnoredFile { instruction, file } => {
                format!(
                    "Attempting to {instruction} file {file:?} that is excluded by .dockerignore"
                )
            }
            Self::InvalidDefinitionDescription { instruction, name } => {
                format!(
                    "Comment for {instruction} should follow the format: `# {name} <description>`"
                )
            }
            Self::ExposeProtoCasing { port } => {
                format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase")
            }
            Self::ExposeInvalidFormat { port } => format!(
                "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
            ),
            _ => String::new(),
        }
    }
}

fn hint(sigil: &str, suggestion: Option<&str>) -> String {
    suggestion.map(|name| format!(" (did you mean {sigil}{name}?)")).unwrap_or_default()
}
