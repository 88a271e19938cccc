//! One CSV line of `key=value` fields, with CSV's quoting.

/// A line that is no CSV of `key=value` fields.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsvError {
    /// A quote that does not end, or text after it.
    #[error("unbalanced quotes")]
    Quotes,
    /// A field without an equals sign. Its text is left out: it may be half a secret.
    #[error("field {position} must be a key=value pair")]
    Pair {
        /// Counted from one.
        position: usize,
    },
    /// Nothing at all.
    #[error("empty value")]
    Empty,
}

/// The fields of one line.
pub(super) fn fields(line: &str) -> Result<Vec<String>, CsvError> {
    if line.trim().is_empty() {
        return Err(CsvError::Empty);
    }
    let mut fields = Vec::new();
    let mut rest = line.chars().peekable();
    loop {
        let mut field = String::new();
        if rest.next_if_eq(&'"').is_some() {
            loop {
                match rest.next() {
                    None => return Err(CsvError::Quotes),
                    Some('"') if rest.next_if_eq(&'"').is_some() => field.push('"'),
                    Some('"') => break,
                    Some(other) => field.push(other),
                }
            }
            if !matches!(rest.peek(), None | Some(',')) {
                return Err(CsvError::Quotes);
            }
        } else {
            while let Some(other) = rest.next_if(|next| *next != ',') {
                if other == '"' {
                    return Err(CsvError::Quotes);
                }
                field.push(other);
            }
        }
        fields.push(field);
        if rest.next().is_none() {
            return Ok(fields);
        }
    }
}

/// The fields as pairs, keys in lower case.
pub(super) fn pairs(line: &str) -> Result<Vec<(String, String)>, CsvError> {
    fields(line)?
        .into_iter()
        .enumerate()
        .map(|(index, field)| match field.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                Ok((key.trim().to_ascii_lowercase(), value.to_string()))
            }
            _ => Err(CsvError::Pair { position: index + 1 }),
        })
        .collect()
}
