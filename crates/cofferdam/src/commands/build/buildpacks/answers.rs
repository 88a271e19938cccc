//! What a build by buildpacks answers beside its image: the flow, SBOMs, the report, and its exit code when it fails.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cofferdam_client::SolveError;
use serde::Deserialize;
use serde_json::Value;

use super::arguments::BuildpackArgs;
use crate::below::Below;

/// Everything that the frontend itself answers starts with this.
const PREFIX: &str = "frontend.buildpacks.";

const FLOW: &str = "frontend.buildpacks.flow";
const SBOM: &str = "frontend.buildpacks.sbom";
const REPORT: &str = "frontend.buildpacks.report";

/// Name of the flow in the file of `--metadata-file`.
const FLOW_METADATA: &str = "buildpacks.flow";

/// Exit codes that the lifecycle's specification has for what went wrong in a build.
const CODES: std::ops::RangeInclusive<u8> = 11..=102;

/// The flow of a build.
#[derive(Deserialize)]
struct Flow {
    flow: String,
    #[serde(default)]
    phases: Vec<String>,
    #[serde(default)]
    reason: String,
}

/// Whether an entry of the response is said in another way than as it is.
pub(crate) fn is_answer(key: &str) -> bool {
    key.starts_with(PREFIX)
}

/// What `--metadata-file` has of it.
pub(crate) fn extra_metadata(response: &BTreeMap<String, String>) -> Option<(String, Value)> {
    Some((FLOW_METADATA.to_owned(), json(response.get(FLOW)?)?))
}

/// The flow in words.
pub(crate) fn flow_line(response: &BTreeMap<String, String>) -> Option<String> {
    let value = json(response.get(FLOW)?)?;
    let Flow { flow, phases, reason } = serde_json::from_value(value).ok()?;
    let phases =
        if phases.is_empty() { String::new() } else { format!(" ({})", phases.join(", ")) };
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    Some(format!("Flow: {flow}{phases}{reason}"))
}

/// JSON, or JSON in base64 as other entries of responses are.
fn json(text: &str) -> Option<Value> {
    let decode = || serde_json::from_slice(&STANDARD.decode(text.trim()).ok()?).ok();
    serde_json::from_str(text).ok().or_else(decode)
}

/// Writes the files that were asked for.
pub(crate) fn finish(
    args: &BuildpackArgs,
    response: &BTreeMap<String, String>,
) -> anyhow::Result<()> {
    if let Some(directory) = &args.sbom_output_dir {
        write_sboms(directory, response.get(SBOM))
            .with_context(|| format!("write SBOMs to {}", directory.display()))?;
    }
    if let Some(directory) = &args.report_output_dir {
        let failed = || format!("write the report to {}", directory.display());
        let report = response.get(REPORT).context("the builder made no report")?;
        let text = report_text(report, response).with_context(failed)?;
        let below = Below::create(directory).with_context(failed)?;
        below.write(Path::new("report.toml"), &mut text.as_bytes()).with_context(failed)?;
    }
    Ok(())
}

fn write_sboms(directory: &Path, archive: Option<&String>) -> anyhow::Result<()> {
    let below = Below::create(directory)?;
    // No buildpack has to describe anything.
    let Some(archive) = archive else { return Ok(()) };
    let archive = STANDARD.decode(archive.trim()).context("the builder's answer is no base64")?;
    below.unpack(archive.as_slice(), |_| true)?;
    Ok(())
}

/// The report with what only the exporter knew.
fn report_text(report: &str, response: &BTreeMap<String, String>) -> anyhow::Result<String> {
    let mut table: toml::Table =
        toml::from_str(report).ok().context("the builder's report is no TOML")?;
    let image = table.entry("image").or_insert_with(|| toml::Value::Table(toml::Table::new()));
    let image = image.as_table_mut().context("`image` of the builder's report is no table")?;
    for (key, answer) in
        [("digest", "containerimage.digest"), ("image-id", "containerimage.config.digest")]
    {
        if let Some(digest) = response.get(answer) {
            image.insert(key.to_owned(), toml::Value::String(digest.clone()));
        }
    }
    let descriptor = response.get("containerimage.descriptor").and_then(|text| json(text));
    if let Some(size) = descriptor.as_ref().and_then(|descriptor| descriptor["size"].as_i64()) {
        image.insert("manifest-size".to_owned(), toml::Value::Integer(size));
    }
    Ok(toml::to_string(&table)?)
}

