//! An even sample of very many values.

use fairpool::stats::ValueCount;

/// At most `most` of these values, which rise: an even sample that has the longest in it,
/// the longest first.
pub(crate) fn thinned(values: &[ValueCount], most: u64) -> impl Iterator<Item = ValueCount> {
    let total: u64 = values.iter().map(|value| value.count).sum();
    let kept = total.min(most);
    let (mut passed, mut recorded) = (0, 0);
    values.iter().rev().map(move |&ValueCount { seconds, count }| {
        passed += count;
        let share = u128::from(passed) * u128::from(kept);
        let to_record = share.div_ceil(u128::from(total)) as u64;
        ValueCount { seconds, count: to_record - std::mem::replace(&mut recorded, to_record) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[(f64, u64)], most: u64) -> Vec<(f64, u64)> {
        let values: Vec<_> =
            values.iter().map(|&(seconds, count)| ValueCount { seconds, count }).collect();
        thinned(&values, most).map(|value| (value.seconds, value.count)).collect()
    }

    #[test]
    fn few_values_are_all_recorded() {
        assert_eq!(of(&[], 10), []);
        assert_eq!(of(&[(1.0, 3), (2.0, 7)], 10), [(2.0, 7), (1.0, 3)]);
    }

    #[test]
    fn of_many_values_the_longest_is_recorded_and_the_rest_in_proportion() {
        let values = [(1.0, 9_000_000_000), (2.0, 999_999_999), (3.0, 1)];
        assert_eq!(of(&values, 100), [(3.0, 1), (2.0, 9), (1.0, 90)]);
    }

    #[test]
    fn the_number_of_recorded_values_is_bounded() {
        let values: Vec<_> = (1..=1000).map(|value| (f64::from(value), u64::MAX >> 12)).collect();
        let recorded: u64 = of(&values, 777).into_iter().map(|(_, count)| count).sum();
        assert_eq!(recorded, 777);
    }
}
