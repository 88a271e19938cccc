//! One door to everything here that reads bytes from strangers, for fuzzing.

use std::collections::BTreeMap;

use crate::dockerignore::ignore_patterns;
use crate::expand::Expander;
use crate::instructions::{Command, Instruction, parse, parse_trigger};
use crate::lint::{LintConfig, Warnings};
use crate::parser::{check_directive, parse_heredoc, strip_tabs, syntax_directive};

/// Reads `text` in every way a file of a build context is read, with all lint rules on and
/// all variables expanded, and forgets the results. Must return, soon, for any input.
pub fn parse_untrusted(text: &[u8]) {
    let _ = syntax_directive(text);
    let _ = ignore_patterns(text.get(..text.len().min(1 << 16)).unwrap_or_default());
    let check =
        check_directive(text).and_then(|directive| LintConfig::parse(&directive.value).ok());
    let config = LintConfig { experimental_all: true, ..check.unwrap_or_default() };
    let mut warnings = Warnings::new(config);
    let Ok(mut file) = parse(text, &mut warnings) else { return };
    let _ = warnings.kept().iter().map(|warning| warning.short().len()).sum::<usize>();
    let _ = warnings.failure();

    let expander = Expander::new(file.escape);
    let mut variables = BTreeMap::new();
    for instruction in file
        .global_args
        .iter_mut()
        .chain(file.stages.iter_mut().flat_map(|stage| &mut stage.instructions))
    {
        read_on(instruction, &expander, &mut variables);
    }
    for stage in &file.stages {
        let _ = expander.expand(&stage.base, &variables);
        let _ = expander.expand(&stage.platform, &variables);
    }
}

/// What a conversion does with an instruction, without a builder. Definitions stay visible
/// across stages, which only makes bombs worse.
fn read_on(
    instruction: &mut Instruction,
    expander: &Expander,
    variables: &mut BTreeMap<String, String>,
) {
    let body = expander.clone().with_escape('\\').literal_quotes();
    let _ = instruction
        .expand(&mut |word| expander.expand(word, variables).map(|expanded| expanded.text));
    let _ = instruction
        .expand_inline(&mut |text| body.expand(text, variables).map(|expanded| expanded.text));
    let shown = expander.clone().raw_quotes().keep_unset();
    let _ = shown.expand(&instruction.text, variables);
    match &instruction.command {
        Command::Env(pairs) => {
            variables.extend(pairs.iter().map(|pair| (pair.key.clone(), pair.value.clone())));
        }
        Command::Arg(pairs) => {
            for pair in pairs {
                let value = pair.value.as_deref().map(|value| expander.expand(value, variables));
                if let Some(Ok(value)) = value {
                    variables.insert(pair.key.clone(), value.text);
                }
            }
        }
        Command::Onbuild(text) => drop(parse_trigger(text, instruction.lines)),
        Command::Run(run) => {
            for word in &run.command.words {
                let _ = parse_heredoc(word).map(|heredoc| heredoc.strip_tabs);
            }
            for file in &run.command.files {
                let _ = strip_tabs(&file.data);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
