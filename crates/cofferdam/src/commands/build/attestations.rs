//! `--attest`, `--provenance`, `--sbom` and `--annotation`: what is said about an image.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use cofferdam_client::Exporter;

use super::arguments::{BuildArgs, OutputArgs};

/// What may be attested.
const KINDS: [&str; 2] = ["provenance", "sbom"];
/// Where annotations go.
const LEVELS: [&str; 4] = ["manifest", "manifest-descriptor", "index", "index-descriptor"];

/// Attestations by kind, as attributes of the frontend.
pub(super) fn attestations(args: &OutputArgs) -> anyhow::Result<BTreeMap<String, String>> {
    let mut wanted: BTreeMap<String, Option<String>> = BTreeMap::new();
    for text in &args.attest {
        let (kind, options) = typed(text).with_context(|| format!("--attest {text:?}"))?;
        wanted.insert(kind, options);
    }
    for (kind, value) in [("provenance", &args.provenance), ("sbom", &args.sbom)] {
        if let Some(value) = value {
            wanted.insert(kind.to_owned(), options(value));
        }
    }
    let on = wanted.into_iter().filter_map(|(kind, options)| Some((kind, options?)));
    Ok(on.map(|(kind, options)| (format!("attest:{kind}"), options)).collect())
}

/// Cuts `type=KIND,KEY=VALUE…`; no options when it is switched off.
fn typed(text: &str) -> anyhow::Result<(String, Option<String>)> {
    let fields: Vec<&str> = text.split(',').collect();
    let kind = fields.iter().find_map(|field| field.strip_prefix("type="));
    let kind = kind.context("add type=provenance or type=sbom")?;
    ensure!(KINDS.contains(&kind), "type {kind:?}: use provenance or sbom");
    let rest: Vec<&str> =
        fields.iter().filter(|field| !field.starts_with("type=")).copied().collect();
    Ok((kind.to_owned(), options(&rest.join(","))))
}

/// What a flag's value asks for: options, or nothing at all.
fn options(value: &str) -> Option<String> {
    if matches!(value, "false" | "0") {
        return None;
    }
    let fields = value.split(',').filter(|field| !field.is_empty());
    let mut kept = Vec::new();
    for field in fields {
        match field {
            "disabled" | "disabled=true" | "disabled=1" => return None,
            "true" | "1" | "disabled=false" => {}
            other => kept.push(other),
        }
    }
    Some(kept.join(","))
}

/// Gives annotations to every exporter of images.
pub(super) fn annotate(args: &BuildArgs, exporters: &mut [Exporter]) -> anyhow::Result<()> {
    let mut attrs = Vec::new();
    for text in &args.outputs.annotation {
        attrs.extend(annotation(text).with_context(|| format!("--annotation {text:?}"))?);
    }
    if attrs.is_empty() {
        return Ok(());
    }
    let images = exporters
        .iter_mut()
        .filter(|exporter| matches!(exporter.kind.as_str(), "image" | "oci" | "docker"));
    for exporter in images {
        exporter.attrs.extend(attrs.iter().cloned());
    }
    Ok(())
}

/// `[LEVEL[[PLATFORM]],…:]KEY=VALUE` as exporter attributes.
fn annotation(text: &str) -> anyhow::Result<Vec<(String, String)>> {
    let (name, value) = text.split_once('=').context("use KEY=VALUE")?;
    let (levels, key) = match name.split_once(':') {
        Some((levels, key)) if is_levels(levels) => (levels, key),
        _ => ("", name),
    };
    ensure!(!key.is_empty() && !key.contains(char::is_whitespace), "the key is malformed");
    let attribute = |level: &str| (format!("annotation{level}.{key}"), value.to_owned());
    if levels.is_empty() {
        return Ok(vec![attribute("")]);
    }
    let mut attributes = Vec::new();
    for level in levels.split(',') {
        let name = level.split('[').next().unwrap_or_default();
        if !LEVELS.contains(&name) {
            bail!("level {name:?}: use {}", LEVELS.join(", "));
        }
        attributes.push(attribute(&format!("-{level}")));
    }
    Ok(attributes)
}

/// Keys may have colons in them, too; levels begin with a word that is one.
fn is_levels(text: &str) -> bool {
    text.split(',').all(|level| {
        let name = level.split('[').next().unwrap_or_default();
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
    })
}

/// Builds by buildpacks have no graph that a statement could be about.
pub(super) fn refuse(args: &OutputArgs) -> anyhow::Result<()> {
    if let Some(key) = attestations(args)?.keys().next() {
        let kind = key.trim_start_matches("attest:");
        bail!(
            "--{kind}: builds by buildpacks cannot be attested; their SBOMs are part of the image"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn args(attest: &[&str], provenance: Option<&str>, sbom: Option<&str>) -> OutputArgs {
        OutputArgs {
            attest: attest.iter().map(|text| (*text).to_owned()).collect(),
            provenance: provenance.map(str::to_owned),
            sbom: sbom.map(str::to_owned),
            ..OutputArgs::default()
        }
    }

    fn wanted(args: &OutputArgs) -> Vec<String> {
        let all = attestations(args).unwrap();
        all.into_iter().map(|(key, value)| format!("{key}={value}")).collect()
    }

    #[test]
    fn flags_become_attributes() {
        assert!(wanted(&args(&[], None, None)).is_empty());
        let both = args(&[], Some("mode=max,version=v0.2"), Some("true"));
        assert_eq!(wanted(&both), ["attest:provenance=mode=max,version=v0.2", "attest:sbom="]);
        let typed = args(&["type=sbom,generator=g", "type=provenance,disabled=true"], None, None);
        assert_eq!(wanted(&typed), ["attest:sbom=generator=g"]);
        let off = args(&["type=provenance,mode=min"], Some("false"), Some("disabled=true"));
        assert!(wanted(&off).is_empty());
        assert!(refuse(&off).is_ok() && refuse(&both).is_err());
    }

    #[test]
    fn annotations_go_where_they_are_sent() {
        let attributes = |text| -> Vec<String> {
            let attributes = annotation(text).unwrap().into_iter();
            attributes.map(|(key, value)| format!("{key}={value}")).collect()
        };
        assert_eq!(attributes("a.b=c=d"), ["annotation.a.b=c=d"]);
        assert_eq!(
            attributes("index,manifest[linux/amd64]:a=b"),
            ["annotation-index.a=b", "annotation-manifest[linux/amd64].a=b"]
        );
        assert_eq!(attributes("Http://x=y"), ["annotation.Http://x=y"]);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(attestations(&args(&["mode=max"], None, None)).is_err());
        assert!(attestations(&args(&["type=x"], None, None)).is_err());
        for text in ["a", "=b", "layer:a=b", "index:=b"] {
            assert!(annotation(text).is_err(), "{text}");
        }
    }
}
