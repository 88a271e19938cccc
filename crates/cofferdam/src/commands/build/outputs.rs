//! Where a result goes: the exporters the builder is asked for, and what happens here with what they send.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use cofferdam_client::Exporter;
use cofferdam_client::options::{Destination, Output, parse_output};

use super::arguments::BuildArgs;
use super::attestations::annotate;

/// What becomes of one exporter's output on this side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// Nothing arrives.
    None,
    /// Files in a directory; with `mirror` everything else there goes.
    Directory { path: PathBuf, mirror: bool },
    /// An OCI image layout, blob by blob.
    Layout(PathBuf),
    /// One file.
    File(PathBuf),
    /// Standard output.
    Stdout,
    /// The docker or podman of this machine.
    Load,
}

/// Exporters in the builder's order, each with its target.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outputs(pub(super) Vec<(Exporter, Target)>);

impl Outputs {
    /// Everything that was asked for. `terminal` says whether standard output is one.
    pub(super) fn plan(args: &BuildArgs, terminal: bool) -> anyhow::Result<Self> {
        let mut outputs = Vec::new();
        for text in &args.outputs.output {
            outputs.push(one(text)?);
        }
        if args.outputs.load && !outputs.iter().any(|(_, target)| *target == Target::Load) {
            outputs.push((exporter("docker"), Target::Load));
        }
        let wants_digest = args.outputs.iidfile.is_some()
            || args.outputs.metadata_file.is_some()
            || args.display.quiet;
        if outputs.is_empty() && (args.outputs.push || !args.tag.is_empty() || wants_digest) {
            outputs.push((exporter("image"), Target::None));
        }
        if args.outputs.push {
            push(&mut outputs)?;
        }
        for (exporter, _) in &mut outputs {
            if !args.tag.is_empty() && matches!(exporter.kind.as_str(), "image" | "oci" | "docker")
            {
                exporter.attrs.entry("name".to_owned()).or_insert_with(|| args.tag.join(","));
            }
        }
        for (exporter, _) in &mut outputs {
            annotate(args, std::slice::from_mut(exporter))?;
        }
        check(&outputs, terminal)?;
        Ok(Self(outputs))
    }

    /// What the builder is asked for.
    pub(super) fn exporters(&self) -> Vec<Exporter> {
        self.0.iter().map(|(exporter, _)| exporter.clone()).collect()
    }

    /// Pushes the image under `names` as well; names that are not pushed otherwise give way to them.
    pub(super) fn save(&mut self, names: &[String]) {
        let names = names.join(",");
        let image = |(exporter, target): &&mut (Exporter, Target)| {
            exporter.kind == "image" && *target == Target::None
        };
        let Some((image, _)) = self.0.iter_mut().find(image) else {
            let mut saved = exporter("image");
            saved.attrs.insert("name".to_owned(), names);
            saved.attrs.insert("push".to_owned(), "true".to_owned());
            self.0.push((saved, Target::None));
            return;
        };
        let own = image.attrs.get("name").filter(|name| !name.is_empty() && is_true(image, "push"));
        let names = own.map_or_else(|| names.clone(), |own| format!("{own},{names}"));
        image.attrs.insert("name".to_owned(), names);
        image.attrs.insert("push".to_owned(), "true".to_owned());
    }

    /// Completes the layouts that the builder's blobs went to, with what it answered.
    pub(super) fn finish(&self, response: &BTreeMap<String, String>) -> anyhow::Result<()> {
        for (exporter, target) in &self.0 {
            if let Target::Layout(path) = target {
                layout(exporter, path).finish(response)?;
            }
        }
        Ok(())
    }

    /// Whether an image goes to a registry.
    pub(super) fn pushes(&self) -> bool {
        self.0.iter().any(|(exporter, _)| is_true(exporter, "push"))
    }

    /// Whether the result stays where it was built.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the image is left in the builder only.
    pub(super) fn stays_in_builder(&self) -> bool {
        self.0
            .iter()
            .all(|(exporter, target)| *target == Target::None && !is_true(exporter, "push"))
    }
}

/// An output that is a layout.
pub(super) fn layout(exporter: &Exporter, path: &Path) -> Output {
    Output { exporter: exporter.clone(), destination: Destination::Directory(path.to_owned()) }
}

fn exporter(kind: &str) -> Exporter {
    Exporter { kind: kind.to_owned(), ..Exporter::default() }
}

fn is_true(exporter: &Exporter, key: &str) -> bool {
    exporter.attrs.get(key).is_some_and(|value| {
        matches!(value.as_str(), "" | "1" | "t" | "T" | "true" | "TRUE" | "True")
    })
}

fn one(text: &str) -> anyhow::Result<(Exporter, Target)> {
    let output = parse_output(text)?;
    let exporter = output.exporter;
    let kind = exporter.kind.as_str();
    let target = match output.destination {
        Destination::None if kind == "docker" => Target::Load,
        Destination::None => Target::None,
        Destination::Stdout => Target::Stdout,
        Destination::File(path) => Target::File(path),
        Destination::Directory(path) if kind == "local" => {
            let mirror = exporter.attrs.get("mode").is_some_and(|mode| mode == "delete");
            Target::Directory { path, mirror }
        }
        Destination::Directory(path) => Target::Layout(path),
    };
    Ok((exporter, target))
}

fn push(outputs: &mut [(Exporter, Target)]) -> anyhow::Result<()> {
    let mut images = outputs.iter_mut().filter(|(exporter, _)| exporter.kind == "image").peekable();
    ensure!(images.peek().is_some(), "--push needs an output of type=image");
    for (exporter, _) in images {
        exporter.attrs.entry("push".to_owned()).or_insert_with(|| "true".to_owned());
    }
    Ok(())
}

