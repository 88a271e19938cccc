//! What attacks are tried on: a builder at one level, the probe in a context, and what was planted around it.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::OnceLock;

use cofferdam_tests::{Build, Builder, Context, Options, Outcome, repository};

use crate::attack::Level;
use crate::cage::{Cage, Devices};
use crate::planted::Planted;
use crate::projects::Two;

/// The program that tries things inside, built together with this test.
pub(crate) const PROBE: &str = env!("CARGO_BIN_EXE_walls-probe");

/// A builder at a level, with what surrounds it.
pub(crate) struct Stage {
    pub(crate) level: Level,
    pub(crate) builder: Builder,
    pub(crate) planted: &'static Planted,
    inside: OnceCell<Findings>,
    contexts: RefCell<Vec<Context>>,
    projects: OnceCell<Two>,
}

impl Stage {
    /// Starts a builder at a level.
    pub(crate) fn new(level: Level) -> Self {
        let builder = Builder::start(&options(level));
        let stage = Self {
            level,
            builder,
            planted: Planted::get(),
            inside: OnceCell::new(),
            contexts: RefCell::default(),
            projects: OnceCell::new(),
        };
        stage.is_what_it_says();
        stage
    }

    /// A level that quietly is another one would let every row pass.
    fn is_what_it_says(&self) {
        let outcome = self.run("RUN uname -r").success();
        let release = outcome.log("RUN uname");
        let host = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let same = release.trim() == host.trim();
        assert_eq!(
            same,
            self.level == Level::Namespaces,
            "{}: its kernel is {release}",
            self.level
        );
    }

    /// A context whose Dockerfile stands on busybox with the probe, as `/walls/probe`.
    pub(crate) fn context(&self, tail: &str) -> Context {
        context(&self.planted.paths(), tail)
    }

    /// A build of such a context by this builder.
    pub(crate) fn build(&self, tail: &str) -> Build {
        let context = self.context(tail);
        let build = self.builder.build(&context);
        // The directory has to be there until the build ends.
        self.contexts.borrow_mut().push(context);
        build
    }

    /// Runs one.
    pub(crate) fn run(&self, tail: &str) -> Outcome {
        self.build(tail).run()
    }

    /// What a step of this stage prints.
    pub(crate) fn step(&self, command: &str) -> String {
        self.run(&format!("RUN {command}")).success().last_log("RUN ")
    }

    /// Two projects of a server.
    pub(crate) fn projects(&self) -> &Two {
        self.projects.get_or_init(Two::new)
    }

    /// What the probe found in a step.
    pub(crate) fn inside(&self) -> &Findings {
        self.inside.get_or_init(|| {
            let facts = self.planted.facts(&self.builder).join(" ");
            Findings::read(&self.step(&format!("/walls/probe inside {facts}")))
        })
    }

    /// What the same probe found in a plain chroot.
    pub(crate) fn outside(&self) -> &'static Findings {
        static OUTSIDE: OnceLock<Findings> = OnceLock::new();
        OUTSIDE.get_or_init(|| {
            let facts = self.planted.facts(&self.builder);
            let words: Vec<&str> =
                ["inside"].into_iter().chain(facts.iter().map(String::as_str)).collect();
            // A careless runtime lends the directory with the daemon's socket.
            let socket = self.builder.address();
            let lent = std::path::Path::new(socket.trim_start_matches("unix://")).parent().unwrap();
            Findings::read(&Cage::get().probe(Devices::Hosts, &[lent], &words))
        })
    }

    /// Nothing that was planted has changed, and the builder goes on.
    pub(crate) fn unharmed(&self) {
        self.planted.unchanged();
        let next =
            self.builder.build(&Context::dockerfile("FROM scratch\nLABEL next=works\n")).run();
        assert_eq!(next.code, Some(0), "the next build fails: {}", next.stderr);
    }
}

/// A builder at this level with everything else at its default.
pub(crate) fn options(level: Level) -> Options {
    let mut options = Options::default();
    if level != Level::Namespaces {
        options.args = vec!["--isolation".into(), level.name().into()];
    }
    if level == Level::Vm {
        options.config = machine();
    }
    options
}

