//! The pages of things that did not work: 401, 403, 404, 410, 500 and the like.
//!
//! A missing thing and somebody else's look the same: the page says what its status says and the
//! message it was given, nothing more.

use askama::Template;

use crate::frame::{Frame, Viewer, document};
use crate::paths;
use crate::text::{Markup, shown_within};

/// The most characters of a message.
const MAX_MESSAGE_CHARS: usize = 1_000;

#[derive(Template)]
#[template(path = "failure.html")]
struct FailureTemplate {
    frame: Frame,
    status: u16,
    heading: &'static str,
    message: Markup,
    /// Where to sign in, if that may help.
    sign_in: Option<String>,
    home: &'static str,
}

/// Something that did not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorPage {
    /// Who looks at the page.
    pub viewer: Viewer,
    /// The HTTP status of the answer.
    pub status: u16,
    /// What went wrong and what to do, in a sentence or two; `None`: what the status says.
    pub message: Option<String>,
    /// The local path that was asked for; offered as the way on after signing in where the status
    /// is 401 (or 404 for somebody who is signed out).
    pub path: Option<String>,
}

impl ErrorPage {
    /// The page as HTML.
    #[must_use]
    pub fn render(&self) -> String {
        let (heading, message) = words(self.status);
        let may_help = self.viewer == Viewer::SignedOut && matches!(self.status, 401 | 403 | 404);
        let sign_in = || match &self.path {
            Some(path) => paths::sign_in_path(path),
            None => paths::SIGN_IN.to_owned(),
        };
        document(&FailureTemplate {
            frame: Frame::new(heading, &self.viewer),
            status: self.status,
            heading,
            message: shown_within(self.message.as_deref().unwrap_or(message), MAX_MESSAGE_CHARS),
            sign_in: may_help.then(sign_in),
            home: paths::PROJECTS,
        })
    }
}

/// A heading, and what to say when nothing more is known.
fn words(status: u16) -> (&'static str, &'static str) {
    match status {
        400 => ("That request could not be read", "Go back and try again."),
        401 => ("Sign in to see this", "This page is for people of its organization."),
        403 => ("Not allowed", "The token you signed in with may not do this."),
        404 => ("Not found", "There is nothing here, or it is not yours to see."),
        405 => ("Not possible here", "This address does not take that kind of request."),
        410 => ("No longer here", "What was here has been deleted or is no longer shared."),
        413 => ("Too large", "That was more than this server takes."),
        429 => ("Too many requests", "Wait a little, then try again."),
        503 => ("Not available right now", "The server is starting, stopping or too busy."),
        500..=599 => ("Something went wrong here", "The server failed. Trying again may help."),
        _ => ("That did not work", "Go back and try again."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(viewer: Viewer, status: u16) -> String {
        let path = Some("/projects/a?x=\"1\"".to_owned());
        ErrorPage { viewer, status, message: None, path }.render()
    }

    #[test]
    fn each_status_has_its_page() {
        for status in [400, 401, 403, 404, 405, 410, 413, 418, 429, 500, 502, 503] {
            let html = page(Viewer::SignedOut, status);
            assert!(html.contains(words(status).0), "{status}");
            assert!(html.contains(&status.to_string()), "{status}");
        }
    }

    #[test]
    fn signing_in_is_offered_where_it_may_help() {
        let link = "href=\"/login?next=%2Fprojects%2Fa%3Fx%3D%221%22\"";
        assert!(page(Viewer::SignedOut, 401).contains(link));
        assert!(page(Viewer::SignedOut, 404).contains(link));
        assert!(!page(Viewer::SignedOut, 500).contains(link));
        let signed_in = Viewer::SignedIn { organization: "o".into() };
        assert!(!page(signed_in, 404).contains(link));
    }

    #[test]
    fn messages_are_escaped_and_bounded() {
        let message = Some(format!("<script>alert(1)</script>\u{202e}{}", "x".repeat(100_000)));
        let html =
            ErrorPage { viewer: Viewer::SignedOut, status: 500, message, path: None }.render();
        assert!(!html.contains("<script") && !html.contains('\u{202e}'));
        assert!(html.len() < 10_000);
    }
}
