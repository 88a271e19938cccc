//! Flags as attributes of the buildpacks frontend.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use cofferdam_buildpacks::{TrustEntry, TrustFile};

use super::super::arguments::BuildArgs;
use super::super::attestations;
use super::super::attributes::network;
use super::super::context::is_remote;
use super::super::own::PrivateDir;
use super::caches::cache;
use super::environment::variables;
use super::modules::Modules;
use super::project::Project;
use super::volumes::volumes;

/// Everything of a build by buildpacks that follows from flags, files and trust.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Attributes of the frontend, except those of the app.
    pub(crate) attrs: BTreeMap<String, String>,
    /// Privileges it needs.
    pub(crate) entitlements: Vec<String>,
    /// Directories to offer beside the app.
    pub(crate) directories: Vec<(String, PathBuf)>,
    /// Hold what is offered.
    pub(crate) held: Vec<PrivateDir>,
    /// What the user should know beforehand.
    pub(crate) notes: Vec<String>,
}

/// Reads everything. `environment` looks a variable of the caller up; `pushes` says whether the image goes to a registry.
pub(crate) fn plan(
    args: &BuildArgs,
    builder: &str,
    project: &Project,
    trust: &TrustFile,
    pushes: bool,
    environment: impl Fn(&str) -> Option<String>,
) -> anyhow::Result<Plan> {
    let flags = &args.buildpacks;
    let mut plan = Plan::default();
    attestations::refuse(&args.outputs)?;
    ensure!(
        args.inputs.platform.len() < 2,
        "--platform: buildpacks build for one platform at a time"
    );
    plan.set("builder", builder);
    plan.values(args);
    plan.some("descriptor", project.path.as_ref());
    plan.some("descriptor-text", project.text.as_ref());
    let variables = variables(flags, &environment)?;
    if !variables.is_empty() {
        plan.json("env", &variables)?;
    }
    if let Some(time) = creation_time(flags.creation_time.as_deref(), &environment)? {
        plan.set("creation-time", time);
    }
    plan.modules(args, project)?;
    plan.mounts(args, builder, trust)?;
    let cache = cache(flags, pushes)?;
    plan.some("cache-image", cache.image.as_ref());
    plan.some("cache-name", cache.name.as_ref());
    plan.notes.extend(cache.notes);
    plan.trust(trust)?;
    plan.entitlements.clone_from(&args.steps.allow);
    if let Some(mode) = network(args.steps.network.as_deref())? {
        plan.set("network", mode);
        if mode == "host" && !plan.entitlements.iter().any(|given| given == "network.host") {
            plan.entitlements.push("network.host".to_owned());
        }
    }
    Ok(plan)
}

impl Plan {
    fn set(&mut self, key: &str, value: impl Into<String>) {
        self.attrs.insert(key.to_owned(), value.into());
    }

    fn some(&mut self, key: &str, value: Option<&String>) {
        if let Some(value) = value {
            self.set(key, value.clone());
        }
    }

    fn json(&mut self, key: &str, value: &(impl serde::Serialize + ?Sized)) -> anyhow::Result<()> {
        let text = serde_json::to_string(value).with_context(|| format!("write {key}"))?;
        self.set(key, text);
        Ok(())
    }

    /// Flags that go through as they are.
    fn values(&mut self, args: &BuildArgs) {
        let flags = &args.buildpacks;
        for (key, value) in [
            ("platform", args.inputs.platform.first()),
            ("image", args.tag.first()),
            ("exec-env", flags.exec_env.as_ref()),
            ("default-process", flags.default_process.as_ref()),
            ("run-image", flags.run_image.as_ref()),
            ("previous-image", flags.previous_image.as_ref()),
            ("workspace", flags.workspace.as_ref()),
        ] {
            self.some(key, value);
        }
        for (key, given) in [
            ("clear-cache", flags.clear_cache),
            ("trust-builder", flags.trust_builder),
            ("trust-extra-buildpacks", flags.trust_extra_buildpacks),
            ("disable-system-buildpacks", flags.disable_system_buildpacks),
            ("detect-network", flags.detect_network),
            ("sbom", flags.sbom_output_dir.is_some()),
        ] {
            if given {
                self.set(key, "true");
            }
        }
        for (key, id) in [("uid", flags.uid), ("gid", flags.gid)] {
            self.some(key, id.map(|id| id.to_string()).as_ref());
        }
        if args.caches.no_cache {
            self.set("no-cache", "");
        }
        if args.inputs.pull {
            self.set("image-resolve-mode", "pull");
        }
    }

