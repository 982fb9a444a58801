//! A file's bytes as text. Never guesses an encoding: what is no UTF-8 is refused with the line and the remedy.

/// Why bytes are no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotText {
    #[error("it is in UTF-16 or UTF-32, and not in UTF-8")]
    Wide,
    #[error("line {line} is not in UTF-8")]
    Other { line: u64 },
}

impl NotText {
    /// Counted from 1.
    pub const fn line(&self) -> u64 {
        match self {
            Self::Wide => 1,
            Self::Other { line } => *line,
        }
    }

    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Wide => "save it as UTF-8, in an editor or with `iconv -f UTF-16 -t UTF-8`",
            Self::Other { .. } => "save it as UTF-8, in an editor or with `iconv -f LATIN1 -t UTF-8`",
        }
    }
}

/// UTF-8, with or without a byte order mark.
pub fn text_of(bytes: Vec<u8>) -> Result<String, NotText> {
    // Text of other alphabets has no NULs either, so a wide encoding without its mark shows by them.
    let wide = match bytes.as_slice() {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => true,
        [a, b, c, d, ..] => (*a == 0 && *c == 0) || (*b == 0 && *d == 0),
        _ => false,
    };
    if wide {
        return Err(NotText::Wide);
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        NotText::Other { line: good.split(|b| *b == b'\n').count() as u64 }
    })
}

#[cfg(test)]
mod tests {
    use super::{NotText, text_of};

    #[test]
    fn what_is_no_utf8_is_told_apart_and_never_guessed() {
        const TEXT: &str = "stack: s\n# caf\u{e9}\n";
        assert_eq!(text_of(TEXT.into()).as_deref(), Ok(TEXT));
        let marked = format!("\u{feff}{TEXT}");
        assert_eq!(text_of(marked.clone().into()).as_deref(), Ok(marked.as_str()));
        let wide = |to: fn(u16) -> [u8; 2], text: &str| text.encode_utf16().flat_map(to).collect::<Vec<u8>>();
        for text in [TEXT, &marked] {
            assert_eq!(text_of(wide(u16::to_le_bytes, text)), Err(NotText::Wide));
            assert_eq!(text_of(wide(u16::to_be_bytes, text)), Err(NotText::Wide));
        }
        let latin: Vec<u8> = TEXT.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
        assert_eq!(text_of(latin), Err(NotText::Other { line: 2 }));
        assert_eq!(text_of(Vec::new()).as_deref(), Ok(""));
    }
}
