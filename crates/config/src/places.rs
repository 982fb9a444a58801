//! Where regions of common names are. Whole degrees: enough to tell which of them is nearest. Never a promise about a
//! provider: one that calls another place by such a name is said in `cluster.regions`.

use crate::Place;

/// `us-east`, also as `us-east-1` or `us-east1`, or a provider's word for a city, as `fra` or `hel1`.
pub fn place_of(region: &str) -> Option<Place> {
    let name = region.to_ascii_lowercase();
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('-');
    let (_, north, east) = PLACES.iter().find(|(known, ..)| *known == name)?;
    Some(Place { north: north * 1000, east: east * 1000 })
}

const PLACES: &[(&str, i32, i32)] = &[
    ("af-south", -34, 18),
    ("ams", 52, 5),
    ("ap-east", 22, 114),
    ("ap-northeast", 36, 140),
    ("ap-south", 19, 73),
    ("ap-southeast", 1, 104),
    ("arn", 60, 18),
    ("ash", 39, -77),
    ("asia-east", 24, 121),
    ("asia-northeast", 36, 140),
    ("asia-south", 19, 73),
    ("asia-southeast", 1, 104),
    ("atl", 34, -84),
    ("bog", 5, -74),
    ("bom", 19, 73),
    ("bos", 42, -71),
    ("ca-central", 45, -74),
    ("ca-west", 51, -114),
    ("cdg", 49, 3),
    ("den", 40, -105),
    ("dfw", 33, -97),
    ("eu-central", 50, 9),
    ("eu-north", 59, 18),
    ("eu-south", 45, 9),
    ("eu-west", 53, -6),
    ("europe-central", 52, 21),
    ("europe-north", 61, 27),
    ("europe-west", 50, 4),
    ("ewr", 41, -74),
    ("eze", -35, -59),
    ("fra", 50, 9),
    ("fsn", 50, 12),
    ("gru", -23, -46),
    ("hel", 60, 25),
    ("hil", 46, -123),
    ("hkg", 22, 114),
    ("iad", 39, -77),
    ("il-central", 32, 35),
    ("jnb", -26, 28),
    ("lax", 34, -118),
    ("lhr", 51, 0),
    ("lon", 51, 0),
    ("mad", 40, -4),
    ("me-central", 25, 55),
    ("me-south", 26, 51),
    ("mia", 26, -80),
    ("nbg", 49, 11),
    ("nrt", 36, 140),
    ("nyc", 41, -74),
    ("ord", 42, -88),
    ("otp", 45, 26),
    ("par", 49, 2),
    ("sa-east", -24, -47),
    ("scl", -33, -71),
    ("sea", 47, -122),
    ("sfo", 38, -122),
    ("sgp", 1, 104),
    ("sin", 1, 104),
    ("sjc", 37, -122),
    ("syd", -34, 151),
    ("tor", 44, -79),
    ("us-central", 41, -96),
    ("us-east", 39, -77),
    ("us-south", 33, -97),
    ("us-west", 45, -121),
    ("waw", 52, 21),
    ("yul", 45, -74),
    ("yyz", 44, -80),
];

#[cfg(test)]
mod tests {
    use super::{PLACES, place_of};

    #[test]
    fn a_region_is_known_by_its_name_with_and_without_a_number() {
        assert!(PLACES.is_sorted_by(|one, other| one.0 < other.0), "out of order, or there twice");
        let dublin = place_of("eu-west").unwrap();
        assert_eq!((dublin.north, dublin.east), (53_000, -6_000));
        for same in ["eu-west-1", "EU-West1", "eu-west"] {
            assert_eq!(place_of(same), Some(dublin), "{same}");
        }
        assert!(place_of("fsn1").is_some() && place_of("moon-1").is_none() && place_of("").is_none());
    }
}
