//! A server with some projects: what is built on it while something of it is killed, and what must be there afterwards.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cofferdam_tests::http::request;
use cofferdam_tests::{
    Census, Context, Data, Image, Process, Project, Server, census, program, registry,
};
use serde_json::json;

use crate::blobs;
use crate::dice::Dice;
use crate::load::{COMMON, Ended, Kind, Known, Running, expected, last_step};
use crate::story::Story;
use crate::victims::{self, Victim, await_for, settle};

/// Builders go soon, so that they are also killed while they start and while they end. One more project than these makes one of
/// them go at once.
const CONFIG: &str = "drain_seconds = 5\n[builders]\nidle_seconds = 2\nmost = 3\n";
/// Projects that live as long as the run.
const PROJECTS: &[&str] = &["first", "second", "third"];
/// Earlier builds that are looked at again after each kill, and when everything is looked at.
const AGAIN: usize = 2;
const SAMPLE: usize = 40;
/// How long clients of a server that is gone may hope for it.
const HOPE: Duration = Duration::from_secs(1);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Attempts of a build after a kill: a builder that is on its way out may still take the first.
const ATTEMPTS: usize = 3;

const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// What else happened in a round, where that ends builds.
const RESET: &str = ", a cache reset";

/// A build whose client was told that it succeeded.
#[derive(Debug, Clone)]
struct Finished {
    id: String,
    project: usize,
    variant: u64,
    saved: bool,
    /// Whether nothing but the server or a step was disturbed while it ran. The last reports of a builder that is killed, or has to
    /// go, after its client got the result are lost.
    whole: bool,
}

/// The server, and what is known of it.
pub(crate) struct Served {
    server: Option<Server>,
    data: Arc<Data>,
    projects: Vec<Project>,
    finished: Vec<Finished>,
    /// Projects that were deleted.
    deleted: Vec<String>,
    /// What a new server holds.
    fresh: Census,
    /// Directories of control groups of one builder that builds nothing.
    groups: Option<usize>,
    /// The last variant that was not a common one.
    variant: u64,
}

impl Served {
    pub(crate) fn start(story: &mut Story) -> Self {
        let data = Data::new();
        story.keep(data.path().display().to_string(), data.clone());
        let server = Server::start_in(Arc::clone(&data), CONFIG);
        let fresh = Census::of(server.pid(), &data.path());
        story.tell(format!("a new server holds\n{}", fresh.lines()));
        let projects = PROJECTS.iter().map(|name| server.project(name)).collect();
        Self {
            server: Some(server),
            data,
            projects,
            finished: Vec::new(),
            deleted: Vec::new(),
            fresh,
            groups: None,
            variant: 1000,
        }
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    fn members(&self) -> BTreeMap<i32, String> {
        census::members(self.server().pid(), &self.data.path())
    }

    fn begin(&self, project: usize, variant: u64, kind: Kind) -> Running {
        Running::start(
            |context| self.server().build(&self.projects[project], context),
            variant,
            kind,
        )
    }

    /// Builds, kills somebody meanwhile, and looks whether all is well again.
    pub(crate) fn round(
        &mut self,
        round: u64,
        dice: &mut Dice,
        known: &mut Known,
        story: &mut Story,
    ) {
        let mut projects = Vec::new();
        let mut running = Vec::new();
        for _ in 0..2 + dice.below(3) {
            let project = dice.index(self.projects.len());
            let variant = if dice.once_in(2) {
                dice.below(COMMON)
            } else {
                self.variant += 1;
                self.variant
            };
            let kinds = [Kind::Saved, Kind::Saved, Kind::Archive, Kind::Anew, Kind::Files];
            running.push(self.begin(project, variant, dice.one_of(&kinds)));
            projects.push(project);
        }
        let more = self.meddle(dice, &running);
        let when = victims::wait(&running, dice);
        let asked = dice.one_of(victims::SERVED);
        let victim = self.kill(asked, dice);
        story.killed(victim.name());
        story.tell(format!("round {round}: {} of a server, {when}{more}", victim.name()));
        let server = matches!(victim, Victim::Server | Victim::Startup);
        let whole = (server || victim.is_replaced()) && more != RESET;
        let patience = if victim.is_server() { HOPE } else { PATIENCE };
        let deadline = Instant::now() + patience;
        let mut new = Vec::new();
        for (one, project) in running.into_iter().zip(projects) {
            let ended = one.end(deadline.saturating_duration_since(Instant::now()));
            assert!(!ended.hung || victim.is_server(), "a client hangs:\n{}", ended.said);
            new.extend(finished(&ended, project, whole, known, story));
        }
        if victim.is_server() {
            self.restart(story);
        }
        self.look(new, dice, known, story);
    }

    /// What else may happen beside builds: a client gives up, a cache is reset, a project is deleted.
    fn meddle(&mut self, dice: &mut Dice, running: &[Running]) -> &'static str {
        let pause = dice.moment(300);
        if dice.once_in(4) {
            std::thread::sleep(pause);
            running[dice.index(running.len())].interrupt();
            ", one interrupted"
        } else if dice.once_in(8) {
            std::thread::sleep(pause);
            let project = &self.projects[dice.index(self.projects.len())];
            let reset = json!({ "projectId": project.id });
            let _ = self.server().call("depot.core.v1.ProjectService/ResetProject", &reset).ok();
            RESET
        } else if dice.once_in(8) {
            let project = self.server().project("short-lived");
            let build = |context: &Context| self.server().build(&project, context);
            let doomed = Running::start(build, dice.below(COMMON), Kind::Saved);
            std::thread::sleep(pause * 3);
            let deleted = json!({ "projectId": project.id });
            let method = "depot.core.v1.ProjectService/DeleteProject";
            let _ = self.server().call(method, &deleted).ok();
            self.deleted.push(project.id);
            // Its client is told, or dies with this.
            let _ = doomed.end(Duration::from_millis(100));
            ", a project deleted"
        } else {
            ""
        }
    }

