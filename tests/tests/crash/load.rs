//! The builds that run while something is killed, and what their results must be.
//!
//! A build is one of a number of variants. All of a variant's results are the same, whoever makes them and from whatever cache.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cofferdam_tests::{Build, Context, Image, RunningBuild};
use tempfile::TempDir;

use crate::dice::Dice;
use crate::story::Story;

/// Variants that are built again and again; those above are built once or twice.
pub(crate) const COMMON: u64 = 6;
/// The time of everything in an image.
const EPOCH: &str = "1700000000";
/// Bytes of a context's file that do not compress.
const NOISE: usize = 300_000;
/// Longest wait for words of a build.
const WORDS: Duration = Duration::from_secs(2);

/// What becomes of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It is pushed to the project's registry.
    Saved,
    /// An archive, whose digest must be the variant's.
    Archive,
    /// Likewise, made without the cache.
    Anew,
    /// A directory.
    Files,
}

/// The context of a variant. Its first steps are those of others too. A step of which any process is killed fails.
fn recipe(variant: u64) -> Context {
    let context = Context::new(&[]);
    let (shared, pause) = (variant % 3, variant % 4);
    context.write(
        "Dockerfile",
        format!(
            "FROM @busybox AS base\n\
             RUN --mount=type=cache,target=/kept echo {shared} >> /kept/log && seq {shared} 3000 > /numbers\n\
             FROM base AS side\n\
             RUN sha256sum /numbers > /side && head -c 300000 /dev/zero > /zero\n\
             FROM base\n\
             COPY text /text\n\
             COPY dir /dir\n\
             COPY --from=side /side /zero /\n\
             RUN echo step {variant} && sleep 0.{pause} && cat /text /side > /all\n"
        ),
    );
    context.write("text", expected(variant));
    let mut dice = Dice::new(variant);
    let noise: Vec<u8> = (0..NOISE / 8).flat_map(|_| dice.below(u64::MAX).to_le_bytes()).collect();
    context.write("dir/noise", noise);
    for number in 0..20 {
        context.write(&format!("dir/{number}"), format!("{number} of {variant}\n").repeat(50));
    }
    context
}

/// The name of the step that only this variant has, and what it prints.
pub(crate) fn last_step(variant: u64) -> (String, String) {
    (format!("RUN echo step {variant} "), format!("step {variant}"))
}

/// How the file `all` of a variant begins.
pub(crate) fn expected(variant: u64) -> String {
    format!("text of {variant}\n")
}

/// A build under way.
pub(crate) struct Running {
    build: RunningBuild,
    _context: Context,
    out: TempDir,
    variant: u64,
    kind: Kind,
}

impl Running {
    /// Starts a build of a variant; `build` says where a context is built.
    pub(crate) fn start(build: impl FnOnce(&Context) -> Build, variant: u64, kind: Kind) -> Self {
        let context = recipe(variant);
        let out = tempfile::tempdir().unwrap();
        let to = |kind: &str, name: &str, more: &str| {
            format!("type={kind},dest={}{more}", out.path().join(name).display())
        };
        let archive = to("oci", "image.tar", ",rewrite-timestamp=true");
        let build = build(&context).env("SOURCE_DATE_EPOCH", EPOCH);
        let build = match kind {
            Kind::Saved => build.arg("--save"),
            Kind::Archive => build.arg("--output").arg(archive),
            Kind::Anew => build.arg("--no-cache").arg("--output").arg(archive),
            Kind::Files => build.arg("--output").arg(to("local", "files", "")),
        };
        Self { build: build.spawn(), _context: context, out, variant, kind }
    }

    pub(crate) fn interrupt(&self) {
        self.build.interrupt();
    }

    /// Waits for its end; a client that takes longer is killed.
    pub(crate) fn end(self, patience: Duration) -> Ended {
        let hung = self.build.process().wait(patience).is_none();
        if hung {
            self.build.process().kill();
        }
        let outcome = self.build.finish();
        Ended {
            hung,
            succeeded: outcome.code == Some(0),
            said: outcome.stderr,
            out: self.out,
            variant: self.variant,
            kind: self.kind,
        }
    }
}

/// Waits until one of the builds says something, but not for long.
pub(crate) fn until_said(running: &[Running], text: &str) {
    let begun = Instant::now();
    while begun.elapsed() < WORDS && !running.iter().any(|one| one.build.said().contains(text)) {
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// A build whose client has ended.
pub(crate) struct Ended {
    pub(crate) variant: u64,
    pub(crate) kind: Kind,
    /// Whether its client said that it succeeded.
    pub(crate) succeeded: bool,
    /// Whether its client had to be killed.
    pub(crate) hung: bool,
    /// All that its client said.
    pub(crate) said: String,
    out: TempDir,
}

impl Ended {
    /// Whether its server knows of the success too: a client says when it could not be told.
    pub(crate) fn was_reported(&self) -> bool {
        self.succeeded && !self.said.contains("was not reported")
    }

    /// The build's id, from the address of its page.
    pub(crate) fn id(&self) -> Option<String> {
        let page = self.said.lines().find_map(|line| line.strip_prefix("Build: "))?;
        page.rsplit('/').next().map(str::to_owned)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.out.path().join(name)
    }
}

/// Digests of variants as they came out first.
#[derive(Debug, Default)]
pub(crate) struct Known(BTreeMap<u64, String>);

impl Known {
    /// Compares what a successful build left here with what its variant is.
    pub(crate) fn check(&mut self, ended: &Ended, story: &mut Story) {
        let variant = ended.variant;
        assert!(ended.succeeded, "a build of {variant}:\n{}", ended.said);
        match ended.kind {
            // It is in the registry.
            Kind::Saved => {}
            Kind::Files => {
                let all = fs::read_to_string(ended.path("files/all")).unwrap();
                assert!(all.starts_with(&expected(variant)), "files of {variant}: {all}");
                story.count("directories read", 1);
            }
            Kind::Archive | Kind::Anew => {
                let image = Image::from_oci_archive(&ended.path("image.tar"));
                assert!(image.text("all").starts_with(&expected(variant)), "image of {variant}");
                let digest = image.manifest_digest;
                let first = self.0.entry(variant).or_insert_with(|| digest.clone());
                assert_eq!(*first, digest, "{:?} of {variant}:\n{}", ended.kind, ended.said);
                let what = match ended.kind {
                    Kind::Anew => "images made without the cache",
                    _ => "images made with the cache",
                };
                story.count(what, 1);
            }
        }
    }
}