/// The exit code that a failed build asks for, at the end of its message.
pub(crate) fn lifecycle_code(error: &anyhow::Error) -> Option<u8> {
    let SolveError::Failed(_) = error.downcast_ref::<SolveError>()? else { return None };
    code_at_end(&format!("{error:#}"))
}

fn code_at_end(text: &str) -> Option<u8> {
    let (_, end) = text.trim_end().rsplit_once(" (exit code ")?;
    end.strip_suffix(')')?.parse().ok().filter(|code| CODES.contains(code))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn response(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    const ANSWER: &str = r#"{"flow":"untrusted","phases":["analyze","detect"],"reason":"x was added","modules":["x@1"]}"#;

    #[test]
    fn the_flow_is_said() {
        let encoded = STANDARD.encode(ANSWER);
        for text in [ANSWER, &encoded] {
            let response = response(&[(FLOW, text)]);
            let line = flow_line(&response).unwrap();
            assert_eq!(line, "Flow: untrusted (analyze, detect): x was added");
            let (key, value) = extra_metadata(&response).unwrap();
            assert_eq!((key.as_str(), &value["modules"][0]), ("buildpacks.flow", &"x@1".into()));
        }
        assert_eq!(flow_line(&response(&[])), None);
        assert_eq!(flow_line(&response(&[(FLOW, "{}")])), None);
        assert!(is_answer(SBOM) && !is_answer("containerimage.digest"));
    }

    #[test]
    fn reports_get_their_digest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/dir");
        let args =
            BuildpackArgs { report_output_dir: Some(path.clone()), ..BuildpackArgs::default() };
        let descriptor = STANDARD.encode(r#"{"size":3}"#);
        let mut answers = response(&[
            (REPORT, "[image]\ntags = [\"a\"]\n"),
            ("containerimage.digest", "sha256:aa"),
            ("containerimage.descriptor", &descriptor),
        ]);
        finish(&args, &answers).unwrap();
        let text = std::fs::read_to_string(path.join("report.toml")).unwrap();
        let table: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(table["image"]["digest"].as_str(), Some("sha256:aa"));
        assert_eq!(table["image"]["tags"][0].as_str(), Some("a"));
        assert_eq!(table["image"]["manifest-size"].as_integer(), Some(3));
        for report in ["[image", "image = 1"] {
            answers.insert(REPORT.to_owned(), report.to_owned());
            assert!(finish(&args, &answers).is_err(), "{report}");
        }
        answers.remove(REPORT);
        assert!(finish(&args, &answers).is_err());
    }

    #[test]
    fn sboms_are_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let args = BuildpackArgs {
            sbom_output_dir: Some(dir.path().join("out")),
            ..BuildpackArgs::default()
        };
        finish(&args, &response(&[])).unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(2);
        header.set_mode(0o644);
        let path = "layers/sbom/launch/bp/layer/sbom.cdx.json";
        tar.append_data(&mut header, path, &b"{}"[..]).unwrap();
        let archive = STANDARD.encode(tar.into_inner().unwrap());
        finish(&args, &response(&[(SBOM, &archive)])).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("out").join(path)).unwrap(), "{}");
        assert!(finish(&args, &response(&[(SBOM, "!")])).is_err());
    }

    #[test]
    fn exit_codes_are_those_of_the_lifecycle() {
        assert_eq!(code_at_end("no group passed (exit code 20)"), Some(20));
        assert_eq!(code_at_end("x: unsupported (exit code 12)\n"), Some(12));
        for text in [
            "x",
            "x (exit code 1)",
            "x (exit code 300)",
            "x (exit code 20) y",
            "exit code: 20",
            "x (exit code -20)",
        ] {
            assert_eq!(code_at_end(text), None, "{text}");
        }
        assert_eq!(lifecycle_code(&anyhow::anyhow!("x (exit code 20)")), None);
    }
}
