//! The commands, one module each: arguments are parsed into a struct without effects first, then carried out.

pub(crate) mod backup;
pub(crate) mod build;
pub(crate) mod builder;
pub(crate) mod builder_image;
pub(crate) mod buildpack;
pub(crate) mod builds;
pub(crate) mod check;
pub(crate) mod doctor;
pub(crate) mod images;
pub(crate) mod inspect;
pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod projects;
pub(crate) mod pull_token;
pub(crate) mod rebase;
pub(crate) mod sbom;
pub(crate) mod server;
pub(crate) mod tokens;
pub(crate) mod trust;
pub(crate) mod usage;
