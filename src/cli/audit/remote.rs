//! `marg audit search`, `export` and `tail` with `--server`: the running instance is asked, and what is printed is what the
//! commands on its folder would print (`a_running_instance_is_searched_as_its_folder_is`).
//!
//! Entries come in pieces of [`PIECE`]. Their order is that of the commands, so a long export needs no memory.

use axum::http::Method;
use serde_json::Value;

use crate::cli::audit::find::{LOOK, Matching, Search};
use crate::cli::door::{Door, with_query};
use crate::cli::failure::{Exit, Failure, Result};
use crate::cli::output::{self, Format};

/// The most entries in one answer (`GET /admin/audit/entries`).
const PIECE: u64 = 1_000;

/// Prints the newest matches.
pub async fn search(search: &Search, door: &Door, format: Format) -> Result {
    let mut left = search.limit() as u64;
    let mut before = None;
    while left > 0 {
        let answer = piece(&search.matching, door, (None, before, left.min(PIECE))).await?;
        let entries = entries(&answer)?;
        entries.iter().try_for_each(|entry| print(entry, format))?;
        left -= (entries.len() as u64).min(left);
        before = answer.get("next_before").and_then(Value::as_u64);
        if before.is_none() {
            return Ok(());
        }
    }
    Ok(())
}

/// Prints all matches, oldest first.
pub async fn export(matching: &Matching, door: &Door) -> Result {
    let (mut from, size) = range(door).await?;
    while from < size {
        from = part(matching, door, (from, size), Format::Json).await?;
    }
    Ok(())
}

/// Prints matches as they come; a server that is away, as while it is restarted, is asked until it is back.
pub async fn tail(matching: &Matching, door: &Door, format: Format) -> Result {
    let (_, mut seen) = range(door).await?;
    loop {
        tokio::time::sleep(LOOK).await;
        let Some((_, size)) = present(range(door).await)? else { continue };
        while seen < size {
            let Some(next) = present(part(matching, door, (seen, size), format).await)? else { break };
            seen = next;
        }
    }
}

/// What a server says, if it is there.
fn present<T>(said: Result<T>) -> Result<Option<T>> {
    match said {
        Err(failure) if failure.exit == Exit::Unreachable => Ok(None),
        said => said.map(Some),
    }
}

/// Prints the matches of the first piece of a range, oldest first; gives where the next one begins.
async fn part(matching: &Matching, door: &Door, (from, size): (u64, u64), format: Format) -> Result<u64> {
    let to = size.min(from + PIECE);
    let answer = piece(matching, door, (Some(from), Some(to), PIECE)).await?;
    entries(&answer)?.iter().rev().try_for_each(|entry| print(entry, format))?;
    Ok(to)
}

/// Which entries have their texts and are under the last checkpoint.
async fn range(door: &Door) -> Result<(u64, u64)> {
    let status = door.ask(Method::GET, "/admin/audit", None).await?;
    let number = |name: &str| status.get(name).and_then(Value::as_u64);
    number("pruned").zip(number("signed")).ok_or_else(foreign)
}

/// One answer: entries from an index on and below another, at most so many, newest first.
async fn piece(
    matching: &Matching,
    door: &Door,
    (from, before, limit): (Option<u64>, Option<u64>, u64),
) -> Result<Value> {
    let mut pairs = matching.asked();
    pairs.push(("from", from.map(|index| index.to_string())));
    pairs.push(("before", before.map(|index| index.to_string())));
    pairs.push(("limit", Some(limit.to_string())));
    door.ask(Method::GET, &with_query("/admin/audit/entries", &pairs), None).await
}

fn entries(answer: &Value) -> Result<&Vec<Value>> {
    answer.get("entries").and_then(Value::as_array).ok_or_else(foreign)
}

fn print(found: &Value, format: Format) -> Result {
    let (Some(index), Some(entry)) = (found.get("index"), found.get("entry")) else { return Err(foreign()) };
    // As on a folder: an entry is an object; its index goes first.
    let text = entry.to_string();
    output::entry(format, &format!("{{\"index\":{index},{}", text.strip_prefix('{').unwrap_or(&text)))
}

fn foreign() -> Failure {
    Failure::failed("The server's answer is not that of an audit log; is it Marg, of this version?")
}
