//! Holds the house's walls: who may import whom, where a clock, the environment, a database or Pingora may be touched, and
//! how long a file may be. It reads the sources as text: comments and tests are left out, strings are not told apart.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The rows of the house, lowest first. A room imports rooms of lower rows; those of row 0 may also know each other.
const ROWS: &[&[&str]] = &[
    &["unit", "error", "telemetry"],
    &["dialect", "catalog"],
    &["key"],
    &["budget", "kavach", "guardrail", "route", "provider", "audit", "ledger"],
    &["pipeline", "store", "config"],
    &["proxy", "admin", "console"],
    &["assemble", "cli", "main", "lib"],
];

/// Words that belong to certain places only: the word, the beginnings of the paths where it may be, and why.
const HOMES: &[(&str, &[&str], &str)] = &[
    ("pingora_", &["proxy/", "admin/", "assemble", "provider/transport.rs"], "everything else must outlive the proxy"),
    ("sqlx::", &["store/"], "nouns know traits, not databases"),
    ("deadpool_redis", &["store/"], "nouns know traits, not databases"),
    ("std::env", &["config/"], "the environment is read once, at load"),
    ("Instant::now", &["unit/clock.rs"], "time is an argument"),
    ("SystemTime::now", &["unit/clock.rs"], "time is an argument"),
    ("jiff::Timestamp::now", &["unit/clock.rs"], "time is an argument"),
    ("TODO", &[], "what is not done is not there"),
    ("FIXME", &[], "what is not done is not there"),
];

/// The most lines of a file without its tests.
const LINES: usize = 600;

/// The sources by path below `src/`, tests left out.
type Sources = BTreeMap<String, String>;

#[test]
fn the_checker_finds_each_kind_of_fault() {
    let found = |path: &str, text: &str| faults(&Sources::from([(path.to_owned(), text.to_owned())]));
    for (path, text) in [
        ("unit/id.rs", "use crate::key::Key;"),
        ("key/mod.rs", "use crate::provider::Provider;"),
        ("route/mod.rs", "use crate::provider::Provider;"),
        ("route/mod.rs", "use crate::{unit, provider::Provider};"),
        ("route/mod.rs", "use crate::{\n    unit::id::{a, b},\n    ledger,\n};"),
        ("route/mod.rs", "let provider = crate::provider::Provider::new();"),
        ("pipeline/mod.rs", "use crate::proxy::Front;"),
        ("pipeline/mod.rs", "use crate::assemble::run;"),
        ("pipeline/mod.rs", "use crate::unheard_of::run;"),
        ("unheard_of/mod.rs", "fn nothing() {}"),
        ("pipeline/mod.rs", "use pingora_core::server::Server;"),
        ("provider/mod.rs", "use pingora_core::server::Server;"),
        ("pipeline/mod.rs", "let pool = sqlx::query(text);"),
        ("config/redis.rs", "use deadpool_redis::redis::Client;"),
        ("cli/mod.rs", "let home = std::env::var(name);"),
        ("proxy/mod.rs", "let now = Instant::now();"),
        ("proxy/mod.rs", "let now = std::time::SystemTime::now();"),
        ("proxy/mod.rs", "// TODO: later"),
        ("proxy/mod.rs", &"let line = 1;\n".repeat(601)),
    ] {
        let first: String = text.chars().take(60).collect();
        assert_eq!(found(path, text).len(), 1, "{path}: {first}: {:?}", found(path, text));
    }
}

#[test]
fn the_checker_lets_everything_else_pass() {
    let sources = [
        ("error.rs", "use crate::unit::id::ExchangeId;"),
        ("telemetry/log.rs", "use crate::unit::clock::Tick;"),
        ("route/mod.rs", "use crate::route::config::RouteConfig;\nuse crate::unit::glob::Glob;"),
        ("route/store.rs", "/// Not `crate::store::Store`.\n// pingora_core says so\nuse crate::key::Key;"),
        ("proxy/mod.rs", "use pingora_core::server::Server;\nuse crate::pipeline::Gateway;"),
        ("provider/transport.rs", "use pingora_core::upstreams::peer::HttpPeer;"),
        ("store/sqlite.rs", "sqlx::query(text);"),
        ("config/load.rs", "std::env::var(name);"),
        ("unit/clock.rs", "std::time::Instant::now();"),
        ("cli/start.rs", "use crate::{assemble, admin::State};"),
        ("pipeline/settle.rs", &"let line = 1;\n".repeat(600)),
    ];
    let sources = sources.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
    assert_eq!(faults(&sources), Vec::<String>::new());
}

