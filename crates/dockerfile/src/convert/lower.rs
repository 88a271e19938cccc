//! Writes a plan as LLB.
//!
//! Input and output numbers follow the rules of the wire format: equal inputs share a number, the
//! base of a file op comes first, outputs of an exec op count its writable mounts in order of their
//! destination. Never recurses: plans are chains as long as a Dockerfile.

use std::collections::HashMap;

use buffa::MessageField;
use cofferdam_graph::{Assembler, LoadError, Output};
use cofferdam_wire::pb;
use pb::__buffa::oneof::file_action::Action as FileAction;
use pb::__buffa::oneof::user_opt::User;

use super::plan::{Action, Exec, Info, Mount, NodeId, Plan, Root, Source, Work};
use crate::lines::Lines;

/// Input number of nothing, output number of a thrown away result.
const NONE: i64 = -1;

/// Writes the ops that `target` needs. `None` is scratch.
///
/// # Errors
/// An input definition that is not valid.
pub(crate) fn lower(
    plan: &Plan,
    target: Root,
    info: Option<&pb::SourceInfo>,
) -> Result<Option<pb::Definition>, LoadError> {
    let Some(target) = target else { return Ok(None) };
    let mut lowering = Lowering::new(plan);
    lowering.file = info.map(|info| lowering.assembler.add_source_info(info.clone()));
    for node in order(plan, target) {
        let output = lowering.node(node)?;
        lowering.outputs.insert(node, output);
    }
    Ok(lowering.output(Some(target)).map(|output| lowering.assembler.finish(&output)))
}

/// The lines of a Dockerfile as LLB ranges, one per line.
pub(crate) fn ranges(lines: Lines) -> Vec<pb::Range> {
    let position = |line: u32| pb::Position {
        line: i32::try_from(line).unwrap_or(i32::MAX),
        ..Default::default()
    };
    let range = |line| pb::Range {
        start: MessageField::some(position(line)),
        end: MessageField::some(position(line)),
        ..Default::default()
    };
    lines.each().map(range).collect()
}

/// Nodes that `target` needs, inputs first.
fn order(plan: &Plan, target: NodeId) -> Vec<NodeId> {
    let mut order = Vec::new();
    let mut state: HashMap<NodeId, bool> = HashMap::new();
    let mut stack = vec![target];
    while let Some(&node) = stack.last() {
        match state.get(&node) {
            Some(true) => {
                stack.pop();
            }
            Some(false) => {
                stack.pop();
                state.insert(node, true);
                order.push(node);
            }
            None => {
                state.insert(node, false);
                let open = inputs(plan, node).into_iter().flatten();
                stack.extend(open.filter(|input| !state.contains_key(input)));
            }
        }
    }
    order
}

fn inputs(plan: &Plan, node: NodeId) -> Vec<Root> {
    match &plan.nodes[node.0].work {
        Work::Source(_) | Work::Definition(_) | Work::Later(None) => Vec::new(),
        Work::Later(Some(root)) => vec![*root],
        Work::Merge(roots) => roots.clone(),
        Work::File { base, actions } => {
            std::iter::once(*base).chain(actions.iter().map(|action| action.source)).collect()
        }
        Work::Exec(exec) => {
            let mounts = exec.mounts.iter().map(|mount| mount.source);
            std::iter::once(exec.root).chain(mounts).collect()
        }
    }
}

struct Lowering<'a> {
    plan: &'a Plan,
    assembler: Assembler,
    outputs: HashMap<NodeId, Option<Output>>,
    file: Option<usize>,
}

impl<'a> Lowering<'a> {
    fn new(plan: &'a Plan) -> Self {
        Self { plan, assembler: Assembler::new(), outputs: HashMap::new(), file: None }
    }

    fn output(&self, root: Root) -> Option<Output> {
        self.outputs.get(&root?).copied().flatten()
    }

