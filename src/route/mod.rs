//! Where a call goes: the route table, and the plan that it gives for one call.
//!
//! Routes of the configuration come first, then stored ones by position; the first that matches decides. Where none does,
//! the default provider serves, if one is named. The table only orders targets; which of them can be tried is `provider`'s
//! to say. Building a table refuses routes of the configuration that name unknown providers; a stored one is left out instead,
//! because whoever shares a database need not share a configuration.

pub mod config;
pub mod store;

use std::collections::HashSet;
use std::sync::Arc;

use crate::route::config::{RouteConfig, TargetConfig};
use crate::route::store::StoredRoute;
use crate::unit::glob::Glob;

/// The most routes in a table.
pub const MAX_ROUTES: usize = 10_000;
/// The most targets in one plan.
pub const MAX_TARGETS: usize = 16;

/// One place to ask: a provider, and the model to ask of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The provider's name.
    pub provider: Arc<str>,
    /// The model to ask for; `None` asks for the one that the caller named.
    pub model: Option<Arc<str>>,
}

/// The targets for one call, best first; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The name of the route that gave it; `default` for the default provider.
    pub route: Arc<str>,
    /// The targets, without repetitions, at most [`MAX_TARGETS`]; of a split of which no side can be asked also all its sides.
    pub targets: Vec<Target>,
}

/// A route laid open, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// The position among the routes that the table was built from; `None` for the default provider.
    pub index: Option<usize>,
    /// The route's name.
    pub route: Arc<str>,
    /// The first target, or the sides of the split with their weights.
    pub first: Vec<(Target, u32)>,
    /// The targets after it.
    pub rest: Vec<Target>,
}

/// A stored route that is kept but not in force, because it cannot be served here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its id.
    pub id: Arc<str>,
    /// Its name.
    pub name: String,
    /// Why, as a sentence without a full stop.
    pub problem: String,
}

/// Every route, in matching order.
#[derive(Debug, Default)]
pub struct Table {
    routes: Vec<Route>,
    left_out: Vec<LeftOut>,
    fallback: Option<Plan>,
}

#[derive(Debug)]
struct Route {
    /// Its position among those that the table was built from.
    index: usize,
    name: Arc<str>,
    model: Option<Glob>,
    team: Option<Glob>,
    /// At least one weight is above 0.
    first: Vec<(Target, u32)>,
    rest: Vec<Target>,
}

/// The name of the route at that position, which may have none of its own.
pub fn name_of(config: &RouteConfig, index: usize) -> String {
    config.name.clone().unwrap_or_else(|| format!("route-{}", index + 1))
}

impl Table {
    /// Builds a table from the configuration's routes in matching order, the stored ones behind them, and the default
    /// provider's name. A stored route with a fault, or beyond [`MAX_ROUTES`], is left out ([`Table::left_out`]).
    ///
    /// # Errors
    /// One sentence for each fault of the configuration's routes, each beginning with the route's name: an unknown provider, no
    /// target, both `to` and `split`, only weights of 0, too many targets or routes.
    pub fn build(
        routes: &[RouteConfig],
        stored: &[StoredRoute],
        default: Option<&str>,
        providers: &HashSet<Arc<str>>,
    ) -> Result<Self, Vec<String>> {
        let (mut faults, mut left_out) = (Vec::new(), Vec::new());
        if routes.len() > MAX_ROUTES {
            faults.push(format!("there are {} routes; the most is {MAX_ROUTES}", routes.len()));
        }
        let mut built = Vec::with_capacity(routes.len() + stored.len());
        for (index, config) in routes.iter().enumerate() {
            match Route::build(config, index, providers) {
                Ok(route) => built.push(route),
                Err(fault) => faults.push(format!("{}: {fault}", name_of(config, index))),
            }
        }
        for (index, StoredRoute { id, config, .. }) in (routes.len()..).zip(stored) {
            let fits = if built.len() < MAX_ROUTES { Ok(()) } else { Err(format!("there are {MAX_ROUTES} before it")) };
            match fits.and_then(|()| Route::build(config, index, providers)) {
                Ok(route) => built.push(route),
                Err(problem) => left_out.push(LeftOut { id: id.clone(), name: name_of(config, index), problem }),
            }
        }
        let fallback = default.and_then(|name| {
            let Some(provider) = providers.get(name) else {
                faults.push(format!("default_provider: there is no provider {name:?}"));
                return None;
            };
            Some(Plan {
                route: Arc::from("default"),
                targets: vec![Target { provider: provider.clone(), model: None }],
            })
        });
        if faults.is_empty() { Ok(Self { routes: built, left_out, fallback }) } else { Err(faults) }
    }

