//! Requests that ask about a Dockerfile instead of building it.
//!
//! `frontend.subrequests.describe`, `frontend.outline`, `frontend.targets` and `frontend.lint`, each
//! answered with `result.json` for programs and `result.txt` for people. JSON shapes are those that
//! `buildx` reads.

use serde_json::{Map, Value, json};

use super::error::{BuildError, BuildErrorKind};
use super::json::{base64, location, source_info};
use super::report::{excerpt, table};
use super::{Built, Frontend};
use crate::convert::{Outline, Request, convert};
use crate::instructions::parse;
use crate::lines::Lines;
use crate::lint::{LintWarning, Warnings};

const DESCRIBE: &str = "frontend.subrequests.describe";
const OUTLINE: &str = "frontend.outline";
const TARGETS: &str = "frontend.targets";
const LINT: &str = "frontend.lint";
const VERSION: &str = "1.0.0";

impl Frontend<'_> {
    /// Answers a subrequest by its id.
    pub(super) async fn answer(&self, request: &str) -> Result<Built, BuildError> {
        match request {
            DESCRIBE => describe(),
            OUTLINE => self.outline().await,
            TARGETS => self.targets(),
            LINT => self.lint().await,
            other => Err(BuildErrorKind::UnsupportedRequest(other.to_owned()).into()),
        }
    }

    async fn outline(&self) -> Result<Built, BuildError> {
        let platform = self.contexts.options.platforms.first();
        let mut warnings = self.warnings()?;
        let converted = convert(self.request(platform), &mut warnings).await;
        self.warn(&warnings).await;
        let converted = converted.map_err(|error| BuildError::located(error, &self.entry.info))?;
        let outline = &converted.outline;
        answer(&self.outline_json(outline), outline_text(outline))
    }

    fn outline_json(&self, outline: &Outline) -> Value {
        let args: Vec<Value> = outline
            .args
            .iter()
            .map(|arg| {
                object(&[
                    ("name", json!(arg.name)),
                    ("description", json!(arg.description)),
                    ("value", json!(arg.value)),
                    ("location", location(arg.lines)),
                ])
            })
            .collect();
        let asked = |list: &[crate::convert::Asked]| -> Vec<Value> {
            list.iter()
                .map(|asked| {
                    object(&[
                        ("name", json!(asked.name)),
                        ("required", json!(asked.required)),
                        ("location", location(asked.lines)),
                    ])
                })
                .collect()
        };
        object(&[
            ("name", json!(outline.name)),
            ("description", json!(outline.description)),
            ("args", Value::Array(args)),
            ("secrets", Value::Array(asked(&outline.secrets))),
            ("ssh", Value::Array(asked(&outline.ssh))),
            ("sources", json!([base64(&self.entry.text)])),
        ])
    }

    fn targets(&self) -> Result<Built, BuildError> {
        let parsed = parse(&self.entry.text, &mut Warnings::default());
        let dockerfile =
            parsed.map_err(|error| BuildError::located(error.into(), &self.entry.info))?;
        let last = dockerfile.stages.len().saturating_sub(1);
        let mut rows = vec![vec!["TARGET".to_owned(), "DESCRIPTION".to_owned()]];
        let mut targets = Vec::with_capacity(dockerfile.stages.len());
        for (index, stage) in dockerfile.stages.iter().enumerate() {
            let name = stage.name.clone().unwrap_or_default();
            let default = index == last;
            targets.push(object(&[
                ("name", json!(name)),
                ("default", json!(default)),
                ("description", json!(stage.description)),
                ("base", json!(stage.base)),
                ("platform", json!(stage.platform)),
                ("location", location(stage.lines)),
            ]));
            let shown = match (name.is_empty(), default) {
                (true, true) => "(default)".to_owned(),
                (false, true) => format!("{name} (default)"),
                (_, false) => name,
            };
            rows.push(vec![shown, stage.description.clone()]);
        }
        let json = json!({ "targets": targets, "sources": [base64(&self.entry.text)] });
        answer(&json, table(&rows, 1))
    }

    /// Findings in all stages, or in those that the target needs when the request names one.
    async fn lint(&self) -> Result<Built, BuildError> {
        let options = self.contexts.options;
        let request = Request {
            all_stages: options.target.is_empty(),
            ..self.request(options.platforms.first())
        };
        let mut warnings = self.warnings()?;
        let failed = convert(request, &mut warnings).await.err();
        let failed = failed.map(|error| BuildError::located(error, &self.entry.info));
        let list: Vec<Value> = warnings.kept().iter().map(warning_json).collect();
        let mut results = Map::new();
        let list = if list.is_empty() { Value::Null } else { Value::Array(list) };
        results.insert("warnings".to_owned(), list);
        results.insert("sources".to_owned(), json!([source_info(&self.entry.info)]));
        if let Some(error) = &failed {
            let lines = merged(error.places());
            let place = lines.map_or_else(|| json!({}), location);
            let error = json!({ "message": error.to_string(), "location": place });
            results.insert("buildError".to_owned(), error);
        }
        let clean = warnings.kept().is_empty() && failed.is_none();
        let mut built = answer(&Value::Object(results), self.lint_text(warnings.kept()))?;
        let status = if clean { b"0" } else { b"1" };
        built.metadata.insert("result.statuscode".to_owned(), status.to_vec());
        Ok(built)
    }

    fn lint_text(&self, warnings: &[LintWarning]) -> String {
        let mut sorted: Vec<&LintWarning> = warnings.iter().collect();
        sorted.sort_by_key(|warning| warning.lines.start);
        let mut text = String::new();
        for warning in sorted {
            text.push_str(&format!("\nWARNING: {}", warning.rule.name));
            if !warning.rule.url.is_empty() {
                text.push_str(&format!(" - {}", warning.rule.url));
            }
            text.push_str(&format!("\n{}\n", warning.message));
            let info = &self.entry.info;
            text.push_str(&excerpt(&info.filename, &info.data, warning.lines));
        }
        text
    }
}

