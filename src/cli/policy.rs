//! `marg policy`: what a security team does with its policies before it lets them decide.
//!
//! Nothing but `audit` and `replay` needs a running instance, a database or a secret: policies, tables of cases and calls are
//! files.

mod history;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Subcommand;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::cli::failure::{Exit, Failure, Result};
use crate::cli::output::{self, Format};
use crate::cli::{Common, complain, wait};
use crate::config::load;
use crate::kavach::admin::Operation;
use crate::kavach::config::{Mode, Reveal};
use crate::kavach::gate::{Gate, GateSettings};
use crate::kavach::import::{self, Settings};
use crate::kavach::policy::{self, PolicySet, Problem};
use crate::kavach::table::Table;
use crate::kavach::{Call, verdict::Ground};
use crate::unit::file;

/// What to do with policies.
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Check policies and list every mistake with its line and column.
    Check {
        /// A file or a folder; left out, what kavach.policy says.
        #[arg(value_name = "POLICY")]
        policy: Option<PathBuf>,
    },
    /// Write policies in the one form, comments kept.
    Fmt {
        /// The files.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Change nothing; fail if a file is not in that form.
        #[arg(long)]
        check: bool,
    },
    /// Run a table of cases.
    Test {
        /// The table: YAML.
        #[arg(value_name = "CASES")]
        cases: PathBuf,
        #[command(flatten)]
        set: SetArgs,
    },
    /// Tell Kavach's TOML policies and invariants in Cedar.
    Import {
        /// The TOML file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Write the policies to this file instead of the standard output; an existing one is not replaced.
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
        /// The time zone that kavach.time_zone will be.
        #[arg(long, default_value = "UTC", value_name = "ZONE")]
        time_zone: String,
        /// Leave rate_limit out of permits, because you make limits of them.
        #[arg(long)]
        without_rate_limits: bool,
    },
    /// Say which policies decide a call, or an operation of an operator.
    Explain {
        /// The call: YAML or JSON, as in a table of cases; or `operation:` and an operation, as there.
        #[arg(value_name = "CALL")]
        call: PathBuf,
        #[command(flatten)]
        set: SetArgs,
    },
    /// Count refusals, real and would-be, by policy, key, model and reason.
    Audit(history::Period),
    /// Say what other policies would have done to recorded calls.
    Replay(history::Replay),
    /// Say what changes between two sets of policies.
    Diff {
        /// The set that decides now.
        #[arg(value_name = "OLD")]
        old: PathBuf,
        /// The set that is proposed.
        #[arg(value_name = "NEW")]
        new: PathBuf,
        /// A table of cases; those that are decided otherwise are listed.
        #[arg(long, value_name = "CASES")]
        cases: Option<PathBuf>,
        /// The time zone of the clock in policies.
        #[arg(long, default_value = "UTC", value_name = "ZONE")]
        time_zone: String,
    },
}

/// Which policies, and in which time zone.
#[derive(Debug, clap::Args)]
pub struct SetArgs {
    /// A file or a folder of policies; left out, what kavach.policy says.
    #[arg(long, value_name = "POLICY")]
    policy: Option<PathBuf>,
    /// The time zone of the clock in policies; left out, what kavach.time_zone says, or UTC with --policy.
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
}

/// Runs one of the commands.
pub fn run(command: Policy, common: &Common) -> Result {
    match command {
        Policy::Check { policy } => check(policy, common),
        Policy::Fmt { files, check } => format(&files, check),
        Policy::Test { cases, set } => test(&cases, &set.gate(common)?, common.output),
        Policy::Import { file, to, time_zone, without_rate_limits } => {
            let settings = Settings { zone: zone(&time_zone)?, without_rate_limits };
            import(&file, to.as_deref(), &settings, common.output)
        }
        Policy::Explain { call, set } => explain(&call, &set.gate(common)?, common.output),
        Policy::Audit(period) => wait(async { history::audit(period, &common.door()?, common.output).await }),
        Policy::Replay(replay) => wait(async { history::replay(replay, &common.door()?, common.output).await }),
        Policy::Diff { old, new, cases, time_zone } => {
            let zone = zone(&time_zone)?;
            diff(&gate(&old, zone.clone())?, &gate(&new, zone)?, cases.as_deref(), common.output)
        }
    }
}

impl SetArgs {
    fn gate(&self, common: &Common) -> Result<Gate> {
        let (path, name) = match (&self.policy, &self.time_zone) {
            (Some(path), name) => (path.clone(), name.clone().unwrap_or_else(|| "UTC".to_owned())),
            (None, name) => {
                let (path, configured) = configured(common)?;
                (path, name.clone().unwrap_or(configured))
            }
        };
        gate(&path, zone(&name)?)
    }
}

