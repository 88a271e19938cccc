//! `cofferdam buildpack`: starts buildpacks, packs them, and tells what is in them.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use cofferdam_cnb::{ApiVersion, Id, Target, Version};

use super::build::{Operation, PlaceArgs};
use super::builder_image::{Form, ImageArgs};
use super::inspect::{self, Wanted};
use crate::terminal::note;

/// What to do with buildpacks.
#[derive(Debug, Args)]
pub(crate) struct BuildpackArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Start a buildpack: its descriptor and two scripts
    #[command(disable_version_flag = true)]
    New(NewArgs),
    /// Pack a buildpack or an extension as an image or a file
    Package(Box<PackageArgs>),
    /// Show what is in a buildpackage, a .cnb file or a buildpack's directory
    Inspect(InspectArgs),
}

#[derive(Debug, Clone, Args)]
struct NewArgs {
    /// Its id, such as acme/ruby
    id: String,

    /// Buildpack API it is written for
    #[arg(short, long, value_name = "VERSION", default_value = "0.12")]
    api: String,

    /// Directory to make [default: the last part of the id]
    #[arg(short, long, value_name = "DIR")]
    path: Option<PathBuf>,

    /// Its version
    #[arg(short = 'V', long, value_name = "VERSION", default_value = "1.0.0")]
    version: String,

    /// Platforms it runs on.
    #[arg(
        short,
        long,
        value_name = "TARGET",
        value_delimiter = ',',
        help = "Platform it runs on, OS/ARCH[/VARIANT][:DISTRO@VERSION]; may be repeated \
                [default: linux/ARCH of this machine]"
    )]
    targets: Vec<String>,
}

#[derive(Debug, Clone, Default, Args)]
struct PackageArgs {
    /// Name of the image, or of the file with --format file
    name: String,

    /// What is packed: a package.toml [default: the buildpack in --path alone]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Directory of the buildpack, when there is no package.toml [default: .]
    #[arg(short, long, value_name = "DIR", conflicts_with = "config")]
    path: Option<PathBuf>,

    /// image, or file: a .cnb file, which is an OCI layout in a tar
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    format: PackageFormat,

    #[command(flatten)]
    image: ImageArgs,

    #[command(flatten)]
    place: PlaceArgs,
}

/// What a package becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum PackageFormat {
    /// An image
    #[default]
    Image,
    /// A file
    File,
}

#[derive(Debug, Clone, Args)]
struct InspectArgs {
    #[command(flatten)]
    wanted: Wanted,

    /// Form of the answer
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t)]
    output: Form,
}

/// Carries the command out.
pub(crate) fn run(args: BuildpackArgs) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::New(args) => new(&args),
        Action::Package(args) => package(*args),
        Action::Inspect(args) => inspect::buildpack(&args.wanted, args.output == Form::Json),
    }
}

const DETECT: &str =
    "#!/usr/bin/env bash\nset -euo pipefail\n\n# 0: takes part; 100: does not.\nexit 0\n";
const BUILD: &str = "#!/usr/bin/env bash\nset -euo pipefail\n\necho \"---> ID\"\n\n# Layers go below $CNB_LAYERS_DIR, processes into $CNB_LAYERS_DIR/launch.toml.\nexit 0\n";

fn new(args: &NewArgs) -> anyhow::Result<ExitCode> {
    let id = Id::parse(&args.id)?;
    let version = Version::parse(&args.version)?;
    ensure!(is_release(&args.version), "--version {:?}: use X.Y.Z", args.version);
    let api = args.api.parse::<ApiVersion>()?.buildpack()?;
    let targets = if args.targets.is_empty() {
        vec![target(&cofferdam_image::Platform::host().to_string())?]
    } else {
        args.targets.iter().map(|text| target(text)).collect::<Result<_, _>>()?
    };
    let last = args.id.rsplit('/').next().unwrap_or(&args.id);
    let path = args.path.clone().unwrap_or_else(|| PathBuf::from(last));
    ensure!(!path.join("buildpack.toml").exists(), "{} has a buildpack already", path.display());
    let bin = path.join("bin");
    std::fs::create_dir_all(&bin).with_context(|| format!("create {}", bin.display()))?;
    let descriptor = descriptor(&id, &version, api, &targets)?;
    write_new(&path.join("buildpack.toml"), &descriptor, 0o644)?;
    write_new(&bin.join("detect"), DETECT, 0o755)?;
    write_new(&bin.join("build"), &BUILD.replace("ID", id.as_str()), 0o755)?;
    note(&format!("Buildpack {id} is in {}.", path.display()));
    Ok(ExitCode::SUCCESS)
}

