//! The file as it is written, and the rules it has to keep.

use std::collections::BTreeSet;

use cofferdam_cnb::{
    FileError, Group, GroupElement, Id, Order, RunImage, SystemModules, SystemOrder, Target,
    TargetDistro, Version, parse_toml,
};
use serde::Deserialize;

use super::{BuildEnv, BuilderToml, LifecycleSource, ModuleSource, Suffix};
use crate::image_name::ImageName;
use crate::text::{env_name_problem, printable, short};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
#[derive(Default)]
struct Raw {
    description: String,
    buildpacks: Vec<RawModule>,
    extensions: Vec<RawModule>,
    order: Vec<RawGroup>,
    order_extensions: Vec<RawGroup>,
    system: RawSystem,
    stack: Option<RawStack>,
    build: RawBuild,
    run: RawRun,
    lifecycle: RawLifecycle,
    targets: Vec<RawTarget>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawModule {
    id: Option<String>,
    version: Option<String>,
    uri: Option<String>,
    image: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGroup {
    #[serde(default)]
    group: Vec<RawElement>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawElement {
    id: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    optional: bool,
    #[serde(default)]
    exec_env: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawSystem {
    pre: RawSystemModules,
    post: RawSystemModules,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawSystemModules {
    buildpacks: Vec<RawElement>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct RawStack {
    id: String,
    build_image: String,
    run_image: String,
    run_image_mirrors: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawBuild {
    image: String,
    env: Vec<RawEnv>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawEnv {
    name: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    suffix: String,
    #[serde(default)]
    delim: String,
    #[serde(default)]
    exec_env: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawRun {
    images: Vec<RawRunImage>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRunImage {
    image: String,
    #[serde(default)]
    mirrors: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLifecycle {
    version: Option<String>,
    uri: Option<String>,
}

/// A platform, with its keys checked.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawTarget {
    os: String,
    arch: String,
    #[serde(alias = "arch-variant")]
    variant: String,
    distros: Vec<RawDistro>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawDistro {
    name: String,
    version: String,
}

impl From<RawTarget> for Target {
    fn from(RawTarget { os, arch, variant, distros }: RawTarget) -> Self {
        let distro = |RawDistro { name, version }| TargetDistro { name, version };
        Self { os, arch, variant, distros: distros.into_iter().map(distro).collect() }
    }
}

pub(super) fn parse(file: &str, bytes: &[u8]) -> Result<(BuilderToml, Vec<String>), FileError> {
    let file = &printable(file);
    let raw: Raw = parse_toml(file, bytes)?;
    let rules = Rules { file };
    let mut warnings = Vec::new();
    let buildpacks = rules.modules("buildpacks", raw.buildpacks, &mut warnings)?;
    let extensions = rules.modules("extensions", raw.extensions, &mut warnings)?;
    if raw.order.is_empty() {
        warnings
            .push(format!("{file}: the order is empty; every build has to name its buildpacks"));
    }
    let order = rules.order("order", raw.order)?;
    let order_extensions = rules.order("order-extensions", raw.order_extensions)?;
    let side = |key: &str, side: RawSystemModules| {
        let buildpacks = rules.elements(key, side.buildpacks)?;
        Ok::<_, FileError>(SystemModules { buildpacks })
    };
    let system = SystemOrder {
        pre: side("system.pre.buildpacks", raw.system.pre)?,
        post: side("system.post.buildpacks", raw.system.post)?,
    };
    if raw.stack.is_some() {
        warnings.push(format!("{file}: [stack] is deprecated; use [build] and [run]"));
    }
    let stack = raw.stack.unwrap_or_default();
    let build_image = rules.build_image(raw.build.image, &stack)?;
    let run_images = rules.run_images(raw.run.images, &stack)?;
    let lifecycle = match (raw.lifecycle.version, raw.lifecycle.uri) {
        (Some(_), Some(_)) => return Err(rules.wrong("lifecycle", "has both a version and a uri")),
        (Some(version), None) => Some(LifecycleSource::Version(version)),
        (None, Some(uri)) => Some(LifecycleSource::Uri(uri)),
        (None, None) => None,
    };
    let made = BuilderToml {
        description: raw.description,
        buildpacks,
        extensions,
        order,
        order_extensions,
        system,
        stack_id: (!stack.id.is_empty()).then_some(stack.id),
        build_image,
        build_env: rules.build_env(raw.build.env, &mut warnings)?,
        run_images,
        lifecycle,
        targets: raw.targets.into_iter().map(Target::from).collect(),
    };
    Ok((made, warnings))
}

struct Rules<'a> {
    file: &'a str,
}

impl Rules<'_> {
    fn wrong(&self, key: impl AsRef<str>, problem: impl AsRef<str>) -> FileError {
        FileError::value(self.file, key, problem)
    }

    fn modules(
        &self,
        list: &str,
        raw: Vec<RawModule>,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<ModuleSource>, FileError> {
        let mut modules = Vec::new();
        for (index, RawModule { id, version, uri, image }) in raw.into_iter().enumerate() {
            let key = format!("{list}[{index}]");
            let uri = match (uri, image) {
                (Some(_), Some(_)) => {
                    return Err(self.wrong(key, "has both a uri and an image"));
                }
                (Some(uri), None) => uri,
                (None, Some(image)) => {
                    let file = self.file;
                    warnings.push(format!(
                        "{file}: {key}: image is deprecated; use a uri with docker://"
                    ));
                    format!("docker://{image}")
                }
                (None, None) => return Err(self.wrong(key, "needs a uri")),
            };
            self.id(&format!("{key}.id"), id.as_deref())?;
            self.version(&format!("{key}.version"), version.as_deref())?;
            modules.push(ModuleSource { id, version, uri });
        }
        Ok(modules)
    }

    fn order(&self, list: &str, raw: Vec<RawGroup>) -> Result<Order, FileError> {
        let group = |(index, RawGroup { group }): (usize, RawGroup)| {
            let key = format!("{list}[{index}].group");
            if group.is_empty() {
                return Err(self.wrong(key, "is empty"));
            }
            Ok(Group { group: self.elements(&key, group)? })
        };
        raw.into_iter().enumerate().map(group).collect()
    }

    fn elements(&self, list: &str, raw: Vec<RawElement>) -> Result<Vec<GroupElement>, FileError> {
        let element = |(index, element): (usize, RawElement)| {
            let RawElement { id, version, optional, exec_env } = element;
            self.id(&format!("{list}[{index}].id"), Some(&id))?;
            let given = (!version.is_empty()).then_some(version.as_str());
            self.version(&format!("{list}[{index}].version"), given)?;
            Ok(GroupElement { id, version, optional, exec_env })
        };
        raw.into_iter().enumerate().map(element).collect()
    }

    fn id(&self, key: &str, id: Option<&str>) -> Result<(), FileError> {
        let parsed = id.map(Id::parse).transpose();
        parsed.map(drop).map_err(|error| self.wrong(key, error.to_string()))
    }

    fn version(&self, key: &str, version: Option<&str>) -> Result<(), FileError> {
        let parsed = version.map(Version::parse).transpose();
        parsed.map(drop).map_err(|error| self.wrong(key, error.to_string()))
    }

    fn image(&self, key: &str, image: &str) -> Result<(), FileError> {
        ImageName::parse(image).map(drop).map_err(|error| self.wrong(key, error.to_string()))
    }

    fn build_image(&self, image: String, stack: &RawStack) -> Result<String, FileError> {
        let image = match (image.is_empty(), stack.build_image.is_empty()) {
            (true, true) => return Err(self.wrong("build.image", "is missing")),
            (true, false) => stack.build_image.clone(),
            (false, false) if image != stack.build_image => {
                return Err(self.wrong("build.image", "is not the same as stack.build-image"));
            }
            (false, _) => image,
        };
        self.image("build.image", &image)?;
        Ok(image)
    }

    fn run_images(
        &self,
        raw: Vec<RawRunImage>,
        stack: &RawStack,
    ) -> Result<Vec<RunImage>, FileError> {
        let mut images = raw
            .into_iter()
            .map(|RawRunImage { image, mirrors }| RunImage { image, mirrors })
            .collect::<Vec<_>>();
        if images.is_empty() && !stack.run_image.is_empty() {
            let (image, mirrors) = (stack.run_image.clone(), stack.run_image_mirrors.clone());
            images.push(RunImage { image, mirrors });
        }
        let Some(first) = images.first() else {
            return Err(self.wrong("run.images", "is missing"));
        };
        if !stack.run_image.is_empty() && first.image != stack.run_image {
            return Err(self.wrong("run.images[0].image", "is not the same as stack.run-image"));
        }
        for (index, RunImage { image, mirrors }) in images.iter().enumerate() {
            self.image(&format!("run.images[{index}].image"), image)?;
            for mirror in mirrors {
                self.image(&format!("run.images[{index}].mirrors"), mirror)?;
            }
        }
        Ok(images)
    }

    fn build_env(
        &self,
        raw: Vec<RawEnv>,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<BuildEnv>, FileError> {
        let mut seen = BTreeSet::new();
        let mut made = Vec::new();
        for (index, RawEnv { name, value, suffix, delim, exec_env }) in raw.into_iter().enumerate()
        {
            let key = |field: &str| format!("build.env[{index}].{field}");
            let problem = env_name_problem(&name).or_else(|| {
                name.contains('.').then_some("the name has a '.', which starts a suffix")
            });
            if let Some(problem) = problem {
                return Err(self.wrong(key("name"), format!("{:?}: {problem}", short(&name))));
            }
            let suffix = match suffix.as_str() {
                "" | "default" => Suffix::Default,
                "override" => Suffix::Override,
                "append" => Suffix::Append,
                "prepend" => Suffix::Prepend,
                other => {
                    let problem = "is not default, override, append or prepend";
                    return Err(self.wrong(key("suffix"), format!("{:?} {problem}", short(other))));
                }
            };
            let delim = (!delim.is_empty()).then_some(delim);
            if delim.is_none() && matches!(suffix, Suffix::Append | Suffix::Prepend) {
                return Err(self.wrong(key("delim"), format!("is needed to {}", suffix.name())));
            }
            if !seen.insert((name.clone(), suffix.name(), exec_env.clone())) {
                let (file, suffix) = (self.file, suffix.name());
                warnings.push(format!(
                    "{file}: build.env: {name}.{suffix} is there twice; the last one counts"
                ));
                made.retain(|other: &BuildEnv| {
                    other.name != name
                        || other.suffix.name() != suffix
                        || other.exec_env != exec_env
                });
            }
            made.push(BuildEnv { name, value, suffix, delim, exec_env });
        }
        Ok(made)
    }
}
