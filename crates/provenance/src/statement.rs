//! In-toto statements: what a predicate is about.

use std::collections::BTreeMap;

use cofferdam_digest::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Largest statement or predicate that is read, in bytes. Bills of materials of large images have
/// some megabytes.
pub const MAX_STATEMENT: u64 = 40 << 20;
/// Predicate type of bills of materials.
pub const PREDICATE_SPDX: &str = "https://spdx.dev/Document";

const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
const PROVENANCE: &str = "https://slsa.dev/provenance/";
/// Subjects a statement that comes from outside may have.
const MAX_SUBJECTS: usize = 100_000;

/// Whether a predicate type is one of provenance, which only the builder itself may state.
#[must_use]
pub fn is_provenance(predicate_type: &str) -> bool {
    predicate_type.starts_with(PROVENANCE)
}

/// Something a statement is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// What it is, by algorithm.
    #[serde(default)]
    pub digest: BTreeMap<String, String>,
}

impl Subject {
    /// A subject by its SHA-256.
    #[must_use]
    pub fn new(name: String, digest: &Digest) -> Self {
        Self { name, digest: BTreeMap::from([("sha256".to_owned(), digest.hex())]) }
    }
}

/// A statement.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Statement {
    #[serde(rename = "_type")]
    kind: &'static str,
    /// What kind of predicate it is.
    #[serde(rename = "predicateType")]
    pub predicate_type: String,
    /// What it is about.
    #[serde(rename = "subject")]
    pub subjects: Vec<Subject>,
    /// What is said.
    pub predicate: Value,
}

/// Bytes that are no statement.
#[derive(Debug, thiserror::Error)]
pub enum StatementError {
    /// More than [`MAX_STATEMENT`].
    #[error("in-toto statement exceeds {MAX_STATEMENT} bytes")]
    TooLarge,
    /// Not one JSON object of the right form.
    #[error("cannot decode in-toto statement")]
    Json(#[source] serde_json::Error),
    /// More subjects than anybody reads.
    #[error("in-toto statement has more than {MAX_SUBJECTS} subjects")]
    TooManySubjects,
}

#[derive(Deserialize)]
struct Read {
    #[serde(rename = "predicateType", default)]
    predicate_type: String,
    #[serde(rename = "subject", default)]
    subjects: Option<Vec<Subject>>,
    #[serde(default)]
    predicate: Value,
}

impl Statement {
    /// Binds a predicate to subjects.
    #[must_use]
    pub const fn new(predicate_type: String, subjects: Vec<Subject>, predicate: Value) -> Self {
        Self { kind: STATEMENT_TYPE, predicate_type, subjects, predicate }
    }

    /// Reads a statement that a program wrote.
    ///
    /// # Errors
    /// See [`StatementError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, StatementError> {
        if bytes.len() as u64 > MAX_STATEMENT {
            return Err(StatementError::TooLarge);
        }
        let read: Read = serde_json::from_slice(bytes).map_err(StatementError::Json)?;
        let subjects = read.subjects.unwrap_or_default();
        if subjects.len() > MAX_SUBJECTS {
            return Err(StatementError::TooManySubjects);
        }
        Ok(Self::new(read.predicate_type, subjects, read.predicate))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn statements_survive_a_round_trip() {
        let subject = Subject::new("a".to_owned(), &Digest::of("a"));
        let statement =
            Statement::new(PREDICATE_SPDX.to_owned(), vec![subject], serde_json::json!({ "b": 1 }));
        let bytes = serde_json::to_vec(&statement).unwrap();
        assert!(bytes.starts_with(b"{\"_type\":\"https://in-toto.io/Statement/v1\""));
        assert_eq!(Statement::parse(&bytes).unwrap(), statement);
    }

    #[test]
    fn what_is_no_statement_is_refused() {
        for bytes in [&b""[..], b"[]x", b"{} {}", b"{\"subject\":1}", b"null"] {
            assert!(Statement::parse(bytes).is_err());
        }
        let sparse = b"{\"subject\":null,\"predicateType\":\"x\"}";
        assert!(Statement::parse(sparse).unwrap().subjects.is_empty());
        assert!(is_provenance("https://slsa.dev/provenance/v1") && !is_provenance("https://x"));
    }
}
