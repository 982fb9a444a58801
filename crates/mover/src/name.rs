//! What tables are called: by people, in SQL, and in what Postgres prints.

use crate::sql::ident;

/// A table, quoted for people as `schema.table` without `public`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct TableName {
    pub schema: String,
    pub name: String,
}

impl TableName {
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }
    /// From `table` or `schema.table`.
    pub fn parse(text: &str) -> Self {
        match text.split_once('.') {
            Some((schema, name)) => Self::new(schema, name),
            None => Self::new("public", text),
        }
    }
    /// Whether an object's identity, as Postgres prints it, is of this table or of a part of it. Quotes are left out
    /// of account: which names get them (reserved words) differs between versions.
    pub(crate) fn is_named_in(&self, identity: &str) -> bool {
        names(identity, &format!("{}.{}", self.schema, self.name))
    }
    /// As SQL, both parts quoted.
    pub fn sql(&self) -> String {
        format!("{}.{}", ident(&self.schema), ident(&self.name))
    }
}

/// Whether an object's identity, as Postgres prints it, is of what has this name.
pub(crate) fn names(identity: &str, name: &str) -> bool {
    let plain = |text: &str| text.replace('"', "");
    let (identity, name) = (plain(identity), plain(name));
    identity
        .match_indices(&name)
        .any(|(at, _)| !identity[at + name.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_'))
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.schema == "public" { f.write_str(&self.name) } else { write!(f, "{}.{}", self.schema, self.name) }
    }
}
