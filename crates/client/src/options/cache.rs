//! `--cache-from` and `--cache-to`.

use std::collections::BTreeMap;

use super::{OptionError, csv};
use crate::solve::CacheEntry;

/// Parses `type=registry,ref=…`, `type=local,src=…`, `type=inline`, or a bare image reference,
/// which means `type=registry`. `option` names the option in errors.
///
/// # Errors
/// Malformed fields, or none that says the type.
pub fn parse_cache(option: &'static str, value: &str) -> Result<CacheEntry, OptionError> {
    let bare = csv::fields(value).map_err(|source| OptionError::Csv { option, source })?;
    if let [only] = bare.as_slice()
        && !only.contains('=')
    {
        let attrs = BTreeMap::from([("ref".to_string(), only.clone())]);
        return Ok(CacheEntry { kind: "registry".to_string(), attrs });
    }
    let mut attrs: BTreeMap<String, String> = csv::pairs(value)
        .map_err(|source| OptionError::Csv { option, source })?
        .into_iter()
        .collect();
    let kind = attrs.remove("type").filter(|kind| !kind.is_empty());
    let kind = kind.ok_or(OptionError::Missing { option, key: "type" })?;
    Ok(CacheEntry { kind, attrs })
}
