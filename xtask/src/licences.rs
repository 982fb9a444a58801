//! Where dependencies come from and under which licence. Never follows a licence file: an expression or nothing.

use crate::metadata::{Metadata, Package};

/// Licences that may be combined with an Apache-2.0 product and passed on in a binary.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];
const REGISTRY: &str = "registry+";

pub fn faults(metadata: &Metadata) -> Vec<String> {
    metadata.packages.iter().flat_map(|package| package_faults(package, metadata)).collect()
}

fn package_faults(package: &Package, metadata: &Metadata) -> Vec<String> {
    let Package { name, version, .. } = package;
    let mut faults = Vec::new();
    match &package.source {
        Some(source) if !source.starts_with(REGISTRY) => {
            faults.push(format!("`{name}` {version} comes from {source}, not from a registry"));
        }
        None if !metadata.workspace_members.contains(&package.id) => {
            faults.push(format!("`{name}` {version} is a folder outside the workspace"));
        }
        _ => {}
    }
    match &package.license {
        Some(expression) if allowed(expression) => {}
        Some(expression) => faults.push(format!("`{name}` {version} is under `{expression}`: not on the list")),
        None => faults.push(format!("`{name}` {version} names no licence")),
    }
    faults
}

/// Whether an SPDX expression leaves a way through allowed licences: every `AND` part, any `OR` part.
fn allowed(expression: &str) -> bool {
    // The old form `MIT/Apache-2.0` means `OR`.
    let expression = expression.replace('/', " OR ");
    any_of(&mut expression.replace('(', " ( ").replace(')', " ) ").split_whitespace().peekable()).unwrap_or(false)
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>) -> Option<bool> {
    let mut result = all_of(words)?;
    while words.next_if_eq(&"OR").is_some() {
        result |= all_of(words)?;
    }
    Some(result)
}

fn all_of(words: &mut Words<'_>) -> Option<bool> {
    let mut result = one(words)?;
    while words.next_if_eq(&"AND").is_some() {
        result &= one(words)?;
    }
    Some(result)
}

fn one(words: &mut Words<'_>) -> Option<bool> {
    let word = words.next()?;
    if word == "(" {
        let inner = any_of(words)?;
        return (words.next() == Some(")")).then_some(inner);
    }
    if words.next_if_eq(&"WITH").is_some() {
        let whole = format!("{word} WITH {}", words.next()?);
        return Some(ALLOWED.contains(&whole.as_str()));
    }
    Some(ALLOWED.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::allowed;

    #[test]
    fn an_expression_is_allowed_when_a_way_through_it_is() {
        for good in [
            "MIT",
            "MIT/Apache-2.0",
            "MIT OR GPL-3.0",
            "GPL-3.0 OR MIT",
            "(MIT OR GPL-2.0) AND ISC",
            "Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT",
            "MIT OR Apache-2.0 OR LGPL-2.1-or-later",
        ] {
            assert!(allowed(good), "{good}");
        }
        for bad in [
            "",
            "GPL-3.0",
            "AGPL-3.0-only",
            "MIT AND GPL-3.0",
            "(MIT OR ISC) AND AGPL-3.0",
            "(MIT",
            "MIT OR",
            "SSPL-1.0",
        ] {
            assert!(!allowed(bad), "{bad}");
        }
    }
}
