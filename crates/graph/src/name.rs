//! Display names that are derived from an op when the client gives none.
//!
//! Names of merge and diff contain the names of their inputs, so without a cut a graph of n ops
//! could ask for text exponential in n. Every derived name is therefore bounded.

use cofferdam_wire::pb;
use pb::__buffa::oneof::file_action::Action;
use pb::__buffa::oneof::op::Op as Kind;

/// Longest derived name in bytes; a screen shows far less.
const MAX_NAME: usize = 4096;

/// Longest part of an input's name inside a merge's or diff's name, in bytes.
const MAX_INNER: usize = 256;

/// The name of `op`, whose inputs are displayed as `inputs`.
pub(crate) fn derive(op: &pb::Op, inputs: &[String]) -> String {
    let name = match &op.op {
        Some(Kind::Source(source)) => source.identifier.clone(),
        Some(Kind::Exec(exec)) => joined(exec.meta.args.iter().map(String::as_str), " "),
        Some(Kind::File(file)) => joined(file.actions.iter().filter_map(action_name), ", "),
        Some(Kind::Build(_)) => "build".to_owned(),
        Some(Kind::Merge(_)) => {
            let names = joined(inputs.iter().map(|name| cut(name, MAX_INNER)), ", ");
            format!("merge ({names})")
        }
        Some(Kind::Diff(diff)) => {
            let lower = side_name(diff.lower.input, inputs);
            let upper = side_name(diff.upper.input, inputs);
            format!("diff {lower} -> {upper}")
        }
        Some(Kind::Passthrough(passthrough)) => format!("passthrough {}", passthrough.id),
        None => "unknown".to_owned(),
    };
    cut(&name, MAX_NAME).to_owned()
}

fn action_name(action: &pb::FileAction) -> Option<String> {
    Some(match action.action.as_ref()? {
        Action::Copy(copy) => format!("copy {} {}", copy.src, copy.dest),
        Action::Mkfile(file) => format!("mkfile {}", file.path),
        Action::Mkdir(directory) => format!("mkdir {}", directory.path),
        Action::Rm(rm) => format!("rm {}", rm.path),
        Action::Symlink(link) => format!("symlink {} -> {}", link.newpath, link.oldpath),
    })
}

fn side_name(input: i64, inputs: &[String]) -> String {
    match usize::try_from(input).ok().and_then(|input| inputs.get(input)) {
        Some(name) => format!("({})", cut(name, MAX_INNER)),
        None => "scratch".to_owned(),
    }
}

/// Joins until the result is long enough to be cut anyway.
fn joined(parts: impl Iterator<Item = impl AsRef<str>>, separator: &str) -> String {
    let mut text = String::new();
    for (index, part) in parts.enumerate() {
        if text.len() > MAX_NAME {
            break;
        }
        if index > 0 {
            text.push_str(separator);
        }
        text.push_str(cut(part.as_ref(), MAX_NAME));
    }
    text
}

fn cut(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let end = (0..=max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(kind: impl Into<Kind>) -> pb::Op {
        pb::Op { op: Some(kind.into()), ..Default::default() }
    }

    #[test]
    fn names_follow_the_op() {
        let meta =
            pb::Meta { args: vec!["sh".into(), "-c".into(), "x y".into()], ..Default::default() };
        let exec = pb::ExecOp { meta: buffa::MessageField::some(meta), ..Default::default() };
        assert_eq!(derive(&op(exec), &[]), "sh -c x y");

        let action = |action: Action| pb::FileAction { action: Some(action), ..Default::default() };
        let file = pb::FileOp {
            actions: vec![
                action(pb::FileActionMkDir { path: "/p".into(), ..Default::default() }.into()),
                action(
                    pb::FileActionCopy { src: "a".into(), dest: "b".into(), ..Default::default() }
                        .into(),
                ),
                action(
                    pb::FileActionSymlink {
                        oldpath: "old".into(),
                        newpath: "new".into(),
                        ..Default::default()
                    }
                    .into(),
                ),
            ],
            ..Default::default()
        };
        assert_eq!(derive(&op(file), &[]), "mkdir /p, copy a b, symlink new -> old");

        let diff = pb::DiffOp {
            lower: buffa::MessageField::some(pb::LowerDiffInput {
                input: -1,
                ..Default::default()
            }),
            upper: buffa::MessageField::some(pb::UpperDiffInput::default()),
            ..Default::default()
        };
        assert_eq!(derive(&op(diff), &["up".into()]), "diff scratch -> (up)");
        let merge = pb::MergeOp::default();
        assert_eq!(derive(&op(merge), &["a".into(), "b".into()]), "merge (a, b)");
    }

    #[test]
    fn names_stay_short_however_deep_the_merge() {
        let mut name = "é".repeat(5000);
        for _ in 0..100 {
            name = derive(&op(pb::MergeOp::default()), &[name.clone(), name.clone()]);
            assert!(name.len() <= MAX_NAME);
        }
        let many = vec!["x".repeat(300); 1000];
        assert!(derive(&op(pb::MergeOp::default()), &many).len() <= MAX_NAME);
    }
}
