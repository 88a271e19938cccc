//! The environment of a module's programs.
//!
//! Follows Buildpack API "Environment" and "Provided by the lifecycle". Must never pass on a
//! variable of the builder image that is not on the list.

use std::collections::BTreeMap;

use cofferdam_cnb::{
    Descriptor, Env, EnvDefault, Kind, Phase as LayerPhase, apply_env_dir, apply_layer_roots,
    platform_env,
};

use crate::build::BuiltModule;
use crate::target::ImageTarget;

/// Variables of a builder image that its modules see.
const INHERITED: [&str; 14] = [
    "CNB_STACK_ID",
    "HOSTNAME",
    "HOME",
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "NO_PROXY",
    "no_proxy",
    "PATH",
    "LD_LIBRARY_PATH",
    "LIBRARY_PATH",
    "CPATH",
    "PKG_CONFIG_PATH",
];

/// Which program is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase<'a> {
    /// `bin/detect`.
    Detect {
        /// Where it writes its plan.
        plan_path: &'a str,
    },
    /// `bin/build`.
    Build {
        /// Its own layers directory.
        layers_dir: &'a str,
        /// Where its plan lies.
        plan_path: &'a str,
    },
    /// `bin/generate`.
    Generate {
        /// Where it writes Dockerfiles.
        output_dir: &'a str,
        /// Where its plan lies.
        plan_path: &'a str,
    },
}

/// What an environment is made of.
#[derive(Debug, Clone, Copy)]
pub struct EnvRequest<'a> {
    /// Variables of the builder image.
    pub image_env: &'a Env,
    /// What buildpacks that built before left: [`start_env`], then [`apply_build_env`] for each.
    /// Empty before the first of them.
    pub layers_env: &'a Env,
    /// Variables of the user, `/platform/env`.
    pub platform_env: &'a BTreeMap<String, String>,
    /// Files of `/cnb/build-config/env`: variables of the operator.
    pub build_config: &'a BTreeMap<String, Vec<u8>>,
    /// The module.
    pub descriptor: &'a Descriptor,
    /// Which of its programs.
    pub phase: Phase<'a>,
    /// `/platform`.
    pub platform_dir: &'a str,
    /// Where the module lies.
    pub module_dir: &'a str,
    /// What the run image runs on.
    pub target: &'a ImageTarget,
    /// Execution environment.
    pub exec_env: &'a str,
}

/// The environment before the first buildpack: variables of the builder image that modules see.
#[must_use]
pub fn start_env(image_env: &Env) -> Env {
    let listed = |(name, _): &(&str, &str)| INHERITED.contains(name);
    image_env.iter().filter(listed).collect()
}

/// The environment of one program.
#[must_use]
pub fn module_env(request: &EnvRequest<'_>) -> Env {
    let EnvRequest { image_env, layers_env, descriptor, .. } = *request;
    let is_first = layers_env.iter().next().is_none();
    let mut env = if is_first { start_env(image_env) } else { layers_env.clone() };
    if !descriptor.info.clear_env {
        platform_env(&mut env, request.platform_env);
    }
    apply_env_dir(&mut env, request.build_config, EnvDefault::Default);
    let directory = match descriptor.kind {
        Kind::Buildpack => "CNB_BUILDPACK_DIR",
        Kind::Extension => "CNB_EXTENSION_DIR",
    };
    env.set(directory, request.module_dir);
    if descriptor.api.at_least(8) {
        paths(&mut env, request);
    }
    if descriptor.api.at_least(10) {
        target(&mut env, request.target);
    }
    if descriptor.api.at_least(12) && !request.exec_env.is_empty() {
        env.set("CNB_EXEC_ENV", request.exec_env);
    }
    env
}

