//! Sets of policies that must not load, and why.

use std::fs;
use std::path::Path;

use crate::kavach::policy::{PolicySet, Problem};
use crate::kavach::schema;

const SHIPPED: &str = include_str!("../../../conf/policy.cedar");

#[track_caller]
fn fault(text: &str) -> Problem {
    match PolicySet::parse("p.cedar", text) {
        Ok(_) => panic!("it loads: {text}"),
        Err(faults) => faults.into_iter().next().unwrap(),
    }
}

#[test]
fn the_schema_and_the_shipped_policies_are_sound() {
    schema::schema();
    let set = PolicySet::parse("conf/policy.cedar", SHIPPED).unwrap_or_else(|faults| panic!("{faults:#?}"));
    assert_eq!(set.warnings(), []);
    let formatted = crate::kavach::policy::formatted(SHIPPED).unwrap();
    assert!(formatted == SHIPPED, "{formatted}");
}

#[test]
fn each_mistake_is_told_with_its_place() {
    for (text, line, column, says) in [
        ("permit(principal, action, resource)", 1, 36, "unexpected end"),
        (
            "permit(principal, action, resource);\nforbid(principal, action, resource) when { context.max_tokens > 1 };",
            2,
            44,
            "max_tokens",
        ),
        ("permit(principal, action, resource) when { context.country == \"IN\" };", 1, 44, "country"),
        ("permit(principal, action, resource) when { context.tool_count == \"1\" };", 1, 44, "types"),
        ("permit(principal == User::\"a\", action, resource);", 1, 1, "never match"),
        ("\n  permit(principal, action == Action::\"fly\", resource);", 2, 0, "fly"),
        ("permit(principal, action, resource) when { false };", 1, 1, "never match"),
        (
            "@id(\"a\") permit(principal, action, resource);\n@id(\"a\") forbid(principal, action, resource);",
            2,
            1,
            "already given at p.cedar:1",
        ),
        ("@mod(\"observe\") permit(principal, action, resource);", 1, 1, "no annotation @mod"),
        ("@mode(\"observing\") permit(principal, action, resource);", 1, 1, "@mode is"),
        ("@then(\"approval\") permit(principal, action, resource);", 1, 1, "belongs to a forbid"),
        ("@then(\"suspend 31d\") forbid(principal, action, resource);", 1, 1, "at most 30d"),
        ("@then(\"suspend\") forbid(principal, action, resource);", 1, 1, "@then is"),
        ("@id(\"a b\") permit(principal, action, resource);", 1, 1, "@id has"),
        ("@reason(\"\") permit(principal, action, resource);", 1, 1, "@reason has"),
        ("permit(principal == ?principal, action, resource);", 0, 0, "templates"),
        ("// nothing but words\n", 0, 0, "no policy"),
        ("", 0, 0, "no policy"),
    ] {
        let found = fault(text);
        assert!(found.text.contains(says), "{text}: {found}");
        assert_eq!(found.line, line, "{text}: {found}");
        assert!(column == 0 || found.column == column, "{text}: {found}");
    }
}

#[test]
fn what_is_called_a_policy_and_is_no_file_is_a_fault_and_not_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("all.cedar"), "permit(principal, action, resource);").unwrap();
    let loaded = || PolicySet::load(folder.path());
    assert_eq!(loaded().unwrap().rules().len(), 1);
    // A link that leads nowhere, a folder, a pipe, a device without an end.
    std::os::unix::fs::symlink(at("gone"), at("b.cedar")).unwrap();
    assert!(loaded().unwrap_err()[0].text.contains("cannot be read"));
    fs::remove_file(at("b.cedar")).unwrap();
    fs::create_dir(at("b.cedar")).unwrap();
    assert!(loaded().unwrap_err()[0].text.contains("no file"));
    fs::remove_dir(at("b.cedar")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", at("b.cedar")).unwrap();
    assert!(loaded().unwrap_err()[0].text.contains("no file"));
    assert!(PolicySet::load(&at("b.cedar")).unwrap_err()[0].text.contains("no file"));
    fs::remove_file(at("b.cedar")).unwrap();
    // An ending in other letters counts, and a link to a file, and what an editor notes does not.
    fs::write(at("no.CEDAR"), "forbid(principal, action, resource);").unwrap();
    std::os::unix::fs::symlink(at("kept"), at("linked.cedar")).unwrap();
    fs::write(at("kept"), "forbid(principal, action, resource);").unwrap();
    std::os::unix::fs::symlink("somebody@machine.1", at(".#all.cedar")).unwrap();
    assert_eq!(loaded().unwrap().rules().len(), 3);
}

