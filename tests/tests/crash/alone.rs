//! A builder by itself: what is built by it while something of it is killed, and what must be there afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bollard_buildkit_proto::moby::buildkit::v1::PruneRequest;
use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use cofferdam_tests::{Builder, Census, Home, Options, census};
use tonic::transport::Endpoint;

use crate::blobs;
use crate::dice::Dice;
use crate::load::{COMMON, Kind, Known, Running};
use crate::story::Story;
use crate::victims::{self, Victim, settle};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a builder holds what it holds only for the next step of a build: a launch helper's network is given up after 5 s.
const REST: Duration = Duration::from_secs(6);
/// What is made of results: there is no registry to push to.
const KINDS: &[Kind] = &[Kind::Archive, Kind::Anew, Kind::Files];

/// The builder, and what it holds when it builds nothing.
pub(crate) struct Alone {
    builder: Option<Builder>,
    home: Arc<Home>,
    usual: Census,
    /// The last variant that was not a common one.
    variant: u64,
}

impl Alone {
    pub(crate) fn start(known: &mut Known, story: &mut Story) -> Self {
        let builder = Builder::plain();
        let home = builder.home();
        story.keep(home.root().display().to_string(), builder.home());
        let mut alone =
            Self { builder: Some(builder), home, usual: Census::default(), variant: 1_000_000 };
        // What is made once and kept is made before the first look.
        for kind in KINDS {
            alone.build_again(0, *kind, known, story);
        }
        alone.usual = alone.first_look();
        story.tell(format!("a builder holds\n{}", alone.usual.lines()));
        alone
    }

    /// What the builder holds once that has not changed for [`REST`].
    fn first_look(&self) -> Census {
        let (mut last, mut since) = (String::new(), Instant::now());
        settle("a builder without builds", PATIENCE, || {
            let now = self.census();
            victims::whole_builders(&self.members())?;
            if now.lines() != last {
                (last, since) = (now.lines(), Instant::now());
            }
            let at_rest = now.temporary.is_empty() && since.elapsed() >= REST;
            if at_rest { Ok(now) } else { Err(now.lines()) }
        })
    }

    fn builder(&self) -> &Builder {
        self.builder.as_ref().unwrap()
    }

    fn members(&self) -> BTreeMap<i32, String> {
        census::members(self.builder().pid(), &self.home.root())
    }

    fn census(&self) -> Census {
        Census::of(self.builder().pid(), &self.home.root())
    }

    fn begin(&self, variant: u64, kind: Kind) -> Running {
        Running::start(|context| self.builder().build(context), variant, kind)
    }

    /// Builds, kills somebody meanwhile, and looks whether all is well again.
    pub(crate) fn round(
        &mut self,
        round: u64,
        dice: &mut Dice,
        known: &mut Known,
        story: &mut Story,
    ) {
        let mut running = Vec::new();
        for _ in 0..2 + dice.below(2) {
            let variant = if dice.once_in(2) {
                dice.below(COMMON)
            } else {
                self.variant += 1;
                self.variant
            };
            running.push(self.begin(variant, dice.one_of(KINDS)));
        }
        let pruning = dice.once_in(4).then(|| prune(self.builder().address(), dice.moment(800)));
        if dice.once_in(5) {
            running[dice.index(running.len())].interrupt();
        }
        let when = victims::wait(&running, dice);
        let asked = dice.one_of(victims::ALONE);
        let victim = self.kill(asked, dice);
        story.killed(format!("{} of a builder by itself", victim.name()));
        let pruned = if pruning.is_some() { ", cache pruned" } else { "" };
        story.tell(format!("round {round}: {} of a builder, {when}{pruned}", victim.name()));
        for one in running {
            let ended = one.end(PATIENCE);
            assert!(!ended.hung, "a client hangs:\n{}", ended.said);
            if ended.succeeded {
                known.check(&ended, story);
            } else {
                story.count("builds that did not succeed", 1);
            }
        }
        if let Some(pruning) = pruning {
            pruning.join().unwrap();
        }
        if !victim.is_replaced() {
            self.restart(story);
        }
        self.build_again(dice.below(COMMON), Kind::Archive, known, story);
        self.look_at_rest();
    }

    /// Kills whoever was chosen, or the supervisor when there is nobody like that now. Gives who it was.
    fn kill(&self, asked: Victim, dice: &mut Dice) -> Victim {
        let members = self.members();
        if asked == Victim::Everything {
            victims::kill_all(&members);
            return asked;
        }
        if victims::kill(asked, &members, dice) {
            return asked;
        }
        let supervisor = Victim::Role("supervisor");
        assert!(victims::kill(supervisor, &members, dice), "no builder: {members:?}");
        supervisor
    }

    /// Waits for the end of a builder that lost a part of itself, and starts another in its place.
    fn restart(&mut self, story: &mut Story) {
        settle("a builder that lost a part", PATIENCE, || {
            let left = self.members();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
        let home = self.builder.take().unwrap().kill();
        self.builder = Some(Builder::start_in(home, &Options::default()));
        story.count("builders started again", 1);
    }

    /// A build that has to succeed.
    fn build_again(&self, variant: u64, kind: Kind, known: &mut Known, story: &mut Story) {
        known.check(&self.begin(variant, kind).end(PATIENCE), story);
    }

    /// Waits until the builder holds no more than it usually does.
    fn look_at_rest(&self) {
        let usual = &self.usual;
        settle("a builder without builds", PATIENCE, || {
            let now = self.census();
            let same = now.processes == usual.processes
                && now.mounts <= usual.mounts
                && now.groups == usual.groups
                && now.networks == usual.networks
                && now.temporary.is_empty();
            if same { Ok(()) } else { Err(format!("it holds\n{}", now.lines())) }
        });
    }

    /// Compares the cache with a build without it, and hashes every blob.
    pub(crate) fn look_at_everything(&self, dice: &mut Dice, known: &mut Known, story: &mut Story) {
        let variant = dice.below(COMMON);
        for kind in [Kind::Archive, Kind::Anew] {
            self.build_again(variant, kind, known, story);
        }
        story.count("blobs hashed", blobs::check(&self.home.root()));
        self.look_at_rest();
        story.count("times that nothing was left", 1);
    }

    /// Stops the builder and looks whether anything is left.
    pub(crate) fn stop(&mut self, story: &mut Story) {
        story.count("blobs hashed", blobs::check(&self.home.root()));
        let home = self.builder.take().unwrap().stop();
        let left = Census::of(0, &home.root());
        let nothing = left.processes.is_empty() && left.mounts == 0 && left.groups == 0;
        assert!(nothing, "left by a builder:\n{}", left.lines());
    }
}

/// Prunes the cache after a while. The builder may end first.
fn prune(address: String, pause: Duration) -> JoinHandle<()> {
    std::thread::spawn(move || {
        std::thread::sleep(pause);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let Ok(channel) = Endpoint::from_shared(address).unwrap().connect().await else {
                return;
            };
            let request = PruneRequest { all: true, ..PruneRequest::default() };
            let Ok(pruned) = ControlClient::new(channel).prune(request).await else { return };
            let mut pruned = pruned.into_inner();
            while pruned.message().await.is_ok_and(|next| next.is_some()) {}
        });
    })
}
