//! **Understand** and **plan**: what is asked for, whether this key may ask for it, and who will be asked.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;

use crate::dialect::{self, Facts, MAX_OTHER_MODELS, Naming, ToolModel, Writing};
use crate::error::{Error, Kind, Result};
use crate::key::Key;
use crate::pipeline::attempt::Step;
use crate::pipeline::exchange::Exchange;
use crate::pipeline::{Gateway, Held, Live};
use crate::provider::Provider;
use crate::route::{Plan, Target};

/// Bodies up to this size are read at once, by the thread that serves the caller: in fractions of a millisecond.
const AT_ONCE_BYTES: usize = 256 * 1024;

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

    /// Reads what the body says, and which model the path or the query names where the body names none. A large body is read
    /// beside the threads that serve, since the worst ones take a good part of a second.
    ///
    /// # Errors
    /// `InvalidRequest` with the field at fault; `PermissionDenied` for a model that the key may not ask for, or one that nobody
    /// sees where the key may not ask for all.
    pub async fn understand(&mut self, content_type: Option<&str>, query: Option<&str>) -> Result<()> {
        let (operation, body) = (self.operation(), self.body.clone());
        let facts = match body.len() {
            0..=AT_ONCE_BYTES => dialect::understand(operation, content_type, &body)?,
            _ => {
                let content_type = content_type.map(str::to_owned);
                let read = move || dialect::understand(operation, content_type.as_deref(), &body);
                let _place = self.gateway.large_bodies.acquire().await;
                let failed = |error| Error::new(Kind::Internal, "The request could not be read.").because(error);
                tokio::task::spawn_blocking(read).await.map_err(failed)??
            }
        };
        self.heed(facts, query)
    }

    /// Acts on what the body says.
    ///
    /// # Errors
    /// As [`Exchange::understand`].
    pub fn heed(&mut self, mut facts: Facts, query: Option<&str>) -> Result<()> {
        if let Some(place) = &self.place {
            facts.look_beyond(place, query)?;
        }
        self.record.stream = facts.stream;
        self.record.model_requested.clone_from(&facts.model);
        let others = facts.other_models(&self.body);
        if others.len() > MAX_OTHER_MODELS {
            let text = format!("A request may name at most {MAX_OTHER_MODELS} models besides `model`.");
            return Err(Error::new(Kind::InvalidRequest, text).param("models"));
        }
        self.check_models(&facts, &others)?;
        if let Some(place) = &self.place {
            self.runs = dialect::runs(&self.record.method, place, &facts, &self.body);
            self.writing = Writing::at(place, self.runs, &facts, &self.body);
            facts.heed(place, self.writing, &self.body);
        }
        self.facts = Some(facts);
        Ok(())
    }

    /// Whether the key may ask for each model that the request names, and, if not for all, whether these are all that it runs.
    fn check_models(&self, facts: &Facts, others: &[String]) -> Result<()> {
        let (Some(key), Some(place)) = (&self.key, &self.place) else { return Ok(()) };
        if !self.gateway.ring.restricts_models(key) {
            return Ok(());
        }
        self.check_names(key, facts, others)?;
        let naming = dialect::naming(&self.record.method, place);
        let is_seen = match naming {
            Naming::Nothing => true,
            // Behind a query that names one, a body that cannot be read may name another.
            Naming::Field => facts.model.is_some() && (facts.is_read || self.body.is_empty()),
            Naming::NothingWith(names) => self.body.is_empty() || facts.holds_only(&self.body, names),
            Naming::Elsewhere => false,
        };
        if is_seen && !facts.miswrites_model {
            return Ok(());
        }
        let text = match naming {
            Naming::Elsewhere => "it cannot be seen which one this request runs. Use a key without a list of models.",
            _ => "this request does not say which one it runs. Name it in `model` of a JSON body or a form.",
        };
        Err(Error::new(Kind::PermissionDenied, format!("This API key may use certain models only, and {text}"))
            .param("model"))
    }

    /// Whether a key with a list of models may ask for each that the request names, by itself and in its tools.
    fn check_names(&self, key: &Key, facts: &Facts, others: &[String]) -> Result<()> {
        let asked = facts.model.as_deref().map(|model| ("model", Cow::Borrowed(model)));
        let others = others.iter().map(|model| ("models", Cow::Borrowed(&**model)));
        let tools = facts.tool_models(&self.body);
        let in_tools = tools.iter().filter_map(|model| match model {
            ToolModel::Named { name, .. } => Some(("tools", Cow::Borrowed(&**name))),
            ToolModel::Chosen => None,
        });
        for (param, model) in asked.into_iter().chain(in_tools).chain(others) {
            if !self.gateway.ring.allows_model(key, &model) {
                let text = format!("This API key may not use the model `{model}`.");
                return Err(Error::new(Kind::PermissionDenied, text).param(param));
            }
        }
        if tools.contains(&ToolModel::Chosen) {
            let text = "This API key may use certain models only, and a tool or a plugin of this request runs models that it does not name. Name them in it.";
            return Err(Error::new(Kind::PermissionDenied, text).param("tools"));
        }
        Ok(())
    }

    /// Orders the targets.
    ///
    /// # Errors
    /// `ModelNotFound` if no route leads anywhere; `Unavailable` if only to providers that are switched off.
    pub fn plan(&mut self, headers: &HeaderMap) -> Result<()> {
        let downgrade = self.downgrade.as_ref().map(|downgrade| downgrade.to.clone());
        let asked = downgrade.or_else(|| self.facts.as_ref().and_then(|facts| facts.model.clone()));
        let plan = match self.chosen_provider(headers)? {
            Some(plan) => plan,
            None => self.routed(asked.as_deref())?,
        };
        self.record.route = Some(plan.route.clone());
        for target in &plan.targets {
            let step = self.step(target, asked.as_deref());
            // A target that names the model which is asked for anyway is the same as one that names none.
            let is_new = |step: &Step| !self.plan.iter().any(|other| other.is_same_target(step));
            self.plan.extend(step.filter(is_new));
        }
        if !self.plan.is_empty() {
            return Ok(());
        }
        let is_off = |target: &Target| {
            let provider = self.live.providers.get(&target.provider);
            let model = target.model.as_deref().or(asked.as_deref());
            provider.is_some_and(|provider| !provider.settings.enabled && provider.offers(model))
        };
        let why = if plan.targets.iter().any(is_off) { switched_off } else { no_way };
        Err(why(asked.as_deref()))
    }

    fn routed(&self, asked: Option<&str>) -> Result<Plan> {
        let team = self.key.as_ref().and_then(|key| key.principal.team.as_deref());
        // The last 62 bits of a version 7 UUID are random (RFC 9562 section 5.7); they draw the sides of splits.
        let (_, draw) = self.record.id.0.as_u64_pair();
        self.live.plan(asked, team, draw & (u64::MAX >> 2)).ok_or_else(|| no_way(asked))
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

    fn step(&self, target: &Target, asked: Option<&str>) -> Option<Step> {
        let provider = self.live.providers.get(&target.provider)?.clone();
        let model = target.model.as_deref().or(asked);
        provider.serves(model).then(|| Step { model: model.unwrap_or_default().to_owned(), provider, permit: None })
    }
}

