//! Money as whole nano-dollars.
//!
//! Sums are checked: an overflow is an error of the caller, never a wrapped figure. A price per token becomes an amount
//! with one rounding per exchange, upwards, in `catalog`.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// An amount of US dollars in billionths: 1 USD is 1,000,000,000. May be negative (a credit).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NanoUsd(pub i64);

impl NanoUsd {
    /// No money.
    pub const ZERO: Self = Self(0);

    /// The number of nano-dollars.
    pub fn nanos(self) -> i64 {
        self.0
    }

    /// The sum, or `None` on overflow (beyond about 9.2 thousand million USD).
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// Parses dollars written as decimal digits, such as `12.50` or `0.000000001`, exactly.
    ///
    /// # Errors
    /// A sentence that says what to write: for a sign, an exponent, separators, more than nine decimals, or more than the
    /// type holds.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            let shown: String = text.chars().filter(|symbol| !symbol.is_control()).take(32).collect();
            format!("{shown:?} is not an amount of dollars; write digits and at most nine decimals, such as 12.50")
        };
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        if !digits(whole) || !digits(decimals) || decimals.len() > 9 {
            return Err(wrong());
        }
        let large = || "more than 9,223,372,036 dollars cannot be counted".to_owned();
        let whole: i64 = whole.parse().map_err(|_| large())?;
        let decimals: i64 = format!("{decimals:0<9}").parse().map_err(|_| wrong())?;
        whole.checked_mul(1_000_000_000).and_then(|nanos| nanos.checked_add(decimals)).map(Self).ok_or_else(large)
    }

    /// Dollars as a float rounded up to the next nano-dollar; `None` if it is not finite, negative or out of range.
    pub fn from_usd_ceil(usd: f64) -> Option<Self> {
        let nanos = usd * 1e9;
        // Float noise far below a nano-dollar must not add one: 0.1 + 0.2 is not 0.300000001.
        let rounded = if (nanos - nanos.round()).abs() < 1e-3 { nanos.round() } else { nanos.ceil() };
        (rounded.is_finite() && (0.0..9.2e18).contains(&rounded)).then_some(Self(rounded as i64))
    }
}

impl fmt::Display for NanoUsd {
    /// Nine decimals, as in `0.001250000`, with a leading minus if negative; no currency sign.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let nanos = self.0.unsigned_abs();
        write!(out, "{sign}{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
    }
}

/// The price that a cost was computed with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PriceRef {
    /// Where the price is from: `genai-prices <version>`, or the overlay file.
    #[schema(value_type = String)]
    pub source: Arc<str>,
    /// The name of the price row: `provider/model`.
    pub name: String,
    /// Since when the price holds, RFC 3339 date, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_prints_with_nine_decimals() {
        assert_eq!(NanoUsd(1_250_000).to_string(), "0.001250000");
        assert_eq!(NanoUsd(-1).to_string(), "-0.000000001");
    }

    #[test]
    fn dollars_are_read_digit_by_digit() {
        for text in
            ["", ".", "1.", ".5", "-1", "+1", "1e3", "1,5", "1.0000000001", "NaN", "inf", "9223372037", " 1", "1_0"]
        {
            assert!(NanoUsd::parse(text).is_err(), "{text:?}");
        }
        for (text, nanos) in [("0", 0), ("12.50", 12_500_000_000), ("0.1", 100_000_000), ("0.000000001", 1)] {
            assert_eq!(NanoUsd::parse(text), Ok(NanoUsd(nanos)), "{text:?}");
        }
        assert_eq!(NanoUsd::parse("9223372036.854775807"), Ok(NanoUsd(i64::MAX)));
    }

    #[test]
    fn a_float_rounds_up_but_noise_does_not() {
        assert_eq!(NanoUsd::from_usd_ceil(0.1 + 0.2), Some(NanoUsd(300_000_000)));
        assert_eq!(NanoUsd::from_usd_ceil(0.000_000_000_1), Some(NanoUsd(1)));
        assert_eq!(NanoUsd::from_usd_ceil(f64::NAN), None);
        assert_eq!(NanoUsd::from_usd_ceil(-1.0), None);
    }
}
