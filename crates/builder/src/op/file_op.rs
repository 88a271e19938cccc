//! The file operation: a chain of file actions that share one new layer.
//!
//! An action's base and source are numbered through the op's inputs first and then the results
//! of earlier actions. A result that only one later action builds upon stays writable and grows;
//! any other is committed, so that nobody sees half of it.

use std::sync::Arc;

use buffa::Message;
use cofferdam_digest::{Digest, Digester};
use cofferdam_graph::Vertex;
use cofferdam_solver::Step;
use cofferdam_store::{Store, Tree, mount_tree};
use cofferdam_wire::pb;
use cofferdam_wire::pb::__buffa::oneof::{file_action::Action, user_opt::User};

use super::exec_limits::disk_is_low;
use super::file::{self, Copying, EarlierCopies, Maker};
use super::past_overlay::{has_room, is_apart};
use crate::blocking::{blocking, give_back};
use crate::context::Context;
use crate::failure::Failure;
use crate::remains::{Remains, Subject};
use crate::rooted::Root;
use crate::snapshot::{Snapshot, Workspace};
use crate::user::{resolve_group, resolve_owner};

enum State {
    Growing(Box<Workspace>),
    Committed(Tree),
    Consumed,
}

/// Runs the actions and returns the op's outputs.
pub(crate) async fn execute(
    context: &Arc<Context>,
    vertex: &Arc<Vertex>,
    op: &pb::FileOp,
    inputs: Vec<Snapshot>,
    step: &Step,
) -> Result<Vec<Snapshot>, Failure> {
    let mut views = Vec::with_capacity(inputs.len());
    let mut trees = Vec::with_capacity(inputs.len());
    for (index, input) in inputs.iter().enumerate() {
        let is_base = op.actions.iter().any(|action| action.input == index as i64);
        trees.push(if is_base { Some(input.tree().await?) } else { None });
        views.push(if is_read(op, index as i64) { Some(input.view().await?) } else { None });
    }
    let run = Run {
        store: Arc::clone(&context.store),
        name: vertex.name(),
        op: op.clone(),
        trees,
        views,
        states: Vec::new(),
        below: None,
        is_bare: false,
        mirror: mirror_of(op, &inputs),
        earlier: Arc::clone(&context.earlier_copies),
        copying: None,
        explores: context.builds_of(step).iter().any(|build| build.explores),
    };
    match blocking(move || run.actions()).await? {
        Ok(outputs) => Ok(outputs.into_iter().map(Snapshot::committed).collect()),
        Err(failed) => {
            if failed.left.is_empty() {
                // What was written is gone: it may be what filled the disk.
                give_back(&context.store, ()).await;
            }
            Err(failed.failure.leaving(Remains {
                inputs: inputs.into_iter().map(Some).collect(),
                mounts: failed.left.into_iter().map(|tree| tree.map(Snapshot::committed)).collect(),
                subject: Subject::Action(failed.action),
            }))
        }
    }
}

/// An action that failed, and what each action had made by then, if it is kept.
struct Failed {
    failure: Failure,
    action: usize,
    left: Vec<Option<Tree>>,
}

/// Whether files of input `index` are read: as a source or as a user database.
fn is_read(op: &pb::FileOp, index: i64) -> bool {
    op.actions.iter().any(|action| {
        action.secondaryInput == index
            || owner_of(action).is_some_and(|owner| {
                [owner.user.as_option(), owner.group.as_option()].into_iter().flatten().any(
                    |user| matches!(&user.user, Some(User::ByName(name)) if name.input == index),
                )
            })
    })
}

/// The mirror that the only action copies from.
fn mirror_of(op: &pb::FileOp, inputs: &[Snapshot]) -> Option<String> {
    let [action] = op.actions.as_slice() else { return None };
    inputs.get(usize::try_from(action.secondaryInput).ok()?)?.mirror_id()
}

/// Stands for all that decides what becomes of a mirror's file: from equal ones a copy makes equal ones.
fn name_of(mirror: &str, copy: &pb::FileActionCopy, maker: Maker) -> Digest {
    let mut digester = Digester::new();
    digester.field(mirror);
    digester.field(copy.encode_to_vec());
    let (user, group) = maker.owner.unzip();
    for id in [user, group, Some(maker.root.0), Some(maker.root.1)] {
        digester.field(id.map_or_else(Vec::new, |id| id.to_le_bytes().to_vec()));
    }
    digester.finish()
}

