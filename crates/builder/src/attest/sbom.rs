//! Bills of materials: a scanner image runs over a result, as one more step of the build.
//!
//! The scanner follows BuildKit's protocol: it finds what to scan under `/run/src`, read-only, and
//! writes statements to `/run/out`. It is code like any other: a sandbox, no credential, and
//! nothing of the result can be changed by it.

use std::collections::BTreeMap;
use std::sync::Arc;

use cofferdam_dockerfile::Scan;
use cofferdam_graph::{Assembler, Output as GraphOutput, default_platform};
use cofferdam_image::{ImageConfig, Reference as ImageReference};
use cofferdam_provenance::{PREDICATE_SPDX, Requested, SbomOptions};
use cofferdam_wire::pb;

use super::{Attestation, Attester, Content, Promised, REASON, SBOM_CORE};
use crate::export::{Output, entries};
use crate::failure::Failure;
use crate::gateway::bridge::{Answer, Bridge};

const CORE: &str = "sbom";
const DESTINATION: &str = "/run/out/";
const CORE_PLACE: &str = "/run/src/core/sbom";
const EXTRAS_PLACE: &str = "/run/src/extras";

/// What is scanned besides a result: name and graph, of which none is scratch.
type Extras = Vec<(String, Option<pb::Definition>)>;

/// One result and what is scanned with it.
struct Target {
    /// Platform id.
    id: String,
    /// The result.
    core: Option<pb::Definition>,
    /// What else.
    extras: Extras,
}

/// A scanner that is ready to be run.
struct Scanner {
    reference: String,
    platform: pb::Platform,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    directory: String,
}

/// Attestations of `targets`, to be made when they are solved.
async fn promises(
    bridge: &Arc<Bridge>,
    options: &SbomOptions,
    use_cache: bool,
    targets: Vec<Target>,
) -> Result<BTreeMap<String, Vec<Promised>>, Failure> {
    let scanner = Scanner::find(bridge, options).await?;
    let mut promised = BTreeMap::new();
    for target in targets {
        let definition = scanner.step(&target, use_cache)?;
        let reference = bridge.reference(definition).await?;
        promised.insert(target.id, vec![statement(Some(reference))]);
    }
    Ok(promised)
}

/// Attestations of what a Dockerfile gave, when the request asks for them; `scans` says what else
/// the Dockerfile wants to be scanned.
pub(crate) async fn scans(
    bridge: &Arc<Bridge>,
    attrs: &BTreeMap<String, String>,
    scans: Vec<Scan>,
    answer: &Answer,
) -> Result<BTreeMap<String, Vec<Promised>>, Failure> {
    let requested = Requested::parse(attrs).map_err(|error| Failure::invalid(error.to_string()))?;
    let Some(options) = requested.sbom.filter(|_| !scans.is_empty()) else {
        return Ok(BTreeMap::new());
    };
    // One of them that is made anew is scanned anew, and so are all.
    let use_cache = !scans.iter().any(|scan| scan.ignore_cache);
    let targets = scans.into_iter().map(|scan| {
        let reference = answer.reference_for(&scan.platform);
        let core = reference.map(|reference| reference.definition.clone());
        Target { id: scan.platform, core, extras: scan.extras }
    });
    promises(bridge, &options, use_cache, targets.collect()).await
}

fn statement<C>(content: C) -> Attestation<C> {
    Attestation {
        bundle: true,
        metadata: BTreeMap::from([
            (REASON.to_owned(), CORE.as_bytes().to_vec()),
            (SBOM_CORE.to_owned(), CORE.as_bytes().to_vec()),
        ]),
        path: String::new(),
        predicate_type: PREDICATE_SPDX.to_owned(),
        subjects: Vec::new(),
        content,
    }
}

impl Attester<'_> {
    /// Scans each platform's result.
    pub(super) async fn scan(
        &self,
        options: &SbomOptions,
        use_cache: bool,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let mut targets = Vec::new();
        for (id, _) in entries(output)? {
            let Some(reference) = self.answer.reference_for(&id) else { continue };
            let core = Some(reference.definition.clone());
            targets.push(Target { id, core, extras: Vec::new() });
        }
        for (id, promised) in promises(self.bridge, options, use_cache, targets).await? {
            for attestation in promised {
                let files = match &attestation.content {
                    Some(reference) => Content::Files(self.bridge.evaluate(reference).await?),
                    None => Content::None,
                };
                output.attestations.entry(id.clone()).or_default().push(attestation.with(files));
            }
        }
        Ok(())
    }
}

