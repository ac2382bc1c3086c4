use std::fmt::Write;

use proptest::prelude::*;
use serde::de::IgnoredAny;
use serde_json::Value as Tree;

use super::keys::FEW_KEYS;
use super::*;

fn sentence(document: &[u8]) -> String {
    scan(document, &mut ()).unwrap_err().to_string()
}

/// What serde_json says, without its rule on the size of numbers.
fn accepted_elsewhere(document: &[u8]) -> bool {
    match serde_json::from_slice::<Tree>(document) {
        Ok(_) => true,
        // It stops at such a number, so that the rest must be looked at by its reader that takes no values.
        Err(error) if error.to_string().starts_with("number out of range") => {
            std::str::from_utf8(document).is_ok() && serde_json::from_slice::<IgnoredAny>(document).is_ok()
        }
        Err(_) => false,
    }
}

#[test]
fn a_number_too_large_for_others_does_not_hide_what_follows_it() {
    assert!(scan(b"-0.5e1011", &mut ()).is_ok());
    assert!(agree(b"-0.5e1011").is_ok() && agree(b"-0.5e1011{").is_ok() && agree(b"[-0.5e1011,]").is_ok());
}

#[test]
fn faults_are_named_with_their_byte() {
    for (document, expected) in [
        ("", "expected a value at byte 0"),
        ("{\"model\":\"a\",  }", "expected a key in quotes at byte 15"),
        ("{\"messages\": [],}", "expected a key in quotes at byte 16"),
        ("{\"messages\":   ]", "expected a value at byte 15"),
        ("{\"a\":1,\"model\":1,\"b\":{\"model\":2},\"model\":3}", "the key \"model\" appears twice (byte 33)"),
        ("{\"model\":1,\"mod\\u0065l\":2}", "the key \"model\" appears twice (byte 11)"),
        ("[1,]", "expected a value at byte 3"),
        ("[1 2]", "expected a comma or a closing bracket at byte 3"),
        ("{\"a\":1 \"b\":2}", "expected a comma or a closing brace at byte 7"),
        ("{\"a\" 1}", "expected a colon at byte 5"),
        ("{} x", "something follows the document at byte 3"),
        ("{}{}", "something follows the document at byte 2"),
        ("[1", "expected a comma or a closing bracket at byte 2"),
        ("[01]", "invalid number at byte 1"),
        ("[-]", "invalid number at byte 1"),
        ("[1.]", "invalid number at byte 1"),
        ("[1e+]", "invalid number at byte 1"),
        ("[.5]", "expected a value at byte 1"),
        ("[+5]", "expected a value at byte 1"),
        ("[NaN]", "expected a value at byte 1"),
        ("[nul]", "expected a value at byte 1"),
        ("'a'", "expected a value at byte 0"),
        ("\"abc", "the string that begins at byte 0 does not end"),
        ("\"a\nb\"", "a string holds a control character at byte 2"),
        ("\"a\u{0}b\"", "a string holds a control character at byte 2"),
        ("\"a\\x\"", "a string holds an invalid escape at byte 2"),
        ("\"a\\u12g4\"", "a string holds an invalid escape at byte 2"),
        ("[\"0123456789012345678901234567890\\q\"]", "a string holds an invalid escape at byte 33"),
        ("[\"01234567890123456789012345678\\ud83d\\ude0\"]", "a string holds half of a surrogate pair at byte 31"),
        ("\"a\\", "a string holds an invalid escape at byte 2"),
        ("\"\\ud83d\"", "a string holds half of a surrogate pair at byte 1"),
        ("\"\\ude00\"", "a string holds half of a surrogate pair at byte 1"),
        ("\"\\ud83d\\u0041\"", "a string holds half of a surrogate pair at byte 1"),
        ("\u{FEFF}{}", "expected a value at byte 0"),
        ("[1]\u{0}", "something follows the document at byte 3"),
        ("// c\n{}", "expected a value at byte 0"),
        ("[\u{A0}1]", "expected a value at byte 1"),
    ] {
        assert_eq!(sentence(document.as_bytes()), expected, "{document}");
    }
    assert_eq!(sentence(b"{\"a\":\"\xff\"}"), "the text is not UTF-8 at byte 6");
}

#[test]
fn sound_documents_pass() {
    for document in [
        "null",
        " \t\r\n[ ] ",
        "{}",
        "-0",
        "1E-9",
        "[0.1,1e5,-12.5E+3]",
        "1e99999",
        "{\"a\":{\"a\":{\"a\":[]}}}",
        "[{\"a\":1},{\"a\":2}]",
        "\"\\ud83d\\ude00 \\\" \\\\ \\/ \\b\\f\\n\\r\\t \\u0000 é\u{7f}\"",
    ] {
        assert_eq!(scan(document.as_bytes(), &mut ()), Ok(()), "{document}");
    }
}

#[test]
fn nesting_ends_at_the_limit() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert_eq!(scan(nested(DEPTH_LIMIT).as_bytes(), &mut ()), Ok(()));
    assert_eq!(sentence(nested(DEPTH_LIMIT + 1).as_bytes()), "nested deeper than 128 levels (byte 128)");
}

#[test]
fn deep_nesting_is_refused_at_once() {
    let fault = scan("[".repeat(100_000).as_bytes(), &mut ()).unwrap_err();
    assert_eq!(fault, JsonError { offset: 128, fault: Fault::TooDeep });
    let fault = scan("{\"a\":".repeat(100_000).as_bytes(), &mut ()).unwrap_err();
    assert_eq!(fault.fault, Fault::TooDeep);
}

