//! A pure core: medians, percentiles and ratios of what was measured, and how they are shown.

/// Values in ascending order.
#[derive(Clone, Debug)]
pub(crate) struct Sorted(Vec<f64>);

impl Sorted {
    pub(crate) fn new(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// The value below which this share lies; zero when there is none.
    pub(crate) fn at(&self, share: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        let index = (last as f64 * share).round() as usize;
        rounded(self.0.get(index).copied().unwrap_or(0.0), 3)
    }

    /// Median, minimum and maximum.
    pub(crate) fn spread(&self) -> serde_json::Value {
        serde_json::json!({ "median": self.at(0.5), "min": self.at(0.0), "max": self.at(1.0) })
    }
}

/// What stands beside the same round of the base, round by round.
pub(crate) fn ratios(base: &[f64], other: &[f64]) -> Sorted {
    Sorted::new(base.iter().zip(other).map(|(base, other)| other / base).collect())
}

/// A number with so many digits behind the point.
pub(crate) fn rounded(number: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (number * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let sorted = Sorted::new(vec![3.0, 1.0, 2.0]);
        assert_eq!((sorted.at(0.0), sorted.at(0.5), sorted.at(1.0)), (1.0, 2.0, 3.0));
        assert_eq!(Sorted::new(Vec::new()).at(0.5), 0.0);
    }

    #[test]
    fn ratios_pair_the_rounds() {
        let ratios = ratios(&[1.0, 2.0, 4.0], &[2.0, 2.0, 2.0]);
        assert_eq!((ratios.at(0.0), ratios.at(0.5), ratios.at(1.0)), (0.5, 1.0, 2.0));
    }
}
