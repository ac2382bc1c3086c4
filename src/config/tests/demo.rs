//! The configuration of the demonstration.

use std::ffi::OsString;
use std::path::PathBuf;

use super::super::demo::demo_in;
use super::super::load::Loaded;
use super::super::problem::Problem;

const SIMULATED: &str = "http://127.0.0.1:9/v1";

fn demo(variables: &[(&str, &str)]) -> Result<Loaded, Vec<Problem>> {
    let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value));
    demo_in(None, SIMULATED, &find)
}

#[test]
fn bad_addresses_and_folders_are_named_by_their_variable() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let folder = file.path().to_str().unwrap();
    let problems = demo(&[("MARG_LISTEN", "8080"), ("MARG_ADMIN_LISTEN", "x"), ("MARG_DATA_DIR", folder)]).unwrap_err();
    let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(shown.len(), 3, "{shown:?}");
    assert!(shown[0].starts_with("environment: MARG_LISTEN: not an address"), "{shown:?}");
    let same = demo(&[("MARG_LISTEN", "0.0.0.0:8081")]).unwrap_err();
    assert!(same[0].text.contains("same port"), "{same:?}");
}

#[test]
fn a_key_that_cannot_be_sent_leaves_its_preset_out_with_a_warning() {
    let loaded = demo(&[("OPENAI_API_KEY", "two words"), ("GROQ_API_KEY", "")]).unwrap();
    assert_eq!(loaded.providers.len(), 1);
    assert_eq!(loaded.warnings.len(), 1);
    let shown = loaded.warnings[0].to_string();
    assert!(shown.starts_with("environment: OPENAI_API_KEY: the preset openai is left out"), "{shown}");
    assert!(!shown.contains("two words"), "{shown}");
}

#[test]
fn an_empty_environment_gives_the_simulated_provider_alone() {
    let loaded = demo(&[]).unwrap();
    assert_eq!(loaded.config.default_provider.as_deref(), Some("simulated"));
    assert_eq!(loaded.config.data_dir, PathBuf::from("./data"));
    assert_eq!(loaded.providers.len(), 1);
    assert_eq!(loaded.providers[0].base_url.expose(), SIMULATED);
    assert!(loaded.config.routes[0].matches.model.as_ref().is_some_and(|model| model.matches("sim-gpt")));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}

#[test]
fn the_simulated_models_are_named_and_any_other_is_served_too() {
    let loaded = demo(&[]).unwrap();
    let models = &loaded.providers[0].models;
    assert!(models.iter().any(|model| model.is_literal() && model.as_str() == "sim-small"));
    assert!(models.iter().any(|model| model.matches("gpt-4o")));
}

#[test]
fn keys_in_the_environment_become_providers_and_the_first_of_the_table_leads() {
    let variables = [
        ("GROQ_API_KEY", "g"),
        ("OPENROUTER_API_KEY", "o"),
        ("DATABRICKS_TOKEN", "d"),
        ("MARG_LISTEN", "[::1]:9000"),
        ("MARG_DATA_DIR", "/elsewhere"),
    ];
    let loaded = demo(&variables).unwrap();
    let names: Vec<&str> = loaded.providers.iter().map(|provider| provider.name.as_str()).collect();
    assert_eq!(names, ["groq", "openrouter", "simulated"]);
    assert_eq!(loaded.providers[1].credentials[0].expose(), "o");
    assert_eq!(loaded.config.default_provider.as_deref(), Some("openrouter"));
    assert_eq!(loaded.config.server.listen.to_string(), "[::1]:9000");
    assert_eq!(loaded.config.data_dir, PathBuf::from("/elsewhere"));
    let told: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert!(
        matches!(&told[..], [one] if one.starts_with("environment: DATABRICKS_TOKEN: ") && one.contains("needs a base_url")),
        "{told:?}"
    );
}

#[test]
fn the_folder_of_the_command_line_wins_over_that_of_the_environment() {
    let set = |name: &str| (name == "MARG_DATA_DIR").then(|| OsString::from("/elsewhere"));
    let loaded = demo_in(Some(PathBuf::from("/here")), SIMULATED, &set).unwrap();
    assert_eq!(loaded.config.data_dir, PathBuf::from("/here"));
}
