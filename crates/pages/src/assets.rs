//! The stylesheet and the icons, named by their content so that they can be cached for ever.
//!
//! Nothing a request or a build says ends up in an asset.

use std::sync::LazyLock;

use sha2::{Digest, Sha256};

use crate::paths::ASSETS;

/// The `cache-control` of every asset: its name changes whenever its content does.
pub const ASSET_CACHE_CONTROL: &str = "public, max-age=31536000, immutable";
/// Where browsers look for an icon that no page names; [`asset`] answers it.
pub const FAVICON: &str = "/favicon.ico";

/// A file that pages refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asset {
    /// Its media type.
    pub content_type: &'static str,
    /// Its content.
    pub body: &'static [u8],
}

/// The asset at `path` (a whole request path such as `/assets/style.<hash>.css`), if there is one.
#[must_use]
pub fn asset(path: &str) -> Option<Asset> {
    if path == FAVICON {
        return Some(FILES.neutral.asset);
    }
    FILES.all().into_iter().find(|file| file.path == path).map(|file| file.asset)
}

/// An asset and the path it is served at.
pub(crate) struct File {
    pub(crate) path: String,
    asset: Asset,
}

/// All assets.
pub(crate) struct Files {
    pub(crate) style: File,
    pub(crate) neutral: File,
    pub(crate) running: File,
    pub(crate) success: File,
    pub(crate) failure: File,
    pub(crate) canceled: File,
}

impl Files {
    fn all(&self) -> [&File; 6] {
        [&self.style, &self.neutral, &self.running, &self.success, &self.failure, &self.canceled]
    }
}

const SVG: &str = "image/svg+xml";

/// The assets of this program; their names are computed once.
pub(crate) static FILES: LazyLock<Files> = LazyLock::new(|| Files {
    style: file(
        "style",
        "css",
        "text/css; charset=utf-8",
        include_bytes!("../assets/style.css").as_slice(),
    ),
    neutral: file("icon", "svg", SVG, include_bytes!("../assets/icon.svg")),
    running: file("icon-running", "svg", SVG, include_bytes!("../assets/icon-running.svg")),
    success: file("icon-success", "svg", SVG, include_bytes!("../assets/icon-success.svg")),
    failure: file("icon-failure", "svg", SVG, include_bytes!("../assets/icon-failure.svg")),
    canceled: file("icon-canceled", "svg", SVG, include_bytes!("../assets/icon-canceled.svg")),
});

fn file(name: &str, extension: &str, content_type: &'static str, body: &'static [u8]) -> File {
    let digest = Sha256::digest(body);
    let hash = hex::encode(&digest[..8]);
    File { path: format!("{ASSETS}{name}.{hash}.{extension}"), asset: Asset { content_type, body } }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_exact_paths_are_served() {
        let style = FILES.style.path.clone();
        assert!(style.starts_with("/assets/style.") && style.ends_with(".css"));
        assert_eq!(asset(&style).unwrap().content_type, "text/css; charset=utf-8");
        assert_eq!(asset(FAVICON).unwrap().content_type, SVG);
        for path in ["", "/assets/", "/assets/style.css", "/assets/../Cargo.toml", "style"] {
            assert_eq!(asset(path), None, "{path}");
        }
        assert_eq!(asset(&format!("{style}?x")), None);
    }

    #[test]
    fn the_stylesheet_loads_nothing_from_elsewhere() {
        let style = std::str::from_utf8(asset(&FILES.style.path).unwrap().body).unwrap();
        for forbidden in ["url(", "@import", "http:", "https:", "expression("] {
            assert!(!style.contains(forbidden), "{forbidden}");
        }
    }
}
