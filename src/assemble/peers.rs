//! Witnessing the logs of peers from within the gateway (`audit.witness_peers`).
//!
//! The keys of the witness are a file of their own, made when the first peer is named; what it cosigned is in a folder of its
//! own, so it lives on where the audit log is moved. A reload goes over to other peers, or to other keys of them.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use arc_swap::ArcSwapOption;

use crate::audit::disk::System;
use crate::audit::key::{KeyError, Purpose, SigningKeys};
use crate::audit::policy::Policy;
use crate::audit::witness::Witness;
use crate::config::Config;
use crate::config::load::Loaded;
use crate::unit::clock::Timestamp;
use crate::unit::secret::Secret;

/// The witness of this gateway, if it has peers.
pub struct Peers {
    key: Option<Secret>,
    passphrase: Option<Secret>,
    file: PathBuf,
    folder: PathBuf,
    /// The name of the log of this gateway, which it does not witness; the witness's name is made of it.
    origin: String,
    witness: ArcSwapOption<Witness>,
}

impl Peers {
    /// The witness as the configuration wants it.
    ///
    /// # Errors
    /// When its key or its folder cannot be used.
    pub fn start(loaded: &Loaded, origin: String) -> anyhow::Result<Self> {
        let data = &loaded.config.data_dir;
        let peers = Self {
            key: loaded.audit.witness_key.clone(),
            passphrase: loaded.audit.passphrase.clone(),
            file: data.join("witness.key"),
            folder: data.join("witness"),
            origin,
            witness: ArcSwapOption::empty(),
        };
        peers.apply(&loaded.config)?;
        Ok(peers)
    }

    /// The witness; `None` while there are no peers.
    pub fn witness(&self) -> Option<Arc<Witness>> {
        self.witness.load_full()
    }

    /// Goes over to the peers of a configuration.
    ///
    /// # Errors
    /// When it names the log of this very gateway, or the witness cannot be made; then everything is as before.
    pub fn apply(&self, config: &Config) -> anyhow::Result<()> {
        let peers = &config.audit.witness_peers;
        anyhow::ensure!(
            peers.iter().all(|key| key.name() != self.origin),
            "audit.witness_peers: {} is the log of this gateway; whoever witnesses himself proves nothing",
            self.origin
        );
        if peers.is_empty() {
            self.witness.store(None);
            return Ok(());
        }
        let logs = Policy::of_log(peers);
        if let Some(witness) = self.witness() {
            witness.know(logs);
            return Ok(());
        }
        let keys = self.keys().context("the key of the witness (audit.witness_key)")?;
        let witness = Witness::new(keys, logs, self.folder.clone(), Arc::new(System));
        let witness = witness.with_context(|| format!("the witness cannot use {}", self.folder.display()))?;
        self.witness.store(Some(Arc::new(witness)));
        Ok(())
    }

    fn keys(&self) -> Result<SigningKeys, KeyError> {
        let passphrase = self.passphrase.as_ref();
        if let Some(text) = &self.key {
            return SigningKeys::open(text.expose(), Purpose::Witness, passphrase);
        }
        if !self.file.exists() {
            let keys = SigningKeys::create(Purpose::Witness, &format!("{}/witness", self.origin), Timestamp::now())?;
            match keys.save(&self.file, passphrase) {
                // Another process may have been quicker.
                Err(KeyError::File(_, error)) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                saved => saved?,
            }
        }
        SigningKeys::load(&self.file, Purpose::Witness, passphrase)
    }
}
