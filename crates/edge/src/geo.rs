//! Where a client is, by a file of the operator's in MaxMind's format: its country, and a spot on the globe.
//!
//! The file is read whole and looked at again when it changes; one that cannot be read leaves the one before in force. A
//! guess and no more: nothing is refused by it, and where a tenant's data may be is decided elsewhere.

use arc_swap::ArcSwapOption;
use maxminddb::{MaxMindDbError, PathElement, Reader};
use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A file that says where nobody is.
#[derive(Debug, thiserror::Error)]
pub enum BadGeo {
    #[error("{path} could not be read")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is no database of addresses in MaxMind's format (MMDB)")]
    Format {
        path: PathBuf,
        #[source]
        source: MaxMindDbError,
    },
}

/// Degrees north and east.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spot {
    pub north: f32,
    pub east: f32,
}

impl Spot {
    /// Grows with the distance, and is cheap: half the chord's square (haversine without its arc).
    pub fn far_from(self, other: Self) -> f32 {
        let half = |degrees: f32| (degrees.to_radians() / 2.0).sin().powi(2);
        let level = self.north.to_radians().cos() * other.north.to_radians().cos();
        half(self.north - other.north) + level * half(self.east - other.east)
    }
}

/// What the file says of an address.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Found {
    /// Two letters, as in ISO 3166.
    pub country: Option<[u8; 2]>,
    pub spot: Option<Spot>,
}

/// One file.
#[derive(Debug)]
pub struct Geo(Reader<Vec<u8>>);

impl Geo {
    pub fn open(path: &Path) -> Result<Self, BadGeo> {
        let bytes = fs::read(path).map_err(|source| BadGeo::Read { path: path.to_owned(), source })?;
        let format = |source| BadGeo::Format { path: path.to_owned(), source };
        Ok(Self(Reader::from_source(bytes).map_err(format)?))
    }

    pub fn find(&self, address: IpAddr) -> Found {
        // What is broken further inside is as good as nothing.
        let Ok(looked) = self.0.lookup(address) else { return Found::default() };
        let key = |name| PathElement::Key(name);
        let country: Option<&str> = looked.decode_path(&[key("country"), key("iso_code")]).ok().flatten();
        let country = country.and_then(|code| <[u8; 2]>::try_from(code.as_bytes()).ok());
        let degrees = |name| -> Option<f64> { looked.decode_path(&[key("location"), key(name)]).ok().flatten() };
        let spot = degrees("latitude").zip(degrees("longitude"));
        let spot = spot.map(|(north, east)| Spot { north: north as f32, east: east as f32 });
        Found {
            country: country.filter(|code| code.iter().all(u8::is_ascii_uppercase)),
            spot: spot.or_else(|| middle(country?)),
        }
    }
}

/// Whether an edge would take this file.
pub fn check(path: &Path) -> Result<(), BadGeo> {
    Geo::open(path).map(drop)
}

/// The file in force, for all cores.
#[derive(Debug, Default)]
pub struct Places {
    now: ArcSwapOption<Geo>,
    refused: AtomicBool,
    /// Said in the log.
    missed: AtomicBool,
}

impl Places {
    pub fn of(geo: Option<Geo>) -> Self {
        Self { now: ArcSwapOption::from(geo.map(Arc::new)), ..Self::default() }
    }

    /// Says once that the stack file asks for nearness and nobody knows where clients are. True when it was said now.
    pub fn miss(&self, wanted: bool) -> bool {
        let missing = wanted && !self.is_known();
        if !missing {
            self.missed.store(false, Relaxed);
            return false;
        }
        let first = !self.missed.swap(true, Relaxed);
        if first {
            tracing::warn!(
                "`cluster.geo_routing` is on and this edge has no `--geo-database`: every region is as near as any other"
            );
        }
        first
    }

    pub fn is_known(&self) -> bool {
        self.now.load().is_some()
    }

    /// The newest file was none.
    pub fn is_refused(&self) -> bool {
        self.refused.load(Relaxed)
    }