    /// The stored routes that are not in force, in matching order.
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// Why a stored route is not in force; `None` if it is, or there is none of that id.
    pub fn problem_of(&self, id: &str) -> Option<&str> {
        self.left_out.iter().find(|route| &*route.id == id).map(|route| route.problem.as_str())
    }

    /// The plan for a call, or `None` if no route leads anywhere for it. `draw` is a uniformly random number; it decides
    /// splits, among those sides of which `serves` says that they can be asked. A call without a model matches only routes
    /// that do not ask for one.
    pub fn plan(
        &self,
        model: Option<&str>,
        team: Option<&str>,
        draw: u64,
        serves: impl Fn(&Target) -> bool,
    ) -> Option<Plan> {
        match self.routes.iter().find(|route| route.takes(model, team)) {
            Some(route) => Some(route.plan(draw, serves)),
            None => self.fallback.clone(),
        }
    }

    /// The route that would take a call, laid open; its index is the position among the routes that the table was built
    /// from, `None` for the default provider.
    pub fn explain(&self, model: Option<&str>, team: Option<&str>) -> Option<Explained> {
        match self.routes.iter().find(|route| route.takes(model, team)) {
            Some(route) => Some(Explained {
                index: Some(route.index),
                route: route.name.clone(),
                first: route.first.clone(),
                rest: route.rest.clone(),
            }),
            None => self.fallback.as_ref().map(|plan| Explained {
                index: None,
                route: plan.route.clone(),
                first: plan.targets.iter().map(|target| (target.clone(), 1)).collect(),
                rest: Vec::new(),
            }),
        }
    }

    /// The models that routes name without wildcards, as far as that team may use them; sorted, without repetitions.
    pub fn literal_models(&self, team: Option<&str>) -> Vec<&str> {
        let mut models: Vec<&str> = self
            .routes
            .iter()
            .filter(|route| route.takes_team(team))
            .filter_map(|route| route.model.as_ref())
            .filter(|glob| glob.is_literal())
            .map(Glob::as_str)
            .collect();
        models.sort_unstable();
        models.dedup();
        models
    }
}

impl Route {
    fn build(config: &RouteConfig, index: usize, providers: &HashSet<Arc<str>>) -> Result<Self, String> {
        let target = |config: &TargetConfig| -> Result<Target, String> {
            let provider = providers
                .get(config.provider.as_str())
                .ok_or_else(|| format!("there is no provider {:?}", config.provider))?;
            Ok(Target { provider: provider.clone(), model: config.model.as_deref().map(Arc::from) })
        };
        let first: Vec<(Target, u32)> = match (&config.to, config.split.as_slice()) {
            (Some(to), []) => vec![(target(to)?, 1)],
            (None, []) => return Err("a route needs `to` or `split`".to_owned()),
            (Some(_), _) => return Err("a route has `to` or `split`, not both".to_owned()),
            (None, sides) => {
                sides.iter().map(|side| Ok((target(&side.to)?, side.weight))).collect::<Result<_, String>>()?
            }
        };
        if first.iter().all(|(_, weight)| *weight == 0) {
            return Err("at least one side of a split needs a weight above 0".to_owned());
        }
        let rest = config.fallback.iter().map(target).collect::<Result<Vec<_>, String>>()?;
        if rest.len() >= MAX_TARGETS || first.len() > MAX_TARGETS {
            return Err(format!("a route has at most {MAX_TARGETS} targets"));
        }
        let RouteConfig { name: _, matches, to: _, split: _, fallback: _ } = config;
        Ok(Self {
            index,
            name: name_of(config, index).into(),
            model: matches.model.clone(),
            team: matches.team.clone(),
            first,
            rest,
        })
    }