    /// Kills whoever was chosen, or the server when there is nobody like that now. Gives who it was.
    fn kill(&mut self, asked: Victim, dice: &mut Dice) -> Victim {
        let members = self.members();
        if !asked.is_server() && victims::kill(asked, &members, dice) {
            return asked;
        }
        let server = self.server.take().unwrap();
        if asked == Victim::Everything {
            victims::kill_all(&members);
        }
        let _ = server.kill();
        match asked {
            Victim::Startup => {
                let mut command = Command::new(program());
                command
                    .args(["server", "--listen", "127.0.0.1:0", "--data-dir"])
                    .arg(self.data.path())
                    .arg("--config")
                    .arg(self.data.file("server.toml"))
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null());
                let second = Process::start(command);
                std::thread::sleep(dice.moment(400));
                second.kill();
                Victim::Startup
            }
            Victim::Everything => Victim::Everything,
            _ => Victim::Server,
        }
    }

    fn restart(&mut self, story: &mut Story) {
        self.server = Some(Server::start_in(Arc::clone(&self.data), CONFIG));
        story.count("servers started again", 1);
    }

    /// Looks at what the last kill can have touched.
    fn look(&mut self, new: Vec<Finished>, dice: &mut Dice, known: &mut Known, story: &mut Story) {
        settle("processes of the server", PATIENCE, || victims::whole_builders(&self.members()));
        for one in new {
            let listed = self.server().builds(&self.projects[one.project]);
            let listed = listed.iter().find(|build| build["buildId"] == *one.id);
            let listed = listed.unwrap_or_else(|| panic!("{one:?} is not listed"));
            // A client whose success is recorded as another end says that it was not reported.
            assert_eq!(listed["status"], "STATUS_SUCCESS", "{one:?}: {listed}");
            self.check(&one, story);
            self.finished.push(one);
        }
        for _ in 0..AGAIN.min(self.finished.len()) {
            let one = self.finished[dice.index(self.finished.len())].clone();
            self.check(&one, story);
        }
        let project = dice.index(self.projects.len());
        self.build_again(project, dice.below(COMMON), Kind::Archive, known, story);
        self.check_groups();
    }

    /// A build that has to succeed.
    fn build_again(
        &self,
        project: usize,
        variant: u64,
        kind: Kind,
        known: &mut Known,
        story: &mut Story,
    ) {
        for attempt in 1..=ATTEMPTS {
            let ended = self.begin(project, variant, kind).end(PATIENCE);
            if ended.succeeded || attempt == ATTEMPTS {
                known.check(&ended, story);
                break;
            }
            story.tell(format!("attempt {attempt} failed:\n{}", ended.said));
            story.count("builds tried again after a kill", 1);
        }
    }

    /// Every builder has the groups that one without builds has, and nobody else has any.
    fn check_groups(&mut self) {
        let (groups, builders) = settle("control groups", PATIENCE, || {
            let members = self.members();
            let builders = victims::whole_builders(&members)?;
            let found = census::groups(&members, &self.data.path());
            let most = self.groups.unwrap_or(usize::MAX).saturating_mul(builders);
            // A group of a step may have been there when they were counted first, but of half a builder there is none.
            if found.len() <= most && found.len().is_multiple_of(builders.max(1)) {
                Ok((found.len(), builders))
            } else {
                Err(format!("{builders} builders have {found:?}, one has {:?}", self.groups))
            }
        });
        self.groups = groups.checked_div(builders).or(self.groups);
    }

    /// A build that was finished is still there, with all that belongs to it.
    fn check(&self, one: &Finished, story: &mut Story) {
        let (server, project) = (self.server(), &self.projects[one.project]);
        let asked = json!({ "buildId": one.id });
        let build = server.call("depot.core.v1.BuildService/GetBuild", &asked).ok();
        assert_eq!(build["build"]["status"], "STATUS_SUCCESS", "{one:?}: {build}");
        let steps = server.steps(project, &one.id);
        if one.whole {
            let (name, printed) = last_step(one.variant);
            let of_name = |step: &&serde_json::Value| {
                step["name"].as_str().is_some_and(|known| known.contains(&name))
            };
            let step = steps.iter().find(of_name);
            let step = step.unwrap_or_else(|| panic!("{one:?} lost a step: {steps:?}"));
            assert!(step["completedAt"].is_string() && step["error"].is_null(), "{one:?}: {step}");
            if step["hasLogs"] == true {
                let lines = server.logs(project, &one.id, step["digest"].as_str().unwrap());
                assert!(lines.contains(&printed), "{one:?} lost its log: {lines:?}");
                story.count("logs read", 1);
            }
        }
        story.count("finished builds looked at", 1);
        if one.saved {
            // Every digest is computed again from what arrives.
            let image = self.pull(project, &one.id);
            assert!(image.text("all").starts_with(&expected(one.variant)), "{one:?}");
            story.count("images pulled", 1);
        }
    }

    fn pull(&self, project: &Project, tag: &str) -> Image {
        let authorization = registry::basic("x-token", &project.token);
        let headers = [("Authorization", &*authorization), ("Accept", MANIFESTS)];
        let get = |path: String| {
            let url = format!("{}/v2/{}/{path}", self.server().url(), project.id);
            let response = request("GET", &url, &headers, b"");
            (response.status == 200).then_some(response.body)
        };
        let outer = get(format!("manifests/{tag}")).unwrap_or_else(|| panic!("{tag} is gone"));
        Image::read(outer, &|digest| {
            get(format!("manifests/{digest}"))
                .or_else(|| get(format!("blobs/{digest}")))
                .unwrap_or_else(|| panic!("{digest} of {tag} is gone"))
        })
    }

    /// Looks at all there is: every project's cache against builds without it, every blob, and what is left on the host when
    /// nothing is built.
    pub(crate) fn look_at_everything(&self, dice: &mut Dice, known: &mut Known, story: &mut Story) {
        for project in 0..self.projects.len() {
            let variant = dice.below(COMMON);
            for kind in [Kind::Archive, Kind::Anew] {
                self.build_again(project, variant, kind, known, story);
            }
        }
        for _ in 0..SAMPLE.min(self.finished.len()) {
            let one = self.finished[dice.index(self.finished.len())].clone();
            self.check(&one, story);
        }
        story.count("blobs hashed", blobs::check(&self.data.path()));
        if let Err(trouble) = self.rest(PATIENCE / 3) {
            // What a builder could not delete before it went is deleted by the next one.
            story.tell(format!("once more, a server without builds: {trouble}"));
            for project in 0..self.projects.len() {
                self.build_again(project, dice.below(COMMON), Kind::Archive, known, story);
            }
            self.rest(PATIENCE).unwrap_or_else(|trouble| panic!("left by builders: {trouble}"));
        }
        self.look_for_deleted();
        story.count("times that nothing was left", 1);
    }

    /// Waits until the builders are gone, and with them all that they held.
    fn rest(&self, patience: Duration) -> Result<(), String> {
        let fresh = &self.fresh;
        await_for(patience, || {
            let now = Census::of(self.server().pid(), &self.data.path());
            let same = now.processes == fresh.processes
                && now.mounts == fresh.mounts
                && now.groups == fresh.groups
                && now.networks == fresh.networks
                && now.temporary == fresh.temporary;
            if same { Ok(()) } else { Err(format!("it holds\n{}", now.lines())) }
        })
    }

    /// Waits until nothing of deleted projects is on the disk.
    fn look_for_deleted(&self) {
        let left = |id: &String| -> Vec<PathBuf> {
            let places = ["projects", "logs", "registry"].map(|part| self.data.path().join(part));
            places.map(|place| place.join(id)).into_iter().filter(|path| path.exists()).collect()
        };
        settle("deleted projects", PATIENCE, || {
            let left: Vec<PathBuf> = self.deleted.iter().flat_map(left).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
    }

    /// Looks at every build of the run, stops the server, and looks whether anything is left.
    pub(crate) fn stop(&mut self, story: &mut Story) {
        for one in &self.finished {
            self.check(one, story);
        }
        let data = self.server.take().unwrap().stop();
        let left = Census::of(0, &data.path());
        let nothing = left.processes.is_empty() && left.mounts == 0 && left.groups == 0;
        assert!(nothing && left.temporary.is_empty(), "left by a server:\n{}", left.lines());
    }
}

/// What is to be remembered of a build that ended.
fn finished(
    ended: &Ended,
    project: usize,
    whole: bool,
    known: &mut Known,
    story: &mut Story,
) -> Option<Finished> {
    if !ended.succeeded {
        story.count("builds that did not succeed", 1);
        return None;
    }
    known.check(ended, story);
    if !ended.was_reported() {
        story.count("successes that the server does not know as such", 1);
        return None;
    }
    let (variant, saved) = (ended.variant, ended.kind == Kind::Saved);
    let id = ended.id().unwrap_or_else(|| panic!("no page:\n{}", ended.said));
    Some(Finished { id, project, variant, saved, whole })
}
