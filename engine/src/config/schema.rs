//! The JSON Schema of a configuration file (draft 2020-12), from the table of keys: editors complete and check by it.

use serde_json::{Map, Value, json};

use super::key::{Key, Kind, Scopes, Section};
use super::retry::retry_causes;
use super::table::TOP;

/// The schema of a configuration file.
pub fn schema() -> Value {
    let mut schema = of_section(&TOP, Scopes::GLOBAL);
    let about = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://sluice.example/schema/sluice.json",
        "title": "Sluice configuration",
    });
    if let (Value::Object(schema), Value::Object(about)) = (&mut schema, about) {
        schema.extend(about);
        // Taplo's way to name the schema in the file itself is a comment; JSON has a key for it.
        if let Some(Value::Object(properties)) = schema.get_mut("properties") {
            properties
                .insert("$schema".to_owned(), json!({ "type": "string", "description": "This schema" }));
        }
    }
    schema
}

fn of_section(section: &Section, scope: Scopes) -> Value {
    let keys = section.keys.iter().filter(|key| key.scopes.has(scope));
    let properties: Map<String, Value> =
        keys.map(|key| (key.name.to_owned(), described(key, of_kind(&key.kind, scope)))).collect();
    json!({
        "type": "object",
        "description": section.doc.trim(),
        "properties": properties,
        "additionalProperties": false,
    })
}

fn described(key: &Key, mut schema: Value) -> Value {
    if let Value::Object(fields) = &mut schema {
        fields.insert("description".to_owned(), key.doc.into());
        if !key.default.is_empty() {
            let default = match key.kind {
                Kind::Boolean => Value::from(key.default == "true"),
                Kind::Count { .. } => key.default.parse::<u64>().map_or(Value::Null, Value::from),
                _ => Value::from(key.default),
            };
            fields.insert("default".to_owned(), default);
        }
    }
    schema
}

/// Text in which a variable or a file is put in place when it is read.
const EXPANDED: &str = r"\$\{.*\}";

fn of_kind(kind: &Kind, scope: Scopes) -> Value {
    let text = |pattern: &str| json!({ "type": "string", "pattern": format!("^(?:{pattern})$|{EXPANDED}") });
    match kind {
        Kind::Time { .. } => text("[0-9]+(?:ms|s|m|h)"),
        Kind::Bytes { .. } => json!({ "anyOf": [number(kind), text("[0-9]+(?:B|KiB|MiB|GiB)?")] }),
        Kind::Count { .. } => json!({ "anyOf": [number(kind), text("[0-9]+")] }),
        Kind::Boolean => {
            json!({ "anyOf": [{ "type": "boolean" }, { "type": "string", "pattern": EXPANDED }] })
        }
        Kind::Word(words) => {
            json!({ "anyOf": [{ "enum": words() }, { "type": "string", "pattern": EXPANDED }] })
        }
        Kind::Text(_) | Kind::Path(_) => json!({ "type": "string" }),
        Kind::Texts(_) => json!({ "type": "array", "items": { "type": "string" } }),
        Kind::Ports => json!({ "type": "array", "items": { "anyOf": [
            { "type": "integer", "minimum": 1, "maximum": 65535 },
            text("[0-9]+(?:-[0-9]+)?"),
        ] } }),
        Kind::Statuses => {
            let status = json!({ "anyOf": [
                { "type": "integer", "minimum": 100, "maximum": 999 },
                text("[1-9][0-9][0-9](?:-[1-9][0-9][0-9])?"),
            ] });
            json!({ "anyOf": [status, { "type": "array", "items": status, "minItems": 1 }] })
        }
        Kind::RetryCauses => json!({ "type": "array", "items": { "anyOf": [
            { "type": "integer", "minimum": 400, "maximum": 999 },
            { "enum": retry_causes() },
            text("[4-9][0-9][0-9](?:-[4-9][0-9][0-9])?"),
        ] } }),
        Kind::PortOrTrue => json!({ "anyOf": [
            { "type": "boolean" },
            { "type": "integer", "minimum": 1, "maximum": 65535 },
            text("[0-9]+|true|false"),
        ] }),
        Kind::Table(section) => of_section(section, scope),
        Kind::Tables(section) => json!({ "type": "array", "items": of_section(section, section.scope()) }),
    }
}

fn number(kind: &Kind) -> Value {
    let mut schema = json!({ "type": "integer", "minimum": 0 });
    if let (Some((least, most)), Value::Object(fields)) = (kind.range(), &mut schema) {
        fields.insert("minimum".to_owned(), kind.ours(least).plain().into());
        fields.insert("maximum".to_owned(), kind.ours(most).plain().into());
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_has_only_the_limits_of_its_scope() {
        let schema = schema();
        let limits = &schema["properties"]["limits"]["properties"];
        assert_eq!(limits["header_fields"]["anyOf"][0]["maximum"], 256);
        let of_route = &schema["properties"]["route"]["items"]["properties"]["limits"]["properties"];
        assert!(of_route.get("body_bytes").is_some() && of_route.get("header_fields").is_none());
    }
}
