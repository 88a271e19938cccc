//! One project against another on one server: stores, caches, cache mounts, builds, logs, timing.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use cofferdam_tests::{Context, Outcome, Project, Server};
use serde_json::json;

use crate::attack::{Attack, Control, ONCE, own};
use crate::stage::Stage;

pub(crate) const ATTACKS: &[Attack] = &[
    own(
        "projects",
        "project-stores",
        "one project's builder reading another's store",
        ONCE,
        stores,
        own_store,
    ),
    own(
        "projects",
        "project-cache-keys",
        "timing of a shared cache: what another project built is no hit",
        ONCE,
        keys,
        own_keys,
    ),
    own(
        "projects",
        "project-cache-mounts",
        "cache mounts of another project, by their names",
        ONCE,
        caches,
        own_caches,
    ),
    own(
        "projects",
        "project-pages",
        "the page cache: files of equal layers are not one file",
        ONCE,
        pages,
        own_pages,
    ),
    own(
        "projects",
        "project-records",
        "builds, logs and images of another project with a valid token",
        ONCE,
        records,
        own_records,
    ),
];

/// A server with two projects.
pub(crate) struct Two {
    server: Server,
    victim: Project,
    attacker: Project,
}

impl Two {
    /// Both have a builder, and the victim has built something.
    pub(crate) fn new() -> Self {
        let server = Server::start();
        let (victim, attacker) = (server.project("victim"), server.project("attacker"));
        let two = Self { server, victim, attacker };
        for text in [VICTIMS, FILL] {
            let _ = two.build(&two.victim, text).success();
        }
        let _ = two.build(&two.attacker, "FROM @busybox\nRUN true\n").success();
        two
    }

    fn build(&self, project: &Project, text: &str) -> Outcome {
        self.server.build(project, &Context::dockerfile(text)).run()
    }

    fn store(&self, project: &Project) -> PathBuf {
        let found = find(&self.server.data().path().join("projects").join(&project.id), "store");
        found.unwrap_or_else(|| panic!("no store of {}", project.id))
    }
}

/// The first directory of a name below another.
fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    let below: Vec<PathBuf> = fs::read_dir(directory)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    let here = below.iter().find(|path| path.ends_with(name)).cloned();
    here.or_else(|| below.iter().find_map(|path| find(path, name)))
}

/// What the victim builds: something that tells when it ran.
const VICTIMS: &str =
    "FROM @busybox\nRUN echo work-of-the-victim; head -c 100 /dev/urandom > /random\n";
/// How it fills a cache mount.
const FILL: &str =
    "FROM @busybox\nRUN --mount=type=cache,id=shared,target=/c echo of-the-victim > /c/file\n";
/// How one looks into a cache mount of that name.
const LOOK: &str =
    "FROM @busybox\nRUN --mount=type=cache,id=shared,target=/c ls -A /c; cat /c/file; true\n";

/// Lists a directory as a project's builder would on the host, with the way there already walked.
fn list_as(id: u32, directory: &Path) -> bool {
    let id = id.to_string();
    let words = ["--reuid", &id, "--regid", &id, "--clear-groups", "ls", "-A", "."];
    Command::new("setpriv").args(words).current_dir(directory).output().unwrap().status.success()
}

fn stores(stage: &Stage) -> String {
    let two = stage.projects();
    let [victim, attacker] = [&two.victim, &two.attacker].map(|project| two.store(project));
    let [owner, other] = [&victim, &attacker].map(|store| fs::metadata(store).unwrap().uid());
    assert!(owner != other && owner != 0 && other != 0, "{owner} {other}");
    for id in [other, other + 65_536, 65_534] {
        assert!(!list_as(id, &victim), "{id} reads the store of {owner}");
    }
    let outcome = two
        .build(
            &two.attacker,
            &format!(
                "FROM @busybox\nRUN ls -A {} {}; find / -xdev -name random; true\n",
                victim.display(),
                attacker.display()
            ),
        )
        .success();
    let log = outcome.log("RUN ls");
    assert!(log.matches("No such file").count() == 2 && !log.contains("/random"), "{log}");
    format!("owned by {owner}; {other} and its steps may not list it")
}

fn own_store(stage: &Stage) -> Control {
    let two = stage.projects();
    let store = two.store(&two.victim);
    assert!(list_as(fs::metadata(&store).unwrap().uid(), &store));
    Control::Shown("its own builder lists it".to_owned())
}

