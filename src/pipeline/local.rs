//! Answers that need no provider: the models a key can reach, and the gateway's own state.

use serde::Serialize;

use crate::dialect::Operation;
use crate::error::{Error, Kind, Result};
use crate::pipeline::answer::Answer;
use crate::pipeline::exchange::Exchange;

/// OpenAI's model object (API reference, «The model object»).
#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    owned_by: &'a str,
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

impl Exchange {
    /// The answer to an operation that needs no provider; `None` for those that do.
    ///
    /// # Errors
    /// `ModelNotFound` for a model that the key cannot reach.
    pub fn local_answer(&mut self) -> Result<Option<Answer>> {
        let Some(key) = self.key.clone() else { return Ok(None) };
        match self.operation() {
            Operation::Models => {
                let models = self.gateway.reachable_models(&key);
                let data = models.iter().map(|(id, owner)| model(id, owner)).collect();
                Ok(Some(json(&List { object: "list", data })))
            }
            Operation::Model => {
                let id = self.place.as_ref().and_then(|place| place.model_in_path.clone()).unwrap_or_default();
                self.record.model_requested = Some(crate::pipeline::exchange::clip(&id));
                match self.gateway.reach(&key, &id) {
                    Some(owner) => Ok(Some(json(&model(&id, &owner)))),
                    None => {
                        let text = format!("The model `{id}` does not exist here or you do not have access to it.");
                        Err(Error::new(Kind::ModelNotFound, text).param("model"))
                    }
                }
            }
            _ => Ok(None),
        }
    }
}

fn model<'a>(id: &'a str, owner: &'a str) -> Model<'a> {
    // Providers' own times of creation are not known; 0 is a valid Unix time and says so.
    Model { id, object: "model", created: 0, owned_by: owner }
}

fn json(value: &impl Serialize) -> Answer {
    Answer::json(200, serde_json::to_vec(value).unwrap_or_default())
}
