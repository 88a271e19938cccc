//! SLSA provenance v1 with BuildKit's definitions.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use cofferdam_graph::without_credentials;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::capture::Capture;
use crate::options::{OptionsError, Version, check_environment};
use crate::purl::{PurlError, image_purl};
use crate::request::{ConfigSource, Local, Parameters, commit_digest, request_provenance, sha256};
use crate::sources::Sources;
use crate::steps::{BuildConfig, Layers, SourceMap};
use crate::v02;

/// What SLSA v1 documents of BuildKit call their kind of build.
const BUILD_TYPE: &str =
    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
/// Keys of internal parameters that the builder writes.
const BUILTIN_KEYS: [&str; 4] = ["buildConfig", "builderPlatform", "dockerfileVersion", "platform"];

pub(crate) fn is_builtin_key(key: &str) -> bool {
    BUILTIN_KEYS.contains(&key)
}

/// One thing the build was made of.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Material {
    pub(crate) uri: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) digest: BTreeMap<String, String>,
}

/// What is told about the run.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    /// Names this build among all.
    pub invocation_id: String,
    /// When it began.
    pub started: Option<DateTime<Utc>>,
    /// When it was done.
    pub finished: Option<DateTime<Utc>>,
    /// The client says that the build is reproducible.
    pub reproducible: bool,
    /// Where steps come from.
    pub source: Option<SourceMap>,
    /// Which layers steps made.
    pub layers: Layers,
}

/// A provenance, to be written in one of two editions.
#[derive(Debug, Clone)]
pub struct Predicate {
    pub(crate) config_source: ConfigSource,
    pub(crate) request: Parameters,
    pub(crate) materials: Vec<Material>,
    pub(crate) vcs: BTreeMap<String, String>,
    pub(crate) complete_request: bool,
    pub(crate) complete_materials: bool,
    pub(crate) hermetic: bool,
    pub(crate) environment: Map<String, Value>,
    /// Who builds.
    pub builder_id: String,
    /// Platform of the builder.
    pub platform: String,
    /// Version of the built-in Dockerfile frontend, when it answered.
    pub dockerfile_version: String,
    /// The steps.
    pub build_config: Option<BuildConfig>,
    /// About the run.
    pub metadata: Metadata,
}

impl Predicate {
    /// What a capture says. `git` is as for [`request_provenance`].
    ///
    /// # Errors
    /// An image's reference that is none.
    pub fn new(
        capture: &Capture,
        git: &dyn Fn(&str) -> Option<(String, String)>,
    ) -> Result<Self, PurlError> {
        let asked = &capture.request;
        let told = request_provenance(&asked.frontend, asked.args.clone(), &capture.sources, git);
        let mut request = asked.clone();
        let mut vcs = BTreeMap::new();
        request.args = told.request.map(|told| told.args).unwrap_or_default();
        request.args.retain(|key, value| match key.strip_prefix("vcs:") {
            Some(key) => {
                if !value.is_empty() {
                    vcs.insert(key.to_owned(), without_credentials(value).into_owned());
                }
                false
            }
            None => true,
        });
        let locals = capture.sources.locals.iter().map(|name| Local { name: name.clone() });
        request.locals = locals.collect();
        let complete_materials = !capture.incomplete && capture.sources.locals.is_empty();
        Ok(Self {
            config_source: told.config_source,
            materials: materials(&capture.sources)?,
            vcs,
            complete_request: !request.frontend.is_empty() && !request.incomplete,
            request,
            complete_materials,
            hermetic: complete_materials && !capture.network,
            environment: Map::new(),
            builder_id: String::new(),
            platform: String::new(),
            dockerfile_version: String::new(),
            build_config: None,
            metadata: Metadata::default(),
        })
    }

