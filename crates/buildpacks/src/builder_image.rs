//! What a builder image says about itself, from the configuration of the image.
//!
//! Labels and variables are whatever the image's maker wrote. A label that does not have its form is
//! an error that names it; a builder whose user is root is refused. The lifecycle in the image is
//! never run, so what it says about itself is at most a warning.

mod config;
mod modules;

use std::collections::BTreeMap;

use cofferdam_cnb::{
    ApiVersion, BuilderMetadata, FileError, IdError, Kind, ModuleLayers, ModuleRef, Order,
    PLATFORM_API, RunImage, SystemOrder, Target,
};

use crate::text::printable;

/// A builder image.
#[derive(Debug, Clone, PartialEq)]
pub struct BuilderImage {
    /// The user that detection and build run as; never 0.
    pub uid: u32,
    /// The group that detection and build run as; never 0.
    pub gid: u32,
    /// Variables of the image.
    pub env: BTreeMap<String, String>,
    /// What it says about itself.
    pub metadata: BuilderMetadata,
    /// Its buildpacks.
    pub layers: ModuleLayers,
    /// Its extensions.
    pub extension_layers: ModuleLayers,
    /// Its order of buildpacks.
    pub order: Order,
    /// Its order of extensions.
    pub order_extensions: Order,
    /// Its system buildpacks.
    pub system: SystemOrder,
    /// Deprecated: its stack; empty when it has none.
    pub stack_id: String,
    /// Deprecated: packages of its stack.
    pub mixins: Vec<String>,
    /// Run images, the preferred one first.
    pub run_images: Vec<RunImage>,
    /// The image's working directory; empty when it has none.
    pub workdir: String,
    /// The image's user; empty when it has none.
    pub user: String,
    /// What it runs on, with the distribution that its labels name.
    pub target: Target,
    /// Platform APIs it was made for; empty where it does not say.
    pub platform_apis: Vec<String>,
}

/// A builder image that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BuilderImageError {
    /// The configuration is larger than any that is read.
    #[error("the builder's configuration is larger than {max} bytes", max = config::MAX_CONFIG)]
    Size,
    /// The configuration has not its form.
    #[error("the builder's configuration: {0}")]
    Config(String),
    /// A label is missing.
    #[error("the image is no builder: it has no label {0}")]
    Missing(&'static str),
    /// A label has not its form.
    #[error("builder label {0}")]
    Label(#[source] LabelError),
    /// Made for other lifecycles.
    #[error(
        "the builder supports Platform API {declared}; supported here are 0.7 to {PLATFORM_API}"
    )]
    PlatformApi {
        /// What it supports.
        declared: String,
    },
    /// A variable is missing.
    #[error("the builder does not set {0}")]
    NoVariable(&'static str),
    /// A variable is not a number from 1 on.
    #[error(
        "the builder sets {name} to {value:?}; it has to be a number from 1 on, as root never builds"
    )]
    Variable {
        /// `CNB_USER_ID` or `CNB_GROUP_ID`.
        name: &'static str,
        /// What it is.
        value: String,
    },
    /// A module is not in it.
    #[error("the builder has no {kind} {module:?}")]
    NoModule {
        /// What it would be.
        kind: Kind,
        /// `id` or `id@version`.
        module: String,
    },
    /// A module without a version is there several times.
    #[error("the builder has several versions of {kind} {id:?}: {versions}; name one")]
    Ambiguous {
        /// What it is.
        kind: Kind,
        /// Its id.
        id: String,
        /// Its versions.
        versions: String,
    },
}

/// What is wrong with a label; the text starts with the label's name.
#[derive(Debug, thiserror::Error)]
pub enum LabelError {
    /// Its form.
    #[error(transparent)]
    Form(#[from] FileError),
    /// An id or a version in it.
    #[error("{label}: {source}")]
    Id {
        /// The label.
        label: &'static str,
        /// What is wrong.
        source: IdError,
    },
}

impl From<LabelError> for BuilderImageError {
    fn from(error: LabelError) -> Self {
        Self::Label(error)
    }
}

impl BuilderImage {
    /// The latest Platform API that both the builder and this lifecycle speak.
    ///
    /// # Errors
    /// There is none.
    pub fn platform_api(&self) -> Result<ApiVersion, BuilderImageError> {
        if self.platform_apis.is_empty() {
            return Ok(PLATFORM_API);
        }
        let parsed = self.platform_apis.iter().filter_map(|text| text.parse::<ApiVersion>().ok());
        let common = parsed.filter(|version| version.platform().is_ok()).max();
        common.ok_or_else(|| BuilderImageError::PlatformApi {
            declared: printable(&self.platform_apis.join(", ")),
        })
    }

    /// Reads an image configuration.
    ///
    /// # Errors
    /// It is no builder's, or names root as its user.
    pub fn parse(config: &[u8]) -> Result<Self, BuilderImageError> {
        config::parse(config)
    }

    /// The module of an id, and of a version where one is given.
    ///
    /// # Errors
    /// There is none, or several and no version.
    pub fn find(
        &self,
        kind: Kind,
        id: &str,
        version: Option<&str>,
    ) -> Result<ModuleRef, BuilderImageError> {
        modules::find(self, kind, id, version)
    }

    /// Whether [`BuilderImage::find`] could mean a module, in any version where none is given.
    #[must_use]
    pub fn has(&self, kind: Kind, id: &str, version: Option<&str>) -> bool {
        let versions = self.layers_of(kind).get(id);
        versions.is_some_and(|versions| {
            version.map_or(!versions.is_empty(), |version| versions.contains_key(version))
        })
    }

    fn layers_of(&self, kind: Kind) -> &ModuleLayers {
        match kind {
            Kind::Buildpack => &self.layers,
            Kind::Extension => &self.extension_layers,
        }
    }
}

#[cfg(test)]
mod tests;
