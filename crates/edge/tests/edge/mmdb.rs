//! Writes small databases of addresses in MaxMind's format, for tests: a binary tree over networks, then what is known of each.

use std::{collections::BTreeMap, net::Ipv4Addr};

const RECORD_BITS: u16 = 24;

/// What is known of one network.
pub struct Known {
    pub country: &'static str,
    pub spot: Option<(f64, f64)>,
}

fn head(kind: u8, size: usize) -> Vec<u8> {
    // Sizes of tests are below 29, where one byte is enough; kinds above 7 have a second one.
    assert!(size < 29);
    if kind > 7 { vec![size as u8, kind - 7] } else { vec![(kind << 5) | size as u8] }
}

fn text(text: &str) -> Vec<u8> {
    [head(2, text.len()), text.as_bytes().to_vec()].concat()
}

fn double(value: f64) -> Vec<u8> {
    [head(3, 8), value.to_be_bytes().to_vec()].concat()
}

fn number(kind: u8, value: u64) -> Vec<u8> {
    let bytes: Vec<u8> = value.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
    [head(kind, bytes.len()), bytes].concat()
}

fn map(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let pairs = entries.iter().flat_map(|(key, value)| [text(key), value.clone()].concat());
    [head(7, entries.len()), pairs.collect()].concat()
}

/// A file that knows these networks, by address and length of its prefix.
pub fn database(known: &[(Ipv4Addr, u8, Known)]) -> Vec<u8> {
    let (mut data, mut places) = (Vec::new(), Vec::new());
    for (_, _, known) in known {
        places.push(data.len());
        let mut entries = vec![("country", map(&[("iso_code", text(known.country))]))];
        if let Some((north, east)) = known.spot {
            entries.push(("location", map(&[("latitude", double(north)), ("longitude", double(east))])));
        }
        data.extend(map(&entries));
    }
    // A node's two sides: another node, a place in the data, or nothing.
    #[derive(Clone, Copy)]
    enum Side {
        Nothing,
        Node(usize),
        Data(usize),
    }
    let mut nodes = vec![[Side::Nothing; 2]];
    for ((address, bits, _), place) in known.iter().zip(places) {
        let mut node = 0;
        for bit in 0..*bits {
            let side = (address.to_bits() >> (31 - bit)) as usize & 1;
            if bit + 1 == *bits {
                nodes[node][side] = Side::Data(place);
            } else {
                node = match nodes[node][side] {
                    Side::Node(next) => next,
                    _ => {
                        nodes.push([Side::Nothing; 2]);
                        let next = nodes.len() - 1;
                        nodes[node][side] = Side::Node(next);
                        next
                    }
                };
            }
        }
    }
    let mut file = Vec::new();
    for side in nodes.iter().flatten() {
        let record = match side {
            Side::Nothing => nodes.len(),
            Side::Node(next) => *next,
            Side::Data(place) => nodes.len() + 16 + place,
        };
        file.extend(&(record as u32).to_be_bytes()[1..]);
    }
    file.extend([0; 16]);
    file.extend(data);
    file.extend(b"\xab\xcd\xefMaxMind.com");
    let about: BTreeMap<&str, Vec<u8>> = [
        ("binary_format_major_version", number(5, 2)),
        ("binary_format_minor_version", number(5, 0)),
        ("build_epoch", number(9, 1_700_000_000)),
        ("database_type", text("Berth-Test-City")),
        ("description", map(&[("en", text("for tests"))])),
        ("ip_version", number(5, 4)),
        ("languages", [head(11, 1), text("en")].concat()),
        ("node_count", number(6, nodes.len() as u64)),
        ("record_size", number(5, RECORD_BITS.into())),
    ]
    .into();
    let about: Vec<_> = about.into_iter().collect();
    file.extend(map(&about));
    file
}
