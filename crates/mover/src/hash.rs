//! Postgres' own 64-bit hash of a text, computed here for keys that come out of the change stream.
//!
//! `hashtextextended` is what hash partitions are chosen by, so it does not change between versions. The algorithm is
//! Bob Jenkins' `lookup3` (2006, in the public domain) as `hash_bytes_extended` of `src/common/hashfn.c` uses it.
//! Servers of one byte order agree; a test compares with a real one.

const START: u32 = 0x9e37_79b9_u32.wrapping_add(3_923_095);

/// `hashtextextended(text, seed)` under a deterministic collation.
pub(crate) fn text(bytes: &[u8], seed: u64) -> u64 {
    let start = START.wrapping_add(bytes.len() as u32);
    let mut s = [start; 3];
    if seed != 0 {
        s[0] = s[0].wrapping_add((seed >> 32) as u32);
        s[1] = s[1].wrapping_add(seed as u32);
        mix(&mut s);
    }
    let mut blocks = bytes.chunks_exact(12);
    for block in &mut blocks {
        for (at, word) in block.chunks_exact(4).enumerate() {
            s[at] = s[at].wrapping_add(u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        }
        mix(&mut s);
    }
    for (at, byte) in blocks.remainder().iter().enumerate() {
        // The lowest byte of the third word is kept for the length.
        let at = if at < 8 { at } else { at + 1 };
        s[at / 4] = s[at / 4].wrapping_add(u32::from(*byte) << (8 * (at % 4)));
    }
    finish(&mut s);
    (u64::from(s[1]) << 32) | u64::from(s[2])
}

fn mix(s: &mut [u32; 3]) {
    let [mut a, mut b, mut c] = *s;
    for by in [4, 6, 8, 16, 19, 4] {
        a = a.wrapping_sub(c) ^ c.rotate_left(by);
        c = c.wrapping_add(b);
        // The three words take turns; after six they are where they were.
        (a, b, c) = (b, c, a);
    }
    *s = [a, b, c];
}

fn finish(s: &mut [u32; 3]) {
    let [mut a, mut b, mut c] = *s;
    let step = |x: u32, y: u32, by: u32| (x ^ y).wrapping_sub(y.rotate_left(by));
    c = step(c, b, 14);
    a = step(a, c, 11);
    b = step(b, a, 25);
    c = step(c, b, 16);
    a = step(a, c, 4);
    b = step(b, a, 14);
    c = step(c, b, 24);
    *s = [a, b, c];
}

#[cfg(test)]
mod tests {
    use super::text;

    /// From `select n, hashtextextended(left(TEXT, n), 0), hashtextextended(left(TEXT, n), -77)` on PostgreSQL 15.
    const VECTORS: &[(usize, i64, i64)] = &[
        (0, -6_939_563_903_564_495_251, -173_540_676_806_625_402),
        (1, 3_591_986_179_850_072_241, 1_421_839_639_120_952_635),
        (3, -6_747_756_470_228_489_321, 7_585_632_146_626_415_328),
        (4, -1_038_429_303_365_892_052, 2_241_211_229_042_656_840),
        (7, -6_158_032_784_613_548_338, -9_107_637_696_767_238_900),
        (8, -8_882_191_227_074_733_005, -1_988_523_974_085_848_261),
        (9, -3_278_210_106_038_014_113, 329_590_287_932_270_368),
        (11, 3_112_909_444_737_856_467, 3_762_526_125_332_411_349),
        (12, -7_556_637_188_122_330_412, 3_259_018_070_510_819_159),
        (13, 8_871_624_171_452_417_744, -3_293_629_530_498_818_943),
        (23, -1_198_571_854_151_947_912, 3_688_218_275_755_834_702),
        (24, -1_933_194_731_779_935_345, -7_188_256_525_031_328_961),
        (25, 5_649_064_133_428_767_341, 4_959_952_334_172_817_630),
        (37, 8_745_091_305_766_421_261, -1_874_540_365_671_559_958),
        (38, 3_693_518_255_707_637_273, -1_449_142_744_233_240_969),
    ];
    const TEXT: &str = "abcdefghijklmnopqrstuvwxyz0123456789\u{e9}\u{20ac}";

    #[test]
    fn texts_hash_as_in_postgres() {
        for (characters, plain, seeded) in VECTORS {
            let part: String = TEXT.chars().take(*characters).collect();
            assert_eq!(text(part.as_bytes(), 0).cast_signed(), *plain, "{part}");
            assert_eq!(text(part.as_bytes(), (-77_i64).cast_unsigned()).cast_signed(), *seeded, "{part}");
        }
    }
}
