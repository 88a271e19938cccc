//! `COPY` and `ADD`.

use super::flags::{Flags, Known, Takes};
use super::{Add, ArgumentError, Copy, InlineSource, InstructionError, Sources};
use crate::parser::{Node, parse_heredoc, strip_tabs};

const COPY_FLAGS: &Known = &[
    ("chown", Takes::Value),
    ("from", Takes::Value),
    ("chmod", Takes::Value),
    ("link", Takes::Bool),
    ("exclude", Takes::Values),
    ("parents", Takes::Bool),
];
const ADD_FLAGS: &Known = &[
    ("chown", Takes::Value),
    ("chmod", Takes::Value),
    ("link", Takes::Bool),
    ("keep-git-dir", Takes::Bool),
    ("checksum", Takes::Value),
    ("unpack", Takes::Bool),
    ("exclude", Takes::Values),
];

pub(super) fn copy(node: &Node) -> Result<Copy, InstructionError> {
    at_least_two(node, "COPY")?;
    let flags = Flags::read(&node.flags, COPY_FLAGS)?;
    Ok(Copy {
        sources: sources(node, "COPY")?,
        from: flags.value("from"),
        chown: flags.value("chown"),
        chmod: flags.value("chmod"),
        link: flags.bool("link").unwrap_or_default(),
        parents: flags.bool("parents").unwrap_or_default(),
        exclude: flags.values("exclude"),
    })
}

pub(super) fn add(node: &Node) -> Result<Add, InstructionError> {
    at_least_two(node, "ADD")?;
    let flags = Flags::read(&node.flags, ADD_FLAGS)?;
    Ok(Add {
        sources: sources(node, "ADD")?,
        chown: flags.value("chown"),
        chmod: flags.value("chmod"),
        link: flags.bool("link").unwrap_or_default(),
        exclude: flags.values("exclude"),
        keep_git_dir: flags.bool("keep-git-dir"),
        checksum: flags.value("checksum"),
        unpack: flags.bool("unpack"),
    })
}

fn at_least_two(node: &Node, keyword: &'static str) -> Result<(), ArgumentError> {
    if node.arguments.len() < 2 { Err(ArgumentError::NoDestination(keyword)) } else { Ok(()) }
}

fn sources(node: &Node, keyword: &'static str) -> Result<Sources, ArgumentError> {
    let Some((destination, words)) = node.arguments.split_last() else {
        return Err(ArgumentError::NoDestination(keyword));
    };
    if parse_heredoc(destination).is_some() {
        return Err(ArgumentError::HeredocDestination(keyword));
    }
    let mut sources = Sources { destination: destination.clone(), ..Sources::default() };
    for word in words {
        let Some(announced) = parse_heredoc(word) else {
            sources.paths.push(word.clone());
            continue;
        };
        // Of several with one name the last counts, as it would if they were files.
        let body = node.heredocs.iter().rev().find(|heredoc| heredoc.name == announced.name);
        let content = body.map(|heredoc| heredoc.content.as_str()).unwrap_or_default();
        let data = if announced.strip_tabs { strip_tabs(content) } else { content.to_owned() };
        sources.inline.push(InlineSource { name: announced.name, data, expand: announced.expand });
    }
    Ok(sources)
}
