//! Software bills of materials: which formats there are and whether a buildpack announced the one it
//! wrote. What is in them is never read here.

use crate::text::FileError;

/// A format of bills of materials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SbomFormat {
    /// CycloneDX.
    Cdx,
    /// SPDX.
    Spdx,
    /// Syft.
    Syft,
}

impl SbomFormat {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::Cdx, Self::Spdx, Self::Syft];

    /// How names of such files end, without the dot before it.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Cdx => "cdx.json",
            Self::Spdx => "spdx.json",
            Self::Syft => "syft.json",
        }
    }

    /// How descriptors announce it.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Cdx => "application/vnd.cyclonedx+json",
            Self::Spdx => "application/spdx+json",
            Self::Syft => "application/vnd.syft+json",
        }
    }

    /// Reads `<layer>.sbom.<extension>`: the layer (or `launch`, `build`) and the format. `None` for
    /// files that are not bills of materials.
    #[must_use]
    pub fn from_file_name(name: &str) -> Option<(&str, Self)> {
        Self::ALL.into_iter().find_map(|format| {
            let layer = name.strip_suffix(format.extension())?.strip_suffix(".sbom.")?;
            (!layer.is_empty()).then_some((layer, format))
        })
    }

    /// Checks that a buildpack announced this format in `sbom-formats`; parameters of media types
    /// (`;version=1.4`) do not count.
    ///
    /// # Errors
    /// It did not; `file` is the bill of materials.
    pub fn announced(self, formats: &[String], file: &str) -> Result<(), FileError> {
        let media_type = self.media_type();
        let plain = |format: &str| format.split(';').next().unwrap_or_default().trim().to_owned();
        if formats.iter().any(|format| plain(format).eq_ignore_ascii_case(media_type)) {
            return Ok(());
        }
        let problem = format!("{media_type} is not among them");
        Err(FileError::value(file, "sbom-formats of the buildpack", problem))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_say_layer_and_format() {
        let read = SbomFormat::from_file_name;
        assert_eq!(read("jre.sbom.cdx.json"), Some(("jre", SbomFormat::Cdx)));
        assert_eq!(read("launch.sbom.spdx.json"), Some(("launch", SbomFormat::Spdx)));
        assert_eq!(read("a.b.sbom.syft.json"), Some(("a.b", SbomFormat::Syft)));
        for name in
            ["", "jre.toml", ".sbom.cdx.json", "jre.sbom.xml", "jre.cdx.json", "jre.sbomXcdx.json"]
        {
            assert_eq!(read(name), None, "{name}");
        }
    }

    #[test]
    fn formats_are_announced() {
        let formats =
            ["application/vnd.cyclonedx+json;version=1.4".to_owned(), "\u{1b}[2J".to_owned()];
        assert!(SbomFormat::Cdx.announced(&formats, "f").is_ok());
        let error =
            SbomFormat::Spdx.announced(&formats, "jre.sbom.spdx.json").unwrap_err().to_string();
        assert!(
            error.contains("jre.sbom.spdx.json") && error.contains("application/spdx+json"),
            "{error}"
        );
    }
}
