//! Checks documents against the part of JSON Schema that `ctl schema` uses. Stricter than a reader has to be: a member
//! that is not described is an error here.

use serde_json::Value;

/// Whether a document is as described.
///
/// # Errors
/// Where it is not, and why.
pub fn check(schema: &Value, document: &Value) -> Result<(), String> {
    at(schema, schema, document, "$")
}

fn at(root: &Value, schema: &Value, value: &Value, path: &str) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = root.pointer(reference.trim_start_matches('#'));
        at(root, target.ok_or_else(|| format!("{path}: {reference} is nowhere"))?, value, path)?;
    }
    if let Some(forms) = schema["anyOf"].as_array() {
        let refusals: Vec<String> =
            forms.iter().filter_map(|form| at(root, form, value, path).err()).collect();
        if refusals.len() == forms.len() {
            return Err(refusals.join("; or "));
        }
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        return Err(format!("{path} is {value}, and none of {words:?}"));
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => return Ok(()),
    };
    if !types.iter().any(|name| is(name, value)) {
        return Err(format!("{path} is {value}, and no {types:?}"));
    }
    if schema["format"] == "date-time"
        && let Some(time) = value.as_str()
        && !(time.len() >= 20 && time.ends_with('Z') && time.as_bytes()[10] == b'T')
    {
        return Err(format!("{path} is {time}, and no time"));
    }
    match value {
        Value::Array(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(number, item)| at(root, &schema["items"], item, &format!("{path}[{number}]"))),
        Value::Object(members) => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            for name in required {
                if !members.contains_key(name) {
                    return Err(format!("{path} has no {name}"));
                }
            }
            members.iter().try_for_each(|(name, value)| {
                let described = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
                let described = described.ok_or_else(|| format!("{path}.{name} is not described"))?;
                at(root, described, value, &format!("{path}.{name}"))
            })
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

fn is(name: &str, value: &Value) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_as_described_is_found() {
        let schema = json!({
            "type": "object", "required": ["a", "b"],
            "properties": {
                "a": {"type": "array", "items": {"$ref": "#/$defs/word"}},
                "b": {"anyOf": [{"$ref": "#/$defs/word"}, {"type": "null"}]},
                "c": {"type": "string", "format": "date-time"}
            },
            "$defs": {"word": {"type": "string", "enum": ["x", "y"]}}
        });
        assert_eq!(check(&schema, &json!({"a": ["x", "y"], "b": null, "c": "2026-11-21T10:55:00Z"})), Ok(()));
        for wrong in [
            json!({"a": []}),
            json!({"a": ["z"], "b": "x"}),
            json!({"a": [], "b": 1}),
            json!({"a": [], "b": "x", "d": 1}),
            json!({"a": {}, "b": "x"}),
            json!({"a": [], "b": "x", "c": "yesterday"}),
        ] {
            assert!(check(&schema, &wrong).is_err(), "{wrong}");
        }
    }
}
