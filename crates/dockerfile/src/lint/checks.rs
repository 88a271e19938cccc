//! Checks that need nothing but the instructions.

use std::collections::HashSet;

use super::{Finding, Warnings};
use crate::instructions::{Dockerfile, Stage};
use crate::lines::Lines;

const RESERVED: [&str; 2] = ["context", "scratch"];
/// Words in a variable's name, between underscores, that suggest a secret.
const SECRET_WORDS: [&str; 10] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "pword",
    "passwd",
    "secret",
    "token",
];
/// Words that take the suspicion away.
const HARMLESS_WORDS: [&str; 3] = ["public", "file", "version"];

/// Whether a variable's name suggests that its value is a secret.
#[must_use]
pub fn looks_secret(name: &str) -> bool {
    let has = |words: &[&str]| {
        name.split('_').any(|part| words.iter().any(|word| word.eq_ignore_ascii_case(part)))
    };
    has(&SECRET_WORDS) && !has(&HARMLESS_WORDS)
}

/// Findings about the file as a whole.
pub(crate) fn check_file(file: &Dockerfile, warnings: &mut Warnings) {
    check_stage_names(&file.stages, warnings);
    check_casing(&file.stages, warnings);
}

fn check_stage_names(stages: &[Stage], warnings: &mut Warnings) {
    let mut seen = HashSet::new();
    for stage in stages {
        let Some(name) = stage.name.as_deref() else { continue };
        if RESERVED.contains(&name) {
            warnings.report(&Finding::ReservedStageName { stage: name }, stage.lines, &[]);
        }
        if !seen.insert(name) {
            warnings.report(&Finding::DuplicateStageName { stage: name }, stage.lines, &[]);
        }
    }
}

/// Keywords in one case throughout: the case most have, upper when there is a tie.
fn check_casing(stages: &[Stage], warnings: &mut Warnings) {
    let keywords: Vec<(&str, Lines)> = stages
        .iter()
        .flat_map(|stage| {
            let inner =
                stage.instructions.iter().map(|inner| (inner.keyword.as_str(), inner.lines));
            std::iter::once((stage.keyword.as_str(), stage.lines)).chain(inner)
        })
        .collect();
    let lower = keywords.iter().filter(|(keyword, _)| is_lower(keyword)).count();
    let upper = keywords.iter().filter(|(keyword, _)| is_upper(keyword)).count();
    let (casing, fits): (_, fn(&str) -> bool) =
        if lower > upper { ("lowercase", is_lower) } else { ("uppercase", is_upper) };
    for (keyword, lines) in keywords {
        if !fits(keyword) {
            warnings.report(&Finding::ConsistentInstructionCasing { keyword, casing }, lines, &[]);
        }
    }
}

pub(crate) fn is_lower(text: &str) -> bool {
    !text.chars().any(char::is_uppercase)
}

pub(crate) fn is_upper(text: &str) -> bool {
    !text.chars().any(char::is_lowercase)
}
