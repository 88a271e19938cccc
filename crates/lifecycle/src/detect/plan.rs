//! What a module's detection came to: passed with alternatives of a plan, failed, or an error.
//!
//! Plans are hostile: number of alternatives and names is bounded. Must never correct a plan.

use std::sync::Arc;

use cofferdam_cnb::{BuildPlan, Descriptor, Kind, Require, parse_toml};

use crate::detect::Attempt;

/// Most alternatives of one plan; real ones have a few.
const MAX_ALTERNATIVES: usize = 256;
/// Most names in all alternatives of one plan.
const MAX_NAMES: usize = 4096;
/// Code of a detection that is an error without a program's code.
const NO_CODE: i32 = -1;

/// One alternative of a plan.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sections {
    /// Names it offers.
    pub(crate) provides: Vec<String>,
    /// What it needs.
    pub(crate) requires: Vec<Require>,
}

/// What a detection came to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// Takes part, with at least one alternative, the preferred one first.
    Pass(Arc<Vec<Sections>>),
    /// Does not take part.
    Fail,
    /// An error: the program's code, or -1 and why.
    Error { code: i32, reason: String },
}

impl Outcome {
    /// An error without a program's code.
    pub(crate) fn problem(reason: impl Into<String>) -> Self {
        Self::Error { code: NO_CODE, reason: reason.into() }
    }

    /// What an attempt of a module means.
    pub(crate) fn of(module: &Descriptor, attempt: &Attempt) -> Self {
        match attempt.code {
            0 => match sections(module.kind, &attempt.plan) {
                Ok(sections) => Self::Pass(Arc::new(sections)),
                Err(reason) => Self::problem(reason),
            },
            100 => Self::Fail,
            code => Self::Error { code, reason: String::new() },
        }
    }
}

fn sections(kind: Kind, plan: &[u8]) -> Result<Vec<Sections>, String> {
    let plan: BuildPlan = parse_toml("plan", plan).map_err(|error| error.to_string())?;
    if plan.or.len() >= MAX_ALTERNATIVES {
        return Err(format!("plan: or: more than {MAX_ALTERNATIVES} alternatives"));
    }
    plan.check("plan").map_err(|error| error.to_string())?;
    let BuildPlan { provides, requires, or } = plan;
    let first = BuildPlan { provides, requires, or: Vec::new() };
    let all: Vec<Sections> = std::iter::once(first).chain(or).map(section).collect();
    let names = all.iter().map(|section| section.provides.len() + section.requires.len()).sum();
    if MAX_NAMES < names {
        return Err(format!("plan: more than {MAX_NAMES} names"));
    }
    if kind == Kind::Extension && all.iter().any(|section| !section.requires.is_empty()) {
        return Err("plan: requires: an extension cannot require".to_owned());
    }
    Ok(all)
}

fn section(plan: BuildPlan) -> Sections {
    let provides = plan.provides.into_iter().map(|provide| provide.name).collect();
    Sections { provides, requires: plan.requires }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn alternatives_follow_the_top_level() {
        let plan = b"[[provides]]\nname = \"a\"\n[[or]]\n[[or.requires]]\nname = \"b\"\n[or.requires.metadata]\nx = 1\n[[or]]\n";
        let all = sections(Kind::Buildpack, plan).unwrap();
        assert_eq!(all.len(), 3);
        assert_eq!(all[0].provides, ["a"]);
        assert_eq!(all[1].requires[0].metadata["x"].as_integer(), Some(1));
        assert_eq!(all[2], Sections::default());
        assert_eq!(sections(Kind::Buildpack, b"").unwrap(), [Sections::default()]);
    }

    #[test]
    fn hostile_plans_are_errors() {
        let many = "[[or]]\n".repeat(MAX_ALTERNATIVES);
        let names = "[[provides]]\nname = \"a\"\n".repeat(MAX_NAMES + 1);
        let deep = format!("a = {}{}", "[".repeat(10_000), "]".repeat(10_000));
        let large = "#".repeat(cofferdam_cnb::MAX_FILE + 1);
        for plan in [
            "provides = 1",
            "[[provides]]\n",
            "[[requires]]\nname = 1\n",
            "[[requires]]\nname = \"a\"\nversion = \"1\"\n",
            "[[or]]\n[[or.requires]]\nname = \"a\"\nversion = \"1\"\n",
            "[[or]]\n[[or.or]]\n",
            "[[requires]]\nname = \"a\"\nmetadata = 1\n",
            "\u{0}",
            &many,
            &names,
            &deep,
            &large,
        ] {
            let shown: String = plan.chars().take(60).collect();
            assert!(sections(Kind::Buildpack, plan.as_bytes()).is_err(), "{shown}");
        }
        assert!(sections(Kind::Buildpack, b"\xff").is_err());
        assert!(sections(Kind::Extension, b"[[requires]]\nname = \"a\"").is_err());
        assert!(sections(Kind::Extension, b"[[provides]]\nname = \"a\"").is_ok());
    }
}
