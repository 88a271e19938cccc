//! What a Dockerfile wants to be scanned for its bill of materials, besides its result: the build
//! context and other stages, by two arguments that mean nothing else.

use cofferdam_graph::LoadError;
use cofferdam_wire::pb;

use super::Converter;
use super::lower::lower;
use super::plan::Root;
use super::stage::{Stage, StageId};
use crate::scalar::{csv_fields, parse_bool};

const CONTEXT: &str = "BUILDKIT_SBOM_SCAN_CONTEXT";
const STAGE: &str = "BUILDKIT_SBOM_SCAN_STAGE";

/// What is scanned with a result.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// Platform of the result.
    pub platform: String,
    /// Names and graphs; none is scratch.
    pub extras: Vec<(String, Option<pb::Definition>)>,
    /// Something that is scanned is made anew, so the scan is.
    pub ignore_cache: bool,
}

impl Converter<'_> {
    /// What is scanned with `target`.
    pub(super) fn scan(&self, target: StageId) -> Result<Scan, LoadError> {
        let mut scan = Scan { ignore_cache: self.stages[target].ignore_cache, ..Scan::default() };
        if self.is_on(&self.stages[target], CONTEXT) {
            scan.extras.push(("context".to_owned(), self.graph(Some(self.context))?));
        }
        let reachable = self.reachable(target);
        for (id, stage) in self.stages.iter().enumerate().filter(|(id, _)| reachable[*id]) {
            if id != target && self.is_on(stage, STAGE) {
                scan.ignore_cache |= stage.ignore_cache;
                scan.extras.push((stage.name.clone(), self.graph(stage.state.root)?));
            }
        }
        Ok(scan)
    }

    fn graph(&self, root: Root) -> Result<Option<pb::Definition>, LoadError> {
        lower(&self.plan, root, Some(self.request.info))
    }

    /// Whether a switch is on for a stage: a truth value, or a list with its name.
    fn is_on(&self, stage: &Stage, switch: &str) -> bool {
        if stage.from.implicit {
            return false;
        }
        let own = stage.args.iter().rev().find(|arg| arg.key == switch && arg.value.is_some());
        let value = own.and_then(|arg| arg.value.as_deref());
        let Some(value) = value.or_else(|| self.globals.value(switch)) else { return false };
        parse_bool(value)
            .unwrap_or_else(|| csv_fields(value).is_ok_and(|names| names.contains(&stage.name)))
    }
}
