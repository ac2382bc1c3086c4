//! The section `audit`: the log that proves itself.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::audit::note::{Algorithm, PublicKey, is_name};
use crate::config::Config;
use crate::config::decode::Table;
use crate::config::problem::Report;
use crate::config::shape::word;
use crate::provider::endpoint::Endpoint;
use crate::unit::secret::{Secret, SecretRef};

/// The audit log. Everything but the mode and the retention needs a restart.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditConfig {
    /// Whether there is one.
    pub enabled: bool,
    /// What happens to calls while it cannot be written.
    pub mode: AuditMode,
    /// The least time between two checkpoints, and the longest that an entry waits for the disk.
    pub interval_ms: u64,
    /// The name of a new log; `None` takes `marg/` and the name of the node. An existing one keeps the name in its key.
    pub origin: Option<String>,
    /// Where it is; `None` is `audit` in the data folder.
    pub folder: Option<PathBuf>,
    /// The text of the key file; `None` is `audit.key` in the data folder, made at the first start.
    pub key: Option<SecretRef>,
    /// The key to go over to; `None` is `audit.key.next` in the data folder, if there is one.
    pub next_key: Option<SecretRef>,
    /// What wraps the keys.
    pub passphrase: Option<SecretRef>,
    /// Entries older than this are deleted, their hashes stay; 0 keeps them for ever.
    pub retention_days: u32,
    /// What is kept of prompts and answers.
    pub content: ContentConfig,
    /// The most that is kept of the text of one prompt or answer, where texts are kept.
    pub text_limit_bytes: usize,
    /// Texts older than this are deleted; 0 keeps them for ever.
    pub text_retention_days: u32,
    /// Salts older than this are erased, and with them the link to prompts and answers; 0 keeps them as long as the entries.
    pub salt_retention_days: u32,
    /// Who is asked to cosign.
    pub witnesses: Vec<WitnessConfig>,
    /// How many of them must; 0 asks for none.
    pub quorum: usize,
    /// Serve checkpoint, tiles and rotations without a token.
    pub open_tiles: bool,
    /// The keys of the logs that this gateway witnesses.
    pub witness_peers: Vec<PublicKey>,
    /// The text of the key file with which it does; `None` is `witness.key` in the data folder, made when there are peers.
    pub witness_key: Option<SecretRef>,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            mode: AuditMode::default(),
            interval_ms: 250,
            origin: None,
            folder: None,
            key: None,
            next_key: None,
            passphrase: None,
            retention_days: 0,
            content: ContentConfig::default(),
            text_limit_bytes: 256 * 1024,
            text_retention_days: 30,
            salt_retention_days: 0,
            witnesses: Vec::new(),
            quorum: 0,
            open_tiles: false,
            witness_peers: Vec::new(),
            witness_key: None,
        }
    }
}

/// What happens to calls while the log cannot be written. Nothing is lost either way: the journal keeps what the log must take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuditMode {
    /// They go on.
    #[default]
    Observe,
    /// They are refused with 503.
    Enforce,
}

/// What is kept of prompts and answers. The log itself never holds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContentConfig {
    /// Nothing.
    None,
    /// Salted commitments in the entries, the salts apart.
    #[default]
    Commitments,
    /// Commitments, and the texts themselves, apart.
    FullText,
}

impl AuditMode {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Enforce => "enforce",
        }
    }
}

/// One key of one witness.
#[derive(Clone, Debug, PartialEq)]
pub struct WitnessConfig {
    /// How logs and receipts call it.
    pub name: String,
    /// Its verifier key.
    pub key: PublicKey,
    /// Its submission prefix; `None` where somebody else brings its cosignatures.
    pub url: Option<String>,
}

/// What `audit` refers to, looked up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuditSecrets {
    /// The text of the key file.
    pub key: Option<Secret>,
    /// The text of the next one.
    pub next_key: Option<Secret>,
    /// What wraps them.
    pub passphrase: Option<Secret>,
    /// The text of the witness's key file.
    pub witness_key: Option<Secret>,
}

/// The section `audit`.
pub(super) fn audit(table: &mut Table<'_, '_>) -> AuditConfig {
    const MODES: &[(&str, AuditMode)] = &[("observe", AuditMode::Observe), ("enforce", AuditMode::Enforce)];
    const CONTENTS: &[(&str, ContentConfig)] = &[
        ("none", ContentConfig::None),
        ("commitments", ContentConfig::Commitments),
        ("full_text", ContentConfig::FullText),
    ];
    let default = AuditConfig::default();
    AuditConfig {
        enabled: table.flag("enabled", default.enabled),
        mode: table.text_or("mode", default.mode, |text| word(text, MODES)),
        interval_ms: table.number("interval_ms", default.interval_ms),
        origin: table.text("origin", origin),
        folder: table.text("folder", path),
        key: table.text("key", SecretRef::parse),
        next_key: table.text("next_key", SecretRef::parse),
        passphrase: table.text("passphrase", SecretRef::parse),
        retention_days: table.number("retention_days", default.retention_days),
        content: table.text_or("content", default.content, |text| word(text, CONTENTS)),
        text_limit_bytes: table.number("text_limit_bytes", default.text_limit_bytes),
        text_retention_days: table.number("text_retention_days", default.text_retention_days),
        salt_retention_days: table.number("salt_retention_days", default.salt_retention_days),
        witnesses: table.texts("witnesses", witness),
        quorum: table.number("quorum", default.quorum),
        open_tiles: table.flag("open_tiles", default.open_tiles),
        witness_peers: table.texts("witness_peers", peer_key),
        witness_key: table.text("witness_key", SecretRef::parse),
    }
}

