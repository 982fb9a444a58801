//! The order in which a placement is decided. Reads the order of clauses, never what they compute.

use crate::{
    Kind,
    read::{Token, tokens},
    world::{Out, World},
};

/// In a `cond`, a clause about compliance after one about a score: the score has decided before it is asked.
pub fn compliance(world: &World<'_>, out: &mut Out) {
    for file in world.of(Kind::Elixir) {
        let tokens = tokens(&file.text);
        for (n, (_, token)) in tokens.iter().enumerate() {
            let opens = *token == Token::Word("cond".to_owned())
                && tokens.get(n + 1).map(|t| &t.1) == Some(&Token::Word("do".to_owned()));
            if !opens {
                continue;
            }
            let mut scored: Option<u64> = None;
            for (line, words) in conditions(&tokens[n + 2..]) {
                let about = |names: &[&str]| words.iter().any(|word| names.iter().any(|name| word.contains(name)));
                if about(&["compliance", "hipaa", "soc2", "residency"]) {
                    if let Some(before) = scored {
                        out.note(
                            file,
                            line,
                            "cond",
                            format!("compliance is asked after the score of line {before} has decided: a cheap tenant with health data lands on a shared server"),
                            "filter by compliance, residency and plan limits first, and score only what is left",
                        );
                        break;
                    }
                } else if about(&["score"]) {
                    scored.get_or_insert(line);
                }
            }
        }
    }
}

/// The condition of each clause up to the `end` of this `cond`, as its words in small letters.
fn conditions(tokens: &[(u64, Token)]) -> Vec<(u64, Vec<String>)> {
    let mut found = Vec::new();
    let mut words: Vec<(u64, String)> = Vec::new();
    let mut depth = 0;
    for (line, token) in tokens {
        match token {
            Token::Word(word) if matches!(word.as_str(), "do" | "fn") => depth += 1,
            Token::Word(word) if word == "end" => {
                if depth == 0 {
                    break;
                }
                depth -= 1;
            }
            // The words since the last line that ended a clause's body.
            Token::Sign(sign) if sign == "->" && depth == 0 => {
                if let Some((last, _)) = words.last().cloned() {
                    let own = words.iter().filter(|(line, _)| *line == last).map(|(_, word)| word.clone());
                    found.push((last, own.collect()));
                }
                words.clear();
            }
            Token::Word(word) | Token::Atom(word) => words.push((*line, word.to_ascii_lowercase())),
            _ => {}
        }
    }
    found
}
