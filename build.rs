//! Tells the program what it was built from: the commit, the compiler and the versions of the main dependencies.
//!
//! It works without git and outside a repository; what cannot be found out is `unknown`.

#![allow(clippy::disallowed_methods, reason = "a build script is told everything by its environment")]

use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// The dependencies that `marg version --verbose` names.
const NAMED: &[&str] = &[
    "axum",
    "blake3",
    "clap",
    "genai-prices",
    "h2",
    "hyper",
    "mimalloc",
    "pingora-core",
    "pingora-proxy",
    "prometheus",
    "rustls",
    "serde_json",
    "sqlx",
    "tokio",
    "tracing",
    "utoipa",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=Cargo.lock");
    println!("cargo:rerun-if-env-changed=MARG_BUILD_COMMIT");
    for name in ["HEAD", "logs/HEAD"] {
        // A path that does not exist would make every build run this again.
        if let Some(path) = run("git", &["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists()) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    let given = env::var("MARG_BUILD_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = given.or_else(|| run("git", &["rev-parse", "HEAD"])).unwrap_or_else(|| "unknown".to_owned());
    let compiler = env::var("RUSTC").ok().and_then(|rustc| run(&rustc, &["--version"]));
    println!("cargo:rustc-env=MARG_COMMIT={commit}");
    println!("cargo:rustc-env=MARG_RUSTC={}", compiler.unwrap_or_else(|| "unknown".to_owned()));
    println!("cargo:rustc-env=MARG_TARGET={}", env::var("TARGET").unwrap_or_default());
    println!("cargo:rustc-env=MARG_DEPENDENCIES={}", dependencies());
}

/// The first line that a command prints, if it succeeds.
fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    let line = String::from_utf8(output.stdout).ok()?.lines().next()?.trim().to_owned();
    (!line.is_empty()).then_some(line)
}

/// `name version` pairs from the lock file, separated by commas.
fn dependencies() -> String {
    let lock = fs::read_to_string("Cargo.lock").unwrap_or_default();
    let mut found = Vec::new();
    for package in lock.split("[[package]]") {
        let field = |key: &str| {
            package.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_prefix("= \"")?.strip_suffix('"'))
        };
        if let (Some(name), Some(version)) = (field("name "), field("version "))
            && NAMED.contains(&name)
        {
            found.push(format!("{name} {version}"));
        }
    }
    found.join(",")
}
