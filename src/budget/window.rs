//! Which span of time a counter counts in.
//!
//! Days and months begin at the midnight of their time zone, or at the first moment of the day where the clock skips midnight,
//! so a day may have 23, 24 or 25 hours; windows follow each other without a gap. Time zones come from the database that is
//! built in, so that all processes of one version agree.

use jiff::tz::TimeZone;
use jiff::{Span, Zoned};

use super::limit::Window;
use crate::unit::charge::WindowId;
use crate::unit::clock::Timestamp;

/// The seconds of the sliding and of the paced window.
pub const MINUTE_SECONDS: u32 = 60;

/// A window whose time zone has been looked up.
#[derive(Clone, Debug)]
pub enum Spans {
    /// The same counter at all times.
    Always(WindowId),
    /// Each hour of the clock.
    Hours,
    /// Each day in a time zone.
    Days(TimeZone),
    /// Each month in a time zone.
    Months(TimeZone),
}

impl Spans {
    /// Looks the time zone up.
    ///
    /// # Errors
    /// A sentence, when there is no such time zone.
    pub fn new(window: &Window) -> Result<Self, String> {
        Ok(match window {
            Window::Minute | Window::Paced { .. } => Self::Always(WindowId::Sliding { seconds: MINUTE_SECONDS }),
            Window::Hour => Self::Hours,
            Window::Day { timezone } => Self::Days(zone(timezone)?),
            Window::Month { timezone } => Self::Months(zone(timezone)?),
            Window::Total => Self::Always(WindowId::Total),
            Window::Now => Self::Always(WindowId::Now),
        })
    }

    /// The window that holds a time.
    pub fn at(&self, now: Timestamp) -> WindowId {
        match self {
            Self::Always(window) => *window,
            Self::Hours => {
                let from = now.seconds() - now.seconds().rem_euclid(3_600);
                WindowId::Calendar { from, until: from + 3_600 }
            }
            Self::Days(zone) => calendar(now, zone, |time| Some((time.start_of_day().ok()?, Span::new().days(1)))),
            Self::Months(zone) => calendar(now, zone, |time| {
                Some((time.first_of_month().ok()?.start_of_day().ok()?, Span::new().months(1)))
            }),
        }
    }
}

/// The first second after a calendar window, when its counter starts at 0 again.
pub fn resets_at(window: WindowId) -> Option<Timestamp> {
    match window {
        WindowId::Calendar { until, .. } => Some(Timestamp(until.saturating_mul(1_000_000))),
        _ => None,
    }
}

fn zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|_| format!("{name:?} is not a time zone; write an IANA name such as Europe/Berlin"))
}

/// From the beginning that `begin` finds, for the span that it names. Falls back to a day of UTC outside of the years that a
/// calendar knows.
fn calendar(now: Timestamp, zone: &TimeZone, begin: impl Fn(&Zoned) -> Option<(Zoned, Span)>) -> WindowId {
    let span = || {
        let time = jiff::Timestamp::from_microsecond(now.micros()).ok()?.to_zoned(zone.clone());
        let (from, span) = begin(&time)?;
        let until = from.checked_add(span).ok()?.start_of_day().ok()?;
        Some((from.timestamp().as_second(), until.timestamp().as_second()))
    };
    let (from, until) = span().unwrap_or_else(|| {
        let from = now.seconds() - now.seconds().rem_euclid(86_400);
        (from, from + 86_400)
    });
    WindowId::Calendar { from, until }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span(window: Window, time: &str) -> (String, String) {
        let at = Timestamp::parse(time).unwrap();
        let WindowId::Calendar { from, until } = Spans::new(&window).unwrap().at(at) else {
            panic!("a calendar window")
        };
        let text = |second: i64| jiff::Timestamp::from_second(second).unwrap().to_string();
        (text(from), text(until))
    }

    fn day(zone: &str) -> Window {
        Window::Day { timezone: zone.into() }
    }

    #[test]
    fn days_follow_the_clock_of_their_zone_through_summer_time() {
        let expect = |from: &str, until: &str| (from.to_owned(), until.to_owned());
        // 23 hours in spring, 25 in autumn.
        assert_eq!(
            span(day("Europe/Berlin"), "2026-03-29T12:00:00Z"),
            expect("2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z")
        );
        assert_eq!(
            span(day("Europe/Berlin"), "2026-10-25T00:30:00Z"),
            expect("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z")
        );
        // Midnight does not exist: the clock went from 23:59:59 to 01:00:00.
        assert_eq!(
            span(day("America/Sao_Paulo"), "2018-11-04T12:00:00Z"),
            expect("2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z")
        );
        assert_eq!(
            span(Window::Month { timezone: "Asia/Kolkata".into() }, "2026-02-28T19:00:00Z"),
            expect("2026-02-28T18:30:00Z", "2026-03-31T18:30:00Z")
        );
        assert_eq!(span(Window::Hour, "2026-02-28T19:59:59Z"), expect("2026-02-28T19:00:00Z", "2026-02-28T20:00:00Z"));
    }

    proptest! {
        #[test]
        fn windows_hold_their_time_and_follow_each_other_without_a_gap(second in 0_i64..4_000_000_000, pick in 0_usize..5) {
            let zone = ["UTC", "Europe/Berlin", "America/Sao_Paulo", "Pacific/Apia", "Australia/Lord_Howe"][pick].to_owned();
            for window in [Window::Hour, Window::Day { timezone: zone.clone() }, Window::Month { timezone: zone }] {
                let spans = Spans::new(&window).unwrap();
                let at = |second: i64| spans.at(Timestamp(second * 1_000_000));
                let WindowId::Calendar { from, until } = at(second) else { panic!("a calendar window") };
                prop_assert!((from..until).contains(&second), "{from} {second} {until}");
                prop_assert_eq!(at(until - 1), at(second));
                prop_assert_eq!(at(from), at(second));
                let WindowId::Calendar { from: next, .. } = at(until) else { panic!("a calendar window") };
                prop_assert_eq!(next, until);
            }
        }
    }
}
