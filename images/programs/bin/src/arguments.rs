//! Argument strings: what init is told, and the deadline that it tells the others.

use guest_rt::Failure;
use guest_rt::io::Argument;

/// How long a scenario runs when nobody says so, in milliseconds.
pub const DEFAULT_MS: u64 = 2_000;

const NS_PER_MS: u64 = 1_000_000;

/// The deadline that this program was given: a `clock_ns` value in decimal.
///
/// # Errors
/// When there is none.
pub fn deadline() -> Result<u64, Failure> {
    Argument::get()?
        .text()
        .parse()
        .map_err(|_| Failure::Other("argument is no deadline"))
}

/// Init's argument: a scenario's name and its duration in nanoseconds. `name`, `name:MS`, `name:MSms` or `name:Ss`.
///
/// # Errors
/// When the duration is no number or out of range.
pub fn scenario(argument: &str) -> Result<(&str, u64), Failure> {
    let (name, duration) = argument.split_once(':').unwrap_or((argument, ""));
    let (digits, ms_per_unit) = match duration.strip_suffix("ms") {
        Some(digits) => (digits, 1),
        None => duration
            .strip_suffix('s')
            .map_or((duration, 1), |digits| (digits, 1_000)),
    };
    let count = if duration.is_empty() {
        Some(DEFAULT_MS)
    } else {
        digits.parse().ok()
    };
    count
        .and_then(|count: u64| count.checked_mul(ms_per_unit)?.checked_mul(NS_PER_MS))
        .map(|ns| (name, ns))
        .ok_or(Failure::Other("duration is no number of milliseconds"))
}

/// Two numbers with a colon between.
///
/// # Errors
/// When they are not there.
pub fn pair(argument: &str) -> Result<(u64, u64), Failure> {
    argument
        .split_once(':')
        .and_then(|(one, other)| Some((one.parse().ok()?, other.parse().ok()?)))
        .ok_or(Failure::Other("argument is no pair of numbers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_is_milliseconds_unless_it_says_seconds() {
        assert_eq!(scenario("mix:250"), Ok(("mix", 250_000_000)));
        assert_eq!(scenario("mix:250ms"), Ok(("mix", 250_000_000)));
        assert_eq!(scenario("mix:5s"), Ok(("mix", 5_000_000_000)));
    }

    #[test]
    fn scenario_without_duration_gets_the_default() {
        assert_eq!(scenario("jit"), Ok(("jit", DEFAULT_MS * NS_PER_MS)));
    }

    #[test]
    fn nonsense_durations_are_refused() {
        for argument in ["mix:x", "mix:s", "mix:-1", "mix:99999999999999999s"] {
            assert!(scenario(argument).is_err(), "{argument}");
        }
    }

    #[test]
    fn pairs_are_two_numbers() {
        assert_eq!(pair("12:3"), Ok((12, 3)));
        assert!(pair("12").is_err());
        assert!(pair("12:").is_err());
    }
}