fn keys(stage: &Stage) -> String {
    let two = stage.projects();
    let outcome = two.build(&two.attacker, VICTIMS).success();
    assert!(
        outcome.ran().iter().any(|step| step.contains("work-of-the-victim")),
        "{:?} {:?}",
        outcome.ran(),
        outcome.cached()
    );
    "the same instructions ran again".to_owned()
}

fn own_keys(stage: &Stage) -> Control {
    let two = stage.projects();
    let outcome = two.build(&two.victim, VICTIMS).success();
    assert!(outcome.ran().is_empty(), "{:?}", outcome.ran());
    Control::Shown("in the same project they are cached".to_owned())
}

fn caches(stage: &Stage) -> String {
    let two = stage.projects();
    let outcome = two.build(&two.attacker, &LOOK.replace("; true", "; true attacker")).success();
    assert!(!outcome.stderr.contains("of-the-victim"), "{}", outcome.stderr);
    "the cache of that name is empty".to_owned()
}

fn own_caches(stage: &Stage) -> Control {
    let two = stage.projects();
    let outcome = two.build(&two.victim, LOOK).success();
    assert!(outcome.stderr.contains("of-the-victim"), "{}", outcome.stderr);
    Control::Shown("in the same project it is full".to_owned())
}

/// Files of a tree as the kernel tells them apart.
fn inodes(directory: &Path) -> BTreeSet<(u64, u64)> {
    let mut found = BTreeSet::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.path().symlink_metadata() else { continue };
            if metadata.is_dir() {
                todo.push(entry.path());
            } else if metadata.is_file() {
                found.insert((metadata.dev(), metadata.ino()));
            }
        }
    }
    found
}

fn pages(stage: &Stage) -> String {
    let two = stage.projects();
    let [victim, attacker] =
        [&two.victim, &two.attacker].map(|project| inodes(&two.store(project)));
    assert!(victim.len() > 3 && attacker.len() > 3, "{} {}", victim.len(), attacker.len());
    assert_eq!(victim.intersection(&attacker).count(), 0);
    format!("{} and {} files, none shared", victim.len(), attacker.len())
}

fn own_pages(_: &Stage) -> Control {
    let dir = tempfile::tempdir().unwrap();
    let [one, other] = ["one", "other"].map(|name| dir.path().join(name));
    fs::create_dir(&one).unwrap();
    fs::create_dir(&other).unwrap();
    fs::write(one.join("layer"), "x").unwrap();
    fs::hard_link(one.join("layer"), other.join("layer")).unwrap();
    assert_eq!(inodes(&one).intersection(&inodes(&other)).count(), 1);
    Control::Shown("two stores that share a layer are noticed".to_owned())
}

/// What a token gets of a build of the victim's.
fn asked(two: &Two, token: &str) -> Vec<u16> {
    let build = two.server.newest_id(&two.victim);
    let project = &two.victim.id;
    [
        ("depot.core.v1.BuildService/GetBuild", json!({ "buildId": build })),
        ("depot.core.v1.BuildService/ListBuilds", json!({ "projectId": project })),
        (
            "depot.build.v1.BuildService/GetBuildSteps",
            json!({ "projectId": project, "buildId": build, "pageSize": 10 }),
        ),
        ("depot.core.v1.ProjectService/GetProject", json!({ "projectId": project })),
    ]
    .iter()
    .map(|(method, message)| two.server.call_as(token, method, message).status)
    .collect()
}

fn records(stage: &Stage) -> String {
    let two = stage.projects();
    for token in [&two.attacker.token, "", "nonsense", &two.victim.token[..20]] {
        let answers = asked(two, token);
        assert!(answers.iter().all(|status| *status != 200), "{token}: {answers:?}");
    }
    // With the attacker's own project in the path, and the victim's build.
    let build = two.server.newest_id(&two.victim);
    let crossed = json!({ "projectId": two.attacker.id, "buildId": build, "pageSize": 10 });
    let answer = two.server.call_as(
        &two.attacker.token,
        "depot.build.v1.BuildService/GetBuildSteps",
        &crossed,
    );
    assert!(
        answer.status != 200 || !answer.body.to_string().contains("work-of-the-victim"),
        "{}",
        answer.body
    );
    "foreign, missing and nobody's tokens get nothing".to_owned()
}

fn own_records(stage: &Stage) -> Control {
    let two = stage.projects();
    let answers = asked(two, &two.victim.token);
    assert!(answers.contains(&200), "{answers:?}");
    Control::Shown("its own token reads them".to_owned())
}
