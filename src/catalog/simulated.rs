//! The prices of the built-in simulated provider, made up so that a demonstration shows costs.
//!
//! They are round figures near those of real models; nobody is billed. A name that does not begin with `sim-` has no price.

use crate::catalog::card::Card;
use crate::catalog::prices::ModelCard;
use crate::unit::money::PriceRef;

/// The provider's id as a price provider, and its name in the configuration.
pub(super) const PROVIDER: &str = "simulated";

/// Name, name for people, and dollars per thousand million tokens (so that they are whole) for input, cached input, output.
const TABLE: [(&str, &str, [u64; 3]); 3] = [
    ("sim-small", "Simulated small", [100, 25, 400]),
    ("sim-large", "Simulated large", [2_500, 1_250, 10_000]),
    ("sim-reasoner", "Simulated reasoner", [1_100, 275, 4_400]),
];

/// The price of a model: of its own row, or of `sim-small` for other names that begin with `sim-`.
pub(super) fn card(model: &str) -> Option<Card> {
    if !model.starts_with("sim-") {
        return None;
    }
    let (name, _, usd) = TABLE.iter().find(|(name, ..)| *name == model).or(TABLE.first())?;
    let [input, cached, output] = usd.map(|milli_usd| milli_usd * 1_000_000);
    let base = [input, cached, input, input, input, input, output, output, output, output];
    let price = PriceRef { source: "marg simulated".into(), name: format!("{PROVIDER}/{name}"), effective: None };
    Some(Card { base, tiers: Vec::new(), per_request_nanos: 0, images: Vec::new(), price })
}

/// The models of the table.
pub(super) fn models() -> Vec<ModelCard> {
    let card = |(id, name, _): &(&str, &str, _)| ModelCard {
        id: (*id).to_owned(),
        name: Some((*name).to_owned()),
        context_window: Some(128_000),
    };
    TABLE.iter().map(card).collect()
}
