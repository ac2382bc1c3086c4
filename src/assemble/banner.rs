//! What a user reads when the gateway has started: addresses, and in a demonstration the keys and a line to try.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::oneshot;

use crate::assemble::Source;
use crate::assemble::core::Core;
use crate::assemble::doors::Addresses;
use crate::assemble::house::{self, read_secret, write_secret};
use crate::key::admin::{AdminToken, AdminTokenStore, Role};
use crate::key::draft::NewKey;
use crate::key::store::KeyStore;
use crate::key::token::TokenStyle;
use crate::unit::clock::Timestamp;
use crate::unit::secret::Secret;

/// Waits until both services accept connections, then says where. If one never does the process ends, and there is nothing to
/// say.
pub async fn announce(core: Arc<Core>, addresses: Addresses, listening: Vec<oneshot::Receiver<()>>) {
    for served in listening {
        if served.await.is_err() {
            return;
        }
    }
    tracing::info!(data_plane = %addresses.data_plane, admin = addresses.admin.map(tracing::field::display), "ready");
    if matches!(core.source, Source::Demo(_)) {
        let told = match welcome(&core, addresses).await {
            Ok(text) => io::stdout().lock().write_all(text.as_bytes()).context("nobody reads the standard output"),
            Err(error) => Err(error),
        };
        if let Err(error) = told {
            tracing::error!(error = format!("{error:#}"), "the demonstration's keys could not be shown");
        }
    }
}

async fn welcome(core: &Core, addresses: Addresses) -> anyhow::Result<String> {
    let folder = &core.house.folder;
    let shared = folder.clone();
    let _alone = tokio::task::spawn_blocking(move || house::alone(&shared)).await.context("nobody waited")??;
    // Another process may just have made the key.
    core.ring.refresh(&*core.house.store).await?;
    let admin = admin_token(core, &folder.join("admin.token")).await?;
    let key = application_key(core, &folder.join("application.key")).await?;
    let live = core.gateway.live.load();
    let mut providers: Vec<&str> = live.providers.keys().map(|name| &**name).collect();
    providers.sort_unstable();
    let base = format!("http://{}", addresses.data_plane);
    let console = addresses.admin.map_or_else(|| "off".to_owned(), |admin| format!("http://{admin}/"));
    Ok(format!(
        "\n  Marg is running. Stop it with Ctrl-C.\n\n  \
         OpenAI base URL  {base}/v1\n  \
         Application key  {key}\n  \
         Console          {console}\n  \
         Admin token      {admin}\n  \
         Providers        {providers}\n  \
         Data folder      {folder}\n\n  \
         Try it:\n\n\
         curl -sS {base}/v1/chat/completions -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \
         -d '{{\"model\":\"sim-small\",\"messages\":[{{\"role\":\"user\",\"content\":\"Hello, Marg!\"}}]}}'\n\n",
        key = key.expose(),
        admin = admin.expose(),
        providers = providers.join(", "),
        folder = folder.display(),
    ))
}

/// The demonstration's admin token: the one kept in the folder as long as it works, else a new one.
async fn admin_token(core: &Core, path: &Path) -> anyhow::Result<Secret> {
    let now = Timestamp::now();
    if let Some(kept) = read_secret(path)? {
        let known = AdminTokenStore::find(&*core.house.store, &core.house.hash_key.hash(kept.expose())).await?;
        if known.is_some_and(|token| token.is_active(now)) {
            return Ok(kept);
        }
        std::fs::remove_file(path).with_context(|| format!("cannot replace {}", path.display()))?;
    }
    let made = AdminToken::mint("demonstration", Role::Admin, None, &core.house.hash_key, now);
    let (token, minted) = made.map_err(|error| anyhow::anyhow!("{}", error.text()))?;
    AdminTokenStore::insert(&*core.house.store, &token).await?;
    write_secret(path, &minted.token)?;
    Ok(minted.token)
}

/// The demonstration's application key, likewise.
async fn application_key(core: &Core, path: &Path) -> anyhow::Result<Secret> {
    let now = Timestamp::now();
    if let Some(kept) = read_secret(path)? {
        if core.ring.admit(kept.expose(), None, now).is_ok() {
            return Ok(kept);
        }
        std::fs::remove_file(path).with_context(|| format!("cannot replace {}", path.display()))?;
    }
    let draft = NewKey { name: "demonstration".to_owned(), ..NewKey::default() };
    let made = draft.check(now).and_then(|fields| fields.mint(TokenStyle::Marg, &core.house.hash_key, now));
    let (key, minted) = made.map_err(|error| anyhow::anyhow!("{}", error.text()))?;
    KeyStore::insert(&*core.house.store, &key).await?;
    core.ring.put(key);
    write_secret(path, &minted.token)?;
    Ok(minted.token)
}