/// The policies and the time zone of the configuration file.
fn configured(common: &Common) -> Result<(PathBuf, String)> {
    let config = fs::read_to_string(&common.config)
        .map_err(|error| Failure::failed(format!("{} cannot be read: {error}.", common.config.display())))?;
    // What the file refers to is not looked up: whoever works on policies needs no secrets.
    let config = load::parse(&config, &common.config.display().to_string()).map_err(|problems| {
        problems.iter().for_each(|problem| complain(&problem.to_string()));
        Failure::new(Exit::Failed, "")
    })?;
    let missing = || Failure::usage("There is no kavach.policy in the configuration; name the policies.");
    Ok((config.kavach.policy.ok_or_else(missing)?, config.kavach.time_zone))
}

fn zone(name: &str) -> Result<TimeZone> {
    TimeZone::get(name).map_err(|_| Failure::usage(format!("There is no time zone {name:?}; write an IANA name.")))
}

fn gate(path: &Path, zone: TimeZone) -> Result<Gate> {
    let set = PolicySet::load(path).map_err(|problems| told(&problems))?;
    let settings = GateSettings { mode: Mode::Enforce, reveal: Reveal::IdAndReason, zone, cache_entries: 1_024 };
    Ok(Gate::new(Arc::new(set), settings))
}

/// Lists the mistakes and gives the failure that has nothing to add.
fn told(problems: &[Problem]) -> Failure {
    problems.iter().for_each(|problem| complain(&problem.to_string()));
    Failure::new(Exit::Failed, "")
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| Failure::failed(format!("{} cannot be read: {error}.", path.display())))
}

fn check(policy: Option<PathBuf>, common: &Common) -> Result {
    let path = policy.map_or_else(|| configured(common).map(|(path, _)| path), Ok)?;
    let (set, problems) = match PolicySet::load(&path) {
        Ok(set) => (Some(set), Vec::new()),
        Err(problems) => (None, problems),
    };
    let warnings = set.as_ref().map_or(&[][..], PolicySet::warnings);
    if common.output != Format::Table {
        let rows = |list: &[Problem]| list.iter().map(row).collect::<Vec<_>>();
        let count = set.as_ref().map_or(0, |set| set.rules().len());
        let hash = set.as_ref().map(PolicySet::hash);
        output::item(
            common.output,
            &json!({
                "ok": set.is_some(), "policies": count, "hash": hash,
                "errors": rows(&problems), "warnings": rows(warnings),
            }),
        )?;
    } else {
        problems.iter().for_each(|problem| complain(&problem.to_string()));
        warnings.iter().for_each(|warning| complain(&format!("warning: {warning}")));
        if let Some(set) = &set {
            output::line(&format!("ok: {} policies, {}", set.rules().len(), set.hash()))?;
        }
    }
    if set.is_some() { Ok(()) } else { Err(Failure::new(Exit::Failed, "")) }
}

fn row(problem: &Problem) -> Value {
    json!({
        "file": problem.file, "line": problem.line, "column": problem.column,
        "policy": problem.policy, "text": problem.text,
    })
}

fn format(files: &[PathBuf], check: bool) -> Result {
    let mut other = 0;
    for file in files {
        let text = read(file)?;
        let formatted =
            policy::formatted(&text).map_err(|error| Failure::failed(format!("{}: {error}", file.display())))?;
        if formatted == text {
            continue;
        }
        other += 1;
        output::line(&file.display().to_string())?;
        if !check {
            put(file, &formatted)?;
        }
    }
    if check && other > 0 { Err(Failure::failed(format!("{other} files are not in that form."))) } else { Ok(()) }
}

/// Puts another text into a file that is there, so that a reload never reads half of it. A link stays one.
fn put(path: &Path, text: &str) -> Result {
    let path = fs::canonicalize(path)?;
    let permissions = fs::metadata(&path)?.permissions();
    file::replace(&path, text.as_bytes(), permissions.mode() & 0o777)?;
    // The umask of whoever formats has no say in who may read the file.
    Ok(fs::set_permissions(&path, permissions)?)
}

fn table(path: &Path) -> Result<Table> {
    Table::parse(&read(path)?).map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
}

fn test(cases: &Path, gate: &Gate, format: Format) -> Result {
    let table = table(cases)?;
    let misses = table.run(gate).map_err(Failure::failed)?;
    if format != Format::Table {
        output::item(format, &json!({ "cases": table.cases.len(), "misses": misses }))?;
    } else {
        misses.iter().try_for_each(|miss| output::line(&format!("{}: {}", miss.case, miss.text)))?;
        output::line(&format!("{} cases, {} as expected", table.cases.len(), table.cases.len() - misses.len()))?;
    }
    if misses.is_empty() { Ok(()) } else { Err(Failure::new(Exit::Failed, "")) }
}