    fn takes(&self, model: Option<&str>, team: Option<&str>) -> bool {
        let model_fits = match (&self.model, model) {
            (None, _) => true,
            (Some(glob), Some(model)) => glob.matches(model),
            (Some(_), None) => false,
        };
        model_fits && self.takes_team(team)
    }

    fn takes_team(&self, team: Option<&str>) -> bool {
        match (&self.team, team) {
            (None, _) => true,
            (Some(glob), Some(team)) => glob.matches(team),
            (Some(_), None) => false,
        }
    }

    fn plan(&self, draw: u64, serves: impl Fn(&Target) -> bool) -> Plan {
        let sides = || self.first.iter().filter(|(_, weight)| *weight > 0).map(|(target, _)| target);
        // Where no side can be asked all are tried: whoever asks them learns why.
        let (drawn, all) = match self.first.as_slice() {
            [(only, _)] => (Some(only), None),
            _ => match self.draw(draw, serves) {
                Some(drawn) => (Some(drawn), None),
                None => (None, Some(sides())),
            },
        };
        let mut targets: Vec<Target> = Vec::with_capacity(1 + self.rest.len());
        for target in drawn.into_iter().chain(all.into_iter().flatten()).chain(&self.rest) {
            if !targets.contains(target) {
                targets.push(target.clone());
            }
        }
        Plan { route: self.name.clone(), targets }
    }

