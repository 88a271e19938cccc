//! Parsing with bounds, and errors that say which file and key is at fault.

use serde::de::DeserializeOwned;

/// Largest file of these formats that is read: plans and metadata of real buildpacks are a few KiB.
pub const MAX_FILE: usize = 1 << 20;

/// Longest message: messages quote what strangers wrote, and end in logs.
const MAX_MESSAGE: usize = 500;

/// A file of a buildpack or an image label does not have its form.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Too large.
    #[error("{file}: larger than {MAX_FILE} bytes")]
    Size {
        /// The file as users know it.
        file: String,
    },
    /// Not text.
    #[error("{file}: not UTF-8")]
    Text {
        /// The file as users know it.
        file: String,
    },
    /// Not TOML, or not of this form. The message names the line.
    #[error("{file}: {message}")]
    Toml {
        /// The file as users know it.
        file: String,
        /// What the parser found, on one line.
        message: String,
    },
    /// Not JSON, or not of this form.
    #[error("{file}: {message}")]
    Json {
        /// The file or label as users know it.
        file: String,
        /// What the parser found.
        message: String,
    },
    /// The form is right and the value is not.
    #[error("{file}: {key}: {problem}")]
    Value {
        /// The file as users know it.
        file: String,
        /// The key at fault.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl FileError {
    /// An error about one key. What strangers wrote into `key` or `problem` is made printable.
    pub fn value(file: impl Into<String>, key: impl AsRef<str>, problem: impl AsRef<str>) -> Self {
        let (key, problem) = (printable(key.as_ref()), printable(problem.as_ref()));
        Self::Value { file: file.into(), key, problem }
    }
}

/// Parses TOML of at most [`MAX_FILE`] bytes; `file` is named in errors.
///
/// # Errors
/// It is too large, not UTF-8, not TOML or not a `T`.
pub fn parse_toml<T: DeserializeOwned>(file: &str, bytes: &[u8]) -> Result<T, FileError> {
    if bytes.len() > MAX_FILE {
        return Err(FileError::Size { file: file.to_owned() });
    }
    let text = std::str::from_utf8(bytes).map_err(|_| FileError::Text { file: file.to_owned() })?;
    let wrong = |error: &toml::de::Error, key: &str| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map(|before| before.matches('\n').count() + 1);
        let line = line.map_or_else(String::new, |line| format!("line {line}: "));
        let key =
            if matches!(key, "" | ".") { String::new() } else { format!("{}: ", printable(key)) };
        let message = format!("{line}{key}{}", printable(error.message()));
        FileError::Toml { file: file.to_owned(), message }
    };
    let deserializer = toml::Deserializer::parse(text).map_err(|error| wrong(&error, ""))?;
    serde_path_to_error::deserialize(deserializer)
        .map_err(|error| wrong(error.inner(), &error.path().to_string()))
}

/// Parses JSON; `file` (or label) is named in errors. Labels are bounded by the image's config.
///
/// # Errors
/// It is not JSON or not a `T`.
pub fn parse_json<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, FileError> {
    let wrong = |error: serde_json::Error| FileError::Json {
        file: file.to_owned(),
        message: printable(&error.to_string()),
    };
    let mut value: serde_json::Value = serde_json::from_str(text).map_err(wrong)?;
    drop_nulls(&mut value);
    serde_json::from_value(value).map_err(wrong)
}

/// Lifecycles in Go write `null` for lists and maps that are empty. The parser bounds the depth.
fn drop_nulls(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        serde_json::Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// One short line that no terminal takes for a command.
fn printable(text: &str) -> String {
    let shown = text.trim().chars().take(MAX_MESSAGE).map(|shown| match shown {
        '\n' => ' ',
        // Also what changes the direction of text, so that a message reads as it was written.
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        shown if shown.is_control() => '\u{fffd}',
        shown => shown,
    });
    shown.collect()
}
