//! Who is asking, and may they: tokens, OIDC, one authorization function.
//!
//! [`Access::authorize`] is the only place that decides. What it decides by is a table ([`rule`]), not code spread over handlers.
//! A resource that exists elsewhere and one that does not exist give the same answer.

mod access;
mod denied;
mod oidc;
mod principal;
mod resource;
mod revocations;
mod rules;
mod token;

pub use access::{Access, AccessOptions};
pub use cofferdam_records::TokenKind;
pub use denied::{Denied, Unauthenticated, Unavailable};
pub use oidc::{Issuer, OidcError, OidcOptions, OidcProvider, Refused};
pub use principal::{Principal, PrincipalKind};
pub use resource::{Grant, Resource};
pub use revocations::{Revocations, Watch};
pub use rules::{Action, Reach, Rule, rule};
pub use token::{hash, mint, mint_share};
