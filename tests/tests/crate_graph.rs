//! Holds the crate graph to the arrows that `docs/architecture.md` documents.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

type Arrows = BTreeMap<String, BTreeSet<String>>;

fn documented(root: &Path) -> Arrows {
    let text = std::fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let block = text.split("<!-- arrows:begin -->").nth(1).unwrap();
    let block = block.split("<!-- arrows:end -->").next().unwrap();
    block
        .lines()
        .filter_map(|line| line.split_once("->"))
        .map(|(from, to)| {
            (from.trim().to_owned(), to.split_whitespace().map(str::to_owned).collect())
        })
        .collect()
}

fn actual(root: &Path) -> Arrows {
    let mut arrows = Arrows::new();
    for entry in std::fs::read_dir(root.join("crates")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let manifest = std::fs::read_to_string(path.join("Cargo.toml")).unwrap();
        let dependencies = manifest.split("[dependencies]").nth(1).unwrap_or_default();
        let dependencies = dependencies.split("\n[").next().unwrap_or_default();
        let internal = dependencies
            .lines()
            .filter_map(|line| line.strip_prefix("cofferdam-"))
            .map(|line| line.split(['.', ' ', '=']).next().unwrap().to_owned())
            .collect();
        arrows.insert(name, internal);
    }
    arrows
}

#[test]
fn crates_depend_only_as_documented() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    assert_eq!(actual(root), documented(root));
}

/// Length of the longest chain of arrows below `name`, or a panic on a cycle.
fn depth(arrows: &Arrows, name: &str, above: &mut Vec<String>) -> usize {
    assert!(!above.iter().any(|seen| seen == name), "cycle: {above:?} -> {name}");
    above.push(name.to_owned());
    let deepest = arrows[name].iter().map(|next| depth(arrows, next, above) + 1).max();
    above.pop();
    deepest.unwrap_or(0)
}

#[test]
fn arrows_go_down_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let arrows = documented(root);
    assert_eq!(depth(&arrows, "digest", &mut Vec::new()), 0);
    for name in arrows.keys() {
        depth(&arrows, name, &mut Vec::new());
    }
}

/// The house asks for about 300 lines a file and allows 500 without inline tests.
#[test]
fn files_stay_small() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let crates = std::fs::read_dir(root.join("crates")).unwrap();
    let mut queue: Vec<_> = crates.map(|entry| entry.unwrap().path().join("src")).collect();
    let mut long = Vec::new();
    while let Some(directory) = queue.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                queue.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let code = text.split("\n#[cfg(test)]\nmod tests").next().unwrap();
                if code.lines().count() > 500 {
                    long.push(path);
                }
            }
        }
    }
    assert!(long.is_empty(), "files over 500 lines: {long:?}");
}