fn import(file: &Path, to: Option<&Path>, settings: &Settings, format: Format) -> Result {
    let imported = import::import(&read(file)?, settings)
        .map_err(|error| Failure::failed(format!("{}: {error}", file.display())))?;
    if let Some(to) = to {
        let mut target = fs::OpenOptions::new().write(true).create_new(true).open(to)?;
        std::io::Write::write_all(&mut target, imported.text.as_bytes())?;
    }
    if format != Format::Table {
        let text = to.is_none().then_some(&imported.text);
        return output::item(format, &json!({ "policies": imported.policies, "notes": imported.notes, "text": text }));
    }
    imported.notes.iter().for_each(|note| complain(&format!("note: {note}")));
    match to {
        None => output::line(imported.text.trim_end()),
        Some(to) => output::line(&format!("{} policies in {}", imported.policies, to.display())),
    }
}

/// An operation of an operator to explain, in the place of a call.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    operation: Operation,
}

fn explain(path: &Path, gate: &Gate, format: Format) -> Result {
    let wrong = |error: &dyn std::fmt::Display| Failure::failed(format!("{}: {error}", path.display()));
    let text = read(path)?;
    let asked: BTreeMap<String, Value> = serde_saphyr::from_str(&text).map_err(|error| wrong(&error))?;
    let (judgement, applying) = if asked.contains_key("operation") {
        let Asked { operation } = serde_saphyr::from_str(&text).map_err(|error| wrong(&error))?;
        (Arc::new(gate.weigh_operation(&operation)), gate.applying_to(&operation))
    } else {
        let call: Call = serde_saphyr::from_str(&text).map_err(|error| wrong(&error))?;
        (gate.weigh(&call), gate.applying(&call))
    };
    let applying: Vec<&str> = applying.into_iter().map(|rule| &*rule.id).collect();
    let mut answer = serde_json::to_value(&*judgement).map_err(|error| Failure::failed(error.to_string()))?;
    if let Some(answer) = answer.as_object_mut() {
        answer.insert("scope_matches".to_owned(), json!(applying));
        answer.insert("policies_hash".to_owned(), json!(gate.set_hash()));
        if format == Format::Table {
            let ids = |grounds: &[Ground]| grounds.iter().map(|ground| ground.policy.to_string()).collect::<Vec<_>>();
            for (name, grounds) in [
                ("deciding", &judgement.deciding),
                ("would_refuse", &judgement.would_refuse),
                ("would_permit", &judgement.would_permit),
            ] {
                answer.insert(name.to_owned(), json!(ids(grounds)));
            }
        }
    }
    output::item(format, &answer)
}

fn diff(old: &Gate, new: &Gate, cases: Option<&Path>, format: Format) -> Result {
    let rules = |gate: &Gate| -> BTreeMap<Arc<str>, crate::kavach::rule::Rule> {
        let rules = gate.set().map(|set| set.rules().to_vec()).unwrap_or_default();
        rules.into_iter().map(|rule| (Arc::clone(&rule.id), rule)).collect()
    };
    let (before, after) = (rules(old), rules(new));
    let only = |these: &BTreeMap<Arc<str>, _>, those: &BTreeMap<Arc<str>, _>| -> Vec<Arc<str>> {
        these.keys().filter(|id| !those.contains_key(*id)).cloned().collect()
    };
    let changed: Vec<&Arc<str>> = before
        .iter()
        .filter(|(id, rule)| after.get(*id).is_some_and(|other| !rule.says_the_same(other)))
        .map(|(id, _)| id)
        .collect();
    let mut decided = Vec::new();
    if let Some(path) = cases {
        let table = table(path)?;
        for case in &table.cases {
            let call = table.call(case).map_err(Failure::failed)?;
            let (was, is) = (old.weigh(&call), new.weigh(&call));
            if was.decision != is.decision || was.deciding != is.deciding {
                decided.push(json!({
                    "case": case.name, "was": was.decision, "is": is.decision,
                    "was_by": was.deciding, "is_by": is.deciding,
                }));
            }
        }
    }
    let answer = json!({
        "added": only(&after, &before), "removed": only(&before, &after), "changed": changed, "cases": decided,
    });
    if format != Format::Table {
        return output::item(format, &answer);
    }
    for name in ["added", "removed", "changed"] {
        for id in answer.get(name).and_then(Value::as_array).into_iter().flatten() {
            output::line(&format!("{name} {}", output::text(Some(id))))?;
        }
    }
    decided.iter().try_for_each(|case| {
        let cell = |name: &str| output::text(case.get(name));
        output::line(&format!("case {}: {} -> {}", cell("case"), cell("was"), cell("is")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_formatted_file_keeps_its_mode_and_a_link_to_it_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("shared.cedar"), folder.path().join("here.cedar"));
        fs::write(&file, "permit(principal,action,resource);").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o664)).unwrap();
        std::os::unix::fs::symlink("shared.cedar", &link).unwrap();
        assert!(format(std::slice::from_ref(&link), true).is_err());
        format(std::slice::from_ref(&link), false).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o664);
        assert!(format(&[link, file], true).is_ok());
    }
}