fn warning_json(warning: &LintWarning) -> Value {
    object(&[
        ("ruleName", json!(warning.rule.name)),
        ("description", json!(warning.rule.description)),
        ("url", json!(warning.rule.url)),
        ("detail", json!(warning.message)),
        ("location", location(warning.lines)),
    ])
}

/// An object without its empty fields.
fn object(fields: &[(&str, Value)]) -> Value {
    let empty = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    let fields = fields.iter().filter(|(_, value)| !empty(value));
    Value::Object(fields.map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
}

fn merged(places: &[Lines]) -> Option<Lines> {
    let start = places.iter().map(|lines| lines.start).min()?;
    let end = places.iter().map(|lines| lines.end).max()?;
    Some(Lines::new(start, end))
}

fn answer(json: &Value, text: String) -> Result<Built, BuildError> {
    let json = serde_json::to_vec_pretty(json).map_err(BuildErrorKind::Write)?;
    let mut built = Built { single: true, ..Built::default() };
    built.metadata.insert("result.json".to_owned(), json);
    built.metadata.insert("result.txt".to_owned(), text.into_bytes());
    built.metadata.insert("version".to_owned(), VERSION.into());
    Ok(built)
}

fn outline_text(outline: &Outline) -> String {
    let mut text = String::new();
    if !outline.name.is_empty() || !outline.description.is_empty() {
        let name = if outline.name.is_empty() { "(default)" } else { &outline.name };
        let mut rows = vec![vec!["TARGET:".to_owned(), name.to_owned()]];
        if !outline.description.is_empty() {
            rows.push(vec!["DESCRIPTION:".to_owned(), outline.description.clone()]);
        }
        text.push_str(&format!("{}\n", table(&rows, 1)));
    }
    let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
    if !outline.args.is_empty() {
        let mut rows = vec![row(&["BUILD ARG", "VALUE", "DESCRIPTION"])];
        rows.extend(outline.args.iter().map(|arg| row(&[&arg.name, &arg.value, &arg.description])));
        text.push_str(&format!("{}\n", table(&rows, 3)));
    }
    for (title, list) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if !list.is_empty() {
            let mut rows = vec![row(&[title, "REQUIRED"])];
            let required = |required: bool| if required { "true" } else { "" };
            rows.extend(list.iter().map(|asked| row(&[&asked.name, required(asked.required)])));
            text.push_str(&format!("{}\n", table(&rows, 3)));
        }
    }
    text
}

/// The requests that are answered here. Lint is not among them in BuildKit either: clients just ask.
fn describe() -> Result<Built, BuildError> {
    let named = |name: &str, description: &str| json!({ "name": name, "description": description });
    let results = || vec![named("result.json", ""), named("result.txt", "")];
    let entry = |name: &str, description: &str, opts: Value, metadata: Vec<Value>| {
        json!({
            "name": name, "version": VERSION, "type": "rpc", "description": description,
            "opts": opts, "inputs": null, "metadata": metadata, "refs": null,
        })
    };
    let target = json!([named("target", "Target build stage")]);
    let outline = "List all parameters current build target supports";
    let all = vec![
        entry(OUTLINE, outline, target, results()),
        entry(TARGETS, "List all targets current build supports", json!([]), results()),
        entry(DESCRIBE, "List available subrequest types", Value::Null, results()),
    ];
    let mut rows = vec![vec!["NAME".to_owned(), "VERSION".to_owned(), "DESCRIPTION".to_owned()]];
    for item in &all {
        let cell = |key: &str| item[key].as_str().unwrap_or_default().to_owned();
        let name = cell("name");
        let name = name.strip_prefix("frontend.").unwrap_or(&name).to_owned();
        rows.push(vec![name, cell("version"), cell("description")]);
    }
    answer(&Value::Array(all), table(&rows, 1))
}
