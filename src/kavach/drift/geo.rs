//! Where a key is used from, and whether anybody can be there so soon.
//!
//! A place that needs more speed than anybody has scores 100; slower moves score less, a country that is new at least 50, a
//! place that cannot be told 40. Places that a key has been seen at on three days are usual and score at most 20, so that
//! servers in two regions do not alarm for ever. What scores 90 or more is not learned: the next call is measured from the
//! last place that could be reached.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use maxminddb::{Reader, geoip2};
use serde::{Deserialize, Serialize};

use crate::kavach::drift::ALARM;
use crate::unit::clock::Timestamp;

/// Nearer places are the same: databases of addresses are not more exact.
const NEAR_KM: f64 = 100.0;
const MAX_PLACES: usize = 16;
const DAYS: u8 = 3;
const DAY_SECONDS: i64 = 86_400;
const NEW_COUNTRY: u8 = 50;
const NOWHERE: u8 = 40;
const USUAL: u8 = 20;
/// The mean radius of the earth. *Source*: IUGG, <https://en.wikipedia.org/wiki/Earth_radius#Published_values>.
const EARTH_KM: f64 = 6_371.009;

/// Where a call comes from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// ISO 3166, two upper-case letters.
    pub country: [u8; 2],
    /// Degrees, north and east.
    pub position: Option<(f64, f64)>,
}

impl Place {
    /// The place in the header `x-marg-geo` of a trusted proxy: `CC`, or `CC;lat=52.5;lon=13.4`; `region` and `city` may be
    /// there and are not read. `None` if it is anything else.
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.split(';').map(str::trim);
        let country = country(parts.next()?)?;
        let (mut latitude, mut longitude) = (None, None);
        for part in parts {
            match part.split_once('=')? {
                ("lat", value) => {
                    latitude = Some(value.parse().ok().filter(|degrees| (-90.0..=90.0).contains(degrees))?)
                }
                ("lon", value) => {
                    longitude = Some(value.parse().ok().filter(|degrees| (-180.0..=180.0).contains(degrees))?)
                }
                ("region" | "city", _) => {}
                _ => return None,
            }
        }
        Some(Self { country, position: latitude.zip(longitude) })
    }

    /// The country as policies read it.
    pub fn country(&self) -> &str {
        std::str::from_utf8(&self.country).unwrap_or_default()
    }

    /// The distance over ground; `None` if either position is not known.
    fn distance_km(&self, other: &Self) -> Option<f64> {
        let ((lat1, lon1), (lat2, lon2)) = (self.position?, other.position?);
        let (lat1, lat2) = (lat1.to_radians(), lat2.to_radians());
        let half = |one: f64, two: f64| ((two - one) / 2.0).sin().powi(2);
        let chord = half(lat1, lat2) + lat1.cos() * lat2.cos() * half(lon1.to_radians(), lon2.to_radians());
        Some(2.0 * EARTH_KM * chord.sqrt().min(1.0).asin())
    }

    fn is_near(&self, other: &Self) -> bool {
        self.distance_km(other).map_or(self.country == other.country, |distance| distance <= NEAR_KM)
    }
}

fn country(text: &str) -> Option<[u8; 2]> {
    let letters: [u8; 2] = text.as_bytes().try_into().ok()?;
    letters.iter().all(u8::is_ascii_alphabetic).then(|| letters.map(|letter| letter.to_ascii_uppercase()))
}

/// A database of addresses in MaxMind's format, held in memory.
pub struct Places {
    reader: Reader<Vec<u8>>,
    /// What tells its content from any other.
    hash: blake3::Hash,
}

impl PartialEq for Places {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Places").field(&self.reader.metadata().database_type).finish()
    }
}

impl Places {
    /// Reads a database.
    ///
    /// # Errors
    /// A sentence, when it cannot be read or is none.
    pub fn open(path: &Path) -> Result<Self, String> {
        let cannot = |text: String| format!("{}: {text}", path.display());
        let bytes = std::fs::read(path).map_err(|error| cannot(error.to_string()))?;
        let hash = blake3::hash(&bytes);
        let reader = Reader::from_source(bytes).map_err(|error| cannot(error.to_string()))?;
        Ok(Self { reader, hash })
    }

