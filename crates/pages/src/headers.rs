//! The headers that every answer with a page, an asset or a log carries.
//!
//! The policy forbids everything and then allows what the pages need: the stylesheet and icons of
//! this origin, and forms that post to it. There is no script, so none is ever allowed; nor are
//! style attributes, frames, or a base that would bend relative links.

/// Headers of every answer: pages, assets and logs as text. Names are lower case.
pub const SECURITY_HEADERS: &[(&str, &str)] = &[
    (
        "content-security-policy",
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; \
         base-uri 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    // A share URL is a secret: no other site may learn it from a link that was followed.
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    ("x-robots-tag", "noindex, nofollow"),
];

/// Headers of a page besides [`SECURITY_HEADERS`]: it is HTML, and neither a shared cache nor the
/// browser keeps what only this viewer may see.
pub const PAGE_HEADERS: &[(&str, &str)] =
    &[("content-type", "text/html; charset=utf-8"), ("cache-control", "no-store")];
