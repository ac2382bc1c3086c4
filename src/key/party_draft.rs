//! What somebody wants an org, a team or a user to be, checked into what it can be.

use std::collections::BTreeMap;

use super::draft::{check_caps, check_labels, check_text, parse_models, part, refuse};
use super::party::{Party, PartyKind, RequestCaps};
use crate::error::Result;
use crate::unit::clock::Timestamp;

/// The longest description, in characters.
pub const MAX_DESCRIPTION_CHARS: usize = 1_024;

/// The fields of an org, a team or a user as somebody wrote them; its name and kind never change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PartyDraft {
    /// The org that a team or user belongs to.
    pub org: Option<String>,
    /// The team that a user belongs to.
    pub team: Option<String>,
    /// What it is for.
    pub description: String,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// Patterns of the models that its keys may ask for.
    pub models: Vec<String>,
    /// Caps on single requests.
    pub caps: RequestCaps,
    /// Whether its keys are admitted.
    pub enabled: bool,
}

impl PartyDraft {
    /// The fields of an existing one, to be edited and checked again.
    pub fn of(party: &Party) -> Self {
        Self {
            org: party.org.as_deref().map(str::to_owned),
            team: party.team.as_deref().map(str::to_owned),
            description: party.description.clone(),
            labels: party.labels.clone(),
            models: party.models.iter().map(|pattern| pattern.as_str().to_owned()).collect(),
            caps: party.caps,
            enabled: party.enabled,
        }
    }

    /// The party, under a name and with the times given.
    ///
    /// # Errors
    /// `invalid_request` with the name of the first field at fault.
    pub fn party(self, kind: PartyKind, name: &str, created_at: Timestamp, updated_at: Timestamp) -> Result<Party> {
        check_text("name", name)?;
        if self.org.is_some() && kind == PartyKind::Org {
            return Err(refuse("org", "An org belongs to no other one."));
        }
        if self.team.is_some() && kind != PartyKind::User {
            return Err(refuse("team", "Only a user belongs to a team."));
        }
        let plain = |symbol: char| !symbol.is_control() || symbol == '\n';
        if self.description.chars().count() > MAX_DESCRIPTION_CHARS || !self.description.chars().all(plain) {
            let text = format!("A description has at most {MAX_DESCRIPTION_CHARS} characters, no control characters.");
            return Err(refuse("description", text));
        }
        check_labels(&self.labels)?;
        check_caps(self.caps)?;
        Ok(Party {
            kind,
            name: name.into(),
            org: part("org", self.org)?,
            team: part("team", self.team)?,
            description: self.description,
            labels: self.labels,
            models: parse_models(&self.models)?,
            caps: self.caps,
            enabled: self.enabled,
            created_at,
            updated_at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spoils a user and says which field was named.
    fn refused(kind: PartyKind, spoil: impl FnOnce(&mut PartyDraft)) -> String {
        let mut draft = PartyDraft::default();
        spoil(&mut draft);
        let error = draft.party(kind, "ann", Timestamp(1), Timestamp(1)).unwrap_err();
        error.field().unwrap().to_owned()
    }

    #[test]
    fn each_bad_field_is_refused_by_its_name() {
        let some = || Some("acme".to_owned());
        assert_eq!(refused(PartyKind::Org, |draft| draft.org = some()), "org");
        assert_eq!(refused(PartyKind::Team, |draft| draft.team = some()), "team");
        assert_eq!(refused(PartyKind::User, |draft| draft.org = Some(String::new())), "org");
        assert_eq!(refused(PartyKind::User, |draft| draft.description = "x".repeat(1_025)), "description");
        assert_eq!(refused(PartyKind::User, |draft| draft.description = "\u{7}".to_owned()), "description");
        assert_eq!(refused(PartyKind::User, |draft| draft.models = vec![String::new()]), "models");
        assert_eq!(refused(PartyKind::User, |draft| draft.caps.max_input_tokens = Some(0)), "max_input_tokens");
        let error = PartyDraft::default().party(PartyKind::Org, " ", Timestamp(1), Timestamp(1)).unwrap_err();
        assert_eq!(error.field(), Some("name"));
    }

    #[test]
    fn a_good_draft_comes_back_unchanged() {
        let draft = PartyDraft {
            org: Some("acme".to_owned()),
            team: Some("web".to_owned()),
            description: "Ann's laptop\nand phone".to_owned(),
            labels: BTreeMap::from([("cost-centre".to_owned(), "7".to_owned())]),
            models: vec!["gpt-*".to_owned()],
            caps: RequestCaps { max_input_tokens: Some(1), max_output_tokens: None },
            enabled: true,
        };
        let party = draft.clone().party(PartyKind::User, "ann", Timestamp(1), Timestamp(2)).unwrap();
        assert_eq!(PartyDraft::of(&party), draft);
    }
}