#[test]
fn tests_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let inline = "fn one() {}\n\n#[cfg(test)]\nmod tests {\n    use crate::cli::run;\n}\n";
    write("unit/mod.rs", "pub mod id;\n#[cfg(test)]\nmod golden;\n#[cfg(test)]\npub(crate) mod fixtures;\n");
    write("unit/id.rs", inline);
    write("unit/golden.rs", "use crate::cli::run;");
    write("unit/fixtures/mod.rs", "use crate::cli::run;");
    write("unit/fixtures/one.rs", "use crate::cli::run;");
    write("error.rs", "#[cfg(test)]\nmod tests;\n");
    write("error/tests.rs", "use crate::cli::run;");
    let sources = read(folder.path());
    let paths: Vec<&str> = sources.keys().map(String::as_str).collect();
    assert_eq!(paths, ["error.rs", "unit/id.rs", "unit/mod.rs"]);
    assert_eq!(faults(&sources), Vec::<String>::new());
}

#[test]
fn the_house_stands_as_drawn() {
    let sources = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(sources.len() > 50, "the sources were not found");
    let faults = faults(&sources);
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

fn faults(sources: &Sources) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, text) in sources {
        let lines = text.lines().count();
        if lines > LINES {
            faults.push(format!("{path} has {lines} lines; the most is {LINES}"));
        }
        let room = path.split(['/', '.']).next().unwrap_or_default();
        let Some(row) = row(room) else {
            faults.push(format!("{path}: the room `{room}` is in no row"));
            continue;
        };
        let code = without_comments(text);
        for other in imports(&code) {
            match self::row(&other) {
                None => faults.push(format!("{path} names `crate::{other}`, which is in no row")),
                Some(0) if row == 0 => {}
                Some(below) if below < row || other == room || row == ROWS.len() - 1 => {}
                Some(_) => faults.push(format!("{path} (row {row}) imports `crate::{other}`")),
            }
        }
        for (word, homes, reason) in HOMES {
            // What is left to do is written in comments, the rest in code.
            let text = if word.chars().all(char::is_uppercase) { text } else { &code };
            if contains(text, word) && !homes.iter().any(|home| path.starts_with(home)) {
                faults.push(format!("{path} holds `{word}`: {reason}"));
            }
        }
    }
    faults
}

fn row(room: &str) -> Option<usize> {
    ROWS.iter().position(|rooms| rooms.contains(&room))
}

/// The rooms that code names after `crate::`, grouped imports included.
fn imports(code: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => rooms.extend(members(group)),
            None => rooms.push(word(rest)),
        }
    }
    rooms.retain(|room| !room.is_empty());
    rooms.sort_unstable();
    rooms.dedup();
    rooms
}

/// The first word of each member of a `{…}` group.
fn members(group: &str) -> Vec<String> {
    let (mut depth, mut begins, mut found) = (0_usize, true, Vec::new());
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            _ if begins && !character.is_whitespace() => {
                found.push(word(&group[at..]));
                begins = false;
            }
            _ => {}
        }
    }
    found
}

fn word(text: &str) -> String {
    text.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}

/// Whether a word is in a text, not as the end of a longer one.
fn contains(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        !before.is_some_and(|character| character.is_alphanumeric() || character == '_')
    })
}

fn without_comments(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
        // Two slashes inside a line end its code, unless they are part of an address in a string.
        let end = line.match_indices("// ").map(|(at, _)| at).find(|at| line[..*at].ends_with(' '));
        code.push_str(&line[..end.unwrap_or(line.len())]);
        code.push('\n');
    }
    code
}

/// Reads the sources below a folder, without tests: modules marked `#[cfg(test)]`, inline or in files of their own.
fn read(folder: &Path) -> Sources {
    let mut texts = BTreeMap::new();
    collect(folder, folder, &mut texts);
    let mut tests: Vec<String> = Vec::new();
    for (path, text) in &mut texts {
        let inside = path.strip_suffix("mod.rs").map_or_else(|| path.replace(".rs", "/"), str::to_owned);
        let inside = if matches!(path.as_str(), "lib.rs" | "main.rs") { String::new() } else { inside };
        tests.extend(test_modules(text).into_iter().map(|module| format!("{inside}{module}")));
        if let Some(at) = inline_tests(text) {
            text.truncate(at);
        }
    }
    let is_test =
        |path: &str| tests.iter().any(|test| path == format!("{test}.rs") || path.starts_with(&format!("{test}/")));
    texts.retain(|path, _| !is_test(path));
    texts
}

fn collect(root: &Path, folder: &Path, texts: &mut Sources) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(root, &path, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            texts.insert(name, std::fs::read_to_string(&path).unwrap());
        }
    }
}

/// The names of modules in files of their own that are marked as tests.
fn test_modules(text: &str) -> Vec<String> {
    let mut marked = false;
    let mut modules = Vec::new();
    for line in text.lines().map(str::trim) {
        if line == "#[cfg(test)]" {
            marked = true;
        } else if marked && !line.starts_with("#[") {
            marked = false;
            let name = line.split_once("mod ").and_then(|(_, rest)| rest.strip_suffix(';'));
            modules.extend(name.map(str::to_owned));
        }
    }
    modules
}

/// Where the tests at the end of a file begin.
fn inline_tests(text: &str) -> Option<usize> {
    let at = text.find("\n#[cfg(test)]\nmod tests {").or_else(|| text.find("\n#[cfg(test)]\nmod tests{"))?;
    Some(at + 1)
}