    /// A side of the split by its weight among those that can be asked; `None` if none can.
    fn draw(&self, draw: u64, serves: impl Fn(&Target) -> bool) -> Option<&Target> {
        let sides = || self.first.iter().filter(|(target, weight)| *weight > 0 && serves(target));
        let weights: u64 = sides().map(|(_, weight)| u64::from(*weight)).sum();
        let mut ticket = draw.checked_rem(weights)?;
        let drawn = sides().find(|(_, weight)| match ticket.checked_sub(u64::from(*weight)) {
            Some(left) => {
                ticket = left;
                false
            }
            None => true,
        });
        drawn.map(|(target, _)| target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn providers() -> HashSet<Arc<str>> {
        ["a", "b"].into_iter().map(Arc::from).collect()
    }

    fn table(yaml: &str, default: Option<&str>) -> Result<Table, Vec<String>> {
        let routes: Vec<RouteConfig> = serde_saphyr::from_str(yaml).unwrap();
        Table::build(&routes, &[], default, &providers())
    }

    fn stored(yaml: &str) -> Vec<StoredRoute> {
        let routes: Vec<RouteConfig> = serde_saphyr::from_str(yaml).unwrap();
        routes.into_iter().map(|config| StoredRoute::new(config, 0, crate::unit::clock::Timestamp(0))).collect()
    }

    fn any(_: &Target) -> bool {
        true
    }

    fn names(plan: Option<Plan>) -> Vec<String> {
        let show = |target: &Target| match &target.model {
            Some(model) => format!("{}:{model}", target.provider),
            None => target.provider.to_string(),
        };
        plan.map(|plan| plan.targets.iter().map(show).collect()).unwrap_or_default()
    }

    #[test]
    fn a_route_to_nowhere_is_refused_with_its_name() {
        let faults = table(
            "[{to: c}, {name: n}, {to: a, split: [{to: b, weight: 1}]}, {split: [{to: b, weight: 0}]}]",
            Some("x"),
        );
        let faults = faults.unwrap_err().join("\n");
        for part in
            ["route-1: there is no provider \"c\"", "n: a route needs", "not both", "above 0", "default_provider"]
        {
            assert!(faults.contains(part), "{part} is missing from {faults}");
        }
    }

    #[test]
    fn the_first_match_decides_and_the_default_is_last() {
        let table = table(
            "[{match: {model: 'gpt-*', team: red}, to: b}, {match: {model: gpt-4}, to: 'a:x', fallback: [b, 'a:x']}]",
            Some("a"),
        );
        let table = table.unwrap();
        assert_eq!(names(table.plan(Some("gpt-4"), Some("red"), 0, any)), ["b"]);
        assert_eq!(names(table.plan(Some("gpt-4"), None, 0, any)), ["a:x", "b"]);
        assert_eq!(names(table.plan(Some("other"), None, 0, any)), ["a"]);
        assert_eq!(names(table.plan(None, None, 0, any)), ["a"]);
    }

    #[test]
    fn a_split_follows_its_weights_and_a_drained_side_gets_nothing() {
        let table = table("[{split: [{to: a, weight: 3}, {to: b, weight: 1}, {to: 'b:z', weight: 0}]}]", None).unwrap();
        let count =
            |name: &str| (0..400).filter(|draw| names(table.plan(Some("m"), None, *draw, any)) == [name]).count();
        assert_eq!((count("a"), count("b"), count("b:z")), (300, 100, 0));
    }

    #[test]
    fn a_side_that_cannot_be_asked_is_not_drawn() {
        let split = "[{split: [{to: a, weight: 3}, {to: b, weight: 1}, {to: 'b:z', weight: 1}], fallback: ['a:f']}]";
        let table = table(split, None).unwrap();
        let drawn = |serves: fn(&Target) -> bool| {
            let all = (0..400).map(|draw| names(table.plan(Some("m"), None, draw, serves)));
            let mut counts = std::collections::BTreeMap::<String, usize>::new();
            all.for_each(|names| *counts.entry(names.join(" ")).or_default() += 1);
            counts.into_iter().collect::<Vec<_>>()
        };
        let counted = |name: &str, count| (name.to_owned(), count);
        assert_eq!(drawn(|target| &*target.provider != "a"), [counted("b a:f", 200), counted("b:z a:f", 200)]);
        assert_eq!(drawn(|target| target.model.is_some()), [counted("b:z a:f", 400)]);
        assert_eq!(
            drawn(|_| false),
            [counted("a b b:z a:f", 400)],
            "all are tried, so that it shows why none is asked"
        );
    }

    #[test]
    fn a_stored_route_to_nowhere_is_left_out_and_the_others_are_taken() {
        let routes: Vec<RouteConfig> = serde_saphyr::from_str("[{match: {model: one}, to: a}]").unwrap();
        let stored = stored(
            "[{match: {model: two}, to: c, name: far}, {match: {model: two}, to: a, fallback: [d]}, \
             {match: {model: t*}, to: b}]",
        );
        let table = Table::build(&routes, &stored, Some("a"), &providers()).unwrap();
        assert_eq!(names(table.plan(Some("two"), None, 0, any)), ["b"]);
        let explained = table.explain(Some("two"), None).unwrap();
        assert_eq!((explained.index, &*explained.route), (Some(3), "route-4"), "places and names stay as they are");
        let told: Vec<(&str, &str)> =
            table.left_out().iter().map(|route| (&*route.name, route.problem.as_str())).collect();
        assert_eq!(told, [("far", "there is no provider \"c\""), ("route-3", "there is no provider \"d\"")]);
        assert_eq!(table.problem_of(&stored[0].id), Some("there is no provider \"c\""));
        assert_eq!((table.problem_of(&stored[2].id), table.problem_of("rte_x")), (None, None));
    }

    #[test]
    fn of_more_stored_routes_than_fit_the_last_are_left_out() {
        let routes = vec![RouteConfig { to: TargetConfig::parse("a").ok(), ..RouteConfig::default() }; MAX_ROUTES - 1];
        let stored = stored("[{to: a}, {to: b}]");
        let table = Table::build(&routes, &stored, None, &providers()).unwrap();
        assert_eq!(table.left_out().iter().map(|route| &route.id).collect::<Vec<_>>(), [&stored[1].id]);
    }
}
