//! A pure core: which records must run one after another.
//!
//! A record's order **token** stands for what its order is kept by (a hash of its key, or its
//! partition), and maps it to one of a fixed number of **strands**. A strand runs one batch at a
//! time, so records of a token never overtake one another, and a batch may gather from as many
//! strands as are idle.

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

/// What order the records of a trigger are run in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Any.
    None,
    /// Records of one key in order, different keys in parallel, records without a key in any.
    #[default]
    Key,
    /// All records of a partition in order.
    Partition,
}

/// The strand of records without an order. Never busy.
pub(crate) const UNORDERED: u16 = 0;

/// Maps records to tokens and strands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tokens {
    order: Order,
    seed: u64,
    /// Ordered strands: a power of two with order by key.
    strands: u16,
}

impl Tokens {
    /// For a shard of `partitions` that runs `invocations_max` batches at a time.
    ///
    /// One batch at a time needs one strand only, which keeps records in the order they came.
    /// More batches get 16 strands each: enough that an uneven spread of keys still fills them.
    /// Very many get fewer, because each batch pays for every strand that it gathers from.
    pub(crate) fn new(
        order: Order,
        seed: u64,
        partitions: usize,
        invocations_max: NonZeroUsize,
    ) -> Self {
        let strands = match order {
            Order::None => 0,
            Order::Partition => partitions,
            Order::Key if invocations_max.get() == 1 => 1,
            Order::Key => {
                let most = invocations_max.get().min(64);
                (16 * most).min((4 * most).max(64)).next_power_of_two()
            }
        };
        let strands = u16::try_from(strands).expect("a shard has fewer than 65,536 partitions");
        Self { order, seed, strands }
    }

    /// Strands in all, the unordered one included.
    pub(crate) const fn strands(self) -> usize {
        self.strands as usize + 1
    }

    /// What tokens are drawn from.
    pub(crate) const fn seed(self) -> u64 {
        self.seed
    }

    /// The strand and token of a record.
    #[inline]
    pub(crate) fn of(self, partition: u16, key: Option<&[u8]>) -> (u16, u64) {
        match (self.order, key) {
            (Order::None, _) | (Order::Key, None) => (UNORDERED, 0),
            (Order::Partition, _) => (1 + partition, u64::from(partition)),
            (Order::Key, Some(key)) => {
                let token = hash(self.seed ^ u64::from(partition), key);
                let spread = (token >> 32) * u64::from(self.strands);
                (1 + (spread >> 32) as u16, token)
            }
        }
    }
}

/// A fast 64-bit hash of a key, by folded multiplication as in wyhash. Two keys with one hash
/// share an order, which costs parallelism and nothing else.
#[inline]
fn hash(seed: u64, key: &[u8]) -> u64 {
    const K0: u64 = 0xa076_1d64_78bd_642f;
    const K1: u64 = 0xe703_7ed1_a0b4_28db;
    let mut state = fold(seed ^ K0, key.len() as u64 ^ K1);
    let mut words = key.chunks_exact(8);
    for word in &mut words {
        let word = u64::from_le_bytes(word.try_into().expect("8 bytes"));
        state = fold(state ^ word, K1);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        let mut last = [0_u8; 8];
        last[..rest.len()].copy_from_slice(rest);
        state = fold(state ^ u64::from_le_bytes(last), K1);
    }
    fold(state ^ K0, K1)
}

#[inline]
const fn fold(a: u64, b: u64) -> u64 {
    let wide = a as u128 * b as u128;
    (wide >> 64) as u64 ^ wide as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(order: Order, invocations_max: usize) -> Tokens {
        Tokens::new(order, 7, 3, NonZeroUsize::new(invocations_max).unwrap())
    }

    #[test]
    fn each_order_has_its_strands() {
        assert_eq!(tokens(Order::None, 4).of(2, Some(b"k")).0, UNORDERED);
        assert_eq!(tokens(Order::Key, 4).of(2, None).0, UNORDERED);
        assert_eq!(tokens(Order::Partition, 4).of(2, None), (3, 2));
        assert_eq!(tokens(Order::Key, 1).of(2, Some(b"k")).0, 1);
        assert_ne!(
            tokens(Order::Key, 1).of(2, Some(b"k")),
            tokens(Order::Key, 1).of(1, Some(b"k")),
            "order is kept inside a partition"
        );
    }

    #[test]
    fn keys_spread_over_every_strand() {
        let tokens = tokens(Order::Key, 4);
        let mut counts = vec![0; tokens.strands()];
        for key in 0..64_000 {
            let (strand, _) = tokens.of(0, Some(format!("station-{key}").as_bytes()));
            counts[usize::from(strand)] += 1;
        }
        assert_eq!(counts[0], 0);
        assert!(counts[1..].iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn keys_that_differ_have_tokens_that_differ() {
        let tokens = tokens(Order::Key, 4);
        let mut seen = std::collections::BTreeSet::new();
        for length in 0..40 {
            assert!(seen.insert(tokens.of(0, Some(&vec![0; length])).1), "{length} zeros");
            for bit in 0..8 * length {
                let mut key = vec![0; length];
                key[bit / 8] ^= 1 << (bit % 8);
                assert!(seen.insert(tokens.of(0, Some(&key)).1), "bit {bit} of {length}");
            }
        }
    }
}