    pub fn find(&self, address: IpAddr) -> Found {
        self.now.load().as_ref().map(|geo| geo.find(address)).unwrap_or_default()
    }

    /// Takes a changed file, for as long as the edge lives.
    pub async fn follow(self: Arc<Self>, path: PathBuf) {
        let mut seen = stamp(&path);
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = stamp(&path);
            if now == seen {
                continue;
            }
            seen = now;
            let opened = tokio::task::spawn_blocking({
                let path = path.clone();
                move || Geo::open(&path)
            });
            match opened.await.expect("reading a file does not panic, and nobody cancels it") {
                Ok(geo) => {
                    self.now.store(Some(Arc::new(geo)));
                    self.refused.store(false, Relaxed);
                    tracing::info!(path = %path.display(), "another database of addresses is in force");
                }
                Err(error) => {
                    self.refused.store(true, Relaxed);
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(error, "the changed database of addresses was refused; the one before stays");
                }
            }
        }
    }
}

/// Tells a changed file from the same one.
fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

/// The middle of a country, for files that know countries alone.
fn middle(country: [u8; 2]) -> Option<Spot> {
    let entry = |text: &str| -> Option<Spot> {
        let mut degrees = text.strip_prefix(std::str::from_utf8(&country).ok()?)?.split_whitespace();
        let mut next = || degrees.next()?.parse().ok();
        Some(Spot { north: next()?, east: next()? })
    };
    MIDDLES.split(',').find_map(entry)
}

/// Whole degrees: enough to tell which region is nearest.
const MIDDLES: &str = "AD 42 1,AE 24 54,AF 33 66,AG 17 -62,AI 18 -63,AL 41 20,AM 40 45,AO -12 18,AR -34 -64,AS -14 -170,AT 47 14,\
AU -25 134,AW 12 -70,AX 60 20,AZ 40 48,BA 44 18,BB 13 -60,BD 24 90,BE 51 4,BF 12 -2,BG 43 25,BH 26 51,BI -3 30,BJ 9 2,BM 32 -65,\
BN 4 115,BO -17 -65,BR -10 -53,BS 24 -76,BT 27 90,BW -22 24,BY 53 28,BZ 17 -89,CA 56 -96,CD -3 24,CF 7 21,CG -1 15,CH 47 8,\
CI 8 -6,CK -21 -160,CL -31 -71,CM 6 13,CN 35 104,CO 4 -73,CR 10 -84,CU 22 -79,CV 16 -24,CW 12 -69,CY 35 33,CZ 50 15,DE 51 10,\
DJ 12 43,DK 56 10,DM 15 -61,DO 19 -70,DZ 28 3,EC -1 -78,EE 59 26,EG 27 30,EH 24 -13,ER 15 39,ES 40 -4,ET 9 40,FI 63 26,\
FJ -18 178,FK -52 -59,FM 7 158,FO 62 -7,FR 47 2,GA -1 12,GB 54 -2,GD 12 -62,GE 42 43,GF 4 -53,GG 49 -3,GH 8 -1,GI 36 -5,\
GL 72 -40,GM 13 -15,GN 11 -11,GP 16 -62,GQ 2 10,GR 39 22,GT 16 -90,GU 13 145,GW 12 -15,GY 5 -59,HK 22 114,HN 15 -87,HR 45 16,\
HT 19 -72,HU 47 19,ID -2 118,IE 53 -8,IL 31 35,IM 54 -5,IN 21 78,IQ 33 44,IR 32 53,IS 65 -19,IT 43 12,JE 49 -2,JM 18 -77,\
JO 31 36,JP 36 138,KE 0 38,KG 41 75,KH 13 105,KI 1 173,KM -12 44,KN 17 -63,KP 40 127,KR 36 128,KW 29 48,KY 19 -81,KZ 48 67,\
LA 18 105,LB 34 36,LC 14 -61,LI 47 10,LK 7 81,LR 6 -9,LS -30 28,LT 55 24,LU 50 6,LV 57 25,LY 27 17,MA 32 -6,MC 44 7,MD 47 28,\
ME 43 19,MF 18 -63,MG -19 47,MH 7 171,MK 42 22,ML 17 -4,MM 22 96,MN 47 104,MO 22 114,MP 15 146,MQ 15 -61,MR 20 -10,MS 17 -62,\
MT 36 14,MU -20 58,MV 3 73,MW -13 34,MX 23 -102,MY 4 102,MZ -18 35,NA -22 17,NC -21 165,NE 17 8,NF -29 168,NG 10 8,NI 13 -85,\
NL 52 5,NO 65 13,NP 28 84,NR -1 167,NU -19 -170,NZ -41 174,OM 21 57,PA 9 -80,PE -9 -75,PF -15 -145,PG -6 145,PH 12 123,PK 30 69,\
PL 52 19,PM 47 -56,PR 18 -66,PS 32 35,PT 39 -8,PW 7 134,PY -23 -58,QA 25 51,RE -21 56,RO 46 25,RS 44 21,RU 58 70,RW -2 30,\
SA 24 45,SB -9 160,SC -5 55,SD 15 30,SE 62 16,SG 1 104,SH -16 -6,SI 46 15,SK 49 19,SL 9 -12,SM 44 12,SN 14 -14,SO 6 46,SR 4 -56,\
SS 7 30,ST 0 7,SV 14 -89,SX 18 -63,SY 35 39,SZ -27 31,TC 22 -72,TD 15 19,TG 9 1,TH 15 101,TJ 39 71,TL -9 126,TM 39 59,TN 34 10,\
TO -20 -175,TR 39 35,TT 10 -61,TV -8 178,TW 24 121,TZ -6 35,UA 49 31,UG 1 32,US 40 -98,UY -33 -56,UZ 41 64,VA 42 12,VC 13 -61,\
VE 7 -66,VG 18 -64,VI 18 -65,VN 16 107,VU -16 167,WF -14 -177,WS -14 -172,XK 43 21,YE 16 48,YT -13 45,ZA -29 25,ZM -13 28,\
ZW -19 30";

