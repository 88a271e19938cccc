//! `FROM`, `ARG` and the comments that describe them.

use super::flags::{Flags, Takes};
use super::{ArgPair, ArgumentError, InstructionError, Stage};
use crate::lint::{Finding, Warnings, is_lower, is_upper};
use crate::parser::Node;

pub(super) fn from(node: &Node, warnings: &mut Warnings) -> Result<Stage, InstructionError> {
    check_case(node, warnings);
    let (base, name) = match node.arguments.as_slice() {
        [base] => (base, None),
        [base, keyword, name] if keyword.eq_ignore_ascii_case("as") => {
            (base, Some(stage_name(name)?))
        }
        _ => return Err(ArgumentError::From.into()),
    };
    let flags = Flags::read(&node.flags, &[("platform", Takes::Value)])?;
    if let Some(name) = &name {
        check_description("FROM", &[name.as_str()], node, warnings);
    }
    Ok(Stage {
        base: base.clone(),
        platform: flags.value("platform"),
        keyword: node.keyword_text.clone(),
        text: node.text.trim().to_owned(),
        lines: node.lines,
        comments: node.comments.clone(),
        description: description(&node.comments, name.as_deref().unwrap_or_default()),
        instructions: Vec::new(),
        name,
    })
}

pub(super) fn arg(node: &Node, warnings: &mut Warnings) -> Result<Vec<ArgPair>, InstructionError> {
    if node.arguments.is_empty() {
        return Err(ArgumentError::AtLeastOne("ARG").into());
    }
    let mut pairs = Vec::with_capacity(node.arguments.len());
    for word in &node.arguments {
        let (key, value) = match word.split_once('=') {
            Some(("", _)) => return Err(ArgumentError::BlankName("ARG").into()),
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        pairs.push(ArgPair {
            key: key.to_owned(),
            value,
            description: description(&node.comments, key),
        });
    }
    let keys: Vec<&str> = pairs.iter().map(|pair| pair.key.as_str()).collect();
    check_description("ARG", &keys, node, warnings);
    Ok(pairs)
}

/// A letter, then letters, digits, `-`, `_` and `.`; the case is folded.
fn stage_name(name: &str) -> Result<String, ArgumentError> {
    let lower = name.to_lowercase();
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    if lower.starts_with(|first: char| first.is_ascii_lowercase()) && lower.bytes().all(allowed) {
        return Ok(lower);
    }
    Err(ArgumentError::StageName(name.to_owned()))
}

fn check_case(node: &Node, warnings: &mut Warnings) {
    let from = node.keyword_text.as_str();
    let [_, as_keyword, rest @ ..] = node.arguments.as_slice() else { return };
    let Some(stage) = rest.first() else { return };
    if rest.len() == 1 && !is_lower(stage) {
        warnings.report(&Finding::StageNameCasing { stage }, node.lines, &node.comments);
    }
    // A keyword in mixed case is reported as such and sets no example.
    let differs = if is_lower(from) {
        !is_lower(as_keyword)
    } else {
        is_upper(from) && !is_upper(as_keyword)
    };
    if differs {
        warnings.report(&Finding::FromAsCasing { from, as_keyword }, node.lines, &node.comments);
    }
}

/// The text after `<name> ` in a comment.
fn description(comments: &[String], name: &str) -> String {
    if name.is_empty() {
        return String::new();
    }
    let described =
        comments.iter().find_map(|comment| comment.strip_prefix(name)?.strip_prefix(' '));
    described.unwrap_or_default().to_owned()
}

fn check_description(instruction: &str, names: &[&str], node: &Node, warnings: &mut Warnings) {
    let Some(last) = node.comments.last() else { return };
    let first_word = last.split(' ').next().unwrap_or_default();
    if names.is_empty() || names.contains(&first_word) {
        return;
    }
    let name = if let [name] = names { name } else { "<arg_key>" };
    warnings.report(
        &Finding::InvalidDefinitionDescription { instruction, name },
        node.lines,
        &node.comments,
    );
}
