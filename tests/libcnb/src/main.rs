//! A buildpack written with `libcnb`: plan, cached and launch layers, their metadata, environment,
//! processes, an SBOM. What it sees is what the library makes of the lifecycle's environment.

use std::fs;

use libcnb::build::{BuildContext, BuildResult, BuildResultBuilder};
use libcnb::data::build_plan::BuildPlanBuilder;
use libcnb::data::launch::{LaunchBuilder, ProcessBuilder};
use libcnb::data::layer_name;
use libcnb::data::process_type;
use libcnb::detect::{DetectContext, DetectResult, DetectResultBuilder};
use libcnb::generic::{GenericMetadata, GenericPlatform};
use libcnb::layer::{
    CachedLayerDefinition, InvalidMetadataAction, LayerState, RestoredLayerAction,
    UncachedLayerDefinition,
};
use libcnb::layer_env::{LayerEnv, ModificationBehavior, Scope};
use libcnb::{Buildpack, Platform, buildpack_main};
use serde::{Deserialize, Serialize};

struct Written;

/// What a layer remembers.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Remembered {
    version: String,
}

impl Buildpack for Written {
    type Platform = GenericPlatform;
    type Metadata = GenericMetadata;
    type Error = std::io::Error;

    fn detect(&self, context: DetectContext<Self>) -> libcnb::Result<DetectResult, Self::Error> {
        if !context.app_dir.join("Procfile").exists() {
            return DetectResultBuilder::fail().build();
        }
        let plan = BuildPlanBuilder::new().provides("procfile").requires("procfile").build();
        DetectResultBuilder::pass().build_plan(plan).build()
    }

    fn build(&self, context: BuildContext<Self>) -> libcnb::Result<BuildResult, Self::Error> {
        let target = &context.target;
        println!("target {} {} {}", target.os, target.arch, target.distro_name);
        let greeting = context.platform.env().get("GREETING").cloned().unwrap_or_default();
        println!("platform {}", greeting.to_string_lossy());
        for entry in &context.buildpack_plan.entries {
            println!("plan {}", entry.name);
        }
        let cached = context.cached_layer(
            layer_name!("cached"),
            CachedLayerDefinition {
                build: true,
                launch: true,
                invalid_metadata_action: &|_| InvalidMetadataAction::DeleteLayer,
                restored_layer_action: &|remembered: &Remembered, _| {
                    if remembered.version == "1" {
                        RestoredLayerAction::KeepLayer
                    } else {
                        RestoredLayerAction::DeleteLayer
                    }
                },
            },
        )?;
        match cached.state {
            LayerState::Restored { .. } => println!("cached layer: restored"),
            LayerState::Empty { .. } => {
                println!("cached layer: made");
                fs::write(cached.path().join("data"), "kept")
                    .map_err(libcnb::Error::BuildpackError)?;
                cached.write_metadata(Remembered { version: "1".to_owned() })?;
            }
        }
        let environment = context.uncached_layer(
            layer_name!("environment"),
            UncachedLayerDefinition { build: false, launch: true },
        )?;
        environment.write_env(LayerEnv::new().chainable_insert(
            Scope::Launch,
            ModificationBehavior::Default,
            "SAID",
            "by libcnb",
        ))?;
        let web = ProcessBuilder::new(process_type!("web"), ["bash", "-c"])
            .args(["echo $SAID $(cat /layers/test_libcnb/cached/data)"])
            .default(true)
            .build();
        BuildResultBuilder::new().launch(LaunchBuilder::new().process(web).build()).build()
    }
}

buildpack_main!(Written);
