//! What the files mean that `bin/build` left.
//!
//! Every file is hostile: its form, its names and their number are checked here, once. Must never
//! repair: what is wrong ends the build and is named.

use std::collections::{BTreeMap, BTreeSet};

use cofferdam_cnb::{
    Descriptor, FileError, LaunchFile, LayerFile, PlanFile, SbomFormat, StoreFile, UnmetFile,
    layer_name, parse_toml,
};

use crate::build::{BuildError, BuildOutput, BuiltLayer, BuiltModule, LayerOutput, SbomPlacement};

/// Most layers of one buildpack: an image cannot have more than about a hundred.
const MAX_LAYERS: usize = 1_000;

/// What a buildpack's output means; `given` is the plan it was given.
///
/// # Errors
/// A file is not of its form, or names what cannot be.
pub fn read_build(
    descriptor: &Descriptor,
    output: &BuildOutput,
    given: &PlanFile,
) -> Result<BuiltModule, BuildError> {
    let module = descriptor.module();
    let mut built = BuiltModule {
        module: module.clone(),
        api: descriptor.api,
        layers: BTreeMap::new(),
        processes: Vec::new(),
        labels: Vec::new(),
        slices: Vec::new(),
        met: Vec::new(),
        store: None,
        sboms: Vec::new(),
        warnings: Vec::new(),
    };
    read_layers(descriptor, output, &mut built)?;
    let in_module = |source: FileError| BuildError::File { module: module.to_string(), source };
    built.met = met(output, given).map_err(in_module)?;
    if let Some(bytes) = &output.store {
        let store: StoreFile = parse_toml("store.toml", bytes).map_err(in_module)?;
        built.store = Some(store.metadata);
    }
    if let Some(bytes) = &output.launch {
        let read = LaunchFile::read(descriptor.api, "launch.toml", bytes);
        let (launch, warnings) = read.map_err(in_module)?;
        built.warnings.extend(warnings);
        built.labels = launch.labels;
        built.slices = launch.slices;
        built.processes = launch.processes;
        let id = descriptor.info.id.as_str();
        built.processes.iter_mut().for_each(|process| id.clone_into(&mut process.buildpack_id));
    }
    read_sboms(descriptor, output, &mut built).map_err(in_module)?;
    Ok(built)
}

fn read_layers(
    descriptor: &Descriptor,
    output: &BuildOutput,
    built: &mut BuiltModule,
) -> Result<(), BuildError> {
    let module = || descriptor.module().to_string();
    for (name, layer) in &output.layers {
        let Some(bytes) = &layer.toml else { continue };
        layer_name(name).map_err(|source| BuildError::LayerName { module: module(), source })?;
        let file = format!("{name}.toml");
        let read = read_layer(descriptor, &file, bytes, layer);
        let layer = read.map_err(|source| BuildError::File { module: module(), source })?;
        built.layers.insert(name.clone(), layer);
    }
    if built.layers.len() > MAX_LAYERS {
        let (what, limit) = ("layers", MAX_LAYERS);
        return Err(BuildError::Limit { module: module(), what, limit });
    }
    Ok(())
}

fn read_layer(
    descriptor: &Descriptor,
    file: &str,
    bytes: &[u8],
    layer: &LayerOutput,
) -> Result<BuiltLayer, FileError> {
    let read: LayerFile = parse_toml(file, bytes)?;
    read.check(descriptor.api, file)?;
    Ok(BuiltLayer {
        types: read.types.unwrap_or_default(),
        metadata: read.metadata,
        exists: layer.exists,
        roots: layer.roots.clone(),
        env: layer.env.clone(),
        env_build: layer.env_build.clone(),
    })
}

/// Names of the plan without those that `build.toml` says are not met.
fn met(output: &BuildOutput, given: &PlanFile) -> Result<Vec<String>, FileError> {
    let file = "build.toml";
    let unmet: UnmetFile = match &output.build {
        Some(bytes) => parse_toml(file, bytes)?,
        None => UnmetFile::default(),
    };
    let names: BTreeSet<&str> = given.entries.iter().map(|entry| entry.name.as_str()).collect();
    let unmet: BTreeSet<&str> = unmet.unmet.iter().map(|unmet| unmet.name.as_str()).collect();
    if let Some(name) = unmet.iter().find(|name| !names.contains(*name)) {
        let name: String = name.escape_debug().take(80).collect();
        return Err(FileError::value(file, "unmet.name", format!("{name:?} is not in the plan")));
    }
    Ok(names.difference(&unmet).map(|name| (*name).to_owned()).collect())
}

/// Places the SBOMs: those of the image and of launch layers, those of the build, those of the cache.
fn read_sboms(
    descriptor: &Descriptor,
    output: &BuildOutput,
    built: &mut BuiltModule,
) -> Result<(), FileError> {
    let directory = descriptor.info.id.escaped();
    for from in &output.sboms {
        let Some((layer, format)) = SbomFormat::from_file_name(from) else { continue };
        format.announced(&descriptor.info.sbom_formats, from)?;
        let file = format!("sbom.{}", format.extension());
        let mut place = |part: &str, below: &str| {
            let to = format!("{part}/{directory}{below}/{file}");
            built.sboms.push(SbomPlacement { from: from.clone(), to });
        };
        match (layer, built.layers.get(layer)) {
            ("launch" | "build", _) => place(layer, ""),
            (_, None) => {
                let layer: String = layer.escape_debug().take(80).collect();
                built
                    .warnings
                    .push(format!("{layer}.sbom.{}: there is no such layer", format.extension()));
            }
            (_, Some(found)) => {
                let below = format!("/{layer}");
                place(if found.types.launch { "launch" } else { "build" }, &below);
                if found.types.cache {
                    place("cache", &below);
                }
            }
        }
    }
    Ok(())
}
