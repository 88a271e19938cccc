//! What names an operation's work, and which part of each input it looks at.
//!
//! Follows the cache rules of BuildKit's operations (fact sheet: cache keys): an exec's
//! read-only or output-less mounts and a copy's sources count by content, everything that the
//! result builds upon counts by identity. Secrets, agents, proxies and host addresses never
//! take part.

use cofferdam_digest::{Digest, Digester};
use cofferdam_graph::{Vertex, encode_op, platform_string};
use cofferdam_wire::pb;
use cofferdam_wire::pb::__buffa::oneof::{file_action::Action, op::Op, user_opt::User};

use crate::content_digest::Selector;
use crate::rooted::{clean, split_last};

/// How one input takes part in a vertex's key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Dependency {
    /// What of the input is looked at; empty means all of it.
    pub(crate) selectors: Vec<Selector>,
    /// Whether equal content is equal, whatever made it.
    pub(crate) by_content: bool,
}

impl Dependency {
    /// A digest that names the selection; `None` for the whole input.
    pub(crate) fn selector_digest(&self) -> Option<Digest> {
        if self.selectors.is_empty() {
            return None;
        }
        let mut digester = Digester::new();
        for selector in &self.selectors {
            digester.field(selector.digest().as_bytes());
        }
        Some(digester.finish())
    }
}

/// The digest of the operation itself, without its inputs.
pub(crate) fn operation_digest(vertex: &Vertex) -> Digest {
    let op = match &vertex.op.op {
        Some(Op::Exec(exec)) => Some(Op::from(normal_exec(exec))),
        Some(Op::File(file)) => Some(Op::from(normal_file(vertex.inputs.len(), file))),
        other => other.clone(),
    };
    let mut digester = Digester::new();
    digester.field("cofferdam.op.v1");
    digester.field(encode_op(&pb::Op { op, ..Default::default() }));
    if matches!(vertex.op.op, Some(Op::Exec(_))) {
        digester.field(platform_string(&vertex.effective_platform()));
    }
    digester.finish()
}

/// How each input of `vertex` takes part.
pub(crate) fn dependencies(vertex: &Vertex) -> Vec<Dependency> {
    let count = vertex.inputs.len();
    match &vertex.op.op {
        Some(Op::Exec(exec)) => exec_dependencies(count, exec),
        Some(Op::File(file)) => file_dependencies(count, file),
        _ => vec![Dependency::default(); count],
    }
}

/// An exec without what may differ between equal runs.
fn normal_exec(exec: &pb::ExecOp) -> pb::ExecOp {
    let mut exec = exec.clone();
    if let Some(meta) = exec.meta.as_option_mut() {
        meta.proxy_env = Default::default();
        for host in &mut meta.extraHosts {
            host.IP.clear();
        }
    }
    for mount in &mut exec.mounts {
        mount.selector.clear();
        let dest = mount.dest.clone();
        if let Some(cache) = mount.cacheOpt.as_option_mut()
            && !is_default_cache(cache, &dest)
        {
            cache.ID.clear();
            cache.sharing = Default::default();
        }
    }
    exec
}

/// A cache mount that only names its own place, possibly in a namespace.
fn is_default_cache(cache: &pb::CacheOpt, dest: &str) -> bool {
    let named = cache.ID == dest || cache.ID.split_once('/').is_some_and(|(_, rest)| rest == dest);
    named && cache.sharing == pb::CacheSharingOpt::SHARED
}

fn exec_dependencies(count: usize, exec: &pb::ExecOp) -> Vec<Dependency> {
    let mut found = vec![Dependency { by_content: true, ..Default::default() }; count];
    let mut whole = vec![false; count];
    let mut used = vec![false; count];
    for mount in &exec.mounts {
        let skipped = [pb::MountType::SECRET, pb::MountType::SSH, pb::MountType::TMPFS];
        if skipped.iter().any(|kind| mount.mountType == *kind) {
            continue;
        }
        let Some(index) = usize::try_from(mount.input).ok().filter(|index| *index < count) else {
            continue;
        };
        used[index] = true;
        let path = clean(&mount.selector);
        let is_whole = path == "/";
        whole[index] |= is_whole;
        found[index].selectors.push(Selector::path(&path));
        found[index].by_content &= counts_by_content(mount, is_whole);
    }
    for index in 0..count {
        if whole[index] {
            found[index].selectors.clear();
        }
        found[index].by_content &= used[index];
    }
    found
}

