//! `--secret`.

use std::path::PathBuf;

use cofferdam_session::SecretSource;

use super::{OptionError, csv};

const OPTION: &str = "--secret";

/// One secret.
#[derive(Debug, Clone)]
pub struct Secret {
    /// Its name in the build.
    pub id: String,
    /// Where it comes from.
    pub source: SecretSource,
}

/// Parses `id=token,src=file`, `id=token,env=VARIABLE`, `type=file|env` and their defaults: an
/// environment variable of the same name, else a file of the same name.
///
/// # Errors
/// Malformed, unknown or missing fields.
pub fn parse_secret(value: &str) -> Result<Secret, OptionError> {
    let pairs = csv::pairs(value).map_err(|source| OptionError::Csv { option: OPTION, source })?;
    let (mut id, mut kind, mut file, mut env) = (String::new(), None, None, None);
    for (key, value) in pairs {
        match key.as_str() {
            "id" => id = value,
            "type" if matches!(value.as_str(), "file" | "env") => kind = Some(value),
            "type" => return Err(OptionError::InvalidValue { option: OPTION, key: "type", value }),
            "src" | "source" => file = Some(value),
            "env" => env = Some(value),
            _ => {
                return Err(OptionError::UnexpectedKey { option: OPTION, key, suggestion: None });
            }
        }
    }
    if id.is_empty() {
        return Err(OptionError::Missing { option: OPTION, key: "id" });
    }
    let source = match (kind.as_deref(), env, file) {
        (_, Some(env), _) => SecretSource::Env(env),
        (Some("env"), None, named) => SecretSource::Env(named.unwrap_or_else(|| id.clone())),
        (_, None, Some(file)) => SecretSource::File(PathBuf::from(file)),
        (Some(_), None, None) => SecretSource::File(PathBuf::from(&id)),
        (None, None, None) if std::env::var_os(&id).is_some() => SecretSource::Env(id.clone()),
        (None, None, None) => SecretSource::File(PathBuf::from(&id)),
    };
    Ok(Secret { id, source })
}