fn witness(text: &str) -> Result<WitnessConfig, String> {
    let mut words = text.split_ascii_whitespace();
    let (Some(name), Some(key), address, None) = (words.next(), words.next(), words.next(), words.next()) else {
        return Err("write NAME KEY URL, as in a `witness` line of a policy; the URL may be left out".to_owned());
    };
    Ok(WitnessConfig { name: witness_name(name)?, key: witness_key(key)?, url: address.map(url).transpose()? })
}

fn origin(text: &str) -> Result<String, String> {
    if is_name(text) && text.len() <= 255 {
        return Ok(text.to_owned());
    }
    Err("the name of a log has 1 to 255 bytes, without spaces and without a plus".to_owned())
}

fn witness_name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    if (1..=255).contains(&text.len()) && text.bytes().all(plain) && text != "none" {
        return Ok(text.to_owned());
    }
    Err("a witness's name has 1 to 255 of the characters a-z A-Z 0-9 . _ - / and is not `none`".to_owned())
}

fn witness_key(text: &str) -> Result<PublicKey, String> {
    let key = PublicKey::parse(text).map_err(|error| format!("it is no verifier key: {error}"))?;
    match key.algorithm() {
        Algorithm::CosignatureEd25519 | Algorithm::CosignatureMlDsa44 => Ok(key),
        Algorithm::Ed25519 | Algorithm::MlDsa65 => Err("this is the key of a log, not of a witness".to_owned()),
    }
}

/// A key as it is, or the line that `marg audit key export-public` prints for it.
fn peer_key(text: &str) -> Result<PublicKey, String> {
    let text = text.strip_prefix("log ").unwrap_or(text);
    let key = PublicKey::parse(text).map_err(|error| format!("it is no verifier key: {error}"))?;
    match key.algorithm() {
        Algorithm::Ed25519 | Algorithm::MlDsa65 => Ok(key),
        Algorithm::CosignatureEd25519 | Algorithm::CosignatureMlDsa44 => {
            Err("this is the key of a witness, not of a log".to_owned())
        }
    }
}

fn url(text: &str) -> Result<String, String> {
    Endpoint::parse(text).map(|_| text.trim_end_matches('/').to_owned())
}

fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("write a path".to_owned());
    }
    Ok(PathBuf::from(text))
}

/// Notes what contradicts.
pub(super) fn check(config: &Config, report: &mut Report) {
    let audit = &config.audit;
    // Keys of one name are one witness.
    let count = audit.witnesses.iter().map(|one| one.key.name()).collect::<BTreeSet<_>>().len();
    if audit.quorum > count {
        report.error("audit.quorum", format!("{} of {count} witnesses cannot cosign", audit.quorum));
    }
    let mut peers = audit.witness_peers.iter().enumerate();
    if peers.any(|(at, key)| audit.witness_peers.iter().take(at).any(|other| other == key)) {
        report.error("audit.witness_peers", "a key is there twice");
    }
    if !audit.witness_peers.is_empty() && !config.admin.enabled {
        report.error("audit.witness_peers", "peers reach the witness on the admin port, which is off (admin.enabled)");
    }
    if audit.origin.as_ref().is_some_and(|origin| audit.witness_peers.iter().any(|key| key.name() == origin)) {
        report.error("audit.witness_peers", "a gateway that witnesses its own log proves nothing");
    }
    let repeated = (1..audit.witnesses.len()).any(|at| {
        let (before, rest) = audit.witnesses.split_at(at);
        rest.first().is_some_and(|one| before.iter().any(|other| other.name == one.name || other.key == one.key))
    });
    if repeated {
        report.error("audit.witnesses", "two have the same name or key; give each key of a witness a name of its own");
    }
    if !audit.enabled && audit.mode == AuditMode::Enforce {
        report.warn("audit.mode", "enforces nothing, because the log is off (audit.enabled)");
    }
    if audit.enabled && audit.content == ContentConfig::FullText {
        report.warn(
            "audit.content",
            "full_text keeps every prompt and answer on the disk, in the folder `texts` of the audit log; commitments do without",
        );
    }
    if audit.next_key.is_some() && audit.key.is_none() {
        report.warn(
            "audit.next_key",
            "without audit.key the present key is a file, and so the next may be: audit.key.next",
        );
    }
}
