//! A table of cases: calls, and what an operator expects of the gate.
//!
//! What `marg policy test` runs. At most 100,000 cases.

use serde::{Deserialize, Serialize};

use crate::kavach::admin::Operation;
use crate::kavach::call::Call;
use crate::kavach::gate::Gate;
use crate::kavach::verdict::{Decision, Ground, Judgement};

/// The most cases of a table.
const MAX_CASES: usize = 100_000;

/// A table of cases.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// What every call of the table begins with; a case writes over it, part by part.
    #[serde(default)]
    pub base: serde_json::Value,
    /// The cases, in order.
    pub cases: Vec<Case>,
}

/// One call and what is expected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// A name for people.
    pub name: String,
    /// The call, as far as it differs from the base.
    #[serde(default)]
    pub call: serde_json::Value,
    /// An operation of an operator in the place of a call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    /// What the policies are to say.
    pub expect: Decision,
    /// The ids of the policies that are to decide, in any order; left out, any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policies: Option<Vec<String>>,
    /// The ids of the policies in observe mode that would refuse it, in any order; left out, any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would_refuse: Option<Vec<String>>,
}

/// A case that went otherwise than expected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Miss {
    /// The case's name.
    pub case: String,
    /// What was expected, and what came.
    pub text: String,
}

impl Table {
    /// Reads a table from YAML (or JSON, which is YAML).
    ///
    /// # Errors
    /// A sentence with the place; also when a call cannot be read or there are no cases.
    pub fn parse(text: &str) -> Result<Self, String> {
        let table: Self = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        if table.cases.is_empty() || table.cases.len() > MAX_CASES {
            return Err(format!("there are {} cases; write 1 to {MAX_CASES}", table.cases.len()));
        }
        for case in &table.cases {
            table.call(case)?;
        }
        Ok(table)
    }

    /// The whole call of a case.
    ///
    /// # Errors
    /// A sentence that names the case, when a field is unknown or of another type.
    pub fn call(&self, case: &Case) -> Result<Call, String> {
        let mut whole = self.base.clone();
        merge(&mut whole, &case.call);
        if whole.is_null() {
            return Ok(Call::default());
        }
        serde_json::from_value(whole).map_err(|error| format!("case {:?}: {error}", case.name))
    }

    /// The cases that go otherwise than expected, in order.
    ///
    /// # Errors
    /// As for [`Table::call`].
    pub fn run(&self, gate: &Gate) -> Result<Vec<Miss>, String> {
        let mut misses = Vec::new();
        for case in &self.cases {
            let differs = match &case.operation {
                Some(operation) => case.differs(&gate.weigh_operation(operation)),
                None => case.differs(&gate.weigh(&self.call(case)?)),
            };
            if let Some(text) = differs {
                misses.push(Miss { case: case.name.clone(), text });
            }
        }
        Ok(misses)
    }
}

impl Case {
    fn differs(&self, judgement: &Judgement) -> Option<String> {
        let came = format!("{} by {}", judgement.decision.name(), ids(&judgement.deciding));
        if judgement.decision != self.expect {
            return Some(format!("expected {}, came {came}", self.expect.name()));
        }
        if let Some(expected) = self.policies.as_ref().filter(|expected| !same(expected, &judgement.deciding)) {
            return Some(format!("expected {} by {}, came {came}", self.expect.name(), expected.join(", ")));
        }
        let expected = self.would_refuse.as_ref().filter(|expected| !same(expected, &judgement.would_refuse))?;
        let came = ids(&judgement.would_refuse);
        Some(format!("expected to be refused in observe mode by {}, came {came}", expected.join(", ")))
    }
}

fn same(expected: &[String], grounds: &[Ground]) -> bool {
    let mut expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    let mut found: Vec<&str> = grounds.iter().map(|ground| &*ground.policy).collect();
    expected.sort_unstable();
    found.sort_unstable();
    expected == found
}

fn ids(grounds: &[Ground]) -> String {
    let ids: Vec<&str> = grounds.iter().map(|ground| &*ground.policy).collect();
    if ids.is_empty() { "no policy".to_owned() } else { ids.join(", ") }
}

/// Writes one value over another: objects part by part, anything else as a whole.
fn merge(base: &mut serde_json::Value, over: &serde_json::Value) {
    match (base, over) {
        (serde_json::Value::Object(base), serde_json::Value::Object(over)) => {
            for (name, value) in over {
                merge(base.entry(name.clone()).or_insert(serde_json::Value::Null), value);
            }
        }
        (_, serde_json::Value::Null) => {}
        (base, over) => *base = over.clone(),
    }
}
