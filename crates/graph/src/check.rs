//! Structural checks of a single op: everything that can be said without executing it.
//!
//! After [`check`] has passed, every index that an op carries refers to something, every enum is a
//! value this product knows, and every required sub-message is there. Texts are those that
//! BuildKit's clients and tests expect (`solver/llbsolver/ops/opsutils/validate.go`). An unknown
//! enum value is refused, never treated as the default: the default security mode is the strict
//! one today, but a mode that nobody here understands must not run as any other.

use buffa::{EnumValue, Enumeration};
use cofferdam_wire::pb;
use pb::__buffa::oneof::file_action::Action;
use pb::__buffa::oneof::op::Op as Kind;
use pb::__buffa::oneof::user_opt::User;

use crate::load::Limits;
use crate::platform::is_component;

/// Where a mount is the root file system.
const ROOT: &str = "/";

/// "No input" and "no output".
const NONE: i64 = -1;

/// An op that cannot mean anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOp {
    /// An op of no kind that is known here.
    #[error("invalid op of unknown kind")]
    UnknownKind,
    /// Something that the kind of op cannot do without.
    #[error("invalid {op} op with no {part}")]
    Missing {
        /// Kind of op.
        op: &'static str,
        /// What is absent.
        part: &'static str,
    },
    /// A diff without one of its sides.
    #[error("invalid diff op with nil lower or upper input")]
    DiffSide,
    /// An enum value from the future, or from an attacker.
    #[error("invalid {what} {value}")]
    UnknownValue {
        /// Which enum.
        what: &'static str,
        /// The number on the wire.
        value: i32,
    },
    /// An index that refers to nothing.
    #[error("invalid {what} index {index}, {available} provided")]
    Index {
        /// Which index.
        what: &'static str,
        /// Its value.
        index: i64,
        /// How many things it could refer to.
        available: usize,
    },
    /// An action that needs its own result or that of a later action.
    #[error("loop from index {0}")]
    ActionLoop(i64),
    /// A named owner that is to be looked up nowhere.
    #[error("invalid user index: {0}")]
    UserIndex(i64),
    /// Two actions for one output.
    #[error("duplicate output {0}")]
    DuplicateOutput(i64),
    /// Outputs that are not numbered without gaps from 0.
    #[error("missing output index {0}")]
    MissingOutput(usize),
    /// No action makes an output.
    #[error("no outputs specified")]
    NoOutputs,
    /// The root file system must be a bind mount.
    #[error("invalid mount type {0} for /")]
    RootMount(&'static str),
    /// A platform that is not words.
    #[error("invalid platform component {0:?}")]
    Platform(String),
    /// A negative size of a memory file system.
    #[error("invalid tmpfs size {0}")]
    TmpfsSize(i64),
    /// More of something than the limits allow.
    #[error("invalid op with {count} {what}, limit is {limit}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
}

/// How many outputs `op` has.
#[must_use]
pub fn output_count(op: &pb::Op) -> usize {
    match &op.op {
        Some(Kind::Exec(exec)) => exec.mounts.iter().filter(|mount| makes_output(mount)).count(),
        Some(Kind::File(file)) => file.actions.iter().filter(|action| action.output >= 0).count(),
        Some(Kind::Passthrough(passthrough)) => passthrough.outputs.len(),
        _ => 1,
    }
}

fn makes_output(mount: &pb::Mount) -> bool {
    if mount.output == NONE {
        return false;
    }
    match mount.mountType.as_known() {
        Some(pb::MountType::BIND) => true,
        Some(pb::MountType::CACHE) => mount.input >= 0,
        _ => false,
    }
}

/// Checks everything about `op` that does not depend on other ops.
pub(crate) fn check(op: &pb::Op, limits: &Limits) -> Result<(), InvalidOp> {
    bounded("inputs", op.inputs.len(), limits.inputs)?;
    let inputs = op.inputs.len();
    check_platform(&op.platform)?;
    match op.op.as_ref().ok_or(InvalidOp::UnknownKind)? {
        Kind::Source(source) if source.identifier.is_empty() => {
            Err(InvalidOp::Missing { op: "source", part: "identifier" })
        }
        Kind::Source(_) => Ok(()),
        Kind::Exec(exec) => check_exec(exec, inputs, limits),
        Kind::File(file) => check_file(file, inputs, limits),
        Kind::Build(build) => build
            .inputs
            .values()
            .try_for_each(|input| in_range("build input", input.input, 0, inputs)),
        Kind::Merge(merge) => {
            bounded("merge inputs", merge.inputs.len(), limits.inputs)?;
            merge
                .inputs
                .iter()
                .try_for_each(|input| in_range("merge input", input.input, 0, inputs))
        }
        Kind::Diff(diff) => {
            let lower = diff.lower.as_option().ok_or(InvalidOp::DiffSide)?;
            let upper = diff.upper.as_option().ok_or(InvalidOp::DiffSide)?;
            in_range("diff input", lower.input, NONE, inputs)?;
            in_range("diff input", upper.input, NONE, inputs)
        }
        Kind::Passthrough(passthrough) => {
            let missing = |part| InvalidOp::Missing { op: "passthrough", part };
            if passthrough.id.is_empty() {
                return Err(missing("id"));
            }
            if passthrough.outputs.is_empty() {
                return Err(missing("outputs"));
            }
            bounded("outputs", passthrough.outputs.len(), limits.inputs)?;
            passthrough
                .outputs
                .iter()
                .try_for_each(|input| in_range("passthrough output input", *input, 0, inputs))
        }
    }
}

