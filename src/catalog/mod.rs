//! What models cost, and how many tokens a text has.
//!
//! `prices` answers what an exchange cost: from prices that operators stored and from their overlay file first, then from the list of the `genai-prices`
//! crate; a model that neither knows has no cost, which is not zero. `tokens` counts text where a provider reported no usage.
//! Nothing here does I/O after `Catalog::load`.

mod card;
mod list;
mod names;
mod overlay;
pub mod prices;
mod simulated;
pub mod stored;
pub mod tokens;
mod view;
mod yaml;

pub use card::{Drawn, Media};
pub use prices::{Catalog, Cost, ModelCard, PriceQuery};
pub use view::{ImagePriceView, PriceChange, PriceView, Pricing, TierView};