#[test]
fn a_million_keys_are_handled() {
    let mut document = String::from("{");
    for index in 0..1_000_000 {
        write!(document, "\"key{index}\":0,").unwrap();
    }
    let sound = format!("{document}\"last\":0}}");
    assert_eq!(scan(sound.as_bytes(), &mut ()), Ok(()));
    let doubled = format!("{document}\"key77\":0,\"k\\u0065y99\":0}}");
    let at = document.len();
    assert_eq!(sentence(doubled.as_bytes()), format!("the key \"key77\" appears twice (byte {at})"));
}

#[test]
fn a_key_that_appears_twice_is_found_in_objects_of_every_size() {
    for count in [1, 2, FEW_KEYS - 1, FEW_KEYS, FEW_KEYS + 1, FEW_KEYS + 2, 100] {
        for twice in [0, count / 2, count - 1] {
            let keys: Vec<String> = (0..count).map(|key| format!("\"k{key}\":[{{\"k{key}\":1}}]")).collect();
            let sound = format!("[{{{}}},{{\"k0\":0}}]", keys.join(","));
            assert_eq!(scan(sound.as_bytes(), &mut ()), Ok(()), "{sound}");
            let doubled = format!("{{{},\"\\u006b{twice}\":0}}", keys.join(","));
            let fault = scan(doubled.as_bytes(), &mut ()).unwrap_err();
            assert_eq!(fault.fault, Fault::TwiceKey(format!("k{twice}")), "{doubled}");
        }
    }
}

#[test]
fn escaped_keys_of_inner_objects_do_not_leak_into_outer_ones() {
    let document = r#"{"\u0061":{"\u0062":{"\u0063":1},"\u0064":1},"\u0062":2,"\u0063":3,"\u0064":4}"#;
    assert_eq!(scan(document.as_bytes(), &mut ()), Ok(()));
}

#[test]
fn members_are_given_with_their_spans() {
    let document = br#" { "a" : 1 , "\u0062" : { "x" : [ 1 ] } , "c":"d" } "#;
    let found: Vec<(String, String)> = members(document)
        .unwrap()
        .into_iter()
        .map(|m| (m.key.decode(document).into_owned(), String::from_utf8_lossy(&document[m.value]).into_owned()))
        .collect();
    let expected = [("a", "1"), ("b", "{ \"x\" : [ 1 ] }"), ("c", "\"d\"")];
    assert_eq!(found, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    assert_eq!(members(b"[{\"a\":1}]").unwrap(), []);
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        Just(Tree::Null),
        any::<bool>().prop_map(Tree::from),
        any::<i64>().prop_map(Tree::from),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(Tree::from),
        any::<String>().prop_map(Tree::from),
        "[\"\\\\a\u{1}é]{0,80}".prop_map(Tree::from),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Tree::from),
            prop::collection::btree_map(any::<String>(), inner, 0..30)
                .prop_map(|map| Tree::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_is_accepted_and_its_spans_are_right(tree in tree(), pretty in any::<bool>()) {
        let document = if pretty { serde_json::to_vec_pretty(&tree) } else { serde_json::to_vec(&tree) }.unwrap();
        let found = members(&document).unwrap();
        // Read again, because the peer's float parser is off by a bit at times.
        let tree: Tree = serde_json::from_slice(&document).unwrap();
        let object = tree.as_object().cloned().unwrap_or_default();
        prop_assert_eq!(found.len(), object.len());
        for member in found {
            let value: Tree = serde_json::from_slice(&document[member.value.clone()]).unwrap();
            prop_assert_eq!(Some(&value), object.get(member.key.decode(&document).as_ref()));
            let read = value::Value::first(&document[member.value.start..]).unwrap();
            prop_assert_eq!(read.raw(), &document[member.value.clone()]);
        }
    }

    #[test]
    fn a_damaged_document_is_accepted_exactly_when_others_accept_it(
        tree in tree(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(),
    ) {
        let mut document = serde_json::to_vec(&tree).unwrap();
        let at = at.index(document.len());
        if cut { document.truncate(at) } else { document[at] = byte }
        agree(&document)?;
    }

    #[test]
    fn any_soup_of_tokens_is_judged_as_others_judge_it(
        soup in prop::collection::vec(prop::sample::select(vec![
            "{", "}", "[", "]", ",", ":", "\"a\"", "\"b\"", "\"\\u0061\"", "1", "-0.5e1", "01", "true", "null", " ", "\n",
            "\"", "\\", "\u{1}", "é",
        ]), 0..12),
    ) {
        agree(soup.concat().as_bytes())?;
    }

    #[test]
    fn any_string_is_judged_as_others_judge_it(
        soup in prop::collection::vec(prop::sample::select(vec![
            "\\", "u", "\"", "d83d", "\\ude00", "\\ud83d", "\\u0041", "n", "a", "é", "\u{1f}", "\u{20}", "DC00",
        ]), 0..12),
    ) {
        agree(format!("\"{}\"", soup.concat()).as_bytes())?;
    }

    #[test]
    fn any_bytes_are_judged_as_others_judge_them(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        agree(&bytes)?;
        // The lenient reader ends on anything.
        if let Some(value) = value::Value::first(&bytes) {
            let _ = (value.string(), value.members().count(), value.elements().count());
        }
    }
}

fn agree(document: &[u8]) -> Result<(), TestCaseError> {
    match scan(document, &mut ()) {
        Ok(()) => prop_assert!(accepted_elsewhere(document), "we accept {:?}", String::from_utf8_lossy(document)),
        Err(JsonError { fault: Fault::TwiceKey(_) | Fault::TooDeep, .. }) => {}
        Err(fault) => {
            prop_assert!(!accepted_elsewhere(document), "{} in {:?}", fault, String::from_utf8_lossy(document));
        }
    }
    Ok(())
}