    /// Where an address is, if the database knows.
    pub fn find(&self, address: IpAddr) -> Option<Place> {
        let city: geoip2::City<'_> = self.reader.lookup(address.to_canonical()).ok()?.decode().ok()??;
        let position = city.location.latitude.zip(city.location.longitude);
        Some(Place { country: country(city.country.iso_code?)?, position })
    }
}

/// The places of one key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Geo {
    last: Option<(Place, Timestamp)>,
    places: Vec<Seen>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Seen {
    place: Place,
    days: u8,
    day: i64,
}

impl Geo {
    pub(super) fn score(&mut self, place: Option<Place>, speed_km_h: f64, now: Timestamp) -> u8 {
        let Some(place) = place else { return if self.last.is_some() { NOWHERE } else { 0 } };
        let Some((last, at)) = self.last else {
            self.learn(place, now);
            return 0;
        };
        let is_usual = self.places.iter().any(|seen| seen.days >= DAYS && seen.place.is_near(&place));
        let score = match is_usual {
            true => journey(&last, &place, hours(at, now), speed_km_h).min(USUAL),
            false => journey(&last, &place, hours(at, now), speed_km_h).max(self.strange(&place)),
        };
        if score < ALARM {
            self.learn(place, now);
        }
        score
    }

    /// What both know: the later of the last places, and every place as often as the one that saw it more did.
    pub(super) fn join(mut self, other: &Self) -> Self {
        let later = |(_, mine): &(Place, Timestamp), (_, theirs): &(Place, Timestamp)| theirs > mine;
        if other.last.as_ref().is_some_and(|theirs| self.last.as_ref().is_none_or(|mine| later(mine, theirs))) {
            self.last = other.last;
        }
        for theirs in &other.places {
            match self.places.iter_mut().find(|mine| mine.place.is_near(&theirs.place)) {
                Some(mine) => (mine.days, mine.day) = (mine.days.max(theirs.days), mine.day.max(theirs.day)),
                None => self.places.push(*theirs),
            }
        }
        self.places.sort_by_key(|seen| (std::cmp::Reverse((seen.day, seen.days)), seen.place.country));
        self.places.truncate(MAX_PLACES);
        self
    }

    /// What a country that the key was never used from is worth.
    fn strange(&self, place: &Place) -> u8 {
        if self.places.iter().any(|seen| seen.place.country == place.country) { 0 } else { NEW_COUNTRY }
    }

    fn learn(&mut self, place: Place, now: Timestamp) {
        self.last = Some((place, now));
        let day = now.seconds().div_euclid(DAY_SECONDS);
        if let Some(seen) = self.places.iter_mut().find(|seen| seen.place.is_near(&place)) {
            if day > seen.day {
                seen.days = seen.days.saturating_add(1);
                seen.day = day;
            }
            return;
        }
        if self.places.len() >= MAX_PLACES {
            let oldest = self.places.iter().enumerate().min_by_key(|(_, seen)| seen.day).map_or(0, |(index, _)| index);
            self.places.remove(oldest);
        }
        self.places.push(Seen { place, days: 1, day });
    }
}

fn hours(from: Timestamp, to: Timestamp) -> f64 {
    to.micros().saturating_sub(from.micros()).max(0) as f64 / 3.6e9
}

/// How odd a move is. Without positions only the country counts, and another one within the hour is too soon.
fn journey(from: &Place, to: &Place, hours: f64, speed_km_h: f64) -> u8 {
    let Some(distance) = from.distance_km(to) else {
        return if from.country != to.country && hours < 1.0 { 100 } else { 0 };
    };
    if distance <= NEAR_KM {
        return 0;
    }
    let share = distance / (speed_km_h.max(1.0) * hours);
    if share >= 1.0 { 100 } else { (share * 60.0) as u8 }
}