impl Scanner {
    async fn find(bridge: &Arc<Bridge>, options: &SbomOptions) -> Result<Self, Failure> {
        let reference = ImageReference::parse(&options.generator)
            .map_err(|error| {
                Failure::of(error)
                    .during(&format!("failed to parse sbom generator {}", options.generator))
            })?
            .to_string();
        let platform = bridge.platforms.first().cloned().unwrap_or_else(default_platform);
        let (_, resolved) = bridge.resolve_image(&reference, Some(&platform), "").await?;
        let config = ImageConfig::parse(&resolved.config).map_err(Failure::of)?.config;
        let mut args = config.entrypoint.unwrap_or_default();
        args.extend(config.cmd.unwrap_or_default());
        if args.is_empty() {
            return Err(Failure::invalid(format!("scanner {reference} does not have cmd")));
        }
        let mut env: BTreeMap<String, String> = config
            .env
            .iter()
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        env.insert("BUILDKIT_SCAN_DESTINATION".to_owned(), DESTINATION.to_owned());
        env.insert("BUILDKIT_SCAN_SOURCE".to_owned(), CORE_PLACE.to_owned());
        for (key, value) in &options.parameters {
            env.insert(format!("BUILDKIT_SCAN_{key}"), value.clone());
        }
        Ok(Self { reference, platform, args, env, directory: config.working_dir })
    }

    /// The step that scans `target`, as a graph whose result is what the scanner wrote.
    fn step(&self, target: &Target, use_cache: bool) -> Result<pb::Definition, Failure> {
        let mut inputs = Inputs::default();
        let source = pb::SourceOp {
            identifier: format!("docker-image://{}", self.reference),
            ..pb::SourceOp::default()
        };
        let source = pb::Op { op: Some(source.into()), ..self.op() };
        let image = inputs.assembler.add(source, pb::OpMetadata::default(), None);
        let image = inputs.add(GraphOutput::new(image, 0));
        let mut mounts = vec![pb::Mount { dest: "/".to_owned(), input: image, ..bind() }];
        mounts.push(pb::Mount {
            dest: "/tmp".to_owned(),
            output: -1,
            mountType: pb::MountType::TMPFS.into(),
            ..bind()
        });
        let mut scanned = vec![(CORE_PLACE.to_owned(), &target.core)];
        for (name, extra) in &target.extras {
            scanned.push((format!("{EXTRAS_PLACE}/sbom-{name}"), extra));
        }
        for (dest, definition) in scanned {
            let input = inputs.import(definition.as_ref())?;
            mounts.push(pb::Mount { dest, input, output: -1, readonly: true, ..bind() });
        }
        mounts.push(pb::Mount { dest: DESTINATION.to_owned(), output: 1, ..bind() });
        let mut env = self.env.clone();
        if !target.extras.is_empty() {
            env.insert("BUILDKIT_SCAN_SOURCE_EXTRAS".to_owned(), EXTRAS_PLACE.to_owned());
        }
        let cwd = if self.directory.is_empty() { "/" } else { &self.directory };
        let meta = pb::Meta {
            args: self.args.clone(),
            env: env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
            cwd: cwd.to_owned(),
            ..pb::Meta::default()
        };
        let meta = buffa::MessageField::some(meta);
        let exec = pb::ExecOp { meta, mounts, ..pb::ExecOp::default() };
        let op = pb::Op { op: Some(exec.into()), inputs: inputs.list, ..self.op() };
        let mut metadata = pb::OpMetadata { ignore_cache: !use_cache, ..Default::default() };
        let name = format!("[{}] generating sbom using {}", target.id, self.reference);
        metadata.description.insert("llb.customname".to_owned(), name);
        let exec = inputs.assembler.add(op, metadata, None);
        Ok(inputs.assembler.finish(&GraphOutput::new(exec, 1)))
    }

    fn op(&self) -> pb::Op {
        pb::Op { platform: buffa::MessageField::some(self.platform.clone()), ..pb::Op::default() }
    }
}

fn bind() -> pb::Mount {
    pb::Mount { input: -1, ..pb::Mount::default() }
}

/// Inputs of the step.
#[derive(Default)]
struct Inputs {
    assembler: Assembler,
    list: Vec<pb::Input>,
}

impl Inputs {
    fn add(&mut self, output: GraphOutput) -> i64 {
        let input = output.input();
        let known = self.list.iter().position(|known| *known == input);
        let index = known.unwrap_or_else(|| {
            self.list.push(input);
            self.list.len() - 1
        });
        i64::try_from(index).unwrap_or(i64::MAX)
    }

    /// A graph as an input; scratch is none.
    fn import(&mut self, definition: Option<&pb::Definition>) -> Result<i64, Failure> {
        let Some(definition) = definition else { return Ok(-1) };
        let output = self.assembler.import(definition).map_err(Failure::of)?;
        Ok(output.map_or(-1, |output| self.add(output)))
    }
}