    fn node(&mut self, id: NodeId) -> Result<Option<Output>, LoadError> {
        let node = &self.plan.nodes[id.0];
        let (op, caps) = match &node.work {
            Work::Definition(definition) => return self.assembler.import(definition),
            Work::Later(bound) => return Ok(self.output(bound.flatten())),
            Work::Merge(roots) => match self.merge(roots) {
                Ok(written) => written,
                Err(single) => return Ok(single),
            },
            Work::Source(source) => (write_source(source), source.caps.clone()),
            Work::Exec(exec) => self.exec(exec, node.info.resources.is_some()),
            Work::File { base, actions } => (self.file(*base, actions), vec!["file.base"]),
        };
        let lines = node.info.lines.and_then(|lines| Some((self.file?, ranges(lines))));
        let digest = self.assembler.add(op, metadata(&node.info, &caps), lines);
        Ok(Some(Output::new(digest, 0)))
    }

    /// A merge of fewer than two trees is no op but that tree.
    fn merge(&self, roots: &[Root]) -> Result<(pb::Op, Vec<&'static str>), Option<Output>> {
        let outputs: Vec<Output> = roots.iter().filter_map(|root| self.output(*root)).collect();
        if outputs.len() < 2 {
            return Err(outputs.first().copied());
        }
        let merge = pb::MergeOp {
            inputs: (0..)
                .take(outputs.len())
                .map(|input| pb::MergeInput { input, ..Default::default() })
                .collect(),
            ..Default::default()
        };
        let inputs = outputs.iter().map(Output::input).collect();
        Ok((op(merge, inputs, None), vec!["mergeop"]))
    }

    fn file(&self, base: Root, actions: &[Action]) -> pb::Op {
        let mut inputs = Inputs::default();
        let base = inputs.number(self.output(base));
        let sources: Vec<i64> =
            actions.iter().map(|action| inputs.number(self.output(action.source))).collect();
        let count = inputs.count();
        let last = actions.len().saturating_sub(1);
        let mut input = base;
        let mut written = Vec::with_capacity(actions.len());
        for (index, (action, secondary)) in actions.iter().zip(sources).enumerate() {
            let mut action = action.action.clone();
            own(&mut action, base);
            written.push(pb::FileAction {
                input,
                secondaryInput: secondary,
                output: if index == last { 0 } else { NONE },
                action: Some(action),
                ..Default::default()
            });
            input = count + i64::try_from(index).unwrap_or(i64::MAX);
        }
        op(pb::FileOp { actions: written, ..Default::default() }, inputs.list, None)
    }

    fn exec(&self, exec: &Exec, limited: bool) -> (pb::Op, Vec<&'static str>) {
        let mut mounts = vec![Mount {
            source: exec.root,
            mount: pb::Mount { dest: "/".to_owned(), ..Default::default() },
            discard: false,
        }];
        mounts.extend(exec.mounts.iter().cloned());
        mounts.sort_by(|one, other| one.mount.dest.cmp(&other.mount.dest));
        let mut inputs = Inputs::default();
        let mut next_output = 0;
        let mut written = Vec::with_capacity(mounts.len() + exec.sockets.len());
        for Mount { source, mut mount, discard } in mounts {
            mount.input = inputs.number(self.output(source));
            let bind = mount.mountType == pb::MountType::BIND;
            mount.output = if bind && !mount.readonly && !discard {
                next_output += 1;
                next_output - 1
            } else {
                NONE
            };
            written.push(mount);
        }
        written.extend(exec.sockets.iter().cloned());
        let caps = exec_caps(exec, &written, limited);
        let exec_op = pb::ExecOp {
            meta: MessageField::some(exec.meta.clone()),
            mounts: written,
            network: exec.network.into(),
            security: exec.security.into(),
            secretenv: exec.secret_env.clone(),
            cdiDevices: exec.devices.clone(),
            ..Default::default()
        };
        (op(exec_op, inputs.list, Some(exec.platform.clone())), caps)
    }
}

/// The inputs of an op; equal ones share a number.
#[derive(Default)]
struct Inputs {
    list: Vec<pb::Input>,
    numbers: HashMap<Output, i64>,
}

