//! Builds by buildpacks: base images, buildpacks that a test writes, builder images made of them, and podman, which runs what came
//! out.
//!
//! Base images are a static busybox with the user that the specification wants; they and everything that is pushed are in the one
//! registry of base images, each workshop under a name of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::build::Build;
use crate::builder::{Builder, Options};
use crate::client::Client;
use crate::context::Context;
use crate::image::{Image, digest};
use crate::images;
use crate::outcome::Outcome;
use crate::places::{program, repository};
use crate::registry::Registry;

/// User and group that build, and that own what is built.
pub const OWNER: (u64, u64) = (1001, 1000);

/// Time of everything in a layer that a buildpack made: 1980-01-01T00:00:01Z.
pub const LAYER_TIME: u64 = 315_532_801;

/// A flow, as a test asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// With `--trust-builder`.
    Trusted,
    /// Without.
    Untrusted,
}

/// Both, for tests of what must hold in either.
pub const FLOWS: [Flow; 2] = [Flow::Trusted, Flow::Untrusted];

impl Flow {
    /// `trusted` or `untrusted`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::Untrusted => "untrusted",
        }
    }

    /// The name of the step in which a module detects.
    #[must_use]
    pub fn detect(self, module: &str) -> String {
        match self {
            Self::Trusted => format!("[build] detect {module}"),
            Self::Untrusted => format!("[detect] {module}"),
        }
    }

    /// The name of the step that restores.
    #[must_use]
    pub const fn restore(self) -> &'static str {
        match self {
            Self::Trusted => "[build] restore layers of earlier builds",
            Self::Untrusted => "[restore] layers of earlier builds",
        }
    }
}

/// A builder daemon with a directory of buildpacks.
#[derive(Debug)]
pub struct Workshop {
    builder: Builder,
    dir: TempDir,
    name: String,
}

impl Default for Workshop {
    fn default() -> Self {
        Self::new()
    }
}

impl Workshop {
    /// With a builder daemon that has everything at its default.
    #[must_use]
    pub fn new() -> Self {
        Self::with(&Options::default())
    }

