//! What all buildpacks of a group make together: processes, labels, slices.
//!
//! Follows Platform API "Builder". Later buildpacks win. Must never look at files.

use std::collections::BTreeMap;
use std::sync::Arc;

use cofferdam_cnb::{ApiVersion, Descriptor, MetadataFile, MetadataModule, Process};

use crate::build::BuiltModule;

/// `config/metadata.toml` of what all buildpacks of the group built (the same order), and lines for
/// the user.
#[must_use]
pub fn assemble(
    modules: &[BuiltModule],
    group: &[Arc<Descriptor>],
    extensions: &[Arc<Descriptor>],
    platform_api: ApiVersion,
) -> (MetadataFile, Vec<String>) {
    let mut warnings = Vec::new();
    let mut processes: BTreeMap<String, Process> = BTreeMap::new();
    let mut default_process = String::new();
    for process in modules.iter().flat_map(|module| &module.processes) {
        if process.default {
            default_process.clone_from(&process.kind);
        } else if process.kind == default_process {
            default_process.clear();
            warnings.push(format!(
                "{}: redefines the default process type {} without making it the default: there is none now",
                process.buildpack_id, process.kind
            ));
        }
        processes.insert(process.kind.clone(), normalised(process, platform_api));
    }
    let metadata = MetadataFile {
        buildpacks: group.iter().map(|module| listed(module)).collect(),
        extensions: extensions.iter().map(|module| listed(module)).collect(),
        processes: processes.into_values().collect(),
        default_process,
        labels: modules.iter().flat_map(|module| module.labels.clone()).collect(),
        slices: modules.iter().flat_map(|module| module.slices.clone()).collect(),
    };
    (metadata, warnings)
}

/// A process as `metadata.toml` has it. Before Platform API 0.10 a command is one word.
fn normalised(process: &Process, platform_api: ApiVersion) -> Process {
    let mut process = Process { default: false, ..process.clone() };
    if !platform_api.at_least(10) && process.command.len() > 1 {
        let mut args = process.command.split_off(1);
        args.append(&mut process.args);
        process.args = args;
    }
    process
}

fn listed(module: &Descriptor) -> MetadataModule {
    MetadataModule {
        id: module.info.id.to_string(),
        version: module.info.version.to_string(),
        api: module.api.to_string(),
        homepage: module.info.homepage.clone(),
    }
}