fn is_release(version: &str) -> bool {
    let parts: Vec<&str> = version.split('.').collect();
    let is_number = |part: &&str| {
        part.parse::<u64>().is_ok()
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && (*part == "0" || !part.starts_with('0'))
    };
    parts.len() == 3 && parts.iter().all(is_number)
}

fn descriptor(
    id: &Id,
    version: &Version,
    api: ApiVersion,
    targets: &[Target],
) -> anyhow::Result<String> {
    #[derive(serde::Serialize)]
    struct File<'a> {
        api: ApiVersion,
        buildpack: Buildpack<'a>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        stacks: Vec<toml::Table>,
        #[serde(skip_serializing_if = "<[Target]>::is_empty")]
        targets: &'a [Target],
    }
    #[derive(serde::Serialize)]
    struct Buildpack<'a> {
        id: &'a Id,
        version: &'a Version,
    }
    // Before 0.10 there are no targets: any stack stands for them.
    let has_targets = api.at_least(10);
    let any = toml::Table::from_iter([("id".to_owned(), toml::Value::String("*".to_owned()))]);
    let file = File {
        api,
        buildpack: Buildpack { id, version },
        stacks: if has_targets { vec![] } else { vec![any] },
        targets: if has_targets { targets } else { &[] },
    };
    Ok(toml::to_string(&file)?)
}

/// `os[/arch[/variant]][:distro@version]…`, as pack writes it.
fn target(text: &str) -> anyhow::Result<Target> {
    let mut parts = text.split(':');
    let platform = parts.next().unwrap_or_default();
    let fields: Vec<&str> = platform.split('/').collect();
    let plain = |field: &&str| {
        !field.is_empty()
            && field.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    if fields.len() > 3 || !fields.iter().all(plain) {
        bail!("target {text:?}: use OS/ARCH[/VARIANT][:DISTRO@VERSION]");
    }
    let field = |number: usize| fields.get(number).copied().unwrap_or_default().to_owned();
    let distro = |part: &str| {
        let (name, version) = part.split_once('@').unwrap_or((part, ""));
        ensure!(plain(&name), "target {text:?}: {part:?} is no DISTRO@VERSION");
        Ok(cofferdam_cnb::TargetDistro { name: name.to_owned(), version: version.to_owned() })
    };
    let distros = parts.map(distro).collect::<Result<_, _>>()?;
    Ok(Target { os: field(0), arch: field(1), variant: field(2), distros })
}

fn write_new(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("write {}", path.display()))
}

fn package(args: PackageArgs) -> anyhow::Result<ExitCode> {
    let mut operation = Operation::new("buildpackage");
    if let Some(config) = &args.config {
        operation.package_config(config)?;
    } else {
        let directory = args.path.clone().unwrap_or_else(|| PathBuf::from("."));
        let own = directory.join("package.toml");
        if own.exists() {
            operation.package_config(&own)?;
        } else {
            alone(&mut operation, &directory)?;
        }
    }
    let (name, image) = args.outputs()?;
    image.run(name, operation, args.place)
}

/// A package of the one module in a directory.
fn alone(operation: &mut Operation, directory: &Path) -> anyhow::Result<()> {
    let has = |name: &str| directory.join(name).is_file();
    let kind = match (has("buildpack.toml"), has("extension.toml")) {
        (true, _) => "buildpack",
        (false, true) => "extension",
        (false, false) => bail!(
            "{} has neither package.toml nor buildpack.toml nor extension.toml: use --config or --path",
            directory.display()
        ),
    };
    let failed = || format!("look for {}", directory.display());
    let directory = directory.canonicalize().with_context(failed)?;
    let mut module = toml::Table::new();
    let uri = directory.to_str().context("the buildpack's path is not UTF-8")?;
    module.insert("uri".to_owned(), toml::Value::String(uri.to_owned()));
    let table = toml::Table::from_iter([(kind.to_owned(), toml::Value::Table(module))]);
    operation.written_config("package.toml", &toml::to_string(&table)?, &directory)
}

