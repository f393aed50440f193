//! The configuration reference in the operator's guide is what the code says. `UPDATE_DOCS=1` writes it anew.

use preheat_cache_server::{BucketConfig, Config};
use serde_json::Value;
use std::fmt::Write as _;

const BEGIN: &str = "<!-- configuration: generated from the code by cache-server/tests/configuration.rs -->";
const END: &str = "<!-- /configuration -->";

/// One table for the settings of `schema`, then one for each of its sections.
fn tables(root: &Value, schema: &Value, defaults: Option<&Value>, path: &str, text: &mut String) {
    let properties = schema["properties"].as_object().unwrap();
    let mut sections = Vec::new();
    let title = if path.is_empty() { "### At the top".to_owned() } else { format!("### `[{path}]`") };
    let mut rows = String::new();
    for (name, property) in properties {
        let described = description(root, property);
        let resolved = resolve(root, property);
        let default = defaults.map(|defaults| &defaults[name]).unwrap_or(&Value::Null);
        if resolved["properties"].is_object() {
            sections.push((name.clone(), resolved.clone(), default.clone()));
            continue;
        }
        let default = match default {
            Value::Null => "none".to_owned(),
            Value::Array(items) if items.is_empty() => "none".to_owned(),
            Value::Object(items) if items.is_empty() => "none".to_owned(),
            value => format!("`{value}`"),
        };
        writeln!(rows, "| `{name}` | {default} | {described} |").unwrap();
    }
    if !rows.is_empty() {
        write!(text, "{title}\n\n| setting | default | |\n|---|---|---|\n{rows}\n").unwrap();
    }
    for (name, section, defaults) in sections {
        let path = if path.is_empty() { name } else { format!("{path}.{name}") };
        tables(root, &section, Some(&defaults).filter(|defaults| defaults.is_object()), &path, text);
    }
}

fn resolve<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    if let Some(reference) = schema["$ref"].as_str() {
        return resolve(root, root.pointer(reference.trim_start_matches('#')).unwrap());
    }
    // An optional section is one of it and of nothing.
    match schema["anyOf"].as_array() {
        Some(kinds) => kinds.iter().find(|kind| kind["type"] != "null").map_or(schema, |kind| resolve(root, kind)),
        None => schema,
    }
}

fn description(root: &Value, property: &Value) -> String {
    let own = property["description"].as_str().or_else(|| resolve(root, property)["description"].as_str());
    own.unwrap_or_else(|| panic!("a setting without words: {property}")).replace('\n', " ").replace('|', "\\|")
}

#[test]
fn the_guide_has_every_setting_as_the_code_has_it() {
    let schema = serde_json::to_value(schemars::schema_for!(Config)).unwrap();
    let mut text = String::new();
    // A section that is off by default has defaults too, once it is there.
    let config = Config { bucket: Some(BucketConfig::default()), ..Config::default() };
    tables(&schema, &schema, Some(&serde_json::to_value(config).unwrap()), "", &mut text);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cache-server.md");
    let guide = std::fs::read_to_string(path).unwrap();
    let (before, rest) = guide.split_once(BEGIN).expect("the guide has no place for the reference");
    let (written, after) = rest.split_once(END).unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, format!("{before}{BEGIN}\n\n{text}{END}{after}")).unwrap();
    } else {
        assert!(written.trim() == text.trim(), "docs/cache-server.md is not what the code says; write it anew with UPDATE_DOCS=1");
    }
}
