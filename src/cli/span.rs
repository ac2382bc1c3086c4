//! Times and spans on the command line.

use std::time::Duration;

use crate::unit::clock::Timestamp;

/// Parses a span: a whole number and `s`, `m`, `h`, `d` or `w`, as in `30d`.
///
/// # Errors
/// A sentence that says what to write.
pub fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a span of time; write a number and s, m, h, d or w, such as 30d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds_each: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return Err(wrong()),
    };
    let number = text.strip_suffix(unit).unwrap_or_default();
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds_each));
    // A century is more than any key needs, and far from the end of the range of times.
    seconds.filter(|seconds| *seconds <= 3_155_760_000).map(Duration::from_secs).ok_or_else(wrong)
}

/// Parses a point in time: RFC 3339, seconds since 1970, or a span such as `2h`, which means that long ago.
///
/// # Errors
/// A sentence that says what to write.
pub fn past(text: &str) -> Result<Timestamp, String> {
    match span(text) {
        Ok(span) => Ok(Timestamp::now().minus(span)),
        Err(_) => Timestamp::parse(text).map_err(|error| format!("{error}, or a span such as 24h for that long ago")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_a_number_and_a_unit() {
        for wrong in ["", "d", "30", "-1d", "1.5h", "30D", "99999999999w", "+1d", "1é"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
        assert_eq!(span("30d").unwrap(), Duration::from_secs(30 * 86_400));
        assert!(past("nonsense").unwrap_err().ends_with("or a span such as 24h for that long ago"));
        assert_eq!(past("7").unwrap(), Timestamp(7_000_000));
        assert_eq!(span("90m").unwrap(), Duration::from_secs(5_400));
    }
}
