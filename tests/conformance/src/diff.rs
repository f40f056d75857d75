//! What differs between an expected and an actual outcome, in words a person can act on.

use serde_json::Value;

/// Differences told of one scenario; the first ones say most.
const MAX_DIFFERENCES: usize = 6;

/// The differences, each with where it is.
pub fn differences(path: &str, expected: &Value, actual: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare(path, Some(expected), Some(actual), &mut found);
    found
}

fn compare(path: &str, expected: Option<&Value>, actual: Option<&Value>, found: &mut Vec<String>) {
    if expected == actual || found.len() >= MAX_DIFFERENCES {
        return;
    }
    match (expected, actual) {
        (Some(Value::Object(expected)), Some(Value::Object(actual))) => {
            for (key, value) in expected {
                compare(
                    &format!("{path}.{key}"),
                    Some(value),
                    actual.get(key),
                    found,
                );
            }
            for (key, value) in actual
                .iter()
                .filter(|(key, _)| !expected.contains_key(*key))
            {
                compare(&format!("{path}.{key}"), None, Some(value), found);
            }
        }
        (Some(Value::Array(expected)), Some(Value::Array(actual))) => {
            if expected.len() != actual.len() {
                found.push(format!(
                    "{path}: expected {} items, got {}",
                    expected.len(),
                    actual.len()
                ));
            }
            let longest = expected.len().max(actual.len());
            // What follows the first difference in a stream is mostly its consequence.
            let first = (0..longest).find(|&index| expected.get(index) != actual.get(index));
            if let Some(index) = first {
                let path = format!("{path}[{index}]");
                compare(&path, expected.get(index), actual.get(index), found);
            }
        }
        _ => found.push(format!(
            "{path}: expected {}, got {}",
            text(expected),
            text(actual)
        )),
    }
}

fn text(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), Value::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn differences_of(expected: Value, actual: Value) -> Vec<String> {
        differences("final", &expected, &actual)
    }

    #[test]
    fn equal_outcomes_have_none() {
        let value = json!({"words": [u64::MAX, 1]});
        assert!(differences_of(value.clone(), value).is_empty());
    }

    #[test]
    fn first_differing_word_is_named() {
        assert_eq!(
            differences_of(
                json!({"words": [1, u64::MAX, 3]}),
                json!({"words": [1, u64::MAX - 1]})
            ),
            [
                "final.words: expected 3 items, got 2",
                "final.words[1]: expected 18446744073709551615, got 18446744073709551614",
            ]
        );
    }

    #[test]
    fn keys_on_one_side_only_are_named() {
        assert_eq!(
            differences_of(json!({"woke": 1}), json!({"freed": [5]})),
            [
                "final.woke: expected 1, got nothing",
                "final.freed: expected nothing, got [5]"
            ]
        );
    }
}
