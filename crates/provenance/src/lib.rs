//! What a build says about itself: in-toto statements and SLSA provenance.
//!
//! Values in, JSON out. A [`Capture`] holds what one result of a build was made of; a [`Predicate`]
//! says it in the words of [SLSA v1](https://slsa.dev/spec/v1.0/provenance) with BuildKit's
//! definitions, or of v0.2; a [`Statement`] binds a predicate to subjects as
//! [in-toto](https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md) has it.
//!
//! This crate must never open a file or socket, read a clock or find anything out by itself, and
//! no URL's credentials may get into what it writes: they are hidden on the way in.

mod capture;
mod csv;
mod llb;
mod options;
mod predicate;
mod purl;
mod request;
mod sources;
mod statement;
mod steps;
mod v02;

pub use capture::Capture;
pub use options::{
    Mode, OptionsError, ProvenanceOptions, Requested, SbomOptions, Version, check_environment,
};
pub use predicate::{Metadata, Predicate};
pub use purl::{PurlError, image_purl};
pub use request::{
    ConfigSource, NamedUse, Parameters, RequestProvenance, filter_args, request_provenance,
};
pub use sources::{BlobSource, GitSource, HttpSource, ImageSource, Sources};
pub use statement::{
    MAX_STATEMENT, PREDICATE_SPDX, Statement, StatementError, Subject, is_provenance,
};
pub use steps::{BuildConfig, Layers, SourceMap, StepsError, describe};
