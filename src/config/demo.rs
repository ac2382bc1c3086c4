//! The configuration of `marg demo`: built from the environment, without a file.
//!
//! There is always a provider `simulated`, and one for every preset whose key is in the environment. `MARG_LISTEN`,
//! `MARG_ADMIN_LISTEN` and `MARG_DATA_DIR` take the place of the defaults. A key that cannot be sent is a warning: it was
//! set for something else, and must not keep the demonstration from starting.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::Config;
use crate::config::check;
use crate::config::load::{self, Loaded};
use crate::config::problem::{Mark, Problem, Report};
use crate::config::resolve::{self, Environment};
use crate::provider::config::{Auth, ProviderConfig, UrlRef};
use crate::provider::preset::{BaseUrl, Preset, TABLE};
use crate::provider::simulated::models::NAMES;
use crate::route::config::{RouteConfig, RouteMatch, TargetConfig};
use crate::unit::glob::Glob;
use crate::unit::secret::SecretRef;

/// The name of the built-in provider.
pub const SIMULATED: &str = "simulated";
/// The pattern of the models that always go to it.
const SIMULATED_MODELS: &str = "sim-*";
/// What faults name as their origin.
const ORIGIN: &str = "environment";

/// Builds the demonstration's configuration from this process's environment. `data_dir` wins over `MARG_DATA_DIR`; without
/// both it is the usual folder. `simulated_base_url` is where the built-in provider listens, as in `http://127.0.0.1:9000/v1`.
///
/// The default provider is the first preset of the table whose key is set, else `simulated`; models `sim-*` always go to
/// `simulated`.
///
/// # Errors
/// Every fault of the environment: addresses that are none, a data folder that is a file, equal ports.
pub fn demo(data_dir: Option<PathBuf>, simulated_base_url: &str) -> Result<Loaded, Vec<Problem>> {
    demo_in(data_dir, simulated_base_url, &|name| std::env::var_os(name))
}

pub(super) fn demo_in(
    data_dir: Option<PathBuf>,
    simulated_base_url: &str,
    environment: Environment<'_>,
) -> Result<Loaded, Vec<Problem>> {
    let mut report = Report::new(ORIGIN);
    let mut config = Config::default();
    let variable = || environment("MARG_DATA_DIR").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    if let Some(folder) = data_dir.or_else(variable) {
        config.data_dir = folder;
    }
    listen(&mut config.server.listen, "MARG_LISTEN", environment, &mut report);
    listen(&mut config.admin.listen, "MARG_ADMIN_LISTEN", environment, &mut report);
    report.seal();
    providers(&mut config, environment, &mut report);
    simulated(&mut config, simulated_base_url);
    check::check(&config, &mut report);
    load::complete(config, report, environment)
}

fn listen(address: &mut SocketAddr, variable: &str, environment: Environment<'_>, report: &mut Report) {
    let Some(value) = environment(variable).filter(|value| !value.is_empty()) else { return };
    match value.to_str().and_then(|text| text.parse().ok()) {
        Some(given) => *address = given,
        None => report.error_at(Mark::default(), variable, "not an address; write ADDRESS:PORT such as 127.0.0.1:8080"),
    }
}

/// Adds every preset whose key is set.
fn providers(config: &mut Config, environment: Environment<'_>, report: &mut Report) {
    for row in TABLE {
        let (Some(preset), Some(variable)) = (Preset::named(row.name), row.key_variable) else { continue };
        if environment(variable).is_none_or(|value| value.is_empty()) {
            continue;
        }
        let reference = SecretRef::Env(variable.to_owned());
        if let Err(text) = resolve::try_credential(&reference, environment) {
            report.warn(variable, format!("the preset {} is left out: {text}", row.name));
            continue;
        }
        if let BaseUrl::Given(form) = row.base_url {
            let text = format!(
                "the preset {} is left out: it needs a base_url of the form {form}, which a file can give",
                row.name
            );
            report.warn(variable, text);
            continue;
        }
        let provider =
            ProviderConfig { preset: Some(preset), credentials: vec![reference], ..ProviderConfig::default() };
        config.providers.insert(row.name.to_owned(), provider);
        config.default_provider.get_or_insert_with(|| row.name.to_owned());
    }
}

fn simulated(config: &mut Config, base_url: &str) {
    let provider = ProviderConfig {
        base_url: Some(UrlRef::Bare(base_url.to_owned())),
        auth: Some(Auth::None),
        // Any name is answered; those that mean something are written out so that they are in the list of models.
        models: NAMES.iter().chain(&["*"]).filter_map(|name| Glob::new(name).ok()).collect(),
        // The price list has a part of that name, for the models that the simulated provider calls its own.
        price_provider: Some(SIMULATED.to_owned()),
        ..ProviderConfig::default()
    };
    config.providers.insert(SIMULATED.to_owned(), provider);
    config.default_provider.get_or_insert_with(|| SIMULATED.to_owned());
    config.routes.push(RouteConfig {
        name: Some(SIMULATED.to_owned()),
        matches: RouteMatch { model: Glob::new(SIMULATED_MODELS).ok(), team: None },
        to: Some(TargetConfig { provider: SIMULATED.to_owned(), model: None }),
        ..RouteConfig::default()
    });
}