    /// With a builder daemon of one's own.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn with(options: &Options) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("workshop-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        Self { builder: Builder::start(options), dir: tempfile::tempdir().unwrap(), name }
    }

    /// The builder daemon.
    #[must_use]
    pub fn daemon(&self) -> &Builder {
        &self.builder
    }

    /// A path in its directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file, executable when it is in a directory `bin`.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        if name.contains("/bin/") {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        path
    }

    /// Writes a buildpack `test/<name>` of version 1.0.0 whose programs are these shell scripts; gives its directory.
    pub fn buildpack(&self, name: &str, detect: &str, build: &str) -> PathBuf {
        let descriptor = format!(
            "api = \"0.12\"\n[buildpack]\nid = \"test/{name}\"\nversion = \"1.0.0\"\nsbom-formats = [\"application/vnd.cyclonedx+json\"]\n"
        );
        self.module(name, "buildpack", &descriptor, &[("detect", detect), ("build", build)])
    }

    /// Writes a module of this kind (`buildpack`, `extension`) with these programs; gives its directory.
    pub fn module(
        &self,
        name: &str,
        kind: &str,
        descriptor: &str,
        programs: &[(&str, &str)],
    ) -> PathBuf {
        self.write(&format!("{name}/{kind}.toml"), descriptor);
        for (program, script) in programs {
            self.write(&format!("{name}/bin/{program}"), &format!("#!/bin/sh\n{script}\n"));
        }
        self.path(name)
    }

    /// Copies a buildpack of `tests/fixtures/buildpacks`; gives its directory.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn fixture(&self, name: &str) -> PathBuf {
        let from = repository().join("tests/fixtures/buildpacks").join(name);
        copy(&from, &self.path(name));
        self.path(name)
    }

    /// Makes a builder image whose order is one group of these buildpacks; gives its reference.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn image(&self, name: &str, buildpacks: &[&str]) -> String {
        let group: Vec<String> = buildpacks.iter().map(|name| format!("\"test/{name}\"")).collect();
        self.image_with_order(name, buildpacks, &[&group.join(" ")])
    }

    /// Makes a builder image of these buildpacks. A group is ids in quotation marks; `?` after one makes it optional.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn image_with_order(&self, name: &str, buildpacks: &[&str], groups: &[&str]) -> String {
        let mut order = String::new();
        for group in groups {
            order.push_str("[[order]]\n");
            for element in group.split_whitespace() {
                let optional = element.ends_with('?');
                let id = element.trim_end_matches('?');
                order.push_str(&format!("[[order.group]]\nid = {id}\noptional = {optional}\n"));
            }
        }
        let outcome = self.create(name, &format!("{}{order}", modules("buildpacks", buildpacks)));
        let _ = outcome.success();
        self.reference(name)
    }

    /// Makes a builder image from the part of a `builder.toml` that is about modules.
    #[must_use]
    pub fn create(&self, name: &str, modules: &str) -> Outcome {
        self.create_on(&build_base(), &run_base(), name, modules)
    }

    /// Makes one on other base images.
    #[must_use]
    pub fn create_on(&self, build: &str, run: &str, name: &str, modules: &str) -> Outcome {
        let text =
            format!("{modules}\n[build]\nimage = \"{build}\"\n[[run.images]]\nimage = \"{run}\"\n");
        let config = self.write(&format!("{name}.toml"), &text);
        let create = self.command("builder-image create").arg(self.reference(name));
        create.arg("--config").arg(config).arg("--push").run()
    }

    /// `cofferdam` with these words, by this builder daemon.
    #[must_use]
    pub fn command(&self, words: &str) -> Client {
        self.plain_command(words).arg("--addr").arg(self.builder.address())
    }

    /// `cofferdam` with these words, without a builder daemon.
    #[must_use]
    pub fn plain_command(&self, words: &str) -> Client {
        Client::new(program()).args(words)
    }

    /// The registry that everything goes to.
    #[must_use]
    pub fn registry(&self) -> &'static Registry {
        images::registry()
    }

    /// A reference to an image of this workshop.
    #[must_use]
    pub fn reference(&self, name: &str) -> String {
        self.registry().reference(&format!("{}/{name}:1", self.name))
    }

    /// An image of this workshop that was pushed.
    #[must_use]
    pub fn pull(&self, name: &str) -> Image {
        self.registry().pull(&format!("{}/{name}", self.name), "1")
    }

    /// Whether there is such an image.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.registry().manifest(&format!("{}/{name}", self.name), "1").is_some()
    }

    /// A build of an app in a flow, pushed as `app-<flow>`.
    #[must_use]
    pub fn build(&self, app: &Context, builder: &str, flow: Flow) -> Build {
        let build = self.build_as(&format!("app-{}", flow.name()), app, builder);
        match flow {
            Flow::Trusted => build.arg("--trust-builder"),
            Flow::Untrusted => build,
        }
    }

    /// A build of an app, pushed under a name.
    #[must_use]
    pub fn build_as(&self, name: &str, app: &Context, builder: &str) -> Build {
        let build = self.builder.build(app).arg("--builder").arg(builder);
        build.arg("--push").arg("--tag").arg(self.reference(name))
    }

    /// What a build of [`Workshop::build`] pushed.
    #[must_use]
    pub fn app(&self, flow: Flow) -> Image {
        self.pull(&format!("app-{}", flow.name()))
    }
}

/// Entries of `builder.toml` for modules next to it.
#[must_use]
pub fn modules(kind: &str, names: &[&str]) -> String {
    names.iter().map(|name| format!("[[{kind}]]\nuri = \"{name}\"\n")).collect()
}

/// An order of one group, of `test/` buildpacks with these names.
#[must_use]
pub fn order(names: &[&str]) -> String {
    let group: String = names
        .iter()
        .map(|name| format!("[[order.group]]\nid = \"test/{name}\"\nversion = \"1.0.0\"\n"))
        .collect();
    format!("[[order]]\n{group}")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())) {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A label of an image, which is JSON.
///
/// # Panics
/// When it is missing or none.
#[must_use]
pub fn label(image: &Image, name: &str) -> Value {
    let text = image.setting("Labels")[name].as_str();
    let text = text.unwrap_or_else(|| panic!("no label {name}: {}", image.setting("Labels")));
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}: {text}"))
}

/// The image that apps are built in.
#[must_use]
pub fn build_base() -> String {
    bases().reference("cnb/build:1")
}

