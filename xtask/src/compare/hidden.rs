//! The values of Secrets, which are never shown, wherever they occur: two objects are compared as
//! text only without them.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use similar::TextDiff;

use super::objects::Objects;
use super::ownership::Path;
use crate::releases::manifest::is_secret;
use crate::run::foreign;

/// What must not be shown: the values of Secrets, wherever they occur.
pub(crate) struct Hidden {
    values: BTreeSet<String>,
}

/// Replaces a Secret's value.
const HIDDEN: &str = "***";
/// The same, if the value differs from before.
const CHANGED: &str = "*** changed";

/// A value this short, or only of letters, is a word that may occur elsewhere as well.
const A_WORD: usize = 8;

impl Hidden {
    pub fn of<'a>(all: impl Iterator<Item = &'a Objects>) -> Self {
        let objects = all.flat_map(|objects| objects.resources.iter().chain(&objects.hooks));
        let mut values = BTreeSet::new();
        for secret in objects.filter(|object| is_secret(object)) {
            for (_, value) in secret_values(secret) {
                let telling = value.len() >= A_WORD && value.chars().any(|c| !c.is_ascii_lowercase() && c != '-');
                values.extend(telling.then(|| STANDARD.encode(&value)));
                values.extend(telling.then_some(value));
            }
        }
        Self { values }
    }

    /// The lines of a unified diff; none if both are the same.
    pub fn diff(&self, old: Option<&Value>, new: Option<&Value>) -> Vec<String> {
        let (old, new) = (old.map(plain), new.map(plain));
        if old == new {
            return Vec::new();
        }
        let (old, new) = hide_both(old, new);
        let (old, new) = (self.yaml(old), self.yaml(new));
        let diff = TextDiff::from_lines(&old, &new);
        let unified = diff.unified_diff().context_radius(3).missing_newline_hint(false).to_string();
        // Otherwise the object would count as unchanged.
        let unified = if unified.is_empty() { " # only values that are not shown differ" } else { &unified };
        unified.lines().map(str::to_owned).collect()
    }

    /// A value with all of these hidden, and with what its own lines name as secret.
    pub fn value(&self, value: &Value) -> Value {
        let mut value = value.clone();
        hide_secrets(&mut value, None, &Path::default());
        self.within(&mut value);
        value
    }

    fn text(&self, text: &str) -> String {
        // Longest first: one may be part of another.
        let mut values: Vec<&String> = self.values.iter().filter(|value| text.contains(value.as_str())).collect();
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        values.into_iter().fold(text.to_owned(), |text, value| text.replace(value.as_str(), HIDDEN))
    }

    fn within(&self, value: &mut Value) {
        match value {
            Value::Object(map) => map.values_mut().for_each(|value| self.within(value)),
            Value::Array(items) => items.iter_mut().for_each(|value| self.within(value)),
            Value::String(text) => *text = self.text(text),
            _ => {}
        }
    }

    fn yaml(&self, object: Option<Value>) -> String {
        let Some(mut object) = object else { return String::new() };
        // Before it is serialized: YAML would escape a value, or break it into lines.
        self.within(&mut object);
        // A long text stays on one line, so that its change is one line.
        let options = serde_saphyr::ser_options! { min_fold_chars: usize::MAX, folded_wrap_chars: usize::MAX };
        serde_saphyr::to_string_with_options(&object, options).unwrap_or_else(|_| object.to_string())
    }
}

/// The values of a Secret in plain text, by key.
pub(super) fn secret_values(secret: &Value) -> BTreeMap<String, String> {
    let map = |name: &str| secret.get(name).and_then(Value::as_object).into_iter().flatten();
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let decoded = map("data").map(|(key, value)| {
        let bytes = STANDARD.decode(plain(value).trim()).ok();
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        (key.clone(), text.unwrap_or_else(|| plain(value)))
    });
    decoded.chain(map("stringData").map(|(key, value)| (key.clone(), plain(value)))).collect()
}

/// An object without irrelevant differences: null fields, and the form in which a Secret's values
/// are given.
pub(super) fn plain(object: &Value) -> Value {
    let mut object = object.clone();
    without_nulls(&mut object);
    if is_secret(&object) {
        let values = secret_values(&object);
        if let Some(fields) = object.as_object_mut() {
            let readable = |value: &Value| value.is_object() || value.is_null();
            let whole = ["data", "stringData"].iter().all(|name| fields.get(*name).is_none_or(readable));
            if whole {
                fields.remove("stringData");
                fields.remove("data");
                let values: Map<String, Value> = values.into_iter().map(|(key, value)| (key, value.into())).collect();
                if !values.is_empty() {
                    fields.insert("data".to_owned(), Value::Object(values));
                }
            }
        }
    }
    object
}

fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

/// Both without a Secret's values; it is still visible which of them differ.
fn hide_both(old: Option<Value>, new: Option<Value>) -> (Option<Value>, Option<Value>) {
    let before = old.clone();
    let hidden = |object: Value, other: Option<&Value>| {
        let mut object = object;
        if !is_secret(&object) {
            hide_secrets(&mut object, other, &Path::default());
            return object;
        }
        for name in ["data", "stringData"] {
            if let Some(value) = object.get_mut(name) {
                hide(value, other.map(|other| &other[name]));
            }
        }
        // kubectl's annotation contains all values once more.
        if let Some(last) =
            object.pointer_mut("/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration")
        {
            *last = HIDDEN.into();
        }
        object
    };
    let new = new.map(|new| hidden(new, before.as_ref()));
    (old.map(|old| hidden(old, None)), new)
}

/// Hides the values of fields, variables and lines whose names say that they are secret. `other` is
/// the previous value.
fn hide_secrets(value: &mut Value, other: Option<&Value>, path: &Path) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                let (other, path) = (other.and_then(|other| other.get(key)), path.field(key));
                // The value of a variable may have any form.
                match key == "value" && path.may_be_secret() {
                    true => hide(value, other),
                    false => hide_secrets(value, other, &path),
                }
            }
        }
        Value::Array(items) => {
            let others = other.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            for (index, item) in items.iter_mut().enumerate() {
                let keys: Map<String, Value> =
                    item.get("name").map(|name| ("name".to_owned(), name.clone())).into_iter().collect();
                let before = match keys.get("name") {
                    Some(name) => others.iter().find(|other| other.get("name") == Some(name)),
                    None => others.get(index),
                };
                hide_secrets(item, before, &path.item(&keys));
            }
        }
        // One of two values tells nothing: `automountServiceAccountToken: false`.
        Value::Null | Value::Bool(_) => {}
        secret if path.may_be_secret() => hide(secret, other),
        Value::String(text) if text.contains('\n') => *text = without_secret_lines(text, other.and_then(Value::as_str)),
        Value::String(_) | Value::Number(_) => {}
    }
}