/// Platforms end up in paths and headers, so only plain words pass.
fn check_platform(platform: &pb::Platform) -> Result<(), InvalidOp> {
    let parts = [&platform.OS, &platform.Architecture, &platform.Variant];
    match parts.into_iter().find(|part| !part.is_empty() && !is_component(part)) {
        Some(part) => Err(InvalidOp::Platform(part.chars().take(100).collect())),
        None => Ok(()),
    }
}

fn check_exec(exec: &pb::ExecOp, inputs: usize, limits: &Limits) -> Result<(), InvalidOp> {
    let missing = |part| InvalidOp::Missing { op: "exec", part };
    let meta = exec.meta.as_option().ok_or_else(|| missing("meta"))?;
    if meta.args.is_empty() {
        return Err(missing("args"));
    }
    if exec.mounts.is_empty() {
        return Err(missing("mounts"));
    }
    bounded("mounts", exec.mounts.len(), limits.mounts)?;
    if !exec.mounts.iter().any(|mount| mount.dest == ROOT) {
        return Err(missing("rootfs"));
    }
    known("network mode", &exec.network)?;
    known("security mode", &exec.security)?;
    exec.mounts.iter().try_for_each(|mount| check_mount(mount, inputs))
}

fn check_mount(mount: &pb::Mount, inputs: usize) -> Result<(), InvalidOp> {
    let kind = known("mount type", &mount.mountType)?;
    known("mount content cache", &mount.contentCache)?;
    known("cache mount sharing", &mount.cacheOpt.sharing)?;
    if mount.dest == ROOT && kind != pb::MountType::BIND {
        return Err(InvalidOp::RootMount(kind.proto_name()));
    }
    if mount.TmpfsOpt.size < 0 {
        return Err(InvalidOp::TmpfsSize(mount.TmpfsOpt.size));
    }
    in_range("mount input", mount.input, NONE, inputs)?;
    // Outputs are numbered by mount order; the value only says whether there is one.
    in_range("mount output", mount.output, NONE, i32::MAX as usize)
}

fn check_file(file: &pb::FileOp, inputs: usize, limits: &Limits) -> Result<(), InvalidOp> {
    if file.actions.is_empty() {
        return Err(InvalidOp::Missing { op: "file", part: "actions" });
    }
    bounded("actions", file.actions.len(), limits.actions)?;
    let mut outputs = vec![false; output_count_of(file)];
    if outputs.is_empty() {
        return Err(InvalidOp::NoOutputs);
    }
    for (position, action) in file.actions.iter().enumerate() {
        let range = ActionRange { before: inputs + position, all: inputs + file.actions.len() };
        range.check("input", action.input)?;
        range.check("secondary input", action.secondaryInput)?;
        check_owner(action, &range)?;
        if action.output != NONE {
            in_range("output", action.output, NONE, i32::MAX as usize)?;
            let slot = usize::try_from(action.output).ok().and_then(|index| outputs.get_mut(index));
            // An output beyond the count leaves a gap, which is reported below.
            if slot.is_some_and(|seen| std::mem::replace(seen, true)) {
                return Err(InvalidOp::DuplicateOutput(action.output));
            }
        }
    }
    match outputs.iter().position(|seen| !seen) {
        Some(gap) => Err(InvalidOp::MissingOutput(gap)),
        None => Ok(()),
    }
}

fn output_count_of(file: &pb::FileOp) -> usize {
    file.actions.iter().filter(|action| action.output != NONE).count()
}

/// What an action may refer to: the op's inputs, then the results of the actions before it.
struct ActionRange {
    before: usize,
    all: usize,
}

impl ActionRange {
    fn check(&self, what: &'static str, index: i64) -> Result<(), InvalidOp> {
        in_range(what, index, NONE, self.all)?;
        in_range(what, index, NONE, self.before).map_err(|_| InvalidOp::ActionLoop(index))
    }
}

fn check_owner(action: &pb::FileAction, range: &ActionRange) -> Result<(), InvalidOp> {
    let missing = InvalidOp::Missing { op: "file", part: "kind of action" };
    let owner = match action.action.as_ref().ok_or(missing)? {
        Action::Copy(copy) => copy.owner.as_option(),
        Action::Mkfile(file) => file.owner.as_option(),
        Action::Mkdir(directory) => directory.owner.as_option(),
        Action::Symlink(link) => link.owner.as_option(),
        Action::Rm(_) => None,
    };
    let Some(owner) = owner else { return Ok(()) };
    for user in [owner.user.as_option(), owner.group.as_option()].into_iter().flatten() {
        if let Some(User::ByName(named)) = &user.user {
            if named.input < 0 {
                return Err(InvalidOp::UserIndex(named.input));
            }
            range.check("user", named.input)?;
        }
    }
    Ok(())
}

fn bounded(what: &'static str, count: usize, limit: usize) -> Result<(), InvalidOp> {
    if count > limit {
        return Err(InvalidOp::TooMany { what, count, limit });
    }
    Ok(())
}

fn in_range(
    what: &'static str,
    index: i64,
    lowest: i64,
    available: usize,
) -> Result<(), InvalidOp> {
    let below = usize::try_from(index).map_or(true, |index| index < available);
    if index >= lowest && below {
        return Ok(());
    }
    Err(InvalidOp::Index { what, index, available })
}

fn known<E: Enumeration + Copy>(what: &'static str, value: &EnumValue<E>) -> Result<E, InvalidOp> {
    value.as_known().ok_or_else(|| InvalidOp::UnknownValue { what, value: value.to_i32() })
}
