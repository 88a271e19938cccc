//! The way of a build's bytes: mutual TLS ends here, and what is inside goes unread to the builder of that build's project.
//!
//! A connection belongs to the build whose certificate its client holds, and to nothing else: names in the handshake choose
//! nothing but this gateway. It must never forward a connection whose build has ended: such a client is told so.

mod authority;
mod ended;
mod forward;

pub(crate) use authority::{Authority, AuthorityError, ClientCertificate, Fingerprint};
pub(crate) use forward::serve;

/// Every name below this one is a builder's. `internal` is reserved for private use (ICANN, 2024), so no such name exists outside.
const DOMAIN: &str = "builder.cofferdam.internal";

/// The name that the client of a build asks for and finds in the gateway's certificate.
pub(crate) fn server_name(build: &str) -> String {
    format!("{build}.{DOMAIN}")
}

/// Whether a TLS client wants the gateway rather than the API.
pub(crate) fn is_builder_name(name: &str) -> bool {
    name.strip_suffix(DOMAIN).is_some_and(|rest| rest.ends_with('.'))
}