/// A text of several lines, such as a configuration file, without the values of keys whose names say
/// that they are secret. `other` is the previous text.
fn without_secret_lines(text: &str, other: Option<&str>) -> String {
    let before: Option<BTreeSet<&str>> = other.map(|other| other.split('\n').collect());
    let indented = |line: &str| line.len() - line.trim_start().len();
    // The indentation of a key whose value is a block of lines.
    let mut block: Option<usize> = None;
    let lines = text.split('\n').map(|line| {
        let within = block.filter(|key| line.trim().is_empty() || indented(line) > *key);
        let start = match within {
            Some(_) if line.trim().is_empty() => None,
            Some(_) => Some(indented(line)),
            None => secret_value(line),
        };
        if within.is_none() {
            let opens = |start: usize| line[start..].starts_with(['|', '>']);
            block = start.filter(|start| opens(*start)).map(|_| indented(line));
        }
        let Some(start) = start else { return line.to_owned() };
        let changed = before.as_ref().is_some_and(|before| !before.contains(line));
        format!("{}{}", &line[..start], if changed { CHANGED } else { HIDDEN })
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Where the value of a secret key begins in a line of YAML, TOML, INI, properties or a script
/// (`export TOKEN=…`), in bytes.
fn secret_value(line: &str) -> Option<usize> {
    let end = line.find([':', '='])?;
    let key = line[..end].trim().trim_start_matches(['-', '{']).trim();
    // Before an equals sign there may be a command; before a colon, words are prose.
    let key = if line[end..].starts_with('=') { key.split_whitespace().last()? } else { key };
    let key = key.trim_matches(['"', '\'']);
    let value = line[end + 1..].trim_start();
    let secret = !value.is_empty() && !key.contains(char::is_whitespace) && foreign::is_secret_field(key);
    secret.then(|| line.len() - value.len())
}

/// `other` is the previous value.
fn hide(value: &mut Value, other: Option<&Value>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                hide(value, other.and_then(|other| other.get(key)));
            }
        }
        value => {
            let changed = other.is_some_and(|other| !other.is_null() && other != value);
            *value = if changed { CHANGED } else { HIDDEN }.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The diffs of these objects, each with the one in the same place.
    fn shown(old: Vec<Value>, new: Vec<Value>) -> String {
        let all = [&old, &new].map(|objects| Objects::of(objects.clone(), Vec::new()));
        let hidden = Hidden::of(all.iter());
        let pairs = old.iter().zip(&new);
        pairs.flat_map(|(old, new)| hidden.diff(Some(old), Some(new))).collect::<Vec<_>>().join("\n")
    }

    fn of_kind(version: &str, kind: &str, more: Value) -> Value {
        let mut object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}});
        object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        object
    }

    #[test]
    fn a_value_that_yaml_would_escape_or_break_is_hidden_too() {
        for value in ["with \"quotes\" and 1", "it's 2 quotes", "line 1\nline 2\n", "a: b # 3"] {
            let secret = of_kind("v1", "Secret", json!({"stringData": {"a": value}}));
            let pair = |tail: &str| {
                let text = format!("{value}{tail}");
                vec![secret.clone(), of_kind("v1", "ConfigMap", json!({"data": {"x": text, "y": value}}))]
            };
            let text = shown(pair("1"), pair("2"));
            for line in value.lines() {
                assert!(!text.contains(line) && !text.contains(&format!("{line:?}")), "{line}: {text}");
            }
        }
        let field = |value: &str| of_kind("example.com/v1", "Db", json!({"spec": {"adminPassword": value}}));
        let key = |value: &str| of_kind("v1", "ConfigMap", json!({"data": {"STRIPE_KEY": value, "BASIC_AUTH": value}}));
        for (old, new) in [(field("hunter2"), field("hunter3")), (key("hunter2"), key("hunter3"))] {
            let text = shown(vec![old], vec![new]);
            assert!(text.contains("*** changed") && !text.contains("hunter"), "{text}");
        }
    }

    #[test]
    fn a_scalar_is_hidden_by_the_names_of_all_the_fields_that_it_is_in() {
        let db = |more: Value| of_kind("example.com/v1", "Db", json!({ "spec": more }));
        for of in [
            (|value| json!({"token": {"value": value}})) as fn(Value) -> Value,
            |value| json!({"api": {"key": value}}),
            |value| json!({"password": value}),
            |value| json!({"passwords": [{"password": value}]}),
            |value| json!({"env": [{"name": "DB_PASSWORD", "value": {"plain": value}}]}),
        ] {
            for (old, new) in [(json!("hunter2"), json!("hunter3")), (json!(123_456), json!(123_457))] {
                let text = shown(vec![db(of(old))], vec![db(of(new))]);
                assert!(text.contains("*** changed") && !text.contains("hunter") && !text.contains("12345"), "{text}");
            }
        }
        let pod = |mount: bool, key: &str| {
            let from = json!({"name": "DB_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": key}}});
            of_kind(
                "v1",
                "Pod",
                json!({"spec": {"automountServiceAccountToken": mount, "containers": [{"env": [from]}]}}),
            )
        };
        let text = shown(vec![pod(true, "a")], vec![pod(false, "b")]);
        assert!(text.contains("automountServiceAccountToken: false") && text.contains("key: b"), "{text}");
    }

    #[test]
    fn lines_of_a_text_that_name_a_secret_are_hidden_and_a_change_of_them_is_not() {
        let file = |text: &str| of_kind("v1", "ConfigMap", json!({"data": {"config.yaml": text}}));
        for text in [
            "db:\n  password: hunter2\n",
            "- password: \"hunter2\"\n- x: 1",
            "\"db.password\" : two hunter2 words\n",
            "[db]\npassword = hunter2 # x\n",
            "spring.datasource.password=hunter2\n",
            "#!/bin/sh\nexport DB_PASSWORD=hunter2\n",
            "token: |\n  hunter2\n\n  hunter2\nx: 1\n",
        ] {
            let diff = shown(vec![file(text)], vec![file(&text.replace("hunter2", "hunter3"))]);
            assert!(diff.contains("*** changed") && !diff.contains("hunter"), "{diff}");
        }
        let readable = "about the password: it is elsewhere\npassword:\n  from: vault\nx: 1\n";
        assert_eq!(without_secret_lines(readable, None), readable);
        let hidden = Hidden::of(std::iter::empty());
        assert_eq!(hidden.value(&"db:\n  password: hunter2".into()), "db:\n  password: ***");
        assert_eq!(hidden.value(&"password: expired".into()), "password: expired");
    }
}
