//! **Understand** and **plan**: what is asked for, whether this key may ask for it, and who will be asked.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;

use crate::dialect;
use crate::error::{Error, Kind, Result};
use crate::pipeline::attempt::Step;
use crate::pipeline::exchange::Exchange;
use crate::pipeline::{Gateway, Held};
use crate::route::{Plan, Target};

impl Exchange {
    /// Finds the operation that a method and a path stand for.
    ///
    /// # Errors
    /// `NotFound`, `MethodNotAllowed`, or `InvalidRequest` for a path that tries to escape.
    pub fn locate(&mut self, method: &str, path: &str) -> Result<()> {
        let place = dialect::place(method, path)?;
        self.record.operation = place.operation.name().to_owned();
        self.place = Some(place);
        Ok(())
    }

    /// Keeps the body, with the room that it takes.
    pub fn keep_body(&mut self, body: Bytes, held: Held) {
        self.record.bytes_in = body.len() as u64;
        self.body = body;
        self.held = Some(held);
    }

    /// Reads what the body says.
    ///
    /// # Errors
    /// `InvalidRequest` with the field at fault; `PermissionDenied` for a model that the key may not ask for.
    pub fn understand(&mut self, content_type: Option<&str>) -> Result<()> {
        let facts = dialect::understand(self.operation(), content_type, &self.body)?;
        self.record.stream = facts.stream;
        self.record.model_requested.clone_from(&facts.model);
        if let (Some(key), Some(model)) = (&self.key, &facts.model)
            && !key.allows_model(model)
        {
            let text = format!("This API key may not use the model `{model}`.");
            return Err(Error::new(Kind::PermissionDenied, text).param("model"));
        }
        self.facts = Some(facts);
        Ok(())
    }

    /// Orders the targets and readies the first attempt.
    ///
    /// # Errors
    /// `ModelNotFound` if no route leads anywhere, `LimitExceeded` if every credential on the way rests.
    pub fn plan(&mut self, headers: &HeaderMap) -> Result<()> {
        let asked = self.facts.as_ref().and_then(|facts| facts.model.clone());
        let plan = match self.chosen_provider(headers)? {
            Some(plan) => plan,
            None => self.routed(asked.as_deref())?,
        };
        self.record.route = Some(plan.route.clone());
        self.plan = plan.targets.into_iter().filter_map(|target| self.step(target, asked.as_deref())).collect();
        if self.plan.is_empty() {
            return Err(no_way(asked.as_deref()));
        }
        if self.advance() { Ok(()) } else { Err(self.give_up()) }
    }

    fn routed(&self, asked: Option<&str>) -> Result<Plan> {
        let team = self.key.as_ref().and_then(|key| key.principal.team.as_deref());
        // The last 62 bits of a version 7 UUID are random (RFC 9562 section 5.7); they draw the sides of splits.
        let (_, draw) = self.record.id.0.as_u64_pair();
        self.live.table.plan(asked, team, draw & (u64::MAX >> 2)).ok_or_else(|| no_way(asked))
    }

    /// The plan that `x-marg-provider` asks for, where the operator allows that header.
    fn chosen_provider(&self, headers: &HeaderMap) -> Result<Option<Plan>> {
        let Some(value) = headers.get("x-marg-provider") else { return Ok(None) };
        if !self.live.settings.provider_header {
            let text = "The header x-marg-provider is switched off here (server.provider_header).";
            return Err(Error::new(Kind::PermissionDenied, text));
        }
        let provider = value.to_str().ok().and_then(|name| self.live.providers.get_key_value(name));
        let Some((name, _)) = provider else {
            return Err(Error::new(Kind::InvalidRequest, "x-marg-provider names no provider of this gateway."));
        };
        let targets = vec![Target { provider: name.clone(), model: None }];
        Ok(Some(Plan { route: Arc::from("header"), targets }))
    }

    fn step(&self, target: Target, asked: Option<&str>) -> Option<Step> {
        let provider = self.live.providers.get(&target.provider)?.clone();
        let model = target.model.as_deref().or(asked);
        provider.serves(model).then(|| Step { model: model.unwrap_or_default().to_owned(), provider })
    }
}

fn no_way(asked: Option<&str>) -> Error {
    match asked {
        Some(model) => {
            let text = format!("The model `{model}` does not exist here or you do not have access to it.");
            Error::new(Kind::ModelNotFound, text).param("model")
        }
        None => {
            Error::new(Kind::NotFound, "No provider of this gateway takes requests without a model (default_provider).")
        }
    }
}

impl Gateway {
    /// The models that a key can reach: those that routes name and those that providers are known to serve, sorted.
    pub fn reachable_models(&self, key: &crate::key::Key) -> Vec<(String, Arc<str>)> {
        let live = self.live.load();
        let team = key.principal.team.as_deref();
        let mut names: Vec<String> = live.table.literal_models(team).into_iter().map(str::to_owned).collect();
        for provider in live.providers.values().filter(|provider| provider.settings.enabled) {
            names.extend(
                provider.settings.models.iter().filter(|glob| glob.is_literal()).map(|glob| glob.as_str().to_owned()),
            );
            names.extend(provider.discovered.load().iter().cloned());
            if let Some(list) = &provider.settings.price_provider {
                names.extend(live.catalog.models(list).into_iter().map(|card| card.id));
            }
        }
        names.sort_unstable();
        names.dedup();
        names.into_iter().filter_map(|name| self.reach(key, &name).map(|provider| (name, provider))).collect()
    }

    /// The provider that would serve a model first for a key, if the key can reach it and the provider is known to have it.
    pub fn reach(&self, key: &crate::key::Key, model: &str) -> Option<Arc<str>> {
        if !key.allows_model(model) {
            return None;
        }
        let live = self.live.load();
        let team = key.principal.team.as_deref();
        let plan = live.table.plan(Some(model), team, 0)?;
        let named = live.table.literal_models(team).binary_search(&model).is_ok();
        plan.targets.iter().find_map(|target| {
            let provider = live.providers.get(&target.provider)?;
            let asked = target.model.as_deref().unwrap_or(model);
            let listed = |list: &str| live.catalog.models(list).iter().any(|card| card.id == asked);
            let known = named
                || target.model.is_some()
                || !provider.settings.models.is_empty()
                || provider.discovered.load().iter().any(|model| model == asked)
                || provider.settings.price_provider.as_deref().is_some_and(listed);
            (provider.serves(Some(asked)) && known).then(|| provider.name.clone())
        })
    }
}
