//! Reads the files of a configuration: the one that was named, those that it includes, and what stands for `${...}` in them.

use std::path::{Path, PathBuf};

use super::problem::{Fault, Origin, Report};
use super::source::{Key, Node, Place, STANDARD_INPUT, Sources, Value};

/// The largest file that `${file:...}` may name.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Loads a configuration; `None` where that failed, with the reasons in the report.
pub(super) fn load(file: &Path, sources: &mut Sources, report: &mut Report) -> Option<Node> {
    let is_standard_input = file == Path::new("-");
    let text = if is_standard_input { std::io::read_to_string(std::io::stdin()) } else { read_text(file) };
    let name = if is_standard_input { Path::new(STANDARD_INPUT) } else { file };
    match text {
        Ok(text) => parse(name, text, sources, report),
        Err(error) => {
            report.error(&Origin::WholeFile(name.into()), "", Fault::new(format!("cannot read: {error}")));
            None
        }
    }
}

/// Parses the text of a configuration, and reads what it includes.
pub(super) fn parse(file: &Path, text: String, sources: &mut Sources, report: &mut Report) -> Option<Node> {
    let root = sources.add(file, text, report)?;
    let mut loader = Loader { sources, report, seen: vec![absolute(file)] };
    let mut root = loader.expand(root);
    loader.include(&mut root);
    Some(root)
}

fn read_text(file: &Path) -> std::io::Result<String> {
    let bytes = std::fs::read(file)?;
    String::from_utf8(bytes)
        .map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidData, "not UTF-8 text"))
}

/// For telling that two names are one file.
fn absolute(file: &Path) -> PathBuf {
    file.canonicalize().unwrap_or_else(|_| file.to_owned())
}

struct Loader<'a> {
    sources: &'a mut Sources,
    report: &'a mut Report,
    /// Files that were read.
    seen: Vec<PathBuf>,
}

impl Loader<'_> {
    // ---- include ----

    /// Adds what `include` at the top names, in the order of the names.
    fn include(&mut self, root: &mut Node) {
        let Value::Table(entries) = &root.value else { return };
        let named = entries.iter().find(|(key, _)| key.name == "include");
        let Some((_, Node { value: Value::List(items), .. })) = named else { return };
        for item in items.clone() {
            // What is no text is reported when the table of keys is applied.
            let Value::Text(pattern) = &item.value else { continue };
            for file in self.matching(pattern, item.at) {
                if let Some(included) = self.read_included(&file, item.at) {
                    merge(root, included);
                }
            }
        }
    }

    /// The files of a name or a pattern, sorted.
    fn matching(&mut self, pattern: &str, at: Place) -> Vec<PathBuf> {
        let whole = self.beside(pattern, at);
        if !pattern.contains(['*', '?', '[']) {
            return vec![whole];
        }
        match glob::glob(&whole.to_string_lossy()) {
            Ok(found) => found.filter_map(Result::ok).filter(|file| file.is_file()).collect(),
            Err(error) => {
                let fault = Fault::new(format!("`{pattern}` is not a pattern: {}", error.msg));
                self.report.error(&self.sources.origin(at), "include", fault.hint("such as conf.d/*.toml"));
                Vec::new()
            }
        }
    }

    /// A name as seen from the file that has it.
    fn beside(&self, name: &str, at: Place) -> PathBuf {
        self.sources.file(at).parent().map_or_else(|| name.into(), |directory| directory.join(name))
    }

    fn read_included(&mut self, file: &Path, at: Place) -> Option<Node> {
        let origin = self.sources.origin(at);
        let this = absolute(file);
        if self.seen.contains(&this) {
            let fault = Fault::new(format!("{} is included twice, or includes itself", file.display()));
            self.report.error(&origin, "include", fault);
            return None;
        }
        self.seen.push(this);
        match read_text(file) {
            Ok(text) => {
                let root = self.sources.add(file, text, self.report)?;
                let mut root = self.expand(root);
                self.include(&mut root);
                Some(root)
            }
            Err(error) => {
                let fault = Fault::new(format!("cannot read {}: {error}", file.display()));
                self.report.error(&origin, "include", fault);
                None
            }
        }
    }

    // ---- ${...} ----

    fn expand(&mut self, node: Node) -> Node {
        let Node { at, value, .. } = node;
        match value {
            Value::Text(text) if text.contains("${") => {
                let text = self.expand_text(&text, at);
                Node { at, value: Value::Text(text), is_expanded: true }
            }
            Value::List(items) => {
                let items = items.into_iter().map(|item| self.expand(item)).collect();
                Node { at, value: Value::List(items), is_expanded: false }
            }
            Value::Table(entries) => {
                let entries = entries.into_iter().map(|(key, value)| (key, self.expand(value))).collect();
                Node { at, value: Value::Table(entries), is_expanded: false }
            }
            value => Node { at, value, is_expanded: false },
        }
    }

    /// Puts the values of `${NAME}` and `${file:PATH}` in their places; `$${` is `${` itself.
    fn expand_text(&mut self, text: &str, at: Place) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let (before, behind) = (&rest[..start], &rest[start + 2..]);
            if let Some(before) = before.strip_suffix('$') {
                out.push_str(before);
                out.push_str("${");
                rest = behind;
                continue;
            }
            out.push_str(before);
            let Some((name, behind)) = behind.split_once('}') else {
                self.fail(at, Fault::new("`${` without `}`").hint("write $${ for the two characters"));
                return out;
            };
            match self.value_of(name, at) {
                Ok(value) => out.push_str(&value),
                Err(fault) => self.fail(at, fault),
            }
            rest = behind;
        }
        out.push_str(rest);
        out
    }

    fn value_of(&self, name: &str, at: Place) -> Result<String, Fault> {
        if let Some(path) = name.strip_prefix("file:") {
            let file = self.beside(path, at);
            let failed = |error: &dyn std::fmt::Display| {
                Fault::new(format!("cannot read {}: {error}", file.display()))
            };
            let bytes = std::fs::metadata(&file).map_err(|error| failed(&error))?.len();
            if bytes > FILE_BYTES_MAX {
                return Err(failed(&"larger than 64KiB"));
            }
            let text = read_text(&file).map_err(|error| failed(&error))?;
            return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
        }
        let is_name = |name: &str| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        if !is_name(name) {
            let fault = Fault::new(format!("`${{{name}}}` is neither a variable nor a file"));
            return Err(fault.hint("write ${NAME} or ${file:/run/secrets/name}; $${ for the two characters"));
        }
        std::env::var(name).map_err(|_| {
            Fault::new(format!("the environment has no `{name}`"))
                .hint(format!("set {name} where Sluice is started"))
        })
    }

    fn fail(&mut self, at: Place, fault: Fault) {
        self.report.error(&self.sources.origin(at), "", fault);
    }
}

/// Adds the entries of an included file: lists grow, tables get more keys. A key that is there already is reported when the table
/// of keys is applied.
fn merge(root: &mut Node, included: Node) {
    let (Value::Table(entries), Value::Table(more)) = (&mut root.value, included.value) else { return };
    for (key, node) in more {
        if key.name == "include" {
            continue;
        }
        let present = entries.iter_mut().find(|(known, _)| known.name == key.name);
        match (present.map(|(_, node)| &mut node.value), node) {
            (Some(Value::List(items)), Node { value: Value::List(more), .. }) => items.extend(more),
            (Some(Value::Table(inner)), Node { value: Value::Table(more), .. }) => inner.extend(more),
            (_, node) => entries.push((Key { at: key.at, name: key.name }, node)),
        }
    }
}
