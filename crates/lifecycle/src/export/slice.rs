//! Which paths of an app go into which layer.
//!
//! A slice takes what its globs match, whole subtrees, and the directories above; the rest is the
//! last layer. Must never see a file, only names.

use std::collections::{BTreeSet, HashMap};

use cofferdam_cnb::Slice;

use crate::export::ExportError;
use crate::export::glob::Glob;

/// Most globs of all slices.
const MAX_GLOBS: usize = 1_000;
/// Most steps of all matches: some seconds.
const MAX_STEPS: usize = 500_000_000;

/// For each slice, and then for the rest, the indexes of its paths, ordered by path. `paths` are
/// relative to the app, without a slash at either end; an empty one is the app itself.
///
/// # Errors
/// A glob is malformed, or there are too many.
pub fn slice_paths(slices: &[Slice], paths: &[String]) -> Result<Vec<Vec<usize>>, ExportError> {
    let globs = slices.iter().map(|slice| slice.paths.len()).sum::<usize>();
    if globs > MAX_GLOBS {
        return Err(ExportError::Limit { what: "globs of slices", limit: MAX_GLOBS });
    }
    let mut app = App::new(paths);
    let mut steps = 0;
    let mut layers = Vec::with_capacity(slices.len() + 1);
    for slice in slices {
        let mut layer = BTreeSet::new();
        for glob in &slice.paths {
            let matched = matches(&Glob::parse(glob)?, paths, &mut steps)?;
            matched.into_iter().for_each(|at| app.take(at, &mut layer));
        }
        app.add_parents(&mut layer);
        layers.push(ordered(layer, paths));
    }
    let rest = (0..paths.len()).filter(|at| !app.taken[*at]).collect();
    layers.push(ordered(rest, paths));
    Ok(layers)
}

fn matches(glob: &Glob, paths: &[String], steps: &mut usize) -> Result<Vec<usize>, ExportError> {
    let mut matched = Vec::new();
    for (at, path) in paths.iter().enumerate().filter(|(_, path)| !path.is_empty()) {
        if glob.matches(path, steps) {
            matched.push(at);
        }
        if *steps > MAX_STEPS {
            return Err(ExportError::Limit { what: "steps to match globs", limit: MAX_STEPS });
        }
    }
    Ok(matched)
}

fn ordered(layer: BTreeSet<usize>, paths: &[String]) -> Vec<usize> {
    let mut layer: Vec<usize> = layer.into_iter().collect();
    layer.sort_by(|one, other| paths[*one].cmp(&paths[*other]));
    layer
}

/// Paths as a tree, and which of them are in a layer already.
struct App<'a> {
    paths: &'a [String],
    index: HashMap<&'a str, usize>,
    children: Vec<Vec<usize>>,
    taken: Vec<bool>,
}

impl<'a> App<'a> {
    fn new(paths: &'a [String]) -> Self {
        let index: HashMap<&str, usize> =
            paths.iter().enumerate().map(|(at, path)| (path.as_str(), at)).collect();
        let mut children = vec![Vec::new(); paths.len()];
        for (at, path) in paths.iter().enumerate() {
            if let Some(parent) = parent(path).and_then(|parent| index.get(parent)) {
                children[*parent].push(at);
            }
        }
        Self { paths, index, children, taken: vec![false; paths.len()] }
    }

    /// Takes a path and all below it that no slice has.
    fn take(&mut self, at: usize, layer: &mut BTreeSet<usize>) {
        let mut waiting = vec![at];
        while let Some(at) = waiting.pop() {
            if !std::mem::replace(&mut self.taken[at], true) {
                layer.insert(at);
                waiting.extend(&self.children[at]);
            }
        }
    }

    /// Adds the directories above what a layer has; one of which nothing is left is not in the rest.
    fn add_parents(&mut self, layer: &mut BTreeSet<usize>) {
        let mut added: BTreeSet<usize> = BTreeSet::new();
        for at in layer.iter() {
            let mut above = parent(&self.paths[*at]);
            while let Some(path) = above {
                let Some(at) = self.index.get(path) else { break };
                if layer.contains(at) || !added.insert(*at) {
                    break;
                }
                above = parent(path);
            }
        }
        let mut deepest_first: Vec<usize> = added.iter().copied().collect();
        deepest_first.sort_by_key(|at| std::cmp::Reverse(depth(&self.paths[*at])));
        for at in deepest_first {
            self.taken[at] = self.children[at].iter().all(|child| self.taken[*child]);
        }
        layer.extend(added);
    }
}

/// The directory of a path; nothing for the app itself.
fn parent(path: &str) -> Option<&str> {
    if path.is_empty() {
        return None;
    }
    Some(path.rsplit_once('/').map_or("", |(parent, _)| parent))
}

fn depth(path: &str) -> usize {
    if path.is_empty() { 0 } else { 1 + path.bytes().filter(|byte| *byte == b'/').count() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sliced(slices: &[&[&str]], paths: &[&str]) -> Vec<Vec<String>> {
        let slice =
            |globs: &&[&str]| Slice { paths: globs.iter().map(|glob| (*glob).into()).collect() };
        let slices: Vec<Slice> = slices.iter().map(slice).collect();
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        let named = |layer: Vec<usize>| layer.into_iter().map(|at| paths[at].clone()).collect();
        slice_paths(&slices, &paths).unwrap().into_iter().map(named).collect()
    }

    #[test]
    fn without_slices_there_is_one_layer() {
        assert_eq!(sliced(&[], &["", "a", "a/b"]), [vec!["", "a", "a/b"]]);
    }

    #[test]
    fn slices_take_whole_trees_and_their_parents() {
        let paths = ["", "a", "a/x", "a/x/1", "a/y", "b", "c.txt"];
        let layers = sliced(&[&["a/x"], &["*.txt", "nothing"]], &paths);
        assert_eq!(layers[0], ["", "a", "a/x", "a/x/1"]);
        assert_eq!(layers[1], ["", "c.txt"]);
        assert_eq!(layers[2], ["", "a", "a/y", "b"]);
    }

    #[test]
    fn the_first_slice_wins_and_empty_ones_stay() {
        let layers = sliced(&[&["a"], &["a", "a/x"]], &["", "a", "a/x"]);
        assert_eq!(
            layers,
            [vec!["", "a", "a/x"], vec![], vec![]],
            "nothing is left, not even the app"
        );
        let layers = sliced(&[&["a/*"]], &["", "a", "a/x", "b"]);
        assert_eq!(
            layers,
            [vec!["", "a", "a/x"], vec!["", "b"]],
            "an emptied directory is not in the rest"
        );
    }

    #[test]
    fn paths_are_ordered_by_their_bytes() {
        assert_eq!(sliced(&[], &["", "a", "a/c", "a.b"]), [vec!["", "a", "a.b", "a/c"]]);
    }

    #[test]
    fn too_many_globs_are_refused() {
        let slices = vec![Slice { paths: vec!["x".into(); 600] }; 2];
        assert!(matches!(slice_paths(&slices, &[]), Err(ExportError::Limit { .. })));
        let wrong = [Slice { paths: vec!["[".into()] }];
        let error = slice_paths(&wrong, &[]).unwrap_err().to_string();
        assert!(error.contains("launch.toml: slices.paths: \"[\""), "{error}");
    }
}
