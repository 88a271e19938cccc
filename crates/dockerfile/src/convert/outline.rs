//! What a target can be given: arguments, secrets, SSH agents. For the outline request.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Converter;
use super::stage::StageId;
use crate::instructions::ArgPair;
use crate::lines::Lines;

/// An argument.
#[derive(Debug, Clone)]
pub(crate) struct ArgInfo {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) value: String,
    pub(crate) lines: Lines,
    /// Variables in its default.
    pub(super) needs: BTreeSet<String>,
}

impl ArgInfo {
    pub(super) fn new(pair: &ArgPair, lines: Lines) -> Self {
        Self {
            name: pair.key.clone(),
            description: pair.description.clone(),
            value: String::new(),
            lines,
            needs: BTreeSet::new(),
        }
    }
}

/// A secret or SSH agent.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) name: String,
    pub(crate) required: bool,
    pub(crate) lines: Lines,
}

/// What a stage was seen to use.
#[derive(Debug, Clone, Default)]
pub(crate) struct Capture {
    /// Of the file; shared by all stages.
    globals: Arc<BTreeMap<String, ArgInfo>>,
    args: BTreeMap<String, ArgInfo>,
    used: BTreeSet<String>,
    secrets: BTreeMap<String, Asked>,
    ssh: BTreeMap<String, Asked>,
}

/// What a target can be given, in order of lines.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outline {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) args: Vec<ArgInfo>,
    pub(crate) secrets: Vec<Asked>,
    pub(crate) ssh: Vec<Asked>,
}

impl Capture {
    pub(super) fn declare(&mut self, mut arg: ArgInfo) {
        let own = arg.needs.remove(&arg.name);
        if let Some(old) = self.arg(&arg.name).filter(|_| own) {
            arg.needs.extend(old.needs.iter().cloned());
        }
        self.args.insert(arg.name.clone(), arg);
    }

    fn arg(&self, name: &str) -> Option<&ArgInfo> {
        self.args.get(name).or_else(|| self.globals.get(name))
    }

    /// Makes all that is known the globals of every stage.
    pub(super) fn share(self) -> Self {
        Self { globals: Arc::new(self.args), ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.args.len()
    }

    pub(super) fn use_arg(&mut self, name: &str) {
        self.used.insert(name.to_owned());
    }

    pub(super) fn use_args(&mut self, names: &BTreeSet<String>) {
        self.used.extend(names.iter().cloned());
    }

    pub(super) fn arg_names(&self) -> impl Iterator<Item = &str> {
        self.globals.keys().chain(self.args.keys()).map(String::as_str)
    }

    pub(super) fn ask_secret(&mut self, name: &str, required: bool, lines: Lines) {
        ask(&mut self.secrets, name, required, lines);
    }

    pub(super) fn ask_ssh(&mut self, name: &str, required: bool, lines: Lines) {
        ask(&mut self.ssh, name, required, lines);
    }

    /// Arguments in use, with those in their defaults.
    fn used_args(&self) -> Vec<&ArgInfo> {
        let mut open: Vec<&str> = self.used.iter().map(String::as_str).collect();
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        while let Some(name) = open.pop() {
            if !seen.insert(name) {
                continue;
            }
            if let Some(arg) = self.arg(name) {
                open.extend(arg.needs.iter().map(String::as_str));
                found.push(arg);
            }
        }
        found
    }
}

fn ask(known: &mut BTreeMap<String, Asked>, name: &str, required: bool, lines: Lines) {
    known.entry(name.to_owned()).or_insert_with(|| Asked {
        name: name.to_owned(),
        required,
        lines,
    });
}

impl Converter<'_> {
    /// The outline of `target` and of all stages it needs; the nearest stage wins.
    pub(super) fn outline(&self, target: StageId) -> Outline {
        let (mut args, mut secrets, mut ssh) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut seen = BTreeSet::new();
        let mut open = std::collections::VecDeque::from([target]);
        while let Some(id) = open.pop_front() {
            if !seen.insert(id) {
                continue;
            }
            let stage = &self.stages[id];
            for arg in stage.outline.used_args() {
                args.entry(arg.name.clone()).or_insert_with(|| arg.clone());
            }
            for (found, all) in
                [(&stage.outline.secrets, &mut secrets), (&stage.outline.ssh, &mut ssh)]
            {
                for (name, asked) in found {
                    all.entry(name.clone()).or_insert_with(|| asked.clone());
                }
            }
            open.extend(stage.base);
            open.extend(stage.needs.iter().map(|(need, _)| *need));
        }
        let from = &self.stages[target].from;
        let mut outline = Outline {
            name: from.name.clone().unwrap_or_default(),
            description: from.description.clone(),
            args: args.into_values().collect(),
            secrets: secrets.into_values().collect(),
            ssh: ssh.into_values().collect(),
        };
        outline.args.sort_by_key(|arg| arg.lines.start);
        outline.secrets.sort_by_key(|asked: &Asked| asked.lines.start);
        outline.ssh.sort_by_key(|asked: &Asked| asked.lines.start);
        outline
    }
}
