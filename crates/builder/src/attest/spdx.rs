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
    if !document["spdxVersion"].is_string() || tree.len() != layers.len() {
        return document;
    }
    let Some(finder) = Finder::new(tree, layers) else { return document };
    let mut left = MAX_FILES;
    comment_on(document.get_mut("files"), &finder, &mut left);
    let packages = document.get_mut("packages").and_then(Value::as_array_mut);
    for package in packages.into_iter().flatten() {
        comment_on(package.get_mut("files"), &finder, &mut left);
    }
    sign(&mut document);
    document
}

/// Says that this builder had a hand in the document.
fn sign(document: &mut Value) {
    let tool = json!(format!("Tool: buildkit-{}", crate::worker::COMPATIBLE_VERSION));
    let Some(document) = document.as_object_mut() else { return };
    let info = document.entry("creationInfo").or_insert_with(|| json!({}));
    if info.is_null() {
        *info = json!({});
    }
    let Some(info) = info.as_object_mut() else { return };
    let creators = info.entry("creators").or_insert_with(|| json!([]));
    if creators.is_null() {
        *creators = json!([]);
    }
    if let Some(creators) = creators.as_array_mut() {
        creators.push(tool);
    }
}

fn comment_on(files: Option<&mut Value>, finder: &Finder, left: &mut usize) {
    let files = files.and_then(Value::as_array_mut).into_iter().flatten();
    for file in files.filter_map(Value::as_object_mut) {
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
        let layers = tree.layers();
        let layers = layers.iter().zip(descriptors).rev();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_of_any_form_are_signed_or_left() {
        let tool = format!("Tool: buildkit-{}", crate::worker::COMPATIBLE_VERSION);
        for (document, creators) in [
            (json!({}), json!([tool])),
            (json!({ "creationInfo": null }), json!([tool])),
            (json!({ "creationInfo": { "creators": null } }), json!([tool])),
            (json!({ "creationInfo": { "creators": ["a"] } }), json!(["a", tool])),
            (json!({ "creationInfo": { "creators": "a" } }), json!("a")),
        ] {
            let mut signed = document.clone();
            sign(&mut signed);
            assert_eq!(signed["creationInfo"]["creators"], creators, "{document}");
        }
        for mut document in [json!({ "creationInfo": "x" }), json!([]), json!(1)] {
            let before = document.clone();
            sign(&mut document);
            assert_eq!(document, before);
        }
        let none = json!({ "spdxVersion": 2, "files": {}, "packages": [1] });
        assert_eq!(add_layers(none.clone(), &Tree::scratch(), &[]), none);
        let odd = json!({ "spdxVersion": "2", "files": [1, {}], "packages": [1, { "files": 1 }] });
        assert!(add_layers(odd, &Tree::scratch(), &[])["creationInfo"].is_object());
    }
}
