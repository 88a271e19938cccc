//! Other work of the buildpacks frontend: builder images, buildpackages, rebases. It runs where a build would, and its outputs are a build's.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Args;
use cofferdam_buildpacks::{BuilderToml, PackageToml};
use cofferdam_session::Services;

use super::arguments::{BuildArgs, BuilderChoice, DisplayArgs, ServerChoice};
use super::buildpacks::{self, Modules};
use super::context::Sources;
use super::outputs::Outputs;
use super::own::PrivateDir;
use super::{Draft, perform, session, start};

/// Name under which the directory of `builder.toml` and `package.toml` is offered.
const CONFIG: &str = "config";

/// Largest such file; the frontend's own bound is the same.
const MAX_CONFIG: u64 = cofferdam_cnb::MAX_FILE as u64;

/// Where it runs and what is shown: the flags of `cofferdam build`, whose `--config` has another name here.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PlaceArgs {
    /// Builder to use, unix://PATH or tcp://HOST:PORT [default: $COFFERDAM_BUILDER, $BUILDKIT_HOST, or one of its own]
    #[arg(long = "addr", alias = "builder-addr", value_name = "ADDR", help_heading = "Builder")]
    address: Option<String>,

    /// Least isolation: namespaces, gvisor or vm
    #[arg(long, value_name = "LEVEL", help_heading = "Builder")]
    isolation: Option<cofferdam_sandbox::Isolation>,

    /// State of the builder this command starts
    #[arg(long, value_name = "DIR", help_heading = "Builder")]
    root: Option<PathBuf>,

    /// Configuration of the builder this command starts
    #[arg(long, value_name = "FILE", help_heading = "Builder")]
    builder_config: Option<PathBuf>,

    /// Registry or other host that the builder this command starts may reach although it is not public; may be repeated
    #[arg(
        long,
        value_name = "HOST[:PORT]",
        value_delimiter = ',',
        env = "COFFERDAM_ALLOW_REGISTRY",
        help_heading = "Builder"
    )]
    allow_registry: Vec<String>,

    #[command(flatten)]
    display: DisplayArgs,

    #[command(flatten)]
    server: ServerChoice,
}

impl PlaceArgs {
    /// The arguments of a build there, without anything to build.
    pub(crate) fn into_build(self) -> BuildArgs {
        BuildArgs {
            builder: BuilderChoice {
                address: self.address,
                isolation: self.isolation,
                root: self.root,
                config: self.builder_config,
                allow_registry: self.allow_registry,
            },
            display: self.display,
            server: self.server,
            ..BuildArgs::default()
        }
    }
}

/// What the frontend is asked for.
#[derive(Debug, Default)]
pub(crate) struct Operation {
    /// Attributes of the frontend.
    pub(crate) attrs: BTreeMap<String, String>,
    /// Directories to offer.
    pub(crate) directories: Vec<(String, PathBuf)>,
    held: Vec<PrivateDir>,
}

impl Operation {
    /// The operation of this name.
    pub(crate) fn new(name: &str) -> Self {
        let mut operation = Self::default();
        operation.set("operation", name);
        operation
    }

    /// Sets an attribute.
    pub(crate) fn set(&mut self, key: &str, value: impl Into<String>) {
        self.attrs.insert(key.to_owned(), value.into());
    }

    /// Sets `KEY=VALUE` labels.
    pub(crate) fn labels(&mut self, texts: &[String]) -> anyhow::Result<()> {
        if !texts.is_empty() {
            self.set("labels", serde_json::to_string(&buildpacks::labels(texts))?);
        }
        Ok(())
    }

    /// Offers a `builder.toml`, and every module on this machine that it names.
    pub(crate) fn builder_config(&mut self, path: &Path) -> anyhow::Result<()> {
        let (config, _) = BuilderToml::parse(&path.display().to_string(), &read(path)?)?;
        let modules = config.buildpacks.iter().chain(&config.extensions);
        let uris: Vec<&str> = modules.map(|module| module.uri.as_str()).collect();
        self.config(path, &uris)
    }

    /// Offers a `package.toml`, and every module on this machine that it names.
    pub(crate) fn package_config(&mut self, path: &Path) -> anyhow::Result<()> {
        let (config, _) = PackageToml::parse(&path.display().to_string(), &read(path)?)?;
        let dependencies = config.dependencies.iter().map(String::as_str);
        let uris: Vec<&str> = dependencies.chain([config.uri.as_str()]).collect();
        self.config(path, &uris)
    }

    /// Offers a file and modules. Nothing else of the file's directory is offered.
    fn config(&mut self, path: &Path, uris: &[&str]) -> anyhow::Result<()> {
        let mut modules = Modules::default();
        let (name, directory) = modules.set_apart(path)?;
        self.set("config-file", name);
        self.directories.push((CONFIG.to_owned(), directory));
        let base = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        for uri in uris {
            let added = modules.add(uri, base.unwrap_or(Path::new(".")));
            added.with_context(|| path.display().to_string())?;
        }
        self.attrs.append(&mut modules.attrs);
        self.directories.append(&mut modules.directories);
        self.held.append(&mut modules.held);
        Ok(())
    }

