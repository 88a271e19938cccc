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

/// Bytes of attestations that one result may have in all.
const MAX_BYTES: u64 = 256 << 20;
/// Subjects of all statements about one result: enough for one that names every file of a large image.
const MAX_SUBJECTS: usize = 2_500_000;

/// What may still be read and said about one result.
pub(crate) struct Budget {
    bytes: u64,
    subjects: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { bytes: MAX_BYTES, subjects: MAX_SUBJECTS }
    }
}

impl Budget {
    /// Bytes that the next file may have.
    fn of_file(&self) -> u64 {
        self.bytes.min(MAX_STATEMENT)
    }

    fn read(&mut self, bytes: &[u8]) {
        self.bytes = self.bytes.saturating_sub(bytes.len() as u64);
    }

    fn name(&mut self, subjects: usize) -> Result<(), Failure> {
        let left = self.subjects.checked_sub(subjects);
        self.subjects =
            left.ok_or_else(|| Failure::invalid("attestations have too many subjects"))?;
        Ok(())
    }
}

/// Statements, each with the path it came from.
type Statements = Vec<(String, Statement)>;

/// Replaces bundles by what is in them.
async fn unbundled(all: &[Ready], budget: &mut Budget) -> Result<Vec<Ready>, Failure> {
    let mut flat = Vec::with_capacity(all.len());
    for attestation in all {
        if attestation.bundle {
            flat.extend(unbundle(attestation, budget).await?);
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

async fn unbundle(bundle: &Ready, budget: &mut Budget) -> Result<Vec<Ready>, Failure> {
    let Content::Files(files) = &bundle.content else {
        return Err(Failure::invalid("no ref provided for attestation bundle"));
    };
    let names = names(files, &bundle.path).await?;
    let mut statements = Vec::with_capacity(names.len());
    for name in names {
        let path = format!("{}/{name}", bundle.path.trim_end_matches('/'));
        let bytes = read(files, &path, budget).await?;
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

async fn read(files: &Snapshot, path: &str, budget: &mut Budget) -> Result<Vec<u8>, Failure> {
    let view = files.view().await?;
    let (wanted, max) = (clean(path), budget.of_file());
    let read = blocking(move || view.read_file(&wanted, max)).await?;
    let bytes = read
        .map_err(|error| Failure::of(error).during(&format!("cannot read attestation {path}")))?;
    budget.read(&bytes);
    Ok(bytes)
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
async fn predicate(attestation: &Ready, budget: &mut Budget) -> Result<Value, Failure> {
    match &attestation.content {
        Content::None => Err(Failure::invalid("attestation does not have available content")),
        Content::Predicate(value) => Ok((**value).clone()),
        Content::Provenance(creator) => creator.predicate().await,
        Content::Files(files) => {
            let bytes = read(files, &attestation.path, budget).await?;
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
    budget: &mut Budget,
) -> Result<Statements, Failure> {
    let mut statements = Vec::with_capacity(all.len());
    for attestation in unbundled(all, budget).await? {
        let mut predicate = predicate(&attestation, budget).await?;
        if let Some((files, descriptors)) = layers
            && attestation.predicate_type == cofferdam_provenance::PREDICATE_SPDX
            && is_core(&attestation)
        {
            let tree = files.tree().await?;
            let descriptors = descriptors.to_vec();
            predicate = blocking(move || super::add_layers(predicate, &tree, &descriptors)).await?;
        }
        let about = about(&attestation.subjects, subjects, budget)?;
        let statement = Statement::new(attestation.predicate_type, about, predicate);
        statements.push((attestation.path, statement));
    }
    Ok(statements)
}

fn about(
    wanted: &[About],
    result: &[Subject],
    budget: &mut Budget,
) -> Result<Vec<Subject>, Failure> {
    if wanted.is_empty() {
        budget.name(result.len())?;
        return Ok(result.to_vec());
    }
    // Counted before any is made: few words may stand for all of the result each.
    let count = wanted.iter().map(|about| match about {
        About::Other(_) => 1,
        About::Result(name) if is_named(name) => result.len().saturating_mul(2),
        About::Result(_) => result.len(),
    });
    budget.name(count.fold(0, usize::saturating_add))?;
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
                    if is_named(name) {
                        subjects.push(Subject { name: name.clone(), ..subject.clone() });
                    }
                }
            }
        }
    }
    Ok(subjects)
}

/// Whether somebody gave the result a name of its own.
fn is_named(name: &str) -> bool {
    !matches!(name, "" | "_")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cofferdam_digest::Digest;

    use super::*;

    fn result(count: usize) -> Vec<Subject> {
        (0..count).map(|at| Subject::new(at.to_string(), &Digest::of("x"))).collect()
    }

    #[test]
    fn the_result_is_also_called_what_was_asked_for() {
        let result = result(2);
        let wanted = [About::Result("mine".to_owned()), About::Result("_".to_owned())];
        let mut budget = Budget { bytes: 0, subjects: 6 };
        let named = about(&wanted, &result, &mut budget).unwrap();
        let names: Vec<&str> = named.iter().map(|subject| subject.name.as_str()).collect();
        assert_eq!(names, ["0", "mine", "1", "mine", "0", "1"]);
        assert!(about(&[], &result, &mut budget).is_err(), "more than there is room for");
    }

    #[test]
    fn few_words_do_not_become_many_subjects() {
        let result = result(1_000);
        let wanted = vec![About::Result("x".to_owned()); MAX_SUBJECTS / 2_000 + 1];
        let refused = about(&wanted, &result, &mut Budget::default()).unwrap_err();
        assert!(refused.message().contains("too many subjects"), "{refused}");
    }

    #[test]
    fn files_share_what_may_be_read() {
        let mut budget = Budget { bytes: 10, subjects: 0 };
        assert_eq!(budget.of_file(), 10);
        budget.read(b"1234567");
        assert_eq!(budget.of_file(), 3);
        assert_eq!(Budget::default().of_file(), MAX_STATEMENT);
    }
}