#[cfg(test)]
mod tests {
    use super::{Geo, MIDDLES, Places, Spot, middle};

    #[test]
    fn nearness_that_nobody_can_tell_is_said_once_until_it_is_asked_for_anew() {
        let nowhere = Places::of(None);
        assert_eq!(
            [false, true, true, false, true].map(|wanted| nowhere.miss(wanted)),
            [false, true, false, false, true]
        );
    }

    #[test]
    fn every_country_of_the_table_has_a_spot_on_the_globe_and_distances_are_as_on_a_map() {
        let mut before = "";
        for entry in MIDDLES.split(',') {
            let code: [u8; 2] = entry.as_bytes()[..2].try_into().unwrap();
            let spot = middle(code).unwrap_or_else(|| panic!("{entry}"));
            assert!(spot.north.abs() <= 90.0 && spot.east.abs() <= 180.0, "{entry}");
            assert!(entry > before, "{entry} is out of order or there twice");
            before = entry;
        }
        assert_eq!(middle(*b"ZZ"), None);
        let (berlin, dublin) = (Spot { north: 52.5, east: 13.4 }, Spot { north: 53.3, east: -6.2 });
        let (sydney, fiji) = (Spot { north: -33.9, east: 151.2 }, Spot { north: -17.7, east: 178.0 });
        assert!(berlin.far_from(dublin) < berlin.far_from(sydney));
        let samoa = middle(*b"WS").unwrap();
        assert!(fiji.far_from(samoa) < fiji.far_from(sydney), "across the date line");
    }

    #[test]
    fn what_is_no_database_is_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("geo.mmdb");
        assert!(Geo::open(&path).unwrap_err().to_string().contains("could not be read"));
        std::fs::write(&path, "no such thing").unwrap();
        assert!(Geo::open(&path).unwrap_err().to_string().contains("is no database of addresses"));
    }
}
