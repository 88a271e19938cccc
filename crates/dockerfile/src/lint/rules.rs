//! The lint rules: one static table.
//!
//! The texts are read literally by clients and their tests; change them only when the
//! published rules change.

/// A lint rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Name, as in `skip=`.
    pub name: &'static str,
    /// What the rule asks for.
    pub description: &'static str,
    /// Documentation; empty when there is none.
    pub url: &'static str,
    /// Off unless asked for.
    pub experimental: bool,
}

const fn ordinary(name: &'static str, url: &'static str, description: &'static str) -> Rule {
    Rule { name, description, url, experimental: false }
}

macro_rules! page {
    ($page:literal) => {
        concat!("https://docs.docker.com/go/dockerfile/rule/", $page, "/")
    };
}

/// All rules.
pub static RULES: [Rule; 22] = [
    ordinary("StageNameCasing", page!("stage-name-casing"), "Stage names should be lowercase"),
    ordinary(
        "FromAsCasing",
        page!("from-as-casing"),
        "The 'as' keyword should match the case of the 'from' keyword",
    ),
    ordinary(
        "NoEmptyContinuation",
        page!("no-empty-continuation"),
        "Empty continuation lines will become errors in a future release",
    ),
    ordinary(
        "ConsistentInstructionCasing",
        page!("consistent-instruction-casing"),
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
    ),
    ordinary("DuplicateStageName", page!("duplicate-stage-name"), "Stage names should be unique"),
    ordinary(
        "ReservedStageName",
        page!("reserved-stage-name"),
        "Reserved words should not be used as stage names",
    ),
    ordinary(
        "JSONArgsRecommended",
        page!("json-args-recommended"),
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
    ),
    ordinary(
        "MaintainerDeprecated",
        page!("maintainer-deprecated"),
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    ),
    ordinary(
        "UndefinedArgInFrom",
        page!("undefined-arg-in-from"),
        "FROM command must use declared ARGs",
    ),
    ordinary(
        "WorkdirRelativePath",
        page!("workdir-relative-path"),
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
    ),
    ordinary(
        "UndefinedVar",
        page!("undefined-var"),
        "Variables should be defined before their use",
    ),
    ordinary(
        "MultipleInstructionsDisallowed",
        page!("multiple-instructions-disallowed"),
        "Multiple instructions of the same type should not be used in the same stage",
    ),
    ordinary(
        "LegacyKeyValueFormat",
        page!("legacy-key-value-format"),
        "Legacy key/value format with whitespace separator should not be used",
    ),
    ordinary(
        "InvalidBaseImagePlatform",
        "",
        "Base image platform does not match expected target platform",
    ),
    ordinary(
        "RedundantTargetPlatform",
        page!("redundant-target-platform"),
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    ),
    ordinary(
        "SecretsUsedInArgOrEnv",
        page!("secrets-used-in-arg-or-env"),
        "Sensitive data should not be used in the ARG or ENV commands",
    ),
    ordinary(
        "InvalidDefaultArgInFrom",
        page!("invalid-default-arg-in-from"),
        "Default value for global ARG results in an empty or invalid base image name",
    ),
    ordinary(
        "FromPlatformFlagConstDisallowed",
        page!("from-platform-flag-const-disallowed"),
        "FROM --platform flag should not use a constant value",
    ),
    ordinary(
        "CopyIgnoredFile",
        page!("copy-ignored-file"),
        "Attempting to Copy file that is excluded by .dockerignore",
    ),
    Rule {
        name: "InvalidDefinitionDescription",
        description: "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.",
        url: page!("invalid-definition-description"),
        experimental: true,
    },
    ordinary(
        "ExposeProtoCasing",
        page!("expose-proto-casing"),
        "Protocol in EXPOSE instruction should be lowercase",
    ),
    ordinary(
        "ExposeInvalidFormat",
        page!("expose-invalid-format"),
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
    ),
];

/// The rule of that name.
#[must_use]
pub fn rule(name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.name == name)
}