    fn modules(&mut self, args: &BuildArgs, project: &Project) -> anyhow::Result<()> {
        let flags = &args.buildpacks;
        let mut modules = Modules::default();
        for (key, locators) in [
            ("buildpacks", &flags.buildpack),
            ("pre-buildpacks", &flags.pre_buildpack),
            ("post-buildpacks", &flags.post_buildpack),
            ("extensions", &flags.extension),
        ] {
            for locator in locators {
                modules.add(locator, Path::new("."))?;
            }
            if !locators.is_empty() {
                self.json(key, locators)?;
            }
        }
        if !args.outputs.label.is_empty() {
            self.json("labels", &labels(&args.outputs.label))?;
        }
        if args.tag.len() > 1 {
            self.json("tags", &args.tag[1..])?;
        }
        if args.context != "-" && !is_remote(&args.context) {
            for path in &project.locals {
                modules.add_outside(path, &project.base, Path::new(&args.context))?;
            }
        }
        self.attrs.append(&mut modules.attrs);
        self.directories.append(&mut modules.directories);
        self.held.append(&mut modules.held);
        Ok(())
    }

    fn mounts(&mut self, args: &BuildArgs, builder: &str, trust: &TrustFile) -> anyhow::Result<()> {
        let flags = &args.buildpacks;
        if flags.volume.is_empty() {
            return Ok(());
        }
        let volumes = volumes(&flags.volume, flags.workspace.as_deref())?;
        self.json("volumes", &volumes.mounts)?;
        self.directories.extend(volumes.directories);
        self.notes.extend(volumes.warnings.iter().map(|warning| format!("Warning: {warning}")));
        if !may_be_trusted(builder, flags.trust_builder, trust) {
            self.notes.push(format!(
                "Warning: the builder {builder} is not trusted, and its buildpacks can read what --volume mounts."
            ));
        }
        Ok(())
    }

    fn trust(&mut self, trust: &TrustFile) -> anyhow::Result<()> {
        for (key, entries) in [("trusted", &trust.trusted), ("denied", &trust.denied)] {
            if !entries.is_empty() {
                let entries: Vec<String> = entries.iter().map(ToString::to_string).collect();
                self.json(key, &entries)?;
            }
        }
        Ok(())
    }
}

/// `KEY=VALUE` texts as a map; a bare key has an empty value.
pub(crate) fn labels(texts: &[String]) -> BTreeMap<&str, &str> {
    texts.iter().map(|text| text.split_once('=').unwrap_or((text, ""))).collect()
}

/// A guess from the builder's repository, for warnings only: the digest that decides is known to nobody yet.
fn may_be_trusted(builder: &str, flag: bool, file: &TrustFile) -> bool {
    let Ok(builder) = TrustEntry::parse(builder) else { return false };
    let names = |entries: &[TrustEntry]| {
        entries.iter().any(|entry| entry.name.repository() == builder.name.repository())
    };
    let trust = file.trust(flag);
    !names(&trust.denied) && (flag || names(&trust.trusted) || names(&trust.known))
}

/// The flag, else what every reproducible build listens to.
fn creation_time(
    flag: Option<&str>,
    environment: impl Fn(&str) -> Option<String>,
) -> anyhow::Result<Option<String>> {
    let Some(time) = flag else {
        let epoch = environment("SOURCE_DATE_EPOCH").filter(|epoch| !epoch.is_empty());
        if epoch.as_ref().is_some_and(|epoch| !is_seconds(epoch)) {
            bail!("SOURCE_DATE_EPOCH is not a number of seconds since 1970");
        }
        return Ok(epoch);
    };
    ensure!(
        time == "now" || is_seconds(time),
        "--creation-time {time:?}: use a number of seconds since 1970, or now"
    );
    Ok(Some(time.to_owned()))
}