fn owner_of(action: &pb::FileAction) -> Option<&pb::ChownOpt> {
    match &action.action {
        Some(Action::Copy(copy)) => copy.owner.as_option(),
        Some(Action::Mkfile(mkfile)) => mkfile.owner.as_option(),
        Some(Action::Mkdir(mkdir)) => mkdir.owner.as_option(),
        Some(Action::Symlink(symlink)) => symlink.owner.as_option(),
        _ => None,
    }
}

struct Run {
    store: Arc<Store>,
    name: String,
    op: pb::FileOp,
    trees: Vec<Option<Tree>>,
    views: Vec<Option<Arc<Root>>>,
    states: Vec<State>,
    /// What the only action's result lies upon, when it is made without ever having a view of that.
    below: Option<Tree>,
    /// Whether the only action writes past the overlay.
    is_bare: bool,
    /// The mirror that the only action copies from.
    mirror: Option<String>,
    earlier: Arc<EarlierCopies>,
    /// The copy that is made of it.
    copying: Option<Copying>,
    explores: bool,
}

impl Run {
    fn actions(mut self) -> Result<Vec<Tree>, Failed> {
        let op = self.op.clone();
        for (index, action) in op.actions.iter().enumerate() {
            let (workspace, done) = match self.base(action) {
                Ok(workspace) => {
                    let done = self.act(action, &workspace);
                    (Some(workspace), done)
                }
                Err(failure) => (None, Err(failure)),
            };
            self.states.push(match workspace {
                Some(workspace) => State::Growing(Box::new(workspace)),
                None => State::Consumed,
            });
            if let Err(failure) = done {
                return Err(self.failed(index, failure));
            }
        }
        let last = op.actions.len().saturating_sub(1);
        self.outputs().map_err(|failure| Failed { failure, action: last, left: Vec::new() })
    }

    /// The failure of an action with what there is by now. Trouble leaves an action out.
    fn failed(mut self, action: usize, failure: Failure) -> Failed {
        // As after a step: what filled the disk is not kept to be looked at.
        let keeps = self.explores && disk_is_low(self.store.path()).is_none();
        let count = if keeps { self.op.actions.len() } else { 0 };
        let left = (0..count).map(|index| {
            let made = index < self.states.len();
            made.then(|| self.committed(index).ok()).flatten()
        });
        let left = left.collect();
        Failed { failure, action, left }
    }

    fn outputs(&mut self) -> Result<Vec<Tree>, Failure> {
        let op = self.op.clone();
        let mut outputs = Vec::new();
        for (index, action) in op.actions.iter().enumerate() {
            let Ok(output) = usize::try_from(action.output) else { continue };
            let tree = self.committed(index)?;
            outputs.resize(outputs.len().max(output + 1), Tree::scratch());
            outputs[output] = tree;
        }
        Ok(outputs)
    }

    /// How often the result of action `index` is used by others.
    fn uses(&self, index: usize) -> usize {
        let number = (self.trees.len() + index) as i64;
        let used = |action: &pb::FileAction| {
            usize::from(action.input == number) + usize::from(action.secondaryInput == number)
        };
        let as_output = usize::from(self.op.actions[index].output >= 0);
        self.op.actions.iter().map(used).sum::<usize>() + as_output
    }

    fn base(&mut self, action: &pb::FileAction) -> Result<Workspace, Failure> {
        let input = action.input;
        let tree = match usize::try_from(input) {
            Err(_) => Tree::scratch(),
            Ok(index) if index < self.trees.len() => {
                self.trees[index].clone().ok_or_else(|| invalid_input(input))?
            }
            Ok(index) => {
                let index = index - self.trees.len();
                if index >= self.states.len() {
                    return Err(invalid_input(input));
                }
                if self.uses(index) == 1 {
                    match std::mem::replace(&mut self.states[index], State::Consumed) {
                        State::Growing(workspace) => return Ok(*workspace),
                        other => self.states[index] = other,
                    }
                }
                self.committed(index)?
            }
        };
        let is_alone = self.op.actions.len() == 1;
        if is_alone && is_apart(&tree, action) {
            (self.below, self.is_bare) = (Some(tree), true);
            return Workspace::new(&self.store, Tree::scratch(), &self.name);
        }
        let workspace = Workspace::new(&self.store, tree, &self.name)?;
        if is_alone && has_room(workspace.root(), action) {
            self.is_bare = true;
            return workspace.bare();
        }
        Ok(workspace)
    }

