//! Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
//! 1, 2, 3", SC 2011, section 3.3).
//!
//! A number is a function of (seed, stream, position) and of nothing else, so any part of a computation can be run again
//! alone and draws the same numbers.

const MULTIPLIER_0: u32 = 0xD251_1F53;
const MULTIPLIER_1: u32 = 0xCD9E_8D57;
const WEYL_0: u32 = 0x9E37_79B9; // the golden ratio
const WEYL_1: u32 = 0xBB67_AE85; // sqrt(3) − 1

/// Philox4x32 with ten rounds.
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL_0), key[1].wrapping_add(WEYL_1)];
        }
        let product_0 = u64::from(MULTIPLIER_0) * u64::from(counter[0]);
        let product_1 = u64::from(MULTIPLIER_1) * u64::from(counter[2]);
        counter = [
            (product_1 >> 32) as u32 ^ counter[1] ^ key[0],
            product_1 as u32,
            (product_0 >> 32) as u32 ^ counter[3] ^ key[1],
            product_0 as u32,
        ];
    }
    counter
}

/// A uniform number in [0, 1) with 53 random bits. The seed is the key; position and stream are the counter.
pub fn uniform(seed: u64, stream: u64, position: u64) -> f64 {
    let low = |word: u64| word as u32;
    let high = |word: u64| (word >> 32) as u32;
    let words = philox4x32([low(position), high(position), low(stream), high(stream)], [low(seed), high(seed)]);
    let bits = (u64::from(words[0]) << 32 | u64::from(words[1])) >> 11;
    bits as f64 * (1.0 / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    // `kat_vectors` of the authors' Random123 library, "philox4x32 10".
    #[test]
    fn known_answers() {
        let ones = u32::MAX;
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([ones; 4], [ones; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32(counter, key), expected);
        }
    }

    // What `scripts/cpu_1` made of `docs/numerics.md`.
    #[test]
    fn the_contracts_vectors() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/data/cpu-1/sampling.json")).unwrap();
        let cases = vectors["uniform"].as_array().unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let number = |name: &str| case[name].as_str().unwrap().parse().unwrap();
            let found = uniform(number("seed"), number("stream"), number("position"));
            assert_eq!(format!("{:016x}", found.to_bits()), case["out"], "{case}");
        }
    }

    #[test]
    fn uniform_stays_in_range_and_depends_on_each_argument() {
        let mut seen = std::collections::BTreeSet::new();
        for (seed, stream, position) in
            [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1 << 32, 0, 0), (0, 1 << 32, 0), (0, 0, 1 << 32)]
        {
            let number = uniform(seed, stream, position);
            assert!((0.0..1.0).contains(&number));
            assert!(seen.insert(number.to_bits()), "({seed}, {stream}, {position}) repeats an earlier number");
        }
    }
}
