//! SLSA provenance [v0.2](https://slsa.dev/spec/v0.2/provenance) with BuildKit's definitions.

use serde_json::{Map, Value, json};

use crate::predicate::{Predicate, text};

const BUILD_TYPE: &str = "https://mobyproject.org/buildkit@v1";
const METADATA_KEY: &str = "https://mobyproject.org/buildkit@v1#metadata";
const HERMETIC_KEY: &str = "https://mobyproject.org/buildkit@v1#hermetic";

pub(crate) fn predicate(told: &Predicate) -> Value {
    let source = &told.config_source;
    let mut config_source = Map::new();
    if !source.uri.is_empty() {
        config_source.insert("uri".to_owned(), json!(source.uri));
    }
    if !source.digest.is_empty() {
        config_source.insert("digest".to_owned(), json!(source.digest));
    }
    if !source.path.is_empty() {
        config_source.insert("entryPoint".to_owned(), json!(source.path));
    }
    let mut environment = told.environment.clone();
    environment.insert("platform".to_owned(), json!(told.platform));
    if !told.dockerfile_version.is_empty() {
        environment.insert("dockerfileVersion".to_owned(), json!(told.dockerfile_version));
    }
    let mut value = json!({
        "builder": { "id": told.builder_id },
        "buildType": BUILD_TYPE,
        "invocation": {
            "configSource": config_source,
            "parameters": told.request,
            "environment": environment,
        },
        "metadata": metadata(told),
    });
    if !told.materials.is_empty() {
        value["materials"] = json!(told.materials);
    }
    if let Some(config) = &told.build_config {
        value["buildConfig"] = json!(config);
    }
    value
}

fn metadata(told: &Predicate) -> Value {
    let run = &told.metadata;
    let mut metadata = json!({
        "buildInvocationID": run.invocation_id,
        "completeness": {
            "parameters": told.complete_request,
            "environment": true,
            "materials": told.complete_materials,
        },
        "reproducible": run.reproducible,
        METADATA_KEY: told.buildkit_metadata(),
    });
    for (key, time) in [("buildStartedOn", run.started), ("buildFinishedOn", run.finished)] {
        if let Some(time) = time {
            metadata[key] = json!(text(time));
        }
    }
    if told.hermetic {
        metadata[HERMETIC_KEY] = json!(true);
    }
    metadata
}