    /// Offers a directory that is no file's, as the `config` that has only `text` under `name`, and the module it is about.
    pub(crate) fn written_config(
        &mut self,
        name: &str,
        text: &str,
        module: &Path,
    ) -> anyhow::Result<()> {
        let dir = PrivateDir::new()?;
        let path = dir.path().join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        self.set("config-file", name);
        self.directories.push((CONFIG.to_owned(), dir.path().to_owned()));
        self.held.push(dir);
        let mut modules = Modules::default();
        let module = module.to_str().context("the module's path is not UTF-8")?;
        modules.add(module, Path::new("."))?;
        self.attrs.append(&mut modules.attrs);
        self.directories.append(&mut modules.directories);
        self.held.append(&mut modules.held);
        Ok(())
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let failed = || format!("read {}", path.display());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).with_context(failed)?;
    file.take(MAX_CONFIG + 1).read_to_end(&mut bytes).with_context(failed)?;
    Ok(bytes)
}

/// Carries an operation out. `args` say where it runs and where its image goes.
pub(crate) fn run_operation(args: BuildArgs, operation: Operation) -> anyhow::Result<ExitCode> {
    let outputs = Outputs::plan(&args, std::io::stdout().is_terminal())?;
    start(args.display.debug, async move {
        let Operation { mut attrs, directories, held } = operation;
        if let Some(platform) = args.inputs.platform.first() {
            ensure!(args.inputs.platform.len() == 1, "--platform: one platform at a time");
            attrs.insert("platform".to_owned(), platform.clone());
        }
        if args.tag.len() > 1 {
            attrs.insert("tags".to_owned(), serde_json::to_string(&args.tag[1..])?);
        }
        if let Some(name) = args.tag.first() {
            attrs.entry("image".to_owned()).or_insert_with(|| name.clone());
        }
        let mut sources = Sources::of_directories(directories);
        sources.apart = held;
        let services = Services::new().credentials(session::credentials(&[])?);
        let frontend = buildpacks::FRONTEND;
        let draft = Draft { frontend, attrs, entitlements: Vec::new(), services, sources, outputs };
        let order = draft.order(&args).await?;
        perform(order, &args).await
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn files_are_offered_with_the_modules_they_name() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["bp", "ext", "private"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("dep.cnb"), "").unwrap();
        let config = dir.path().join("builder.toml");
        let text = r#"
            [[buildpacks]]
            uri = "bp"
            [[buildpacks]]
            uri = "docker://r.example/x"
            [[buildpacks]]
            uri = "dep.cnb"
            [[extensions]]
            uri = "./ext"
            [[order]]
            [[order.group]]
            id = "a"
            version = "1.0.0"
            [build]
            image = "r.example/build"
            [run]
            [[run.images]]
            image = "r.example/run"
        "#;
        std::fs::write(&config, text).unwrap();
        let mut operation = Operation::new("builder-image");
        operation.builder_config(&config).unwrap();
        assert_eq!(operation.attrs["operation"], "builder-image");
        assert_eq!(operation.attrs["config-file"], "builder.toml");
        assert_eq!(operation.attrs["local:bp"], "module-0");
        assert_eq!(operation.attrs["local-file:dep.cnb"], "module-1/dep.cnb");
        assert_eq!(operation.attrs["local:./ext"], "module-2");
        let (name, offered) = &operation.directories[0];
        assert_eq!(name, CONFIG);
        assert_eq!(std::fs::read_dir(offered).unwrap().count(), 1, "nothing next to it");
        let package = dir.path().join("package.toml");
        let text = "[buildpack]\nuri = \"bp\"\n[[dependencies]]\nuri = \"dep.cnb\"\n";
        std::fs::write(&package, text).unwrap();
        let mut operation = Operation::new("buildpackage");
        operation.package_config(&package).unwrap();
        assert!(operation.attrs.contains_key("local-file:dep.cnb"));
        assert!(operation.attrs.contains_key("local:bp"));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("package.toml");
        for text in ["[buildpack", "[buildpack]\nuri = \"./none\"\n", "x = 1"] {
            std::fs::write(&config, text).unwrap();
            let error = format!("{:#}", Operation::new("x").package_config(&config).unwrap_err());
            assert!(error.contains("package.toml"), "{error}");
        }
        assert!(Operation::new("x").builder_config(&dir.path().join("none")).is_err());
    }

    #[test]
    fn a_package_can_be_about_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let mut operation = Operation::new("buildpackage");
        operation.written_config("package.toml", "x = 1", dir.path()).unwrap();
        let key = format!("local:{}", dir.path().display());
        assert_eq!(operation.attrs[&key], "module-0");
        operation.labels(&["a=b".to_owned(), "bare".to_owned()]).unwrap();
        assert_eq!(operation.attrs["labels"], r#"{"a":"b","bare":""}"#);
    }

    #[test]
    fn places_are_those_of_builds() {
        let place = PlaceArgs {
            address: Some("unix:///x".to_owned()),
            builder_config: Some("c.toml".into()),
            ..PlaceArgs::default()
        };
        let build = place.into_build();
        assert_eq!(build.builder.address.as_deref(), Some("unix:///x"));
        assert_eq!(build.builder.config, Some("c.toml".into()));
    }
}