fn paths(env: &mut Env, request: &EnvRequest<'_>) {
    env.set("CNB_PLATFORM_DIR", request.platform_dir);
    match request.phase {
        Phase::Detect { plan_path } => env.set("CNB_BUILD_PLAN_PATH", plan_path),
        Phase::Build { layers_dir, plan_path } => {
            env.set("CNB_LAYERS_DIR", layers_dir);
            env.set("CNB_BP_PLAN_PATH", plan_path);
        }
        Phase::Generate { output_dir, plan_path } => {
            env.set("CNB_OUTPUT_DIR", output_dir);
            env.set("CNB_BP_PLAN_PATH", plan_path);
        }
    }
}

fn target(env: &mut Env, target: &ImageTarget) {
    env.set("CNB_TARGET_OS", &target.os);
    env.set("CNB_TARGET_ARCH", &target.arch);
    let known = [
        ("CNB_TARGET_ARCH_VARIANT", &target.variant),
        ("CNB_TARGET_DISTRO_NAME", &target.distro_name),
        ("CNB_TARGET_DISTRO_VERSION", &target.distro_version),
    ];
    let known = known.into_iter().filter(|(_, value)| !value.is_empty());
    known.for_each(|(name, value)| env.set(name, value));
}

/// Adds to `env` what the layers of a buildpack give to buildpacks after it; `layers_dir` is that
/// buildpack's own.
pub fn apply_build_env(env: &mut Env, built: &BuiltModule, layers_dir: &str) {
    for (name, layer) in built.layers.iter().filter(|(_, layer)| layer.types.build) {
        let roots: Vec<&str> = layer.roots.iter().map(String::as_str).collect();
        apply_layer_roots(env, &format!("{layers_dir}/{name}"), &roots, LayerPhase::Build);
        apply_env_dir(env, &layer.env, EnvDefault::Override);
        apply_env_dir(env, &layer.env_build, EnvDefault::Override);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::build::{BuildOutput, LayerOutput, read_build};

    fn descriptor(kind: Kind, api: &str, rest: &str) -> Descriptor {
        let text = format!("api = \"{api}\"\n[{kind}]\nid = \"a/b\"\nversion = \"1\"\n{rest}");
        Descriptor::parse(kind, "x.toml", text.as_bytes()).unwrap()
    }

    fn names(descriptor: &Descriptor, phase: Phase<'_>, target: &ImageTarget) -> Vec<String> {
        let image =
            Env::from_iter([("PATH", "/bin"), ("CNB_REGISTRY_AUTH", "x"), ("JAVA_HOME", "/j")]);
        let vars =
            BTreeMap::from([("PATH".to_owned(), "/mine".to_owned()), ("BP_X".into(), "1".into())]);
        let config =
            BTreeMap::from([("BP_X".to_owned(), b"2".to_vec()), ("OP".to_owned(), b"3".to_vec())]);
        let request = EnvRequest {
            image_env: &image,
            layers_env: &Env::new(),
            platform_env: &vars,
            build_config: &config,
            descriptor,
            phase,
            platform_dir: "/platform",
            module_dir: "/cnb/buildpacks/a_b/1",
            target,
            exec_env: "production",
        };
        module_env(&request).pairs().collect()
    }

    fn linux() -> ImageTarget {
        ImageTarget { os: "linux".into(), arch: "amd64".into(), ..ImageTarget::default() }
    }

    #[test]
    fn oldest_api_has_only_the_directory() {
        let old = descriptor(Kind::Buildpack, "0.7", "");
        let expected =
            ["BP_X=1", "CNB_BUILDPACK_DIR=/cnb/buildpacks/a_b/1", "OP=3", "PATH=/mine:/bin"];
        assert_eq!(names(&old, Phase::Detect { plan_path: "/plan" }, &linux()), expected);
    }

    #[test]
    fn users_variables_are_kept_from_those_that_ask() {
        let clear = descriptor(Kind::Buildpack, "0.7", "clear-env = true\n");
        let expected = ["BP_X=2", "CNB_BUILDPACK_DIR=/cnb/buildpacks/a_b/1", "OP=3", "PATH=/bin"];
        assert_eq!(names(&clear, Phase::Detect { plan_path: "/plan" }, &linux()), expected);
    }

    #[test]
    fn newer_apis_add_paths_targets_and_execution_environments() {
        let has = |env: &[String], name: &str| env.iter().any(|pair| pair.starts_with(name));
        let eight = descriptor(Kind::Buildpack, "0.8", "");
        let env = names(&eight, Phase::Detect { plan_path: "/plan" }, &linux());
        assert!(has(&env, "CNB_BUILD_PLAN_PATH=/plan") && has(&env, "CNB_PLATFORM_DIR=/platform"));
        assert!(!has(&env, "CNB_TARGET") && !has(&env, "CNB_LAYERS_DIR"));
        let phase = Phase::Build { layers_dir: "/layers/a_b", plan_path: "/plan" };
        let env = names(&eight, phase, &linux());
        assert!(has(&env, "CNB_BP_PLAN_PATH=/plan") && has(&env, "CNB_LAYERS_DIR=/layers/a_b"));
        let env = names(&descriptor(Kind::Buildpack, "0.10", ""), phase, &linux());
        assert!(has(&env, "CNB_TARGET_OS=linux") && has(&env, "CNB_TARGET_ARCH=amd64"));
        assert!(!has(&env, "CNB_TARGET_ARCH_VARIANT") && !has(&env, "CNB_TARGET_DISTRO"));
        assert!(!has(&env, "CNB_EXEC_ENV"));
        let debian = ImageTarget {
            variant: "v3".into(),
            distro_name: "debian".into(),
            distro_version: "12".into(),
            ..linux()
        };
        let env = names(&descriptor(Kind::Buildpack, "0.12", ""), phase, &debian);
        assert!(
            has(&env, "CNB_TARGET_ARCH_VARIANT=v3") && has(&env, "CNB_TARGET_DISTRO_NAME=debian")
        );
        assert!(has(&env, "CNB_TARGET_DISTRO_VERSION=12") && has(&env, "CNB_EXEC_ENV=production"));
        let generate = Phase::Generate { output_dir: "/out", plan_path: "/plan" };
        let env = names(&descriptor(Kind::Extension, "0.12", ""), generate, &debian);
        assert!(has(&env, "CNB_EXTENSION_DIR=") && has(&env, "CNB_OUTPUT_DIR=/out"));
        assert!(!has(&env, "CNB_BUILDPACK_DIR") && !has(&env, "CNB_REGISTRY_AUTH"));
    }

    #[test]
    fn build_layers_are_for_those_after() {
        let files = |pairs: &[(&str, &str)]| -> BTreeMap<String, Vec<u8>> {
            pairs.iter().map(|(name, value)| ((*name).into(), value.as_bytes().to_vec())).collect()
        };
        let layer = |types: &str| LayerOutput {
            toml: Some(format!("[types]\n{types}").into_bytes()),
            exists: true,
            roots: vec!["bin".into(), "include".into()],
            env: files(&[("A", "env")]),
            env_build: files(&[("A.append", "+build"), ("B.default", "b")]),
        };
        let mut output = BuildOutput::default();
        output.layers.insert("z".into(), layer("build = true"));
        output.layers.insert("a".into(), layer("build = true\nlaunch = true"));
        output.layers.insert("m".into(), layer("launch = true\ncache = true"));
        let module = descriptor(Kind::Buildpack, "0.12", "");
        let built = read_build(&module, &output, &cofferdam_cnb::PlanFile::default()).unwrap();
        let mut env = start_env(&Env::from_iter([("PATH", "/bin"), ("SECRET", "x")]));
        apply_build_env(&mut env, &built, "/layers/a_b");
        let expected = [
            "A=env+build",
            "B=b",
            "CPATH=/layers/a_b/z/include:/layers/a_b/a/include",
            "PATH=/layers/a_b/z/bin:/layers/a_b/a/bin:/bin",
        ];
        assert!(env.pairs().eq(expected), "{env:?}");
    }
}
