//! A histogram of times with a relative error below 0.4 % and a fixed size of 34 KiB.
//!
//! 128 buckets for each power of two, as in HdrHistogram, up to 2^40 ns (18 minutes); longer times count as that. Recording
//! is an addition to one counter, so that measuring costs nothing that could be measured.

/// Buckets for each power of two.
const STEPS: u64 = 128;
/// The binary logarithm of `STEPS`.
const STEP_BITS: u32 = 7;
/// The largest value told apart.
const CEILING: u64 = (1 << 40) - 1;
/// One group for the values below `STEPS`, one for each power of two above.
const BUCKETS: usize = (40 - STEP_BITS as usize + 1) * STEPS as usize;

/// Counts of nanosecond values.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    largest: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, largest: 0 }
    }
}

impl Histogram {
    /// Counts one value.
    pub fn record(&mut self, value_ns: u64) {
        if let Some(count) = self.counts.get_mut(bucket(value_ns)) {
            *count += 1;
        }
        self.total += 1;
        self.largest = self.largest.max(value_ns);
    }

    /// Adds the counts of another one.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.largest = self.largest.max(other.largest);
    }

    /// How many values were counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The largest value, exactly; 0 if there is none.
    pub fn largest(&self) -> u64 {
        self.largest
    }

    /// The value that the share `share` (0 to 1) of all values does not exceed; none without values.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        if self.total == 0 {
            return None;
        }
        let rank = ((self.total as f64 * share).ceil() as u64).clamp(1, self.total);
        if rank == self.total {
            return Some(self.largest);
        }
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Some(middle(index).min(self.largest));
            }
        }
        Some(self.largest)
    }
}

/// The bucket of a value.
fn bucket(value: u64) -> usize {
    let value = value.min(CEILING);
    if value < STEPS {
        return value as usize;
    }
    let shift = value.ilog2() - STEP_BITS;
    (u64::from(shift + 1) * STEPS + (value >> shift) - STEPS) as usize
}

/// The value in the middle of a bucket.
fn middle(index: usize) -> u64 {
    let index = index as u64;
    if index < STEPS {
        return index;
    }
    let shift = index / STEPS - 1;
    ((STEPS + index % STEPS) << shift) + (1 << shift) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_recorded_has_no_quantile() {
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn every_value_lands_within_four_thousandths_of_itself() {
        let mut value = 1u64;
        while value < CEILING / 2 {
            let found = middle(bucket(value));
            assert!(found.abs_diff(value) as f64 <= value as f64 * 0.004, "{value} became {found}");
            value = value * 21 / 20 + 1;
        }
    }

    #[test]
    fn buckets_are_contiguous_and_in_order() {
        let mut last = bucket(0);
        for value in 1..200_000 {
            let next = bucket(value);
            assert!(next == last || next == last + 1, "a gap at {value}");
            last = next;
        }
    }

    #[test]
    fn values_beyond_the_ceiling_are_counted_in_the_last_bucket() {
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        let mut histogram = Histogram::default();
        histogram.record(u64::MAX);
        assert_eq!(histogram.largest(), u64::MAX);
    }

    #[test]
    fn quantiles_follow_the_ranks() {
        let mut histogram = Histogram::default();
        for value in 1..=1000 {
            histogram.record(value * 1000);
        }
        for (share, expected) in [(0.5, 500_000.0), (0.9, 900_000.0), (0.99, 990_000.0), (1.0, 1_000_000.0)] {
            let found = histogram.quantile(share).expect("there are values") as f64;
            assert!((found - expected).abs() / expected < 0.005, "{share}: {found}");
        }
    }

    #[test]
    fn merging_equals_recording_everything_in_one() {
        let (mut one, mut two, mut both) = (Histogram::default(), Histogram::default(), Histogram::default());
        for value in 0..10_000u64 {
            let side = if value % 3 == 0 { &mut one } else { &mut two };
            side.record(value * value);
            both.record(value * value);
        }
        one.merge(&two);
        assert_eq!(one.total(), both.total());
        assert_eq!(one.counts, both.counts);
    }
}