/// Where tests run there is no second layer of hardware support; what is emulated has the same walls. The kernel is the one that
/// `make kernel` unpacks, or the machine's own.
fn machine() -> String {
    let mut text = "[isolation.vm]\naccelerator = \"tcg\"\n".to_owned();
    let kernels = repository().join("target/test-kernel");
    for (key, below) in [("kernel", "boot"), ("modules", "lib/modules")] {
        let entries = fs::read_dir(kernels.join(below)).into_iter().flatten().flatten();
        let found = entries
            .map(|entry| entry.path())
            .find(|path| key == "modules" || path.to_string_lossy().contains("vmlinuz"));
        if let Some(path) = found {
            text.push_str(&format!("{key} = \"{}\"\n", path.display()));
        }
    }
    text
}

/// A context with the probe, its libraries and, at the planted paths, files of the same names with other content.
pub(crate) fn context(planted: &[String], tail: &str) -> Context {
    let context =
        Context::new(&[("Dockerfile", &format!("FROM @busybox\nCOPY rootfs /\n{tail}\n"))]);
    for (path, bytes) in files() {
        let inside = format!("rootfs{path}");
        context.write(&inside, bytes).mode(&inside, 0o755);
    }
    for path in planted {
        context.write(&format!("rootfs{path}"), "of the step");
    }
    context.write("rootfs/walls/read-only", "of the image").write("rootfs/mnt/.keep", "");
    context
}

/// The probe and what it is linked with, by path.
pub(crate) fn files() -> &'static [(String, Vec<u8>)] {
    static FILES: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();
    FILES.get_or_init(|| {
        let listed = Command::new("ldd").arg(PROBE).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let words = listed.split_whitespace().filter(|word| word.starts_with('/'));
        let mut files = vec![("/walls/probe".to_owned(), fs::read(PROBE).unwrap())];
        files.extend(words.map(|path| (path.to_owned(), fs::read(path).unwrap())));
        files
    })
}

/// Puts [`files`] below a directory.
pub(crate) fn install(root: &std::path::Path) {
    for (path, bytes) in files() {
        let target = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(&target, bytes).unwrap();
        fs::set_permissions(target, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// What the probe said, by key.
#[derive(Debug)]
pub(crate) struct Findings(BTreeMap<String, (bool, String)>);

impl Findings {
    pub(crate) fn read(text: &str) -> Self {
        let line = |line: &str| {
            let (key, rest) = line.strip_prefix("wall ")?.split_once(' ')?;
            let (word, detail) = rest.split_once(": ").unwrap_or((rest.trim_end_matches(':'), ""));
            Some((key.to_owned(), (word == "breached", detail.to_owned())))
        };
        let found = Self(text.lines().filter_map(line).collect());
        assert!(!found.0.is_empty(), "the probe said nothing: {text}");
        found
    }

    fn get(&self, key: &str) -> &(bool, String) {
        self.0.get(key).unwrap_or_else(|| panic!("the probe did not try {key}"))
    }

    /// Panics unless every one was held; says what they met.
    pub(crate) fn held(&self, keys: &[&str]) -> String {
        let seen: Vec<String> =
            keys.iter().map(|key| format!("{key}: {}", self.get(key).1)).collect();
        let breached: Vec<&String> = keys
            .iter()
            .zip(&seen)
            .filter(|(key, _)| self.get(key).0)
            .map(|(_, seen)| seen)
            .collect();
        assert!(breached.is_empty(), "breached: {breached:?}");
        seen.join(", ")
    }

    /// Panics unless one was breached; says how many.
    pub(crate) fn breached(&self, keys: &[&str]) -> String {
        let (yes, no): (Vec<&&str>, Vec<&&str>) = keys.iter().partition(|key| self.get(key).0);
        assert!(!yes.is_empty(), "in a plain chroot none of {keys:?} works");
        match no.as_slice() {
            [] => format!("{} of {} in a plain chroot", yes.len(), keys.len()),
            no => format!("{} of {} in a plain chroot; not {no:?}", yes.len(), keys.len()),
        }
    }

    /// Every key that was tried.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}
