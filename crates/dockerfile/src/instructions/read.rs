//! Reads nodes as instructions and groups them into stages.

use super::files::{add, copy};
use super::flags::Flags;
use super::from::{arg, from};
use super::health::healthcheck;
use super::run::{command_line, run, shell_words};
use super::{ArgumentError, Command, Dockerfile, Instruction, InstructionError, KeyValue, Stage};
use crate::error::Error;
use crate::lines::Lines;
use crate::lint::{Finding, Warnings, check_file};
use crate::parser::{Keyword, Node, parse_nodes};
use crate::suggest::{DidYouMean, suggest_any_case};

/// Stages in a file; each may become a build of its own.
const MAX_STAGES: usize = 1_000;

/// Reads a Dockerfile. Findings go to `warnings` in the order of the file, those about the
/// file as a whole last.
///
/// # Errors
/// See [`Error`].
pub fn parse(text: &[u8], warnings: &mut Warnings) -> Result<Dockerfile, Error> {
    let parsed = parse_nodes(text)?;
    for line in &parsed.empty_continuations {
        warnings.report(&Finding::NoEmptyContinuation, Lines::single(*line), &[]);
    }
    let mut file =
        Dockerfile { escape: parsed.escape, global_args: Vec::new(), stages: Vec::new() };
    for node in &parsed.nodes {
        add_node(&mut file, node, warnings)?;
    }
    if file.stages.is_empty() {
        return Err(Error::NoStages);
    }
    check_file(&file, warnings);
    Ok(file)
}

/// Reads the text of an `ONBUILD` trigger; the lines of the result are `lines`, those of the
/// `FROM` that brought the trigger.
///
/// # Errors
/// See [`Error`]; a trigger holds one instruction and that is not `FROM`.
pub fn parse_trigger(text: &str, lines: Lines) -> Result<Instruction, Error> {
    let mut parsed = parse_nodes(text.as_bytes())?;
    let (Some(mut node), true) = (parsed.nodes.pop(), parsed.nodes.is_empty()) else {
        return Err(Error::Trigger);
    };
    if node.keyword == Some(Keyword::From) {
        return Err(Error::Trigger);
    }
    node.lines = lines;
    instruction(&node, &mut Warnings::default())
        .map_err(|problem| Error::Instruction { lines, problem })
}

fn add_node(file: &mut Dockerfile, node: &Node, warnings: &mut Warnings) -> Result<(), Error> {
    let lines = node.lines;
    let located = |problem| Error::Instruction { lines, problem };
    if node.keyword == Some(Keyword::From) {
        if file.stages.len() == MAX_STAGES {
            return Err(Error::TooMany { lines, what: "stages", limit: MAX_STAGES });
        }
        let stage: Stage = from(node, warnings).map_err(located)?;
        file.stages.push(stage);
        return Ok(());
    }
    let instruction = instruction(node, warnings).map_err(located)?;
    match (file.stages.last_mut(), &instruction.command) {
        (Some(stage), _) => stage.instructions.push(instruction),
        (None, Command::Arg(_)) => file.global_args.push(instruction),
        (None, _) => return Err(Error::BeforeFirstStage { lines }),
    }
    Ok(())
}

fn instruction(node: &Node, warnings: &mut Warnings) -> Result<Instruction, InstructionError> {
    Ok(Instruction {
        command: command(node, warnings)?,
        keyword: node.keyword_text.clone(),
        text: node.text.trim().to_owned(),
        lines: node.lines,
        comments: node.comments.clone(),
    })
}