/// The image that apps run on.
#[must_use]
pub fn run_base() -> String {
    bases().reference("cnb/run:1")
}

fn bases() -> &'static Registry {
    static BASES: OnceLock<()> = OnceLock::new();
    BASES.get_or_init(|| {
        let _ = push_base("cnb/run", &[], "");
        let (user, group) =
            (format!("CNB_USER_ID={}", OWNER.0), format!("CNB_GROUP_ID={}", OWNER.1));
        let _ = push_base("cnb/build", &[&user, &group], "");
    });
    images::registry()
}

/// A Debian with bash in place of busybox: to build in and to run on.
#[must_use]
pub fn debian_base() -> String {
    static DEBIAN: OnceLock<String> = OnceLock::new();
    let (user, group) = (format!("CNB_USER_ID={}", OWNER.0), format!("CNB_GROUP_ID={}", OWNER.1));
    DEBIAN.get_or_init(|| push_root("python", "cnb/debian", &[&user, &group], "")).clone()
}

/// Pushes a base image with further variables, and with a file `/etc/base` of this content, as `name:1`.
#[must_use]
pub fn push_base(name: &str, env: &[&str], content: &str) -> String {
    push_root("busybox", name, env, content)
}

fn push_root(root: &str, name: &str, env: &[&str], content: &str) -> String {
    let (root, mut config) = images::parts(root);
    let tar = user_layer(content);
    let user = images::layer(&tar);
    let mut all = vec![images::PATH];
    all.extend(env);
    config["config"] = json!({
        "Env": all,
        "User": format!("{}:{}", OWNER.0, OWNER.1),
        "Labels": {
            "io.buildpacks.base.distro.name": "test",
            "io.buildpacks.base.distro.version": "1",
        },
    });
    let history = |what: &str| json!({ "created": "2001-01-01T00:00:00Z", "created_by": what });
    config["history"] = json!([history("tests/images/make"), history("the user that builds")]);
    config["rootfs"]["diff_ids"].as_array_mut().unwrap().push(digest(&tar).into());
    images::registry().push_image(name, "1", &[root, user], &config);
    images::registry().reference(&format!("{name}:1"))
}

fn user_layer(content: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, directory: bool, (uid, gid): (u64, u64), text: &str| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(if directory {
            tar::EntryType::Directory
        } else {
            tar::EntryType::Regular
        });
        header.set_mode(if directory { 0o755 } else { 0o644 });
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, path, text.as_bytes()).unwrap();
    };
    // Others than root have to get into the root directory.
    add("./", true, (0, 0), "");
    let (uid, gid) = OWNER;
    let passwd = format!("root:x:0:0::/root:/bin/sh\ncnb:x:{uid}:{gid}::/home/cnb:/bin/sh\n");
    add("etc/passwd", false, (0, 0), &passwd);
    add("etc/group", false, (0, 0), &format!("root:x:0:\ncnb:x:{gid}:\n"));
    add("etc/base", false, (0, 0), content);
    add("home/cnb", true, OWNER, "");
    tar.into_inner().unwrap()
}

/// Debian's podman with storage of its own.
#[derive(Debug)]
pub struct Podman(TempDir);

impl Default for Podman {
    fn default() -> Self {
        Self::new()
    }
}

impl Podman {
    /// An empty one.
    ///
    /// # Panics
    /// Without a place for its storage.
    #[must_use]
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Runs an image and gives what it prints. `flags` are those of `podman run`.
    #[must_use]
    pub fn run(&self, image: &str, flags: &str, args: &[&str]) -> Outcome {
        let mut podman = Client::new("podman");
        podman.file("config.json", "{}");
        for (flag, below) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            podman = podman.arg(flag).arg(self.0.path().join(below));
        }
        // Neither raises limits nor joins a network: both may be refused where tests run.
        podman = podman
            .args("--storage-driver vfs --cgroup-manager cgroupfs --events-backend none --runtime runc")
            .args("run --rm --tls-verify=false --network none --log-driver none")
            .args("--ulimit nofile=1024:1024 --ulimit nproc=1024:1024")
            .args(flags)
            .arg(image);
        args.iter().fold(podman, |podman, arg| podman.arg(arg)).run()
    }
}