impl Live {
    /// The plan of the route table for a call; `draw` decides splits among the providers that serve the model.
    fn plan(&self, model: Option<&str>, team: Option<&str>, draw: u64) -> Option<Plan> {
        self.table.plan(model, team, draw, |target| {
            let provider = self.providers.get(&target.provider);
            provider.is_some_and(|provider| provider.serves(target.model.as_deref().or(model)))
        })
    }
}

fn switched_off(asked: Option<&str>) -> Error {
    match asked {
        Some(model) => {
            let text = format!("The provider of the model `{model}` is switched off here (providers.*.enabled).");
            Error::new(Kind::Unavailable, text).param("model").lasting()
        }
        None => {
            Error::new(Kind::Unavailable, "The provider of this is switched off here (providers.*.enabled).").lasting()
        }
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
    pub fn reachable_models(&self, key: &Key) -> Vec<(String, Arc<str>)> {
        let live = self.live.load();
        let named = live.table.literal_models(key.principal.team.as_deref());
        let known: HashMap<&str, HashSet<String>> =
            live.providers.values().map(|provider| (&*provider.name, known_models(&live, provider))).collect();
        let mut names: Vec<&str> = named.iter().copied().chain(known.values().flatten().map(String::as_str)).collect();
        names.sort_unstable();
        names.dedup();
        let knows =
            |provider: &Provider, model: &str| known.get(&*provider.name).is_some_and(|models| models.contains(model));
        let server = |model: &&str| first_server(&live, key, model, named.binary_search(model).is_ok(), knows);
        let allowed = names.iter().filter(|name| self.ring.allows_model(key, name));
        allowed.filter_map(|name| Some(((*name).to_owned(), server(name)?))).collect()
    }

    /// The provider that would serve a model first for a key, if the key can reach it and the provider is known to have it.
    pub fn reach(&self, key: &Key, model: &str) -> Option<Arc<str>> {
        if !self.ring.allows_model(key, model) {
            return None;
        }
        let live = self.live.load();
        let named = live.table.literal_models(key.principal.team.as_deref()).binary_search(&model).is_ok();
        first_server(&live, key, model, named, |provider, model| known_models(&live, provider).contains(model))
    }
}

/// The models that a provider is known to have: by its own settings, by its price list, by its own word.
fn known_models(live: &Live, provider: &Provider) -> HashSet<String> {
    if !provider.settings.enabled {
        return HashSet::new();
    }
    let declared =
        provider.settings.models.iter().filter(|glob| glob.is_literal()).map(|glob| glob.as_str().to_owned());
    let listed = provider.settings.price_provider.iter().flat_map(|list| live.catalog.models(list)).map(|card| card.id);
    declared.chain(listed).chain(provider.discovered.load().iter().cloned()).collect()
}

fn first_server(
    live: &Live,
    key: &Key,
    model: &str,
    named: bool,
    knows: impl Fn(&Provider, &str) -> bool,
) -> Option<Arc<str>> {
    let plan = live.plan(Some(model), key.principal.team.as_deref(), 0)?;
    plan.targets.iter().find_map(|target| {
        let provider = live.providers.get(&target.provider)?;
        let asked = target.model.as_deref().unwrap_or(model);
        // A route that names a model, or a provider whose models are patterns, is taken at its word.
        let taken = named || target.model.is_some() || !provider.settings.models.is_empty() || knows(provider, asked);
        (provider.serves(Some(asked)) && taken).then(|| provider.name.clone())
    })
}