fn command(node: &Node, warnings: &mut Warnings) -> Result<Command, InstructionError> {
    Ok(match node.keyword {
        None | Some(Keyword::From) => {
            let hint = DidYouMean(suggest_any_case(
                &node.keyword_text,
                Keyword::ALL.map(|(_, name)| name),
            ));
            return Err(InstructionError::Unknown { keyword: node.keyword_text.clone(), hint });
        }
        Some(Keyword::Add) => Command::Add(add(node)?),
        Some(Keyword::Arg) => Command::Arg(arg(node, warnings)?),
        Some(Keyword::Cmd) => {
            no_flags(node)?;
            Command::Cmd(command_line(node))
        }
        Some(Keyword::Copy) => Command::Copy(copy(node)?),
        Some(Keyword::Entrypoint) => {
            no_flags(node)?;
            Command::Entrypoint(command_line(node))
        }
        Some(Keyword::Env) => Command::Env(pairs(node, "ENV")?),
        Some(Keyword::Expose) => {
            let mut ports = at_least_one(node, "EXPOSE")?.to_vec();
            ports.sort();
            Command::Expose(ports)
        }
        Some(Keyword::Healthcheck) => Command::Healthcheck(healthcheck(node)?),
        Some(Keyword::Label) => Command::Label(pairs(node, "LABEL")?),
        Some(Keyword::Maintainer) => {
            warnings.report(&Finding::MaintainerDeprecated, node.lines, &node.comments);
            Command::Maintainer(exactly_one(node, "MAINTAINER")?)
        }
        Some(Keyword::Onbuild) => Command::Onbuild(onbuild(node)?),
        Some(Keyword::Run) => Command::Run(run(node)?),
        Some(Keyword::Shell) => Command::Shell(shell(node)?),
        Some(Keyword::Stopsignal) => match node.arguments.as_slice() {
            [signal] => Command::Stopsignal(signal.clone()),
            _ => return Err(ArgumentError::ExactlyOne("STOPSIGNAL").into()),
        },
        Some(Keyword::User) => Command::User(exactly_one(node, "USER")?),
        Some(Keyword::Volume) => Command::Volume(volume(node)?),
        Some(Keyword::Workdir) => Command::Workdir(exactly_one(node, "WORKDIR")?),
    })
}

fn no_flags(node: &Node) -> Result<(), InstructionError> {
    Flags::read(&node.flags, &[]).map(|_| ())
}

fn at_least_one<'a>(
    node: &'a Node,
    keyword: &'static str,
) -> Result<&'a [String], InstructionError> {
    if node.arguments.is_empty() {
        return Err(ArgumentError::AtLeastOne(keyword).into());
    }
    no_flags(node)?;
    Ok(&node.arguments)
}

fn exactly_one(node: &Node, keyword: &'static str) -> Result<String, InstructionError> {
    let [argument] = node.arguments.as_slice() else {
        return Err(ArgumentError::ExactlyOne(keyword).into());
    };
    no_flags(node)?;
    Ok(argument.clone())
}

/// Triples of name, value and separator.
fn pairs(node: &Node, keyword: &'static str) -> Result<Vec<KeyValue>, InstructionError> {
    no_flags(node)?;
    if node.arguments.is_empty() {
        return Err(ArgumentError::AtLeastOne(keyword).into());
    }
    let mut pairs = Vec::with_capacity(node.arguments.len() / 3);
    for triple in node.arguments.chunks(3) {
        let [key, value, separator] = triple else { continue };
        if key.is_empty() {
            return Err(ArgumentError::BlankName(keyword).into());
        }
        pairs.push(KeyValue {
            key: key.clone(),
            value: value.clone(),
            legacy: separator.is_empty(),
        });
    }
    Ok(pairs)
}

/// The text of the trigger with the bodies of its heredocs behind it.
fn onbuild(node: &Node) -> Result<String, InstructionError> {
    let trigger = at_least_one(node, "ONBUILD")?.first().map(|keyword| keyword.to_uppercase());
    match trigger.as_deref().unwrap_or_default() {
        "ONBUILD" => return Err(ArgumentError::OnbuildChain.into()),
        keyword @ ("MAINTAINER" | "FROM") => {
            return Err(ArgumentError::OnbuildTrigger(keyword.to_owned()).into());
        }
        _ => {}
    }
    let text = node.text.trim_start();
    let mut expression =
        text.get(node.keyword_text.len()..).unwrap_or_default().trim_start().to_owned();
    for heredoc in &node.heredocs {
        expression.push('\n');
        expression.push_str(&heredoc.content);
        expression.push_str(&heredoc.name);
    }
    Ok(expression)
}

fn shell(node: &Node) -> Result<Vec<String>, InstructionError> {
    no_flags(node)?;
    let words = shell_words(&node.arguments, node.json);
    if words.is_empty() {
        return Err(ArgumentError::AtLeastOne("SHELL").into());
    }
    if !node.json {
        return Err(ArgumentError::NotJson("SHELL").into());
    }
    Ok(words)
}

fn volume(node: &Node) -> Result<Vec<String>, InstructionError> {
    let paths: Vec<String> =
        at_least_one(node, "VOLUME")?.iter().map(|path| path.trim().to_owned()).collect();
    if paths.iter().any(String::is_empty) {
        return Err(ArgumentError::EmptyVolume.into());
    }
    Ok(paths)
}