fn check(outputs: &[(Exporter, Target)], terminal: bool) -> anyhow::Result<()> {
    for (exporter, target) in outputs {
        let named = exporter.attrs.get("name").is_some_and(|name| !name.is_empty());
        ensure!(!is_true(exporter, "push") || named, "pushing needs a name: add --tag");
        ensure!(
            *target != Target::Stdout || !terminal,
            "type={} would fill the terminal: add dest=FILE, or redirect standard output",
            exporter.kind
        );
    }
    let to_stdout = outputs.iter().filter(|(_, target)| *target == Target::Stdout).count();
    ensure!(to_stdout < 2, "only one output can go to standard output");
    // A session has one place for them.
    let layouts = outputs.iter().filter(|(_, target)| matches!(target, Target::Layout(_))).count();
    ensure!(layouts < 2, "only one output can have tar=false");
    let loads = outputs.iter().filter(|(_, target)| *target == Target::Load).count();
    ensure!(loads < 2, "only one output can be loaded");
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn args(outputs: &[&str], tags: &[&str]) -> BuildArgs {
        let mut args = BuildArgs {
            tag: tags.iter().map(|tag| (*tag).into()).collect(),
            ..BuildArgs::default()
        };
        args.outputs.output = outputs.iter().map(|text| (*text).into()).collect();
        args
    }

    fn plan(args: &BuildArgs) -> Vec<(String, Vec<String>, Target)> {
        let show = |(exporter, target): (Exporter, Target)| {
            (
                exporter.kind,
                exporter.attrs.into_iter().map(|(key, value)| format!("{key}={value}")).collect(),
                target,
            )
        };
        Outputs::plan(args, false).unwrap().0.into_iter().map(show).collect()
    }

    #[test]
    fn nothing_asked_nothing_exported() {
        assert!(plan(&args(&[], &[])).is_empty());
    }

    #[test]
    fn tags_name_images() {
        let named = plan(&args(&[], &["a", "b:1"]));
        assert_eq!(named, [("image".into(), vec!["name=a,b:1".into()], Target::None)]);
        let own = plan(&args(&["type=oci,name=x,dest=f.tar", "out"], &["a"]));
        assert_eq!(own[0], ("oci".into(), vec!["name=x".into()], Target::File("f.tar".into())));
        assert_eq!(
            own[1],
            ("local".into(), vec![], Target::Directory { path: "out".into(), mirror: false })
        );
    }

    #[test]
    fn push_and_load() {
        let mut pushed = args(&[], &["a"]);
        pushed.outputs.push = true;
        assert_eq!(plan(&pushed)[0].1, ["name=a", "push=true"]);
        let registry = plan(&args(&["type=registry"], &["a"]));
        assert_eq!(
            (registry[0].0.as_str(), &registry[0].1),
            ("image", &vec!["name=a".into(), "push=true".into()])
        );
        let mut loaded = args(&["type=docker"], &["a"]);
        loaded.outputs.load = true;
        assert_eq!(plan(&loaded), [("docker".into(), vec!["name=a".into()], Target::Load)]);
        let mut both = args(&["type=image,push=true"], &["a"]);
        both.outputs.load = true;
        assert_eq!(plan(&both).len(), 2);
    }

    #[test]
    fn saved_images_have_the_servers_names() {
        let names = ["r.example/p:b1".to_owned(), "r.example/p:x".to_owned()];
        let saved = |args: &BuildArgs| {
            let mut outputs = Outputs::plan(args, false).unwrap();
            outputs.save(&names);
            let image = outputs.0.iter().rfind(|(exporter, _)| exporter.kind == "image").unwrap();
            assert!(!outputs.stays_in_builder());
            (outputs.0.len(), image.0.attrs["name"].clone(), image.0.attrs["push"].clone())
        };
        let both = "r.example/p:b1,r.example/p:x";
        assert_eq!(saved(&args(&[], &[])), (1, both.into(), "true".into()));
        assert_eq!(saved(&args(&[], &["a"])), (1, both.into(), "true".into()));
        assert_eq!(saved(&args(&["out"], &[])), (2, both.into(), "true".into()));
        let mut pushed = args(&[], &["a"]);
        pushed.outputs.push = true;
        assert_eq!(saved(&pushed), (1, format!("a,{both}"), "true".into()));
    }

    #[test]
    fn a_digest_needs_an_image() {
        let mut quiet = args(&[], &[]);
        quiet.display.quiet = true;
        assert_eq!(plan(&quiet), [("image".into(), vec![], Target::None)]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let mut nameless = args(&[], &[]);
        nameless.outputs.push = true;
        assert!(Outputs::plan(&nameless, false).is_err());
        let mut tar = args(&["-"], &["a"]);
        tar.outputs.push = true;
        assert!(Outputs::plan(&tar, false).is_err(), "nothing to push");
        assert!(Outputs::plan(&args(&["-"], &[]), true).is_err(), "a terminal");
        assert!(
            Outputs::plan(&args(&["-", "type=oci"], &[]), false).is_err(),
            "twice on standard output"
        );
        let layouts = ["type=oci,tar=false,dest=d", "type=docker,tar=false,dest=e"];
        assert!(Outputs::plan(&args(&layouts, &[]), false).is_err(), "two layouts");
        assert_eq!(plan(&args(&layouts[..1], &[]))[0].2, Target::Layout("d".into()));
    }
}
