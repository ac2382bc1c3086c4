//! Names that mean the same model: providers answer `gpt-4o-2024-08-06` where `gpt-4o` was asked for.

/// A name without the date or the number of a version that its provider puts behind it: `gpt-4o` of `gpt-4o-2024-08-06`, likewise of
/// `-20240806`, `@20240806`, `-0806`, `-2408` and `-001`. `None` if it has neither. Sizes (`-70`, `-405`, `-4096`) and editions of
/// their own (`-mini`, `-preview`, `:free`) stay.
///
/// *Sources*: <https://platform.openai.com/docs/models>, <https://docs.anthropic.com/en/docs/about-claude/models/overview>,
/// <https://cloud.google.com/vertex-ai/generative-ai/docs/learn/model-versions>,
/// <https://docs.mistral.ai/getting-started/models/models_overview/>.
pub(super) fn undated(name: &str) -> Option<&str> {
    // The lengths of a date with hyphens, of one without, of its month with a day or a year, and of a version.
    [10, 8, 4, 3].into_iter().find_map(|length: usize| {
        let (plain, tail) = name.split_at_checked(name.len().checked_sub(length + 1)?)?;
        let version = tail.strip_prefix(['-', '@'])?;
        (!plain.is_empty() && is_version(version)).then_some(plain)
    })
}

/// Whether two names mean the same model: one may have a date or version more than the other, `-latest`, or its seller in front
/// (`openai/gpt-4o`).
pub(super) fn same(one: &str, other: &str) -> bool {
    let (seller, one) = parts(one);
    let (other_seller, other) = parts(other);
    let sold_alike = seller.is_none() || other_seller.is_none() || seller == other_seller;
    sold_alike && (one == other || undated(one) == Some(other) || Some(one) == undated(other))
}

/// Who sells it, if the name says so, and the name without that and without `-latest`.
fn parts(name: &str) -> (Option<&str>, &str) {
    let (seller, model) = name.rsplit_once('/').map_or((None, name), |(seller, model)| (Some(seller), model));
    (seller, model.strip_suffix("-latest").unwrap_or(model))
}

fn is_version(text: &str) -> bool {
    let digits: Vec<u32> = text.chars().filter_map(|symbol| symbol.to_digit(10)).collect();
    let is_plain = digits.len() == text.len();
    let is_month = |one: u32, two: u32| (1..=12).contains(&(10 * one + two));
    let is_day = |one: u32, two: u32| (1..=31).contains(&(10 * one + two));
    match (digits.as_slice(), text.as_bytes()) {
        (&[2, 0, _, _, month, ber, day, of_it], &[_, _, _, _, b'-', _, _, b'-', _, _]) => {
            is_month(month, ber) && is_day(day, of_it)
        }
        (&[2, 0, _, _, month, ber, day, of_it], _) if is_plain => is_month(month, ber) && is_day(day, of_it),
        // A month and a day, or a year of this century and a month.
        (&[one, two, three, four], _) if is_plain => {
            (is_month(one, two) && is_day(three, four)) || ((2..=3).contains(&one) && is_month(three, four))
        }
        (&[0, _, _], _) => is_plain,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_date_stays() {
        for name in [
            "gpt-4o",
            "gpt-4",
            "gpt-4o-mini",
            "gpt-4-1106-preview",
            "claude-sonnet-4-5",
            "llama-405",
            "house-4096",
            "house-100",
            "model-2024-13-01",
            "model-20241301",
            "model-2024-08",
            "model-0000",
            "x:free",
            "-2024-08-06",
            "0613",
            "",
            "größe-€€€",
        ] {
            assert_eq!(undated(name), None, "{name}");
        }
    }

    #[test]
    fn a_date_or_a_version_is_taken_off() {
        for (name, plain) in [
            ("gpt-4o-2024-08-06", "gpt-4o"),
            ("gpt-4-0613", "gpt-4"),
            ("claude-sonnet-4-20250514", "claude-sonnet-4"),
            ("claude-sonnet-4@20250514", "claude-sonnet-4"),
            ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
            ("mistral-large-2411", "mistral-large"),
            ("gemini-2.0-flash-001", "gemini-2.0-flash"),
            ("openai/gpt-4o-mini-2024-07-18", "openai/gpt-4o-mini"),
        ] {
            assert_eq!(undated(name), Some(plain), "{name}");
        }
    }

    #[test]
    fn another_model_is_not_the_same() {
        for (one, other) in [
            ("gpt-4o", "gpt-4o-mini"),
            ("gpt-4o", "gpt-4o-mini-2024-07-18"),
            ("gpt-4o-2024-05-13", "gpt-4o-2024-08-06"),
            ("openrouter/auto", "openai/gpt-4o"),
            ("meta/llama", "house/llama"),
            ("deepseek/deepseek-r1", "deepseek/deepseek-r1:free"),
        ] {
            assert!(!same(one, other) && !same(other, one), "{one} {other}");
        }
        for (one, other) in [
            ("gpt-4o", "gpt-4o"),
            ("gpt-4o", "gpt-4o-2024-08-06"),
            ("openai/gpt-4o", "gpt-4o-2024-08-06"),
            ("claude-3-5-haiku-latest", "claude-3-5-haiku-20241022"),
            ("llama-3.3", "/models/llama-3.3"),
        ] {
            assert!(same(one, other) && same(other, one), "{one} {other}");
        }
    }
}
