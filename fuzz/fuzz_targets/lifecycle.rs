//! What modules and images hand to the phases: files of a build, files of an extension, labels.
#![no_main]

use std::collections::BTreeMap;

use cofferdam_cnb::{Descriptor, Kind, PLATFORM_API, PlanFile};
use cofferdam_lifecycle::{
    BuildOutput, LayerOutput, RebaseRequest, check_build_dockerfile, check_run_dockerfile,
    extend_config, launch_layers, read_build, rebase,
};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = extend_config("extend-config.toml", data);
    let _ = check_build_dockerfile("build.Dockerfile", data);
    let _ = check_run_dockerfile("run.Dockerfile", data);
    let _ = rebase(&RebaseRequest {
        app_config: data,
        new_run_config: data,
        new_run_reference: "r.example/run@sha256:00",
        new_run_image_name: "r.example/run",
        force: true,
        platform_api: PLATFORM_API,
        created: 0,
    });
    let Some((first, rest)) = data.split_first() else { return };
    let text = format!("api = \"0.{}\"\n[buildpack]\nid = \"a/b\"\nversion = \"1\"\n", 7 + first % 6);
    let Ok(module) = Descriptor::parse(Kind::Buildpack, "buildpack.toml", text.as_bytes()) else {
        return;
    };
    let (one, other) = rest.split_at(rest.len() / 2);
    let layer = LayerOutput {
        toml: Some(one.to_vec()),
        exists: first & 0x80 != 0,
        env: BTreeMap::from([("PATH.append".to_owned(), other.to_vec())]),
        ..LayerOutput::default()
    };
    let output = BuildOutput {
        launch: Some(other.to_vec()),
        build: Some(one.to_vec()),
        store: Some(other.to_vec()),
        layers: BTreeMap::from([(String::from_utf8_lossy(one).into_owned(), layer)]),
        sboms: vec![String::from_utf8_lossy(other).into_owned()],
    };
    if let Ok(built) = read_build(&module, &output, &PlanFile::default()) {
        let _ = launch_layers(&[built], None);
    }
});
