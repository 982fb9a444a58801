//! Text in the notations of others, so that nothing it holds ends it. Never decides what is written.

/// A YAML scalar in double quotes.
pub fn yaml(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c) & 0xff)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A YAML list of words on one line. A dollar is doubled, so that compose does not look for a variable.
pub fn words(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| yaml(&word.replace('$', "$$"))).collect();
    format!("[{}]", quoted.join(", "))
}

/// The names in `${NAME}`, in their order; `$$` is a dollar sign.
pub fn variables(text: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('$') {
        if let Some(after) = after.strip_prefix('$') {
            rest = after;
        } else if let Some((name, after)) = after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            names.push(name);
            rest = after;
        } else {
            rest = after;
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::{variables, words, yaml};

    #[test]
    fn nothing_ends_the_text_it_stands_in() {
        assert_eq!(yaml("a\"b\\c\nd"), "\"a\\\"b\\\\c\\nd\"");
        assert_eq!(words(&["sh".into(), "$HOME".into()]), "[\"sh\", \"$$HOME\"]");
        assert_eq!(variables("a${ONE}b$${NOT}${TWO}$"), ["ONE", "TWO"]);
    }
}
