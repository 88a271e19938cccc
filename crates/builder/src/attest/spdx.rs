//! Adds to a bill of materials which layer each file is in.
//!
//! Documents are [SPDX](https://spdx.github.io/spdx-spec/v2.3/) as JSON. What is no such document
//! stays as it is.

use std::collections::HashMap;

use cofferdam_image::Descriptor;
use cofferdam_store::Tree;
use serde_json::{Value, json};

use crate::rooted::Root;

/// Files whose layer is looked for; a document that names more keeps the rest as they are.
const MAX_FILES: usize = 500_000;

/// `document` with a comment on each file that has none, naming the layer the file is in.
pub(crate) fn add_layers(mut document: Value, tree: &Tree, layers: &[Descriptor]) -> Value {
    if !document["spdxVersion"].is_string() || tree.layers().len() != layers.len() {
        return document;
    }
    let Some(finder) = Finder::new(tree, layers) else { return document };
    let mut left = MAX_FILES;
    comment_on(&mut document["files"], &finder, &mut left);
    if let Some(packages) = document["packages"].as_array_mut() {
        for package in packages {
            if package.is_object() {
                comment_on(&mut package["files"], &finder, &mut left);
            }
        }
    }
    prune_nulls(&mut document);
    let tool = format!("Tool: buildkit-{}", crate::worker::COMPATIBLE_VERSION);
    match document["creationInfo"]["creators"].as_array_mut() {
        Some(creators) => creators.push(json!(tool)),
        None => document["creationInfo"]["creators"] = json!([tool]),
    }
    document
}

/// Indexing made members where there were none.
fn prune_nulls(document: &mut Value) {
    let packages = document["packages"].as_array_mut().into_iter().flatten();
    for object in packages.filter_map(Value::as_object_mut) {
        object.retain(|key, value| key != "files" || !value.is_null());
    }
    if let Some(object) = document.as_object_mut() {
        object.retain(|key, value| !(key == "files" || key == "packages") || !value.is_null());
    }
}

fn comment_on(files: &mut Value, finder: &Finder, left: &mut usize) {
    for file in files.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        if *left == 0 {
            return;
        }
        *left -= 1;
        let commented = file.get("comment").and_then(Value::as_str).is_some_and(|c| !c.is_empty());
        let Some(name) = file.get("fileName").and_then(Value::as_str).filter(|_| !commented) else {
            continue;
        };
        if let Some(layer) = finder.find(name) {
            file.insert("comment".to_owned(), json!(format!("layerID: {layer}")));
        }
    }
}

struct Finder {
    /// Topmost first.
    layers: Vec<(Root, String)>,
    known: std::cell::RefCell<HashMap<String, Option<String>>>,
}

impl Finder {
    fn new(tree: &Tree, descriptors: &[Descriptor]) -> Option<Self> {
        let layers = tree.layers().iter().zip(descriptors).rev();
        let layers = layers
            .map(|(layer, descriptor)| {
                Some((Root::new(layer.open().ok()?), descriptor.digest.to_string()))
            })
            .collect::<Option<_>>()?;
        Some(Self { layers, known: std::cell::RefCell::default() })
    }

    /// The topmost layer that has a file of this name.
    fn find(&self, name: &str) -> Option<String> {
        if let Some(known) = self.known.borrow().get(name) {
            return known.clone();
        }
        let path = name.trim_start_matches('/');
        let is_file = |root: &Root| match root.stat(path, false) {
            // A character device 0:0 says that lower layers' file is gone.
            Ok(Some(stat)) => !(stat.st_mode & 0o170_000 == 0o020_000 && stat.st_rdev == 0),
            _ => false,
        };
        let found = self.layers.iter().find(|(root, _)| is_file(root));
        let found = found.map(|(_, digest)| digest.clone());
        self.known.borrow_mut().insert(name.to_owned(), found.clone());
        found
    }
}
