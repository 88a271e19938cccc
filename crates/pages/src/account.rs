//! Signing in, and approving the login of a terminal.
//!
//! Neither page ever shows a token again that was typed into it.

use askama::Template;

use crate::frame::{Frame, Viewer, document};
use crate::paths;
use crate::text::{Markup, shown};

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInTemplate<'a> {
    frame: Frame,
    action: &'static str,
    next: Option<&'a str>,
    error: Option<Markup>,
}

#[derive(Template)]
#[template(path = "approve.html")]
struct ApproveTemplate {
    frame: Frame,
    action: String,
    id: Markup,
    error: Option<Markup>,
}

#[derive(Template)]
#[template(path = "approved.html")]
struct ApprovedTemplate {
    frame: Frame,
    organization: Markup,
}

/// The form that turns a token into a browser session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignInPage {
    /// The local path to go on to, already validated; it comes back in the form's `next` field.
    pub next: Option<String>,
    /// Why the last attempt did not work.
    pub error: Option<String>,
}

impl SignInPage {
    /// The page as HTML.
    #[must_use]
    pub fn render(&self) -> String {
        document(&SignInTemplate {
            frame: Frame::bare("Sign in"),
            action: paths::SIGN_IN,
            next: self.next.as_deref(),
            error: self.error.as_deref().map(shown),
        })
    }
}

/// The form that approves the login of a terminal with an organization token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovePage {
    /// Who looks at the page.
    pub viewer: Viewer,
    /// The id of the login, which the terminal shows too. The form posts to [`crate::approve_path`] of
    /// it.
    pub id: String,
    /// Why the last attempt did not work.
    pub error: Option<String>,
}

impl ApprovePage {
    /// The page as HTML.
    #[must_use]
    pub fn render(&self) -> String {
        document(&ApproveTemplate {
            frame: Frame::new("Approve a login", &self.viewer),
            action: paths::approve_path(&self.id),
            id: shown(&self.id),
            error: self.error.as_deref().map(shown),
        })
    }
}

/// The answer to an approval that worked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovedPage {
    /// Who looks at the page.
    pub viewer: Viewer,
    /// The name of the organization that the terminal may act for now.
    pub organization: String,
}

impl ApprovedPage {
    /// The page as HTML.
    #[must_use]
    pub fn render(&self) -> String {
        document(&ApprovedTemplate {
            frame: Frame::new("Login approved", &self.viewer),
            organization: shown(&self.organization),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_into_a_form_is_escaped() {
        let hostile = "/x\"><script>alert(1)</script>";
        let page = SignInPage { next: Some(hostile.into()), error: Some(hostile.into()) };
        let html = page.render();
        assert!(!html.contains("<script") && !html.contains("x\">"), "{html}");
        let page = ApprovePage {
            viewer: Viewer::SignedIn { organization: hostile.into() },
            id: hostile.into(),
            error: Some(hostile.into()),
        };
        let html = page.render();
        assert!(!html.contains("<script") && !html.contains("x\">"), "{html}");
        assert!(html.contains("action=\"/login/approve/%2Fx%22%3E%3Cscript%3E"), "{html}");
        let page = ApprovedPage { viewer: Viewer::SignedOut, organization: hostile.into() };
        assert!(!page.render().contains("<script"));
    }

    #[test]
    fn forms_name_the_fields_that_are_exported() {
        let html = SignInPage { next: Some("/projects".into()), error: None }.render();
        assert!(html.contains(&format!("name=\"{}\"", paths::TOKEN_FIELD)));
        assert!(html.contains(&format!("name=\"{}\" value=\"/projects\"", paths::NEXT_FIELD)));
        assert!(!SignInPage { next: None, error: None }.render().contains("name=\"next\""));
        let page = ApprovePage { viewer: Viewer::SignedOut, id: "x".into(), error: None };
        assert!(page.render().contains(&format!("name=\"{}\"", paths::APPROVE_TOKEN_FIELD)));
    }
}