    /// Whether every source is known.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.complete_materials
    }

    /// The frontend that answered.
    #[must_use]
    pub fn frontend(&self) -> &str {
        &self.request.frontend
    }

    /// Takes out arguments that may be private.
    pub fn scrub(&mut self) {
        if self.request.scrub() {
            self.complete_request = false;
        }
    }

    /// Newest behaviour of builders that was asked for.
    pub const fn set_compatibility(&mut self, version: i64) {
        self.request.compatibility_version = version;
    }

    /// What the operator adds to every provenance.
    ///
    /// # Errors
    /// A key that the builder itself writes.
    pub fn set_environment(&mut self, environment: Map<String, Value>) -> Result<(), OptionsError> {
        check_environment(environment.keys())?;
        self.environment = environment;
        Ok(())
    }

    /// The predicate in an edition of SLSA.
    #[must_use]
    pub fn to_json(&self, version: Version) -> Value {
        match version {
            Version::V02 => v02::predicate(self),
            Version::V1 => self.v1(),
        }
    }

    fn v1(&self) -> Value {
        let mut internal = self.environment.clone();
        internal.insert("builderPlatform".to_owned(), json!(self.platform));
        if let Some(config) = &self.build_config {
            internal.insert("buildConfig".to_owned(), json!(config));
        }
        if !self.dockerfile_version.is_empty() {
            internal.insert("dockerfileVersion".to_owned(), json!(self.dockerfile_version));
        }
        let mut definition = json!({
            "buildType": BUILD_TYPE,
            "externalParameters": { "configSource": self.config_source, "request": self.request },
            "internalParameters": internal,
        });
        if !self.materials.is_empty() {
            definition["resolvedDependencies"] = json!(self.materials);
        }
        let mut metadata = json!({
            "invocationId": self.metadata.invocation_id,
            "buildkit_metadata": self.buildkit_metadata(),
            "buildkit_completeness": {
                "request": self.complete_request,
                "resolvedDependencies": self.complete_materials,
            },
        });
        for (key, time) in
            [("startedOn", self.metadata.started), ("finishedOn", self.metadata.finished)]
        {
            if let Some(time) = time {
                metadata[key] = json!(text(time));
            }
        }
        for (key, flag) in [
            ("buildkit_hermetic", self.hermetic),
            ("buildkit_reproducible", self.metadata.reproducible),
        ] {
            if flag {
                metadata[key] = json!(true);
            }
        }
        json!({
            "buildDefinition": definition,
            "runDetails": { "builder": { "id": self.builder_id }, "metadata": metadata },
        })
    }

    /// What both editions tell in the same words.
    pub(crate) fn buildkit_metadata(&self) -> Value {
        let mut told = Map::new();
        if !self.vcs.is_empty() {
            told.insert("vcs".to_owned(), json!(self.vcs));
        }
        if let Some(source) = &self.metadata.source {
            told.insert("source".to_owned(), json!(source));
        }
        if !self.metadata.layers.is_empty() {
            told.insert("layers".to_owned(), json!(self.metadata.layers));
        }
        Value::Object(told)
    }
}

pub(crate) fn text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

