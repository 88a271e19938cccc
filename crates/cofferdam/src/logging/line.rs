//! One message as one flat JSON object: what the event says, and the ids of what it happened in (project, build, step).
//!
//! Whoever looks for a build's messages compares one field, wherever in the program they come from.

use std::error::Error;
use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Names that every line has; no field of a message may stand for them.
const OWN: [&str; 3] = ["timestamp", "level", "target"];
/// What messages of libraries that log in the older way carry with them.
const OLDER: &str = "log.";
const OLDER_TARGET: &str = "log.target";

/// The shape of a line. Fields of spans have to be JSON already.
pub(super) struct OneObject;

#[derive(Serialize)]
struct Line<'a> {
    timestamp: &'a str,
    level: &'a str,
    target: &'a str,
    message: Value,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

impl<S, N> FormatEvent<S, N> for OneObject
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            let known = extensions.get::<FormattedFields<N>>();
            let known = known.and_then(|known| serde_json::from_str(&known.fields).ok());
            // Of two, the inner one's holds.
            fields.0.extend(known.unwrap_or_else(Map::new));
        }
        event.record(&mut fields);
        let Fields(mut fields) = fields;
        let older = fields.remove(OLDER_TARGET);
        fields.retain(|name, _| !OWN.contains(&name.as_str()) && !name.starts_with(OLDER));
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let line = Line {
            timestamp: &timestamp,
            level: event.metadata().level().as_str(),
            target: older.as_ref().and_then(Value::as_str).unwrap_or(event.metadata().target()),
            message: fields.remove("message").unwrap_or_default(),
            fields,
        };
        writeln!(writer, "{}", serde_json::to_string(&line).map_err(|_| fmt::Error)?)
    }
}

/// Values of an event.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        let name = field.name();
        self.0.insert(name.strip_prefix("r#").unwrap_or(name).to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    /// With what led to it.
    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        self.put(field, text);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(log: impl FnOnce()) -> Vec<Value> {
        let written = Written::default();
        let to = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .event_format(OneObject)
            .with_writer(move || to.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        let bytes = written.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_line_has_the_ids_of_what_it_happened_in() {
        let lines = lines(|| {
            let build = tracing::error_span!("build", project = "p", build = "b");
            build.in_scope(|| {
                let step = tracing::error_span!("step", step = "sha256:1", project = "inner");
                step.in_scope(|| tracing::info!(bytes = 3_u64, ok = true, "a \"step\"\nran"));
                tracing::warn!(build = "own", level = "none", "said");
            });
            tracing::info!("elsewhere");
        });
        let [inner, outer, none] = &lines[..] else { panic!("{lines:?}") };
        assert_eq!(inner["message"], "a \"step\"\nran");
        assert_eq!((&inner["project"], &inner["build"]), (&"inner".into(), &"b".into()));
        assert_eq!((&inner["step"], &inner["bytes"]), (&"sha256:1".into(), &3.into()));
        assert_eq!(inner["ok"], true);
        assert_eq!((&outer["build"], &outer["level"]), (&"own".into(), &"WARN".into()));
        assert!(outer["step"].is_null() && none["build"].is_null(), "{lines:?}");
        assert!(none["target"].as_str().unwrap().starts_with("cofferdam"), "{none}");
        assert!(none["timestamp"].as_str().unwrap().ends_with('Z'), "{none}");
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        let lines = lines(|| {
            let cause = io::Error::other("disk full");
            let error = anyhow::Error::from(cause).context("write it");
            let error: &(dyn Error + 'static) = error.as_ref();
            tracing::error!(error, "failed");
        });
        assert_eq!(lines[0]["error"], "write it: disk full");
    }
}
