//! A rule's page: Markdown of `docs/check`, and the examples in it. Never renders anything.

use crate::Source;

/// The page of a rule.
#[derive(Clone, Copy, Debug)]
pub struct Page(pub &'static str);

/// Files that stand together in one example.
#[derive(Clone, Debug)]
pub struct Example {
    pub sources: Vec<Source>,
}

impl Page {
    pub const fn text(&self) -> &'static str {
        self.0
    }

    /// What it says under the title, in one line: severity and what is looked at.
    pub fn subtitle(&self) -> &'static str {
        self.0.lines().filter(|line| !line.trim().is_empty()).nth(1).unwrap_or_default()
    }

    /// The first sentence of its text.
    pub fn summary(&self) -> String {
        let lines = self.0.lines().skip_while(|line| !line.starts_with('*')).skip(1);
        let text: Vec<&str> =
            lines.map(str::trim).skip_while(|line| line.is_empty()).take_while(|line| !line.is_empty()).collect();
        let text = text.join(" ");
        match text.split_once(". ") {
            Some((first, _)) => format!("{first}."),
            None => text,
        }
    }

    /// Examples on which the rule must find something.
    pub fn fails(&self) -> Vec<Example> {
        self.examples("## Fails")
    }

    /// Examples on which nothing at all may be found.
    pub fn passes(&self) -> Vec<Example> {
        self.examples("## Passes")
    }

    /// Fenced blocks of a section, each named by the line before it; a rule of three dashes begins the next example.
    fn examples(&self, section: &str) -> Vec<Example> {
        let mut examples = Vec::new();
        let mut sources: Vec<Source> = Vec::new();
        let mut name = None;
        let mut block: Option<String> = None;
        let inside = self.0.lines().skip_while(|line| *line != section).skip(1);
        for line in inside.take_while(|line| !line.starts_with("## ")) {
            match &mut block {
                Some(text) if line == "```" => {
                    if let Some(path) = name.take() {
                        sources.push(Source::new(path, std::mem::take(text)));
                    }
                    block = None;
                }
                Some(text) => {
                    text.push_str(line);
                    text.push('\n');
                }
                None if line.starts_with("```") => block = Some(String::new()),
                None if line == "---" => examples.push(Example { sources: std::mem::take(&mut sources) }),
                None => {
                    let quoted = line.strip_prefix('`').and_then(|rest| rest.split_once('`'));
                    if let Some((path, _)) = quoted {
                        name = Some(path.to_owned());
                    }
                }
            }
        }
        if !sources.is_empty() {
            examples.push(Example { sources });
        }
        examples
    }
}
