//! What all pages have in common: who looks, and what the frame around the content shows.

use crate::assets::FILES;
use crate::paths;
use crate::text::{Markup, plain, shown};

/// Who looks at a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Viewer {
    /// Somebody without a session.
    SignedOut,
    /// Somebody with a session.
    SignedIn {
        /// The organization's name.
        organization: String,
    },
}

/// A project as links and headings name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectRef {
    /// Its id.
    pub id: String,
    /// Its name, as its organization wrote it.
    pub name: String,
}

/// The values of `frame.html`.
pub(crate) struct Frame {
    /// The text of `<title>`, without the program's name.
    pub(crate) title: String,
    pub(crate) style: &'static str,
    pub(crate) icon: &'static str,
    /// Seconds after which the browser loads the page again.
    pub(crate) refresh: Option<u32>,
    /// The navigation; a shared page has none.
    pub(crate) navigation: Option<Navigation>,
}

/// The bar at the top of a page that is not shared.
pub(crate) struct Navigation {
    pub(crate) home: &'static str,
    pub(crate) sign_out: &'static str,
    pub(crate) sign_in: &'static str,
    /// The organization of the session, if there is one.
    pub(crate) organization: Option<Markup>,
}

impl Frame {
    /// A frame with navigation and the neutral icon. `title` is text, not markup.
    pub(crate) fn new(title: &str, viewer: &Viewer) -> Frame {
        let organization = match viewer {
            Viewer::SignedOut => None,
            Viewer::SignedIn { organization } => Some(shown(organization)),
        };
        let navigation = Navigation {
            home: paths::PROJECTS,
            sign_out: paths::SIGN_OUT,
            sign_in: paths::SIGN_IN,
            organization,
        };
        Frame { navigation: Some(navigation), ..Frame::bare(title) }
    }

    /// A frame without navigation.
    pub(crate) fn bare(title: &str) -> Frame {
        Frame {
            title: plain(title),
            style: &FILES.style.path,
            icon: &FILES.neutral.path,
            refresh: None,
            navigation: None,
        }
    }
}

/// Renders a template. Writing into a string fails only if a value refuses to be displayed, which
/// none does; should that change, the answer is a page that says so rather than half a document.
pub(crate) fn document(template: &impl askama::Template) -> String {
    template.render().unwrap_or_else(|_| {
        "<!doctype html><title>Cofferdam</title><p>This page could not be shown.".to_owned()
    })
}
