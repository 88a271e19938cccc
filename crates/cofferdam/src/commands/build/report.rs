//! What is said and written after a build.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cofferdam_client::progress::Summary;
use serde_json::Value;

use super::arguments::OutputArgs;
use super::buildpacks;
use super::outputs::Outputs;

/// The exporters' answers.
type Response = BTreeMap<String, String>;

const DIGEST: &str = "containerimage.digest";
const CONFIG_DIGEST: &str = "containerimage.config.digest";
const NAME: &str = "image.name";

/// What names the image for docker: its configuration's digest where there is a single one, else the digest of its index.
pub(super) fn image_id(response: &Response) -> Option<&str> {
    response.get(CONFIG_DIGEST).or_else(|| response.get(DIGEST)).map(String::as_str)
}

/// Writes the files that were asked for.
pub(super) fn write(args: &OutputArgs, response: &Response) -> anyhow::Result<()> {
    if let Some(path) = &args.iidfile {
        let id = image_id(response).context("--iidfile: the build made no image")?;
        write_file(path, id.as_bytes())?;
    }
    if let Some(path) = &args.metadata_file {
        write_file(path, &serde_json::to_vec_pretty(&metadata(response))?)?;
    }
    Ok(())
}

/// Complete or not there at all, for whoever waits for it.
fn write_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let failed = || format!("write {}", path.display());
    let mut name = path.file_name().with_context(failed)?.to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(name);
    let written = std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, path));
    if written.is_err() {
        std::fs::remove_file(&partial).ok();
    }
    written.with_context(failed)
}

/// The answers as JSON; those that carry JSON themselves are unwrapped, as other clients do.
fn metadata(response: &Response) -> Value {
    let unwrapped = |text: &str| {
        let bytes = STANDARD.decode(text).ok()?;
        let value: Value = serde_json::from_slice(&bytes).ok()?;
        value.as_object().is_some_and(|object| !object.is_empty()).then_some(value)
    };
    let entries = response.iter().filter(|(key, _)| !buildpacks::is_answer(key));
    let entries = entries.map(|(key, text)| {
        (key.clone(), unwrapped(text).unwrap_or_else(|| Value::String(text.clone())))
    });
    Value::Object(entries.chain(buildpacks::extra_metadata(response)).collect())
}

/// In plain words: what there is now, and where.
pub(super) fn words(outputs: &Outputs, response: &Response) -> String {
    if outputs.is_empty() {
        return "Built. The result stays in the builder's cache: say where it should go with --tag, --output, --push or --load.\n"
            .to_owned();
    }
    let Some(digest) = response.get(DIGEST) else { return "Built.\n".to_owned() };
    let named = response
        .get(NAME)
        .map(|names| format!(" as {}", names.replace(',', ", ")))
        .unwrap_or_default();
    let place = if outputs.stays_in_builder() {
        "\nThe image stays in the builder: --push, --load or --output takes it out."
    } else {
        ""
    };
    format!("Built image {digest}{named}.{place}\n")
}

/// How much was there already, and what that saved.
pub(super) fn cached(summary: &Summary) -> Option<String> {
    let (total, saved) = (summary.total(), summary.saved());
    // Builders of other makers do not say how long a cached step once took.
    let saved = if saved.is_zero() {
        String::new()
    } else {
        format!(", saved about {:.1}s", saved.as_secs_f64())
    };
    (total > 0).then(|| format!("{} of {total} steps cached{saved}\n", summary.cached()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cofferdam_client::Exporter;

    use super::super::outputs::Target;
    use super::*;

    fn response() -> Response {
        let descriptor = STANDARD.encode(r#"{"size":3}"#);
        let pairs = [
            (DIGEST, "sha256:aa"),
            (CONFIG_DIGEST, "sha256:bb"),
            (NAME, "a,b"),
            ("containerimage.descriptor", &descriptor),
        ];
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn metadata_is_unwrapped() {
        let value = metadata(&response());
        assert_eq!(value["containerimage.digest"], "sha256:aa");
        assert_eq!(value["containerimage.descriptor"]["size"], 3);
    }

    #[test]
    fn files_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let args = OutputArgs {
            iidfile: Some(dir.path().join("iid")),
            metadata_file: Some(dir.path().join("meta.json")),
            ..OutputArgs::default()
        };
        write(&args, &response()).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("iid")).unwrap(), "sha256:bb");
        assert!(
            std::fs::read_to_string(dir.path().join("meta.json"))
                .unwrap()
                .contains("\"containerimage.digest\"")
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "no partial files");
        assert!(write(&args, &Response::new()).is_err(), "no image, no id");
    }

    #[test]
    fn what_the_cache_saved() {
        use std::time::Duration;

        use cofferdam_client::progress::StepSummary;

        let step = |cached, saved| StepSummary {
            name: "[1/2] RUN x".into(),
            cached,
            saved,
            ..StepSummary::default()
        };
        let summary = |steps: Vec<StepSummary>| Summary { steps, ..Summary::default() };
        let line = |steps| cached(&summary(steps));
        assert_eq!(line(vec![]), None);
        assert_eq!(
            line(vec![step(true, Duration::ZERO), step(false, Duration::ZERO)]).unwrap(),
            "1 of 2 steps cached\n"
        );
        let saved = line(vec![step(true, Duration::from_millis(1260))]).unwrap();
        assert_eq!(saved, "1 of 1 steps cached, saved about 1.3s\n");
    }

    #[test]
    fn words_say_where_the_image_is() {
        let outputs = |target| {
            Outputs(vec![(Exporter { kind: "image".into(), ..Exporter::default() }, target)])
        };
        assert!(words(&outputs(Target::None), &response()).contains("stays in the builder"));
        assert_eq!(words(&outputs(Target::Load), &response()), "Built image sha256:aa as a, b.\n");
        assert!(words(&Outputs::default(), &Response::new()).contains("--output"));
    }
}
