//! The graph while it is being planned.
//!
//! LLB names an op by the digest of its bytes, so an op cannot be written before its inputs are. But
//! what the build context has to transfer is known only after the last instruction was read. So
//! instructions first become nodes of a [`Plan`]; places that are decided later are [`Work::Later`]
//! nodes, bound at the end; then [`super::lower`] writes the ops. A plan must never look at digests.

use std::collections::BTreeMap;
use std::sync::Arc;

use cofferdam_wire::pb;

use crate::lines::Lines;

/// A node of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct NodeId(pub(super) usize);

/// A file tree: a node's first output, or nothing at all.
pub(crate) type Root = Option<NodeId>;

/// Nodes, in the order they were added.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(super) nodes: Vec<Node>,
}

/// Work with what is shown about it.
#[derive(Debug)]
pub(crate) struct Node {
    pub(super) work: Work,
    pub(super) info: Info,
}

/// What a node does.
#[derive(Debug)]
pub(crate) enum Work {
    /// Brings files in.
    Source(Source),
    /// Runs a command.
    Exec(Box<Exec>),
    /// Changes files of `base`.
    File { base: Root, actions: Vec<Action> },
    /// Puts trees on top of each other, lowest first.
    Merge(Vec<Root>),
    /// A graph somebody else wrote.
    Definition(Arc<pb::Definition>),
    /// Decided later, by [`Plan::bind`]; the outer `None` means that nobody decided.
    Later(Option<Root>),
}

/// A source op.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Source {
    pub(crate) identifier: String,
    pub(crate) attrs: BTreeMap<String, String>,
    /// Only images have one.
    pub(crate) platform: Option<pb::Platform>,
    pub(crate) caps: Vec<&'static str>,
}

impl Source {
    pub(crate) fn new(identifier: impl Into<String>, cap: &'static str) -> Self {
        Self { identifier: identifier.into(), caps: vec![cap], ..Self::default() }
    }

    /// Sets an attribute together with the capability that it needs.
    pub(crate) fn set(&mut self, key: &str, value: impl Into<String>, cap: Option<&'static str>) {
        self.attrs.insert(key.to_owned(), value.into());
        self.caps.extend(cap);
    }

    pub(crate) fn op(&self) -> pb::SourceOp {
        pb::SourceOp {
            identifier: self.identifier.clone(),
            attrs: self.attrs.clone().into_iter().collect(),
            ..Default::default()
        }
    }
}

/// An exec op.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) meta: pb::Meta,
    pub(crate) network: pb::NetMode,
    pub(crate) security: pb::SecurityMode,
    pub(crate) root: Root,
    /// Without the root.
    pub(crate) mounts: Vec<Mount>,
    /// Secret and SSH mounts, which have no input and come last.
    pub(crate) sockets: Vec<pb::Mount>,
    pub(crate) secret_env: Vec<pb::SecretEnv>,
    pub(crate) devices: Vec<pb::CDIDevice>,
    pub(crate) platform: pb::Platform,
}

/// A mount of an exec op. `mount.input` and `mount.output` are filled in when it is written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mount {
    pub(crate) source: Root,
    pub(crate) mount: pb::Mount,
    /// Writes to it are thrown away.
    pub(crate) discard: bool,
}

/// An action of a file op. Named owners and inputs are filled in when it is written.
#[derive(Debug, Clone)]
pub(crate) struct Action {
    /// What to copy from.
    pub(crate) source: Root,
    pub(crate) action: pb::__buffa::oneof::file_action::Action,
}

/// What clients see of a node, and how the solver treats it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Info {
    pub(crate) name: Option<String>,
    /// Text of the instruction.
    pub(crate) command: Option<String>,
    pub(crate) ignore_cache: bool,
    pub(crate) group: Option<pb::ProgressGroup>,
    pub(crate) resources: Option<pb::LinuxResources>,
    pub(crate) lines: Option<Lines>,
}

impl Info {
    pub(crate) fn named(name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..Self::default() }
    }

    /// `[internal] <name>`.
    pub(crate) fn internal(name: &str) -> Self {
        Self::named(format!("[internal] {name}"))
    }
}

impl Plan {
    pub(crate) fn add(&mut self, work: Work, info: Info) -> NodeId {
        self.nodes.push(Node { work, info });
        NodeId(self.nodes.len() - 1)
    }

    pub(crate) fn source(&mut self, source: Source, info: Info) -> NodeId {
        self.add(Work::Source(source), info)
    }

    pub(crate) fn file(&mut self, base: Root, actions: Vec<Action>, info: Info) -> NodeId {
        self.add(Work::File { base, actions }, info)
    }

    /// A place that [`Plan::bind`] fills.
    pub(crate) fn later(&mut self) -> NodeId {
        self.add(Work::Later(None), Info::default())
    }

    /// Decides a [`Plan::later`] node. The new root must not depend on the node.
    pub(crate) fn bind(&mut self, later: NodeId, root: Root) {
        if let Some(Node { work: Work::Later(bound), .. }) = self.nodes.get_mut(later.0) {
            *bound = Some(root);
        }
    }
}

/// A copy action with the defaults of clients: owner and times kept, mode kept.
pub(crate) fn copy_action(source: &str, destination: &str) -> pb::FileActionCopy {
    pb::FileActionCopy {
        src: source.to_owned(),
        dest: destination.to_owned(),
        mode: -1,
        timestamp: -1,
        ..Default::default()
    }
}

/// A file with the given content.
pub(crate) fn make_file(path: &str, mode: i32, data: &str) -> Action {
    let file = pb::FileActionMkFile {
        path: path.to_owned(),
        mode,
        data: data.as_bytes().to_vec(),
        timestamp: -1,
        ..Default::default()
    };
    Action { source: None, action: file.into() }
}