impl Inputs {
    fn number(&mut self, output: Option<Output>) -> i64 {
        let Some(output) = output else { return NONE };
        let next = self.count();
        let list = &mut self.list;
        *self.numbers.entry(output).or_insert_with(|| {
            list.push(output.input());
            next
        })
    }

    fn count(&self) -> i64 {
        i64::try_from(self.list.len()).unwrap_or(i64::MAX)
    }
}

fn op(
    kind: impl Into<pb::__buffa::oneof::op::Op>,
    inputs: Vec<pb::Input>,
    platform: Option<pb::Platform>,
) -> pb::Op {
    pb::Op {
        inputs,
        platform: platform.into(),
        constraints: MessageField::some(pb::WorkerConstraints::default()),
        op: Some(kind.into()),
        ..Default::default()
    }
}

fn write_source(source: &Source) -> pb::Op {
    op(source.op(), Vec::new(), source.platform.clone())
}

/// Names of owners are looked up in the tree the action works on.
fn own(action: &mut FileAction, base: i64) {
    let owner = match action {
        FileAction::Copy(copy) => &mut copy.owner,
        FileAction::Mkfile(file) => &mut file.owner,
        FileAction::Mkdir(directory) => &mut directory.owner,
        FileAction::Symlink(link) => &mut link.owner,
        FileAction::Rm(_) => return,
    };
    let Some(owner) = owner.as_option_mut() else { return };
    for user in [&mut owner.user, &mut owner.group] {
        if let Some(pb::UserOpt { user: Some(User::ByName(named)), .. }) = user.as_option_mut() {
            named.input = base;
        }
    }
}

fn exec_caps(exec: &Exec, mounts: &[pb::Mount], limited: bool) -> Vec<&'static str> {
    let mut caps = vec!["exec.meta.base", "exec.meta.setsdefaultpath"];
    let mut needs = |needed: bool, cap: &'static str| caps.extend(needed.then_some(cap));
    needs(exec.network != pb::NetMode::UNSET, "exec.meta.network");
    needs(exec.security != pb::SecurityMode::SANDBOX, "exec.meta.security");
    needs(exec.meta.proxy_env.is_set(), "exec.meta.proxyenv");
    needs(!exec.meta.ulimit.is_empty(), "exec.meta.ulimit");
    needs(limited, "exec.meta.linux.resources");
    needs(!exec.devices.is_empty(), "exec.meta.cdi");
    needs(!exec.secret_env.is_empty(), "exec.secretenv");
    needs(!exec.secret_env.is_empty(), "exec.mount.secret");
    for mount in mounts {
        needs(!mount.selector.is_empty(), "exec.mount.selector");
        match mount.mountType.as_known() {
            Some(pb::MountType::CACHE) => {
                needs(true, "exec.mount.cache");
                needs(true, "exec.mount.cache.sharing");
            }
            Some(pb::MountType::TMPFS) => {
                needs(true, "exec.mount.tmpfs");
                needs(mount.TmpfsOpt.size > 0, "exec.mount.tmpfs.size");
            }
            Some(pb::MountType::SECRET) => needs(true, "exec.mount.secret"),
            Some(pb::MountType::SSH) => needs(true, "exec.mount.ssh"),
            _ => needs(mount.input >= 0, "exec.mount.bind"),
        }
    }
    caps
}

fn metadata(info: &Info, caps: &[&'static str]) -> pb::OpMetadata {
    let mut description = HashMap::new();
    if let Some(command) = &info.command {
        description.insert("com.docker.dockerfile.v1.command".to_owned(), command.clone());
    }
    if let Some(name) = &info.name {
        description.insert("llb.customname".to_owned(), name.clone());
    }
    let caps = caps.iter().map(|cap| ((*cap).to_owned(), true)).collect();
    pb::OpMetadata {
        ignore_cache: info.ignore_cache,
        description: description.into_iter().collect(),
        caps,
        progress_group: info.group.clone().into(),
        linux_resources: info.resources.clone().into(),
        ..Default::default()
    }
}
