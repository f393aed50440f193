//! The short form of the command: some hundred programs, and those in which something was wrong once.

use preheat_freezing::check;
use preheat_native::{Config, Engine};

#[test]
fn programs_that_were_frozen_anywhere_come_to_the_same_end() {
    let engine = Engine::new(Config::default()).unwrap();
    let (mut frozen, mut frames, mut values) = (0, 0, 0);
    for seed in 0..150 {
        let verdict = check(&engine, seed, false).unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
        assert_eq!(verdict.difference, None, "seed {seed}");
        frozen += verdict.frozen;
        frames += verdict.frames;
        values += verdict.values;
    }
    assert!(frozen > 120 && frames > 1000 && values > 5000, "{frozen} freezes of {frames} frames with {values} values");
}

#[test]
fn loops_in_loops_that_were_frozen_anywhere_come_to_the_same_end() {
    let engine = Engine::new(Config::default()).unwrap();
    let mut frozen = 0;
    for seed in 0..100 {
        let verdict = check(&engine, seed, true).unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
        assert_eq!(verdict.difference, None, "seed {seed}");
        frozen += verdict.frozen;
    }
    assert!(frozen > 80, "{frozen} freezes");
}

/// A reference to a function of one type was an operand below the call; a function that was taken out of a table and put back was another state.
#[test]
fn programs_in_which_something_was_wrong_once_come_to_the_same_end() {
    let engine = Engine::new(Config::default()).unwrap();
    for seed in [925, 1119, 1304, 24_952] {
        let verdict = check(&engine, seed, false).unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
        assert_eq!(verdict.difference, None, "seed {seed}");
        assert!(verdict.frozen > 0);
    }
}