    fn committed(&mut self, index: usize) -> Result<Tree, Failure> {
        match std::mem::replace(&mut self.states[index], State::Consumed) {
            State::Growing(workspace) => {
                let made = workspace.commit()?;
                if let (Some(copying), Some(layer)) = (self.copying.take(), made.top()) {
                    copying.end(layer.id());
                }
                let tree = match self.below.take() {
                    Some(below) => made.iter().fold(below, |tree, layer| tree.with(layer.clone())),
                    None => made,
                };
                self.states[index] = State::Committed(tree.clone());
                Ok(tree)
            }
            State::Committed(tree) => {
                self.states[index] = State::Committed(tree.clone());
                Ok(tree)
            }
            State::Consumed => Err(Failure::invalid("a file action's result is used twice")),
        }
    }

    /// The files behind an input number, or an empty directory for scratch.
    fn view(&mut self, input: i64) -> Result<Arc<Root>, Failure> {
        match usize::try_from(input) {
            Ok(index) if index < self.views.len() => {
                self.views[index].clone().ok_or_else(|| invalid_input(input))
            }
            Ok(index) if index - self.views.len() < self.states.len() => {
                let tree = self.committed(index - self.views.len())?;
                let fd = mount_tree(&tree, None).map_err(Failure::store)?;
                Ok(Arc::new(Root::new(fd)))
            }
            Ok(_) => Err(invalid_input(input)),
            Err(_) => {
                let fd = mount_tree(&Tree::scratch(), None).map_err(Failure::store)?;
                Ok(Arc::new(Root::new(fd)))
            }
        }
    }

    fn act(&mut self, action: &pb::FileAction, target: &Workspace) -> Result<(), Failure> {
        let ids = self.store.ids();
        let maker = Maker { owner: self.owner(action)?, root: (ids.first, ids.first) };
        let result = match &action.action {
            Some(Action::Mkdir(mkdir)) => file::mkdir(target.root(), mkdir, maker),
            Some(Action::Mkfile(mkfile)) => file::mkfile(target.root(), mkfile, maker),
            Some(Action::Symlink(symlink)) => file::symlink(target.root(), symlink, maker),
            Some(Action::Rm(rm)) => file::remove(target.root(), rm),
            Some(Action::Copy(copy)) => {
                let source = self.view(action.secondaryInput)?;
                // Through an overlay no file of another layer can be had.
                let mirror = self.mirror.as_deref().filter(|_| self.is_bare);
                self.copying = mirror
                    .map(|mirror| self.earlier.begin(&self.store, name_of(mirror, copy, maker)));
                file::copy(&source, target.root(), copy, maker, ids, self.copying.as_ref())
            }
            None => return Err(Failure::invalid("invalid file op with no actions")),
        };
        result.map_err(Failure::of)
    }

    /// The owner that an action asks for, as ids on disk.
    fn owner(&mut self, action: &pb::FileAction) -> Result<Option<(u32, u32)>, Failure> {
        let Some(owner) = owner_of(action).cloned() else { return Ok(None) };
        let (mut uid, mut gid) = (0, 0);
        match owner.user.as_option().and_then(|user| user.user.as_ref()) {
            Some(User::ByID(id)) => (uid, gid) = (*id, *id),
            Some(User::ByName(name)) => {
                let view = self.view(name.input)?;
                (uid, gid) = resolve_owner(&view, &name.name).map_err(Failure::of)?;
            }
            None => {}
        }
        match owner.group.as_option().and_then(|group| group.user.as_ref()) {
            Some(User::ByID(id)) => gid = *id,
            Some(User::ByName(name)) => {
                let view = self.view(name.input)?;
                gid = resolve_group(&view, &name.name).map_err(Failure::of)?;
            }
            None => {}
        }
        let ids = self.store.ids();
        ids.to_disk(uid)
            .zip(ids.to_disk(gid))
            .map(Some)
            .ok_or_else(|| Failure::invalid(format!("ids {uid}:{gid} are outside a build's range")))
    }
}

fn invalid_input(input: i64) -> Failure {
    Failure::invalid(format!("invalid file action input {input}"))
}
