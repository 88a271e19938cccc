//! One line of comma-separated values, as options of attestations are written
//! ([RFC 4180](https://www.rfc-editor.org/rfc/rfc4180) without line breaks).

/// Splits a line into its fields; `None` for one whose quotes do not match.
pub(crate) fn fields(line: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let (field, after) = rest.split_at(end);
                if field.contains('"') {
                    return None;
                }
                (field.to_owned(), after)
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Some(fields),
            None => return None,
        }
    }
}

/// What a quoted field holds, and what follows its closing quote.
fn quoted_field(mut rest: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    loop {
        let (text, after) = rest.split_once('"')?;
        field.push_str(text);
        match after.strip_prefix('"') {
            Some(next) => {
                field.push('"');
                rest = next;
            }
            None => return Some((field, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_protect_commas() {
        let split = |line| fields(line).map(|fields| fields.join("|"));
        assert_eq!(split("a=1,b").as_deref(), Some("a=1|b"));
        assert_eq!(split("\"a=1,2\",b=\"").as_deref(), None);
        assert_eq!(split("\"a=\"\"1\"\",2\",").as_deref(), Some("a=\"1\",2|"));
        assert_eq!(split("a\"b").as_deref(), None);
        assert_eq!(split("\"a\"b").as_deref(), None);
    }
}
