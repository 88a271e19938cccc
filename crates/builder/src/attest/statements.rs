//! Attestations as in-toto statements about given subjects.
//!
//! Bundles are directories that a sandbox wrote: every file in one is a statement, read within
//! bounds, and none may pretend to be provenance.

use std::sync::Arc;

use cofferdam_image::Descriptor;
use cofferdam_provenance::{MAX_STATEMENT, Statement, Subject, is_provenance};
use serde_json::Value;

use super::{About, Attestation, Content, Ready, SBOM_CORE};
use crate::blocking::blocking;
use crate::failure::Failure;
use crate::rooted::clean;
use crate::snapshot::Snapshot;

/// Statements a bundle may hold; scanners write one for each directory they look at.
const MAX_BUNDLE: usize = 1_000;

/// Statements, each with the path it came from.
type Statements = Vec<(String, Statement)>;

/// Replaces bundles by what is in them.
pub(crate) async fn unbundled(all: &[Ready]) -> Result<Vec<Ready>, Failure> {
    let mut flat = Vec::with_capacity(all.len());
    for attestation in all {
        if attestation.bundle {
            flat.extend(unbundle(attestation).await?);
            continue;
        }
        if attestation.path.is_empty() {
            return Err(Failure::invalid("attestation does not have set path"));
        }
        let is_own = matches!(attestation.content, Content::Provenance(_));
        if is_provenance(&attestation.predicate_type) && !is_own {
            return Err(Failure::invalid("frontend may not set provenance attestations"));
        }
        flat.push(attestation.clone());
    }
    // The scan of the result itself comes first.
    flat.sort_by_key(|attestation| !is_core(attestation));
    Ok(flat)
}

/// Whether it is the scan of the result itself.
pub(crate) fn is_core(attestation: &Ready) -> bool {
    let name = attestation.path.rsplit('/').next().unwrap_or_default();
    let stem = name.split('.').next().unwrap_or_default();
    attestation.metadata.get(SBOM_CORE).is_some_and(|core| core == stem.as_bytes())
}

async fn unbundle(bundle: &Ready) -> Result<Vec<Ready>, Failure> {
    let Content::Files(files) = &bundle.content else {
        return Err(Failure::invalid("no ref provided for attestation bundle"));
    };
    let names = names(files, &bundle.path).await?;
    let mut statements = Vec::with_capacity(names.len());
    for name in names {
        let path = format!("{}/{name}", bundle.path.trim_end_matches('/'));
        let bytes = read(files, &path).await?;
        let statement = Statement::parse(&bytes).map_err(Failure::of)?;
        let kind = &statement.predicate_type;
        if !bundle.predicate_type.is_empty() && *kind != bundle.predicate_type {
            return Err(Failure::invalid(format!(
                "bundle entry {kind} does not match required predicate type {}",
                bundle.predicate_type
            )));
        }
        if is_provenance(kind) {
            return Err(Failure::invalid("frontend may not bundle provenance attestations"));
        }
        let subjects = statement.subjects.into_iter().map(About::Other).collect();
        statements.push(Attestation {
            bundle: false,
            metadata: bundle.metadata.clone(),
            path: path.trim_start_matches('/').to_owned(),
            predicate_type: statement.predicate_type,
            subjects,
            content: Content::Predicate(Arc::new(statement.predicate)),
        });
    }
    Ok(statements)
}

async fn read(files: &Snapshot, path: &str) -> Result<Vec<u8>, Failure> {
    let view = files.view().await?;
    let wanted = clean(path);
    let read = blocking(move || view.read_file(&wanted, MAX_STATEMENT)).await?;
    read.map_err(|error| Failure::of(error).during(&format!("cannot read attestation {path}")))
}

/// The names in a bundle's directory.
async fn names(files: &Snapshot, path: &str) -> Result<Vec<String>, Failure> {
    let view = files.view().await?;
    let wanted = clean(path);
    let names = blocking(move || view.directory(&wanted)?.names()).await?;
    let names =
        names.map_err(|error| Failure::of(error).during("cannot read attestation bundle"))?;
    if names.len() > MAX_BUNDLE {
        return Err(Failure::invalid(format!(
            "attestation bundle has more than {MAX_BUNDLE} entries"
        )));
    }
    Ok(names.iter().map(|name| name.to_string_lossy().into_owned()).collect())
}

/// What an attestation states.
async fn predicate(attestation: &Ready) -> Result<Value, Failure> {
    match &attestation.content {
        Content::None => Err(Failure::invalid("attestation does not have available content")),
        Content::Predicate(value) => Ok((**value).clone()),
        Content::Provenance(creator) => creator.predicate().await,
        Content::Files(files) => {
            let bytes = read(files, &attestation.path).await?;
            if bytes.is_empty() {
                return Ok(Value::Null);
            }
            serde_json::from_slice(&bytes)
                .map_err(|error| Failure::of(error).during("cannot read in-toto attestation"))
        }
    }
}

/// Binds attestations to `subjects`, which are the result. `layers`, when given, are those of
/// `tree`, and bills of materials say which of them each file is in.
pub(crate) async fn statements(
    all: &[Ready],
    subjects: &[Subject],
    layers: Option<(&Snapshot, &[Descriptor])>,
) -> Result<Statements, Failure> {
    let mut statements = Vec::with_capacity(all.len());
    for attestation in unbundled(all).await? {
        let mut predicate = predicate(&attestation).await?;
        if let Some((files, descriptors)) = layers
            && attestation.predicate_type == cofferdam_provenance::PREDICATE_SPDX
            && is_core(&attestation)
        {
            let tree = files.tree().await?;
            let descriptors = descriptors.to_vec();
            predicate = blocking(move || super::add_layers(predicate, &tree, &descriptors)).await?;
        }
        let about = about(&attestation.subjects, subjects);
        let statement = Statement::new(attestation.predicate_type, about, predicate);
        statements.push((attestation.path, statement));
    }
    Ok(statements)
}

fn about(wanted: &[About], result: &[Subject]) -> Vec<Subject> {
    if wanted.is_empty() {
        return result.to_vec();
    }
    let mut subjects = Vec::new();
    for about in wanted {
        match about {
            About::Other(subject) => {
                let mut subject = subject.clone();
                if subject.name.is_empty() {
                    subject.name = "_".to_owned();
                }
                subjects.push(subject);
            }
            About::Result(name) => {
                for subject in result {
                    subjects.push(subject.clone());
                    if !name.is_empty() && name != "_" {
                        subjects.push(Subject { name: name.clone(), ..subject.clone() });
                    }
                }
            }
        }
    }
    subjects
}
