//! Changes to the fields of a message, as the configuration has them, and the lines that come of them for a request.

use sluice_proto::edits::{FieldEdits, FieldNames};

use super::template::{Template, Unfit, WRITTEN_BYTES_MAX};
use super::variables::Facts;

/// Changes to the fields of requests or responses: first fields are removed, then those that are set, then those that are added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Names of fields that go: those to remove, and those that are set anew.
    removed: FieldNames,
    /// Those to remove, as they were written: for people.
    without: Box<[String]>,
    /// Fields that come, in order.
    fields: Vec<NewField>,
    /// Their lines, where no value has a variable.
    fixed: Option<Box<[u8]>>,
}

/// A field that is set or added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewField {
    /// Its name.
    pub name: Box<str>,
    /// Its value. Where that comes to nothing, the field is left out.
    pub value: Template,
    /// It takes the place of all others of its name.
    pub replaces: bool,
}

impl HeaderEdits {
    /// Changes by names to remove and fields to set or add.
    pub fn new(removed: &[String], fields: Vec<NewField>) -> HeaderEdits {
        let replaced = fields.iter().filter(|field| field.replaces).map(|field| &*field.name);
        let names = FieldNames::new(removed.iter().map(String::as_str).chain(replaced));
        let mut lines = Some(Vec::new());
        for field in &fields {
            lines = lines.zip(field.value.fixed()).map(|(mut lines, value)| {
                put_line(&mut lines, &field.name, value.trim_ascii());
                lines
            });
        }
        let fixed = lines.filter(|_| !fields.is_empty()).map(Vec::into_boxed_slice);
        HeaderEdits { removed: names, without: removed.into(), fields, fixed }
    }

    /// What is done to a message with these facts, for people, a line each.
    pub(crate) fn describe(&self, facts: &Facts<'_>) -> Vec<String> {
        let without = self.without.iter().map(|name| format!("without {name}"));
        let fields = self.fields.iter().filter_map(|field| {
            let mut value = Vec::new();
            let written = field.value.write(&mut value, facts);
            let how = if field.replaces { "in place of others" } else { "added" };
            let is_there = written.is_ok() && !value.is_empty();
            is_there.then(|| format!("{}: {} ({how})", field.name, String::from_utf8_lossy(&value)))
        });
        without.chain(fields).collect()
    }

    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.fields.is_empty()
    }

    /// Whether a value has a parameter of the route's path.
    pub(crate) fn has_captures(&self) -> bool {
        self.fields.iter().any(|field| field.value.has_captures())
    }

    /// Whether the lines depend on the request.
    pub(crate) fn has_variables(&self) -> bool {
        self.fixed.is_none() && !self.fields.is_empty()
    }

    /// The changes, with `lines` where these depend on the request.
    pub(crate) fn with_lines<'a>(&'a self, lines: Option<&'a [u8]>) -> Option<FieldEdits<'a>> {
        if self.is_empty() {
            return None;
        }
        let lines = self.fixed.as_deref().or(lines).unwrap_or_default();
        Some(FieldEdits { removed: &self.removed, lines })
    }

    /// Writes the lines for a request, where they depend on it.
    pub(crate) fn write_unless_fixed(&self, out: &mut Vec<u8>, facts: &Facts<'_>) -> Result<(), Unfit> {
        if self.has_variables() { self.write(out, facts) } else { Ok(()) }
    }

    /// Writes the lines for a request.
    pub(crate) fn write(&self, out: &mut Vec<u8>, facts: &Facts<'_>) -> Result<(), Unfit> {
        let all = out.len();
        for field in &self.fields {
            let start = out.len();
            out.extend_from_slice(field.name.as_bytes());
            out.extend_from_slice(b": ");
            let value_start = out.len();
            field.value.write(out, facts)?;
            if out.len() == value_start {
                out.truncate(start);
            } else {
                out.extend_from_slice(b"\r\n");
            }
            if out.len() - all > WRITTEN_BYTES_MAX {
                return Err(Unfit::TooLong);
            }
        }
        Ok(())
    }
}

fn put_line(out: &mut Vec<u8>, name: &str, value: &str) {
    if !value.is_empty() {
        [name, ": ", value, "\r\n"].iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
    }
}