#[test]
fn a_missing_file_an_empty_folder_and_a_binary_give_no_set() {
    let folder = tempfile::tempdir().unwrap();
    let load = |path: &Path| PolicySet::load(path).unwrap_err()[0].text.clone();
    assert!(load(&folder.path().join("none.cedar")).contains("cannot be read"));
    assert!(load(folder.path()).contains("no file *.cedar"));
    let binary = folder.path().join("binary.cedar");
    fs::write(&binary, [0xff, 0xfe]).unwrap();
    assert!(load(&binary).contains("UTF-8"));
    // One broken file of a folder breaks the whole set.
    fs::write(folder.path().join("good.cedar"), SHIPPED).unwrap();
    assert!(load(folder.path()).contains("UTF-8"));
    fs::remove_file(binary).unwrap();
    assert!(PolicySet::load(folder.path()).is_ok());
}

#[test]
fn a_set_that_is_cut_off_anywhere_is_refused() {
    // Cutting a comment before `// begin` ends is the only harmless place, and there is no policy yet.
    let text = "// begin\n@id(\"a\") permit(principal, action, resource);\n@id(\"b\") forbid(principal, action, resource);\n// end\n";
    assert!(PolicySet::parse("p", text).is_ok());
    for end in 0..text.len() {
        assert!(PolicySet::parse("p", &text[..end]).is_err(), "{end}");
    }
    for end in (0..SHIPPED.len()).step_by(97) {
        assert!(PolicySet::parse("p", SHIPPED.get(..end).unwrap_or_default()).is_err(), "{end}");
    }
}

#[test]
fn the_hash_is_of_the_policies_and_not_of_their_looks() {
    let hash = |text: &str| PolicySet::parse("p", text).unwrap().hash().to_owned();
    let one = hash(
        "@id(\"a\") permit(principal,action,resource); @id(\"b\") forbid(principal,action,resource) when { context.stream };",
    );
    let two = hash(
        "// Words.\n@id(\"b\")\nforbid (principal, action, resource)\nwhen { context.stream };\n@id(\"a\")\npermit (principal, action, resource);",
    );
    assert_eq!(one, two);
    let other = hash(
        "@id(\"a\") permit(principal,action,resource); @id(\"b\") @mode(\"observe\") forbid(principal,action,resource) when { context.stream };",
    );
    assert_ne!(one, other);
}

#[test]
fn a_file_that_is_broken_while_it_is_reloaded_never_widens_access() {
    use crate::kavach::config::Mode;
    use crate::kavach::gate::{Gate, GateSettings};
    use crate::kavach::verdict::Decision;
    use arc_swap::ArcSwap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.cedar");
    // Every sound version refuses this call; only a part of one would let it pass.
    let text = |number: usize| {
        format!(
            "// begin\n@id(\"v{number}\") permit(principal, action, resource);\n@id(\"no\") forbid(principal, action, resource);\n// end\n"
        )
    };
    let fresh = |path: &Path| {
        let set = PolicySet::load(path).ok()?;
        Some(Gate::new(Arc::new(set), GateSettings { mode: Mode::Enforce, ..GateSettings::default() }))
    };
    fs::write(&file, text(0)).unwrap();
    let live = ArcSwap::from_pointee(fresh(&file).unwrap());
    let (done, judged, reloaded) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let call = super::gate::call();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert_eq!(live.load().judge(&call).effective(), Decision::Deny);
                judged.fetch_add(1, Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if let Some(gate) = fresh(&file) {
                    live.store(Arc::new(gate));
                    reloaded.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        for round in 1..200 {
            let text = text(round);
            match round % 4 {
                0 => fs::remove_file(&file).unwrap_or_default(),
                1 => fs::write(&file, &text[..text.len() * (round % 50) / 50]).unwrap(),
                2 => fs::write(&file, &text).unwrap(),
                _ => {
                    let beside = folder.path().join("new");
                    fs::write(&beside, &text).unwrap();
                    fs::rename(beside, &file).unwrap();
                }
            }
            let seen = reloaded.load(Ordering::Relaxed);
            // A sound file is picked up before the next change.
            while round % 4 >= 2 && reloaded.load(Ordering::Relaxed) == seen {
                std::thread::yield_now();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(judged.into_inner() > 0 && reloaded.into_inner() >= 99);
}
