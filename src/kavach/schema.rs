//! The entity model of policies, and the facts of a call in its terms.
//!
//! The schema is `conf/kavach.cedarschema`, held inside the binary. Entities are made per caller, action and target, and
//! kept by the gate; the hierarchy of a call is that of its key alone, so a user whose keys are in two teams is judged by the
//! team of the key that calls.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use cedar_policy::{Entities, Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression, Schema};

use crate::kavach::call::{Action, Caller, Target};

/// The schema's text, in Cedar's own notation.
pub const TEXT: &str = include_str!("../../conf/kavach.cedarschema");

/// The schema.
#[allow(clippy::expect_used, reason = "the text is part of the binary and every test reads it")]
pub fn schema() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| Schema::from_cedarschema_str(TEXT).expect("the built-in schema is valid").0)
}

/// The types of entities that policies name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// An application key.
    Key,
    /// A person or service.
    User,
    /// A team.
    Team,
    /// An organisation.
    Org,
    /// A role.
    Role,
    /// A model at a provider.
    Model,
    /// A provider.
    Provider,
    /// A family of models.
    Family,
    /// An action.
    Action,
}

impl Type {
    const NAMES: &'static [(Self, &'static str)] = &[
        (Self::Key, "Key"),
        (Self::User, "User"),
        (Self::Team, "Team"),
        (Self::Org, "Org"),
        (Self::Role, "Role"),
        (Self::Model, "Model"),
        (Self::Provider, "Provider"),
        (Self::Family, "Family"),
        (Self::Action, "Action"),
    ];

    /// Its name in Cedar.
    pub fn name(self) -> &'static EntityTypeName {
        static PARSED: OnceLock<Vec<EntityTypeName>> = OnceLock::new();
        #[allow(clippy::expect_used, reason = "the names are literals that every test reads")]
        let parsed = PARSED.get_or_init(|| {
            Self::NAMES.iter().map(|(_, name)| name.parse().expect("a plain identifier is a type name")).collect()
        });
        #[allow(clippy::expect_used, reason = "a test visits every variant")]
        let index = Self::NAMES.iter().position(|(kind, _)| *kind == self).expect("every type has a name");
        #[allow(clippy::indexing_slicing, reason = "both lists have one row for each type")]
        &parsed[index]
    }

    /// The entity of this type with that id.
    pub fn uid(self, id: &str) -> EntityUid {
        EntityUid::from_type_name_and_id(self.name().clone(), EntityId::new(id))
    }
}

/// The entities of a call: who, what, where, with all that they are in.
#[derive(Clone, Debug)]
pub struct Cast {
    /// Who.
    pub principal: EntityUid,
    /// What.
    pub action: EntityUid,
    /// Where.
    pub resource: EntityUid,
    /// The principal and everything that it is in.
    pub principal_in: HashSet<EntityUid>,
    /// The action and its groups.
    pub action_in: HashSet<EntityUid>,
    /// The resource and everything that it is in.
    pub resource_in: HashSet<EntityUid>,
    /// All of them with their attributes.
    pub entities: Entities,
}

/// Why a call cannot be put in the schema's terms; impossible for callers and targets of any text.
#[derive(Debug, thiserror::Error)]
#[error("the call cannot be described: {0}")]
pub struct CastError(#[from] Box<dyn std::error::Error + Send + Sync>);

impl Cast {
    /// The entities of a call.
    ///
    /// *Cost*: about 15 µs; the gate keeps the result.
    ///
    /// # Errors
    /// Never for any text; the signature is Cedar's.
    pub fn of(caller: &Caller, action: Action, target: &Target) -> Result<Self, CastError> {
        let mut list = Vec::new();
        let (principal, principal_in) = who(caller, &mut list)?;
        let (resource, resource_in) = place(target, &mut list)?;
        let (action, group) = (Type::Action.uid(action.name()), Type::Action.uid("call"));
        list.push(Entity::new_no_attrs(action.clone(), HashSet::from([group.clone()])));
        list.push(Entity::with_uid(group.clone()));
        let entities = Entities::from_entities(list, None).map_err(boxed)?;
        let action_in = HashSet::from([action.clone(), group]);
        Ok(Self { principal, action, resource, principal_in, action_in, resource_in, entities })
    }
}

fn boxed(error: impl std::error::Error + Send + Sync + 'static) -> CastError {
    CastError(Box::new(error))
}

fn who(caller: &Caller, list: &mut Vec<Entity>) -> Result<(EntityUid, HashSet<EntityUid>), CastError> {
    let org = caller.org.as_deref().map(|name| Type::Org.uid(name));
    let team = caller.team.as_deref().map(|name| Type::Team.uid(name));
    let user = caller.user.as_deref().map(|name| Type::User.uid(name));
    let above_team: HashSet<EntityUid> = org.iter().cloned().collect();
    let above_user: HashSet<EntityUid> = above_team.iter().chain(&team).cloned().collect();
    let mut above_key: HashSet<EntityUid> = above_user.iter().chain(&user).cloned().collect();
    let roles: HashSet<EntityUid> = caller.roles().map(|role| Type::Role.uid(role)).collect();
    list.extend(roles.iter().cloned().map(Entity::with_uid));
    list.extend(org.map(Entity::with_uid));
    list.extend(team.map(|team| Entity::new_no_attrs(team, above_team)));
    list.extend(user.map(|user| Entity::new_no_attrs(user, above_user)));
    above_key.extend(roles);
    let key = Type::Key.uid(&caller.key);
    let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
    let tags: Vec<(String, RestrictedExpression)> =
        caller.labels.iter().map(|(name, value)| (name.clone(), text(value))).collect();
    let name = HashMap::from([("name".to_owned(), text(&caller.name))]);
    list.push(Entity::new_with_tags(key.clone(), name, above_key.clone(), tags).map_err(boxed)?);
    above_key.insert(key.clone());
    Ok((key, above_key))
}

fn place(target: &Target, list: &mut Vec<Entity>) -> Result<(EntityUid, HashSet<EntityUid>), CastError> {
    let family = target.family();
    let mut above = HashSet::from([Type::Provider.uid(&target.provider), Type::Family.uid(&family)]);
    list.extend(above.iter().cloned().map(Entity::with_uid));
    let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
    let attributes = HashMap::from([
        ("name".to_owned(), text(&target.model)),
        ("provider".to_owned(), text(&target.provider)),
        ("family".to_owned(), text(&family)),
        ("price_class".to_owned(), text(target.price_class.name())),
        ("region".to_owned(), text(&target.region)),
    ]);
    let model = Type::Model.uid(&format!("{}/{}", target.provider, target.model));
    list.push(Entity::new(model.clone(), attributes, above.clone()).map_err(boxed)?);
    above.insert(model.clone());
    Ok((model, above))
}
