//! The section `kavach`: the gate, sessions and drift. `permits` has the section in it.

use std::path::PathBuf;

use jiff::tz::TimeZone;

use crate::config::decode::Table;
use crate::config::problem::Report;
use crate::config::shape::word;
use crate::config::{Config, permits};
use crate::kavach::config::{DriftConfig, KavachConfig, Mode, Reveal, SessionConfig};

/// The section `kavach`.
pub(super) fn kavach(table: &mut Table<'_, '_>) -> KavachConfig {
    const MODES: &[(&str, Mode)] = &[("off", Mode::Off), ("observe", Mode::Observe), ("enforce", Mode::Enforce)];
    const REVEALS: &[(&str, Reveal)] =
        &[("id_and_reason", Reveal::IdAndReason), ("reason", Reveal::Reason), ("nothing", Reveal::Nothing)];
    let default = KavachConfig::default();
    KavachConfig {
        mode: table.text_or("mode", default.mode, |text| word(text, MODES)),
        policy: table.text("policy", path),
        reveal: table.text_or("reveal", default.reveal, |text| word(text, REVEALS)),
        time_zone: table.text_or("time_zone", default.time_zone, time_zone),
        cache_entries: table.number("cache_entries", default.cache_entries),
        session: table.section("session", session),
        drift: table.section("drift", drift),
        permits: table.section("permits", permits::permits),
    }
}

fn session(table: &mut Table<'_, '_>) -> SessionConfig {
    let default = SessionConfig::default();
    SessionConfig {
        idle_ms: table.number("idle_ms", default.idle_ms),
        ended_ms: table.number("ended_ms", default.ended_ms),
        max_sessions: table.number("max_sessions", default.max_sessions),
    }
}

fn drift(table: &mut Table<'_, '_>) -> DriftConfig {
    let default = DriftConfig::default();
    DriftConfig {
        geo: table.flag("geo", default.geo),
        geo_database: table.text("geo_database", path),
        geo_speed_km_h: table.number("geo_speed_km_h", default.geo_speed_km_h),
        device: table.flag("device", default.device),
        session_age: table.flag("session_age", default.session_age),
        session_age_ms: table.number("session_age_ms", default.session_age_ms),
        behaviour: table.flag("behaviour", default.behaviour),
        max_keys: table.number("max_keys", default.max_keys),
    }
}

fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("write a path".to_owned()) } else { Ok(PathBuf::from(text)) }
}

fn time_zone(text: &str) -> Result<String, String> {
    match TimeZone::get(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("there is no such time zone; write an IANA name such as UTC or Europe/Berlin".to_owned()),
    }
}

/// Notes what the text alone can tell.
pub(super) fn check(config: &Config, report: &mut Report) {
    let kavach = &config.kavach;
    if kavach.mode != Mode::Off && kavach.policy.is_none() {
        let text = format!("mode {} needs `policy`, a file or a folder; conf/policy.cedar is one", kavach.mode.name());
        report.error("kavach.mode", text);
    }
    permits::check(config, report);
    if kavach.drift.geo_database.is_some() && !kavach.drift.geo {
        report.warn("kavach.drift.geo_database", "kavach.drift.geo is false, so this is never read");
    }
}

/// Notes what is wrong with the policies and the database of addresses.
pub(super) fn files(config: &Config, report: &mut Report) {
    if let Some(path) = &config.kavach.policy
        && let Err(faults) = crate::kavach::PolicySet::load(path)
    {
        for fault in faults {
            report.error("kavach.policy", fault.to_string());
        }
    }
    if let Some(database) = config.kavach.drift.geo_database.as_ref().filter(|_| config.kavach.drift.geo)
        && let Err(text) = crate::kavach::drift::geo::Places::open(database)
    {
        report.error("kavach.drift.geo_database", text);
    }
}