/// Content may stand for a mount when no later step can see more of the input than its key
/// covered: nothing comes out of the mount, it is read-only, or all of the input is covered. The
/// root is kept by identity, since digesting a whole root costs more than it saves.
fn counts_by_content(mount: &pb::Mount, is_whole: bool) -> bool {
    let safe = mount.output < 0 || mount.readonly || is_whole;
    if mount.contentCache == pb::MountContentCache::ON {
        return safe;
    }
    if mount.contentCache == pb::MountContentCache::OFF {
        return false;
    }
    safe && mount.dest != "/"
}

fn action_inputs(action: &pb::FileAction) -> (i64, i64) {
    (action.input, action.secondaryInput)
}

/// Which inputs are built upon; those can only count by identity.
fn bases(count: usize, file: &pb::FileOp) -> Vec<bool> {
    let mut bases = vec![false; count];
    for action in &file.actions {
        let (base, _) = action_inputs(action);
        if let Some(slot) = usize::try_from(base).ok().and_then(|base| bases.get_mut(base)) {
            *slot = true;
        }
    }
    bases
}

/// A file op whose copied sources are reduced to their last component, because their content
/// stands for them.
fn normal_file(count: usize, file: &pb::FileOp) -> pb::FileOp {
    let bases = bases(count, file);
    let mut file = file.clone();
    for action in &mut file.actions {
        let (_, source) = action_inputs(action);
        let counts = usize::try_from(source)
            .ok()
            .and_then(|source| bases.get(source))
            .is_some_and(|base| !base);
        if let (Some(Action::Copy(copy)), true) = (&mut action.action, counts) {
            copy.src = split_last(&copy.src).map_or_else(|| "/".to_owned(), |(_, name)| name);
        }
    }
    file
}

fn file_dependencies(count: usize, file: &pb::FileOp) -> Vec<Dependency> {
    let bases = bases(count, file);
    let mut found = vec![Dependency::default(); count];
    for action in &file.actions {
        let (_, source) = action_inputs(action);
        if let Some(Action::Copy(copy)) = &action.action {
            select(
                &mut found,
                &bases,
                source,
                Selector {
                    path: clean(&copy.src),
                    wildcard: copy.allowWildcard,
                    follow: copy.followSymlink,
                    include: copy.include_patterns.clone(),
                    exclude: copy.exclude_patterns.clone(),
                    required: copy.required_paths.clone(),
                },
            );
        }
        for input in named_owner_inputs(action) {
            for path in ["/etc/passwd", "/etc/group"] {
                // The pattern form: an image without the file is no error.
                let selector = Selector {
                    wildcard: true,
                    path: format!("{path}*"),
                    follow: true,
                    ..Default::default()
                };
                select(&mut found, &bases, input, selector);
            }
        }
    }
    found
}

fn select(found: &mut [Dependency], bases: &[bool], input: i64, selector: Selector) {
    let Ok(index) = usize::try_from(input) else { return };
    if bases.get(index) == Some(&false) {
        found[index].by_content = true;
        found[index].selectors.push(selector);
    }
}

/// The inputs whose user database an action's owner is looked up in.
fn named_owner_inputs(action: &pb::FileAction) -> Vec<i64> {
    let owner = match &action.action {
        Some(Action::Copy(copy)) => copy.owner.as_option(),
        Some(Action::Mkfile(mkfile)) => mkfile.owner.as_option(),
        Some(Action::Mkdir(mkdir)) => mkdir.owner.as_option(),
        Some(Action::Symlink(symlink)) => symlink.owner.as_option(),
        _ => None,
    };
    let Some(owner) = owner else { return Vec::new() };
    [owner.user.as_option(), owner.group.as_option()]
        .into_iter()
        .flatten()
        .filter_map(|user| match &user.user {
            Some(User::ByName(name)) => Some(name.input),
            _ => None,
        })
        .collect()
}
