//! The addresses of pages: one place that the router and the links agree on.
//!
//! Only paths, never hosts: a page must not know or invent where it is served.

/// The list of an organization's projects. `GET`, takes [`PAGE_FIELD`].
pub const PROJECTS: &str = "/projects";
/// Signing in: `GET` shows the form and takes [`NEXT_FIELD`], `POST` sends [`TOKEN_FIELD`] and
/// [`NEXT_FIELD`].
pub const SIGN_IN: &str = "/login";
/// Signing out: `POST` without fields.
pub const SIGN_OUT: &str = "/logout";
/// The folder of everything [`crate::asset`] serves.
pub const ASSETS: &str = "/assets/";

/// The form field with the token that somebody signs in with.
pub const TOKEN_FIELD: &str = "token";
/// The form field with the organization token that approves a login.
pub const APPROVE_TOKEN_FIELD: &str = "token";
/// The query or form field with the local path to go on to.
pub const NEXT_FIELD: &str = "next";
/// The query field with a page token.
pub const PAGE_FIELD: &str = "page";
/// The query field that turns the refreshing of a running build's page off.
pub const REFRESH_FIELD: &str = "refresh";
/// The value of [`REFRESH_FIELD`] that does so.
pub const REFRESH_OFF: &str = "off";

/// A project with its builds. `GET`, takes [`PAGE_FIELD`].
#[must_use]
pub fn project_path(project: &str) -> String {
    format!("{PROJECTS}/{}", encode(project))
}

/// A build for those who may see its project. `GET`, takes [`REFRESH_FIELD`].
#[must_use]
pub fn build_path(project: &str, build: &str) -> String {
    format!("{PROJECTS}/{}/builds/{}", encode(project), encode(build))
}

/// The whole log of a step as plain text, for those who may see the build.
#[must_use]
pub fn step_log_path(project: &str, build: &str, ordinal: u64) -> String {
    format!("{}/logs/{ordinal}", build_path(project, build))
}

/// A build for whoever has the secret of its share URL. `GET`, takes [`REFRESH_FIELD`].
#[must_use]
pub fn shared_path(secret: &str) -> String {
    format!("/shared/{}", encode(secret))
}

/// The whole log of a step of a shared build as plain text.
#[must_use]
pub fn shared_log_path(secret: &str, ordinal: u64) -> String {
    format!("{}/logs/{ordinal}", shared_path(secret))
}

/// The page that approves the login `id` of a terminal. `GET` shows it, `POST` sends
/// [`APPROVE_TOKEN_FIELD`].
#[must_use]
pub fn approve_path(id: &str) -> String {
    format!("{SIGN_IN}/approve/{}", encode(id))
}

/// The sign-in page, going on to the local path `next` afterwards.
#[must_use]
pub fn sign_in_path(next: &str) -> String {
    format!("{SIGN_IN}?{NEXT_FIELD}={}", encode(next))
}

/// The same path with another page of its list.
pub(crate) fn with_page(path: &str, token: &str) -> String {
    format!("{path}?{PAGE_FIELD}={}", encode(token))
}

/// Percent-encodes everything but the unreserved characters of RFC 3986, so that the result is one
/// path segment or one query value whatever was put in.
fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stay_one_segment() {
        assert_eq!(project_path("../../etc"), "/projects/..%2F..%2Fetc");
        assert_eq!(build_path("p", "b?x=1#y"), "/projects/p/builds/b%3Fx%3D1%23y");
        assert_eq!(step_log_path("p", "b", 3), "/projects/p/builds/b/logs/3");
        assert_eq!(shared_log_path("s/é", 0), "/shared/s%2F%C3%A9/logs/0");
    }

    #[test]
    fn queries_stay_one_value() {
        assert_eq!(sign_in_path("/projects?a=b&c"), "/login?next=%2Fprojects%3Fa%3Db%26c");
        assert_eq!(with_page("/projects", "a+b=&\""), "/projects?page=a%2Bb%3D%26%22");
    }
}
