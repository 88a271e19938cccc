//! TOML as JSON and back.
//!
//! Metadata of buildpacks is free form, TOML in files and JSON in labels. JSON's null has no TOML
//! form and is dropped; TOML's dates become text. Both parsers bound how deep values nest.

use serde_json::Value as Json;
use toml::Value as Toml;

/// A JSON value as TOML; nothing for null.
pub(crate) fn to_toml(value: &Json) -> Option<Toml> {
    Some(match value {
        Json::Null => return None,
        Json::Bool(value) => Toml::Boolean(*value),
        Json::Number(number) => match number.as_i64() {
            Some(integer) => Toml::Integer(integer),
            None => Toml::Float(number.as_f64()?),
        },
        Json::String(text) => Toml::String(text.clone()),
        Json::Array(values) => Toml::Array(values.iter().filter_map(to_toml).collect()),
        Json::Object(fields) => Toml::Table(to_table(fields)),
    })
}

/// A JSON object as TOML, without its nulls.
pub(crate) fn to_table(fields: &serde_json::Map<String, Json>) -> toml::Table {
    let field = |(key, value): (&String, &Json)| Some((key.clone(), to_toml(value)?));
    fields.iter().filter_map(field).collect()
}

/// A TOML value as JSON; null for a number JSON does not have.
pub(crate) fn to_json(value: &Toml) -> Json {
    match value {
        Toml::String(text) => Json::String(text.clone()),
        Toml::Integer(integer) => Json::from(*integer),
        Toml::Float(float) => Json::from(*float),
        Toml::Boolean(value) => Json::Bool(*value),
        Toml::Datetime(date) => Json::String(date.to_string()),
        Toml::Array(values) => Json::Array(values.iter().map(to_json).collect()),
        Toml::Table(table) => Json::Object(to_object(table)),
    }
}

/// A TOML table as JSON.
pub(crate) fn to_object(table: &toml::Table) -> serde_json::Map<String, Json> {
    table.iter().map(|(key, value)| (key.clone(), to_json(value))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn values_survive_both_ways() {
        let json: Json = serde_json::from_str(
            r#"{"a":1,"b":[1,null,"x",{"c":null,"d":1.5}],"e":null,"f":true,"g":18446744073709551615}"#,
        )
        .unwrap();
        let table = to_toml(&json).unwrap();
        let back = to_json(&table);
        assert_eq!(back["a"], 1);
        assert_eq!(back["b"], serde_json::json!([1, "x", {"d": 1.5}]));
        assert!(back.get("e").is_none());
        assert!(back["g"].is_f64());
        let text = toml::to_string(&table).unwrap();
        assert_eq!(text.parse::<toml::Table>().unwrap(), *table.as_table().unwrap());
    }

    #[test]
    fn dates_and_odd_numbers_have_a_json_form() {
        let table: toml::Table = "a = 1979-05-27T07:32:00Z\nb = nan\nc = inf".parse().unwrap();
        let json = Json::Object(to_object(&table));
        assert_eq!(json, serde_json::json!({"a": "1979-05-27T07:32:00Z", "b": null, "c": null}));
    }
}