fn materials(sources: &Sources) -> Result<Vec<Material>, PurlError> {
    let kind = |local: bool| if local { "oci" } else { "docker" };
    let mut all = Vec::new();
    for image in &sources.images {
        let platform = image.platform.as_ref();
        all.push(Material {
            uri: image_purl(kind(image.local), &image.reference, platform, &[])?,
            digest: image.digest.as_ref().map(sha256).unwrap_or_default(),
        });
    }
    for blob in &sources.blobs {
        let extra = [("ref_type", "blob")];
        let uri = image_purl(kind(blob.local), &blob.reference, None, &extra)?;
        all.push(Material { uri, digest: sha256(&blob.digest) });
    }
    for git in &sources.git {
        all.push(Material { uri: git.url.clone(), digest: commit_digest(&git.commit) });
        if let Some(bundle) = &git.bundle {
            let extra = [("ref_type", "bundle"), ("vcs_url", git.url.as_str())];
            let uri = image_purl(kind(bundle.local), &bundle.reference, None, &extra)?;
            all.push(Material { uri, digest: sha256(&bundle.digest) });
        }
    }
    for http in &sources.http {
        all.push(Material { uri: http.url.clone(), digest: sha256(&http.digest) });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cofferdam_digest::Digest;

    use super::*;
    use crate::sources::{BlobSource, GitSource, ImageSource};

    fn capture() -> Capture {
        let mut capture = Capture::default();
        capture.request.frontend = "dockerfile.v0".to_owned();
        for (key, value) in [
            ("build-arg:A", "b"),
            ("filename", "Dockerfile"),
            ("vcs:source", "https://u:p@h/r.git"),
            ("vcs:revision", ""),
        ] {
            capture.request.args.insert(key.to_owned(), value.to_owned());
        }
        capture.add_image(ImageSource {
            reference: "docker.io/library/a:latest".to_owned(),
            platform: None,
            digest: Some(Digest::of("a")),
            local: false,
        });
        capture.add_secret("s", true);
        capture
    }

    #[test]
    fn both_editions_say_the_same() {
        let mut predicate = Predicate::new(&capture(), &|_| None).unwrap();
        predicate.platform = "linux/amd64".to_owned();
        predicate.set_environment(Map::from_iter([("x".to_owned(), json!(1))])).unwrap();
        let value = predicate.to_json(Version::V1);
        let definition = &value["buildDefinition"];
        let parameters = &definition["externalParameters"];
        assert_eq!(parameters["configSource"], json!({ "path": "Dockerfile" }));
        assert_eq!(parameters["request"]["args"], json!({ "build-arg:A": "b" }));
        assert_eq!(parameters["request"]["secrets"], json!([{ "id": "s", "optional": true }]));
        let internal = json!({ "builderPlatform": "linux/amd64", "x": 1 });
        assert_eq!(definition["internalParameters"], internal);
        let material = &definition["resolvedDependencies"][0];
        assert_eq!(material["uri"], "pkg:docker/a@latest");
        let metadata = &value["runDetails"]["metadata"];
        assert_eq!(metadata["buildkit_hermetic"], true);
        let vcs = json!({ "source": "https://xxxxx:xxxxx@h/r.git" });
        assert_eq!(metadata["buildkit_metadata"]["vcs"], vcs);

        let older = predicate.to_json(Version::V02);
        assert_eq!(older["materials"][0], *material);
        assert_eq!(older["invocation"]["parameters"], parameters["request"]);
        assert_eq!(older["invocation"]["configSource"]["entryPoint"], "Dockerfile");
        assert_eq!(older["invocation"]["environment"]["x"], 1);
        assert_eq!(older["metadata"]["completeness"]["parameters"], true);
    }

    #[test]
    fn min_says_that_it_leaves_something_out() {
        let mut predicate = Predicate::new(&capture(), &|_| None).unwrap();
        predicate.scrub();
        let value = predicate.to_json(Version::V1);
        let request = &value["buildDefinition"]["externalParameters"]["request"];
        assert_eq!(*request, json!({ "frontend": "dockerfile.v0" }));
        let metadata = &value["runDetails"]["metadata"];
        assert_eq!(metadata["buildkit_completeness"]["request"], false);
    }

    #[test]
    fn a_repository_and_the_bundle_it_came_from_are_both_told() {
        let (url, digest) = ("https://h/r.git#main".to_owned(), Digest::of("bundle"));
        let commit = "0123456789012345678901234567890123456789".to_owned();
        let of = |bundle| GitSource { url: url.clone(), commit: commit.clone(), bundle };
        let reference = format!("h:5000/r@{digest}");
        let mut capture = Capture::default();
        capture.add_git(of(Some(BlobSource { reference: reference.clone(), digest, local: true })));
        capture.add_git(of(Some(BlobSource { reference, digest, local: false })));
        capture.add_git(of(None));
        capture.add_git(of(None));
        capture.finish();
        let told = materials(&capture.sources).unwrap();
        let count = |start: &str| told.iter().filter(|one| one.uri.starts_with(start)).count();
        assert_eq!((count(&url), count("pkg:oci/"), count("pkg:docker/")), (3, 1, 1));
        assert_eq!(told.len(), 5);
        for bundle in told.iter().filter(|one| one.uri.starts_with("pkg:")) {
            let end = "&ref_type=bundle&vcs_url=https%3A%2F%2Fh%2Fr.git%23main";
            assert!(bundle.uri.ends_with(end), "{}", bundle.uri);
            assert_eq!(bundle.digest["sha256"], digest.hex());
        }
        let commits = told.iter().filter(|one| one.digest.get("sha1") == Some(&commit));
        assert_eq!(commits.count(), 3);
    }

    #[test]
    fn operators_replace_nothing() {
        let mut predicate = Predicate::new(&capture(), &|_| None).unwrap();
        let environment = Map::from_iter([("builderPlatform".to_owned(), json!("x"))]);
        assert!(predicate.set_environment(environment).is_err());
    }
}
