//! Texts that are no configuration: broken, growing, nested, or any at all.

use super::*;

#[test]
fn a_broken_text_tells_the_place_and_the_faults_before_it() {
    let faults = check("serve: 1\nlog: {level: info\nadmin: 2\n");
    assert!(
        faults.iter().any(|fault| fault.starts_with("1:1: serve: unknown key \"serve\"; did you mean `server`?")),
        "{faults:?}"
    );
    assert!(faults.iter().any(|fault| fault.contains("this is not YAML")), "{faults:?}");
    assert!(!faults.iter().any(|fault| fault.contains("missing")), "{faults:?}");
}

#[test]
fn yaml_that_is_more_than_a_plain_document_is_refused() {
    refuses("data_dir: x\n---\ndata_dir: y\n", "2:1", "second document");
    refuses("data_dir: !!str x\n", "1:", "tags");
    refuses("? [a]\n: 1\n", "1:3", "a key must be a plain text");
    refuses("<<: {data_dir: x}\n", "1:1", "merge keys are not understood");
    refuses("data_dir: *x\n", "1:", "names no anchor");
    refuses("server:\n\th2c: true\n", "2:", "indent with blanks");
    refuses("[]", "1:1", "expected a mapping");
    refuses("hello", "1:1", "expected a mapping");
    refuses("data_dir: x\ndata_dir: y\n", "2:1: data_dir", "already given in line 1");
    refuses("providers: {a: {preset: ollama}, a: {preset: ollama}}\n", "1:34: providers.a", "already given");
}

#[test]
fn texts_that_grow_or_nest_are_refused_quickly() {
    let deep = "[".repeat(100_000);
    assert!(check(&deep)[0].contains("nested"), "{:?}", check(&deep));
    let deep = (0..2000).map(|level| format!("{}a:\n", " ".repeat(level))).collect::<String>();
    assert!(check(&deep).iter().any(|fault| fault.contains("nested")));
    let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (this, last) in ('b'..='i').zip('a'..) {
        bomb.push_str(&format!(
            "{this}: &{this} [*{last}, *{last}, *{last}, *{last}, *{last}, *{last}, *{last}, *{last}]\n"
        ));
    }
    assert!(check(&bomb).iter().any(|fault| fault.contains("too large")), "{:?}", check(&bomb));
    assert!(check("a: &a [*a]\n").iter().any(|fault| fault.contains("stands inside")));
    assert!(check(&" ".repeat(5 * 1024 * 1024))[0].contains("larger than"));
    assert!(check(&"- \n".repeat(1_000_000)).len() <= 2);
    let many = (0..3000).map(|index| format!("k{index}: 1\n")).collect::<String>();
    let faults = check(&many);
    assert_eq!(faults.len(), 1001);
    assert!(faults[1000].contains("more than 1000"));
}

#[test]
fn an_alias_stands_for_what_it_names() {
    let yaml = "providers:\n  a: &a {preset: ollama, connect_timeout_ms: 7}\n  b: *a\n";
    let config = load(yaml).unwrap().config;
    assert_eq!(config.providers["b"].connect_timeout_ms, 7);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC*") {
        drop(load(&text));
    }

    #[test]
    fn text_that_looks_like_a_configuration_never_panics(
        lines in proptest::collection::vec("( {0,6})(- )?(server|routes|providers|to|a|split|match|weight|headers|credentials|[&*!]a)?(: |:)?([\\[{'\"]?)(a|env:A|plain:x|1|~|\\]|\\}|,)?", 0..30),
    ) {
        drop(load(&lines.join("\n")));
    }

    #[test]
    fn every_fault_has_a_place_in_the_text(junk in "[a-z]{1,12}", value in "[a-z0-9 ]{0,8}") {
        for problem in load(&format!("# one\n{junk}x: {value}\n")).err().unwrap_or_default() {
            prop_assert!(problem.line == 2 && problem.column >= 1, "{}", problem);
        }
    }
}