impl PackageArgs {
    /// The image's name, if it has one, and where it goes.
    fn outputs(&self) -> anyhow::Result<(Option<String>, ImageArgs)> {
        let mut image = self.image.clone();
        if self.format == PackageFormat::Image {
            return Ok((Some(self.name.clone()), image));
        }
        ensure!(
            !image.push && !image.load && image.output.is_empty(),
            "--format file writes the file {:?} alone: leave out --push, --load and --output",
            self.name
        );
        ensure!(
            !self.name.contains(['"', '\n', '\r']),
            "the name of the file has characters that it cannot have"
        );
        let path = if Path::new(&self.name).extension().is_some_and(|ending| ending == "cnb") {
            self.name.clone()
        } else {
            format!("{}.cnb", self.name)
        };
        // Quoted as in CSV, for names with commas.
        image.output = vec![format!("type=oci,\"dest={path}\"")];
        Ok((None, image))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use clap::Parser;
    use cofferdam_cnb::{Descriptor, Kind};

    use super::*;

    #[derive(Parser)]
    struct Whole {
        #[command(flatten)]
        args: BuildpackArgs,
    }

    fn parse(text: &str) -> Result<Action, clap::Error> {
        let words = std::iter::once("buildpack").chain(text.split_whitespace());
        Whole::try_parse_from(words).map(|whole| whole.args.action)
    }

    fn make(text: &str) -> anyhow::Result<ExitCode> {
        let Action::New(args) = parse(text).unwrap() else { unreachable!() };
        new(&args)
    }

    #[test]
    fn new_buildpacks_are_buildpacks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let shown = path.display();
        make(&format!("new acme/ruby --path {shown} --targets linux/amd64:debian@12,linux/arm64"))
            .unwrap();
        let bytes = std::fs::read(path.join("buildpack.toml")).unwrap();
        let found = Descriptor::parse(Kind::Buildpack, "buildpack.toml", &bytes).unwrap();
        assert_eq!(found.module().to_string(), "acme/ruby@1.0.0");
        assert_eq!(found.api, ApiVersion::minor(12));
        assert_eq!(found.targets[0].distros[0].version, "12");
        assert_eq!(found.targets[1].arch, "arm64");
        for name in ["detect", "build"] {
            let mode = std::fs::metadata(path.join("bin").join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o111, 0o111 & mode | 0o100, "{name}");
        }
        assert!(make(&format!("new acme/ruby --path {shown}")).is_err(), "already there");
        let old = dir.path().join("old");
        make(&format!("new x --path {} --api 0.9 -V 2.0.0", old.display())).unwrap();
        let bytes = std::fs::read(old.join("buildpack.toml")).unwrap();
        let found = Descriptor::parse(Kind::Buildpack, "buildpack.toml", &bytes).unwrap();
        assert_eq!((found.stacks[0].id.as_str(), found.targets.len()), ("*", 0));
    }

    #[test]
    fn what_is_no_buildpack_is_refused() {
        for text in [
            "new ../x",
            "new a -V 1.0",
            "new a -V 01.0.0",
            "new a -V x",
            "new a --api 0.6",
            "new a --api 1",
            "new a --targets a/b/c/d",
            "new a --targets linux:@1",
        ] {
            assert!(make(&format!("{text} --path /no/such")).is_err(), "{text}");
        }
        assert!(parse("new").is_err() && parse("package").is_err() && parse("inspect").is_err());
        assert!(parse("package x --config a --path b").is_err());
    }

    #[test]
    fn packages_are_images_or_files() {
        let outputs = |text: &str| {
            let Action::Package(args) = parse(text).unwrap() else { unreachable!() };
            args.outputs().map(|(name, image)| (name, image.output))
        };
        let image = outputs("package r.example/x --config p.toml --publish").unwrap();
        assert_eq!(image, (Some("r.example/x".to_owned()), vec![]));
        for name in ["out/x", "out/x.cnb"] {
            let (image, output) = outputs(&format!("package {name} --format file")).unwrap();
            assert_eq!((image, output), (None, vec!["type=oci,\"dest=out/x.cnb\"".to_owned()]));
        }
        assert!(outputs("package x --format file --publish").is_err());
        assert!(outputs("package x\"y --format file").is_err());
    }

    #[test]
    fn a_directory_is_a_package() {
        let dir = tempfile::tempdir().unwrap();
        let mut operation = Operation::new("buildpackage");
        assert!(alone(&mut operation, dir.path()).is_err());
        std::fs::write(dir.path().join("extension.toml"), "").unwrap();
        alone(&mut operation, dir.path()).unwrap();
        assert!(operation.attrs.keys().any(|key| key.starts_with("local:/")));
        let text = std::fs::read_to_string(operation.directories[0].1.join("package.toml"));
        assert!(text.unwrap().starts_with("[extension]\nuri = "));
    }
}
