//! The OpenAPI document.

use serde_json::Value;

fn document() -> Value {
    crate::admin::openapi::document()
}

#[test]
fn every_reference_in_the_document_leads_somewhere() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    fn visit(value: &Value, document: &Value, found: &mut usize) {
        match value {
            Value::Object(fields) => {
                if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
                    *found += 1;
                    assert!(document.pointer(target.trim_start_matches('#')).is_some(), "{target}");
                }
                fields.values().for_each(|value| visit(value, document, found));
            }
            Value::Array(items) => items.iter().for_each(|item| visit(item, document, found)),
            _ => {}
        }
    }
    let mut found = 0;
    visit(&document, &document, &mut found);
    assert!(found > 50, "{found}");
}

#[test]
fn no_answer_of_the_document_has_a_hash_in_it() {
    let text = document()["components"].to_string();
    assert!(!text.contains("\"hash\"") && !text.contains("token_hash"));
}

#[test]
fn the_reference_for_people_names_every_operation() {
    let reference = include_str!("../../../docs/admin-api.md");
    for (path, item) in document()["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let heading = format!("`{} {path}`", method.to_uppercase());
            assert!(reference.contains(&heading), "docs/admin-api.md does not name {heading}");
        }
    }
}
