//! How far two points on the Earth are apart. Never a latency: what a kilometre costs is the catalogue's question.

/// The Earth as a ball, which is exact enough for cables that follow coasts.
const RADIUS_KM: f64 = 6371.0;

/// Along the great circle, from (latitude, longitude) in degrees.
pub fn km(from: (f64, f64), to: (f64, f64)) -> f64 {
    let (lat_a, lat_b) = (from.0.to_radians(), to.0.to_radians());
    let half = |a: f64, b: f64| ((b - a) / 2.0).sin().powi(2);
    let chord = half(lat_a, lat_b) + lat_a.cos() * lat_b.cos() * half(from.1.to_radians(), to.1.to_radians());
    2.0 * RADIUS_KM * chord.sqrt().min(1.0).asin()
}

#[cfg(test)]
mod tests {
    use super::km;

    #[test]
    fn frankfurt_and_washington_are_as_far_apart_as_maps_say() {
        let far = km((50.11, 8.68), (38.95, -77.45));
        assert!((6_500.0..6_600.0).contains(&far), "{far}");
        assert!(km((1.0, 2.0), (1.0, 2.0)) < 0.001);
    }
}