fn is_seconds(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<i64>().is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(change: impl FnOnce(&mut BuildArgs)) -> anyhow::Result<Plan> {
        let mut args = BuildArgs { context: ".".into(), ..BuildArgs::default() };
        change(&mut args);
        let mut trust = TrustFile::default();
        trust.add(TrustEntry::parse("r.example/b:1").unwrap());
        trust.deny(TrustEntry::parse("evil/x").unwrap());
        plan(&args, "r.example/b", &Project::default(), &trust, true, |name| {
            (name == "FROM_ENV").then(|| "value".to_owned())
        })
    }

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn no_flags_but_the_builder_and_trust() {
        let plan = of(|_| ()).unwrap();
        let expected = [
            ("builder", "r.example/b"),
            ("denied", r#"["docker.io/evil/x"]"#),
            ("trusted", r#"["r.example/b:1"]"#),
        ];
        let found: Vec<(&str, &str)> =
            plan.attrs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(found, expected);
        assert!(plan.entitlements.is_empty() && plan.notes.is_empty());
    }

    #[test]
    fn every_flag_has_its_attribute() {
        let plan = of(|args| {
            args.tag = texts(&["r.example/app", "r.example/app:2"]);
            args.inputs.platform = texts(&["linux/arm64"]);
            args.outputs.label = texts(&["k=v"]);
            args.caches.no_cache = true;
            args.steps.network = Some("host".into());
            let flags = &mut args.buildpacks;
            flags.buildpack = texts(&["a/b@1.0.0", "urn:cnb:builder:c"]);
            flags.pre_buildpack = texts(&["from=builder"]);
            flags.post_buildpack = texts(&["docker://r.example/p"]);
            flags.extension = texts(&["e/f"]);
            flags.env = texts(&["A=1", "FROM_ENV"]);
            flags.exec_env = Some("test".into());
            flags.default_process = Some("web".into());
            flags.run_image = Some("r.example/run".into());
            flags.previous_image = Some("r.example/old".into());
            flags.cache_image = Some("r.example/cache".into());
            flags.workspace = Some("/app".into());
            flags.creation_time = Some("now".into());
            flags.sbom_output_dir = Some("out".into());
            flags.volume = texts(&["cache:/data:rw"]);
            (flags.uid, flags.gid) = (Some(0), Some(7));
            flags.clear_cache = true;
            flags.trust_builder = true;
            flags.trust_extra_buildpacks = true;
            flags.disable_system_buildpacks = true;
            flags.detect_network = true;
        })
        .unwrap();
        for (key, value) in [
            ("image", "r.example/app"),
            ("tags", r#"["r.example/app:2"]"#),
            ("platform", "linux/arm64"),
            ("labels", r#"{"k":"v"}"#),
            ("no-cache", ""),
            ("network", "host"),
            ("buildpacks", r#"["a/b@1.0.0","urn:cnb:builder:c"]"#),
            ("pre-buildpacks", r#"["from=builder"]"#),
            ("post-buildpacks", r#"["docker://r.example/p"]"#),
            ("extensions", r#"["e/f"]"#),
            ("env", r#"{"A":"1","FROM_ENV":"value"}"#),
            ("exec-env", "test"),
            ("default-process", "web"),
            ("run-image", "r.example/run"),
            ("previous-image", "r.example/old"),
            ("cache-image", "r.example/cache"),
            ("workspace", "/app"),
            ("creation-time", "now"),
            ("sbom", "true"),
            ("uid", "0"),
            ("gid", "7"),
            ("clear-cache", "true"),
            ("trust-builder", "true"),
            ("trust-extra-buildpacks", "true"),
            ("disable-system-buildpacks", "true"),
            ("detect-network", "true"),
        ] {
            assert_eq!(plan.attrs.get(key).map(String::as_str), Some(value), "{key}");
        }
        assert!(plan.attrs["volumes"].contains(r#""cache":"cache""#));
        assert_eq!(plan.entitlements, ["network.host"]);
    }

    #[test]
    fn volumes_and_builders_that_nobody_trusts() {
        let warned = |builder: &str, flag| {
            let mut args = BuildArgs { context: ".".into(), ..BuildArgs::default() };
            args.buildpacks.volume = texts(&["cache:/data"]);
            args.buildpacks.trust_builder = flag;
            let mut trust = TrustFile::default();
            trust.add(TrustEntry::parse("r.example/b:1").unwrap());
            trust.deny(TrustEntry::parse("r.example/evil").unwrap());
            let plan = plan(&args, builder, &Project::default(), &trust, false, |_| None);
            plan.unwrap().notes.iter().any(|note| note.contains("not trusted"))
        };
        assert!(!warned("r.example/b:1", false) && !warned("heroku/builder:24", false));
        assert!(warned("r.example/other", false) && !warned("r.example/other", true));
        assert!(warned("other.example/b:1", false) && warned("r.example/evil", true));
    }

    #[test]
    fn times() {
        let time =
            |flag: Option<&str>, epoch: &str| creation_time(flag, |_| Some(epoch.to_owned()));
        assert_eq!(time(None, "").unwrap(), None);
        assert_eq!(time(None, "12").unwrap().as_deref(), Some("12"));
        assert_eq!(time(Some("now"), "12").unwrap().as_deref(), Some("now"));
        for flag in ["", "-1", "tomorrow", "1.5", "99999999999999999999"] {
            assert!(time(Some(flag), "").is_err(), "{flag}");
        }
        assert!(time(None, "x").is_err());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(of(|args| args.inputs.platform = texts(&["linux/amd64", "linux/arm64"])).is_err());
        assert!(of(|args| args.outputs.sbom = Some("true".into())).is_err());
        assert!(of(|args| args.steps.network = Some("bridge".into())).is_err());
        assert!(of(|args| args.buildpacks.buildpack = texts(&["./no-such"])).is_err());
    }
}
