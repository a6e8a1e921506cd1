//! Reads the files of a configuration: the one that was named, those that it includes, and what stands for `${...}` in them.

use std::env::VarError;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};

use super::foreign;
use super::problem::{Fault, Origin, Report};
use super::source::{Node, Place, STANDARD_INPUT, Sources, TemplateText, Value};
use super::units::show_bytes;
use crate::policy::variables;

/// The largest file that `${file:...}` may name.
const VALUE_BYTES_MAX: u64 = 64 << 10;

/// The largest file of a configuration: a device that never ends must not fill the memory.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// What the files of a configuration say together.
pub(super) struct Loaded {
    /// The named file, with what it includes.
    pub(super) root: Node,
    /// Every included file could be read. Where one could not, what it says is missing, not wrong.
    pub(super) is_whole: bool,
}

/// Loads a configuration; `None` where that failed, with the reasons in the report.
pub(super) fn load(file: &Path, sources: &mut Sources, report: &mut Report) -> Option<Loaded> {
    let is_standard_input = file == Path::new("-");
    let text = if is_standard_input {
        read(std::io::stdin(), FILE_BYTES_MAX)
    } else {
        read_file(file, FILE_BYTES_MAX)
    };
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
pub(super) fn parse(file: &Path, text: String, sources: &mut Sources, report: &mut Report) -> Option<Loaded> {
    let root = sources.add(file, text, report)?;
    let mut loader = Loader { sources, report, seen: vec![absolute(file)], is_whole: true };
    let mut root = loader.expand(root);
    loader.include(&mut root);
    Some(Loaded { root, is_whole: loader.is_whole })
}

fn read_file(file: &Path, bytes_max: u64) -> Result<String, String> {
    read(File::open(file).map_err(|error| error.to_string())?, bytes_max)
}

/// The size that the kernel reports is not asked: that of a device or of a file in /proc is 0.
fn read(source: impl Read, bytes_max: u64) -> Result<String, String> {
    let mut bytes = Vec::new();
    source.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("larger than {}", show_bytes(bytes_max)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        format!("line {line} is not UTF-8 text")
    })
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
    /// Every included file could be read.
    is_whole: bool,
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
        if !pattern.contains(['*', '?', '[']) {
            return vec![self.beside(pattern, at)];
        }
        // What is a pattern is what was written, not the name of the directory that the file is in.
        let directory = self.directory(at).to_string_lossy();
        let whole = Path::new(&Pattern::escape(&directory)).join(pattern);
        // Names that begin with a dot are those of editors and of files put aside; a shell's * leaves them out too.
        let options = MatchOptions { require_literal_leading_dot: true, ..MatchOptions::new() };
        let found = match glob::glob_with(&whole.to_string_lossy(), options) {
            Ok(found) => found.collect::<Result<Vec<_>, _>>(),
            Err(error) => {
                let fault = Fault::new(format!("`{pattern}` is not a pattern: {}", error.msg));
                self.fail_include(at, fault.hint("such as conf.d/*.toml"));
                return Vec::new();
            }
        };
        match found {
            Err(error) => {
                let place = error.path().display();
                self.fail_include(at, Fault::new(format!("cannot read {place}: {}", error.error())));
                Vec::new()
            }
            Ok(mut files) => {
                files.retain(|file| !file.is_dir());
                if files.is_empty() {
                    let fault = Fault::new(format!("no file is called {pattern}"));
                    self.report.warn(&self.sources.origin(at), "include", fault);
                }
                files
            }
        }
    }

    /// The directory of the file that has this place.
    fn directory(&self, at: Place) -> &Path {
        self.sources.file(at).parent().unwrap_or(Path::new(""))
    }

    fn fail_include(&mut self, at: Place, fault: Fault) {
        self.is_whole = false;
        self.report.error(&self.sources.origin(at), "include", fault);
    }

    /// A name as seen from the file that has it.
    fn beside(&self, name: &str, at: Place) -> PathBuf {
        self.directory(at).join(name)
    }

    fn read_included(&mut self, file: &Path, at: Place) -> Option<Node> {
        let this = absolute(file);
        if self.seen.contains(&this) {
            let fault = Fault::new(format!("{} is included twice, or includes itself", file.display()));
            self.fail_include(at, fault);
            return None;
        }
        self.seen.push(this);
        match read_file(file, FILE_BYTES_MAX) {
            Ok(text) => {
                let root = self.sources.add(file, text, self.report);
                self.is_whole &= root.is_some();
                let mut root = self.expand(root?);
                if !matches!(root.value, Value::Table(_)) {
                    let fault = Fault::new(format!("expected a table, found {}", root.value.kind()));
                    self.fail(root.at, fault);
                    return None;
                }
                self.include(&mut root);
                Some(root)
            }
            Err(error) => {
                let fault = Fault::new(format!("cannot read {}: {error}", file.display()));
                let fault = if file.is_dir() { fault.hint("write DIRECTORY/*.toml") } else { fault };
                self.fail_include(at, fault);
                None
            }
        }
    }

    // ---- ${...} ----

    fn expand(&mut self, node: Node) -> Node {
        let Node { at, value, .. } = node;
        let (value, template) = match value {
            Value::Text(text) if text.contains("${") => {
                let Some((text, template)) = self.expand_text(&text, at) else {
                    return Node { at, value: Value::Unknown, is_expanded: true, template: None };
                };
                (Value::Text(text), Some(Box::new(template)))
            }
            Value::List(items) => {
                (Value::List(items.into_iter().map(|item| self.expand(item)).collect()), None)
            }
            Value::Table(entries) => {
                let entries = entries.into_iter().map(|(key, value)| (key, self.expand(value))).collect();
                (Value::Table(entries), None)
            }
            value => (value, None),
        };
        Node { at, value, is_expanded: template.is_some(), template }
    }

    /// Puts the values of `${NAME}` and `${file:PATH}` in their places; `$${` is `${` itself. Variables of requests are left: the text
    /// is made twice, the second time as templates have it. `None` where a value is missing, which is then reported.
    fn expand_text(&mut self, text: &str, at: Place) -> Option<(String, TemplateText)> {
        let mut is_whole = true;
        let mut out = String::with_capacity(text.len());
        let mut template = TemplateText { text: String::with_capacity(text.len()), variable: None };
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let (before, behind) = (&rest[..start], &rest[start + 2..]);
            template.text.push_str(before);
            if let Some(before) = before.strip_suffix('$') {
                out.push_str(before);
                out.push_str("${");
                template.text.push_str("${");
                rest = behind;
                continue;
            }
            out.push_str(before);
            let Some((name, behind)) = behind.split_once('}') else {
                self.fail(at, Fault::new("`${` without `}`").hint("write $${ for the two characters"));
                return None;
            };
            rest = behind;
            if variables::is_of_request(name) {
                template.variable.get_or_insert_with(|| name.to_owned());
                [&mut out, &mut template.text]
                    .into_iter()
                    .for_each(|text| text.push_str(&format!("${{{name}}}")));
                continue;
            }
            match self.value_of(name, at) {
                Ok(value) => {
                    out.push_str(&value);
                    // A value is no variable, whatever stands in it.
                    template.text.push_str(&value.replace("${", "$${"));
                }
                Err(fault) => {
                    self.fail(at, fault);
                    is_whole = false;
                }
            }
        }
        out.push_str(rest);
        template.text.push_str(rest);
        is_whole.then_some((out, template))
    }

    fn value_of(&self, name: &str, at: Place) -> Result<String, Fault> {
        if let Some(path) = name.strip_prefix("file:") {
            let file = self.beside(path, at);
            let failed = |error: String| Fault::new(format!("cannot read {}: {error}", file.display()));
            let text = read_file(&file, VALUE_BYTES_MAX).map_err(failed)?;
            return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
        }
        let is_name = |name: &str| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        if !is_name(name) {
            let fault = Fault::new(format!("`${{{name}}}` is neither a variable nor a file"));
            return Err(fault.hint("write ${NAME} or ${file:/run/secrets/name}; $${ for the two characters"));
        }
        std::env::var(name).map_err(|error| match error {
            VarError::NotPresent => {
                if let Some(ours) = foreign::variable(name) {
                    let what = "is no variable of requests, and the environment has none of this name";
                    let fault = Fault::new(format!("`${{{name}}}` {what}"));
                    return fault.hint(format!("did you mean ${{{ours}}}"));
                }
                let fault = Fault::new(format!("the environment has no `{name}`"));
                match variables::meant(name) {
                    Some(near) => fault.hint(format!("did you mean ${{{near}}}, of requests")),
                    None => fault.hint(format!("set {name} where Sluice is started")),
                }
            }
            VarError::NotUnicode(_) => Fault::new(format!("`{name}` of the environment is not UTF-8 text")),
        })
    }

    fn fail(&mut self, at: Place, fault: Fault) {
        self.report.error(&self.sources.origin(at), "", fault);
    }
}

/// Adds the entries of an included file: lists grow, tables get more keys. A key that is there already, or of the wrong type, is
/// reported when the table of keys is applied.
fn merge(root: &mut Node, included: Node) {
    let (Value::Table(entries), Value::Table(more)) = (&mut root.value, included.value) else { return };
    for (key, node) in more {
        let present = entries.iter_mut().find(|(known, _)| known.name == key.name);
        match (present.map(|(_, node)| &mut node.value), node) {
            (Some(Value::List(items)), Node { value: Value::List(more), .. }) => items.extend(more),
            (Some(Value::Table(inner)), Node { value: Value::Table(more), .. }) => inner.extend(more),
            (_, node) => entries.push((key, node)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::super::{Config, Raw, effective};
    use super::*;

    /// The rest of a file whose first lines are those of a test.
    const REST: &str = "listen = [\"127.0.0.1:80\"]\n[[upstream]]\nname = \"a\"\nservers = [\"http://a\"]\n[[route]]\nupstream = \"a\"\n";

    fn write(files: &[(&str, &str)]) -> TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            let file = directory.path().join(name);
            fs::create_dir_all(file.parent().expect("a parent")).expect("a directory");
            fs::write(file, text).expect("a file");
        }
        directory
    }

    fn check_in(directory: &Path, text: &str) -> Result<Config, String> {
        let relative = |errors: &dyn std::fmt::Display| {
            errors.to_string().replace(&format!("{}/", directory.display()), "")
        };
        let raw =
            Raw::parse(&directory.join("f.toml"), text.to_owned()).map_err(|errors| relative(&errors))?;
        let config = Config::check(&raw).map_err(|errors| relative(&errors))?;
        // What is printed as the whole of it is a file of the same meaning.
        let printed = Raw::parse(Path::new("printed.toml"), effective(&raw)).expect("TOML");
        let printed = Config::check(&printed).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(
            Config { warnings: Vec::new(), ..config.clone() },
            Config { warnings: Vec::new(), ..printed }
        );
        Ok(config)
    }

    fn check(files: &[(&str, &str)], top: &str) -> Result<Config, String> {
        check_in(write(files).path(), &format!("{top}\n{REST}"))
    }

    const ROUTE: &str = "[[route]]\nupstream = \"a\"\nhost = ";

    #[test]
    fn included_files_add_to_lists_and_tables() {
        let more = format!("[limits]\nhead_bytes = \"8KiB\"\n{ROUTE}\"one\"\n");
        let json = r#"{"$schema": "s", "limits": {"header_fields": 7}, "route": [{"upstream": "a", "host": "two"}]}"#;
        let files = [("conf.d/1.toml", &*more), ("conf.d/2.json", json), ("conf.d/.hidden.toml", "not read")];
        let config = check(&files, "include = [\"conf.d/*\"]").expect("in order");
        let hosts: Vec<_> = config.routes.iter().map(|route| route.hosts[0].to_string()).collect();
        assert_eq!(hosts[1..], ["one", "two"]);
        assert_eq!((config.limits.head_bytes, config.limits.header_fields), (8 << 10, 7));
        assert_eq!(config.warnings, []);
    }

    #[test]
    fn included_files_that_are_wrong_are_one_error_with_its_place() {
        let included = "f.toml:1:12: include: ";
        let mut failed = Vec::new();
        for (files, top, wanted) in [
            (&[][..], "include = [\"no.toml\"]", format!("{included}cannot read no.toml: No such file")),
            (
                &[("d/x", "")],
                "include = [\"d\"]",
                format!("{included}cannot read d: Is a directory (os error 21) (hint:"),
            ),
            (&[("a.toml", "shards = ")], "include = [\"a.toml\"]", "a.toml:1:10: not valid TOML".to_owned()),
            (
                &[("a.json", "[1]")],
                "include = [\"a.json\"]",
                "a.json:1:1: expected a table, found a list".to_owned(),
            ),
            (
                &[("a.toml", "include = \"b\"")],
                "include = [\"a.toml\"]",
                "a.toml:1:11: include: expected a list".to_owned(),
            ),
            (
                &[("a.toml", "include = [1]")],
                "include = [\"a.toml\"]",
                "a.toml:1:12: include: expected a string".to_owned(),
            ),
            (
                &[("a.toml", "include = [\"a.toml\"]")],
                "include = [\"a.toml\"]",
                "a.toml:1:12: include: a.toml is included twice".to_owned(),
            ),
            (
                &[("a.toml", "shards = 1")],
                "shards = 2\ninclude = [\"a.toml\"]",
                "a.toml:1:1: shards: is there twice (hint: the first is at f.toml:1:1)".to_owned(),
            ),
            (
                &[("a.toml", "[limits]\nhead_bytes = 1000")],
                "limits.head_bytes = 9999\ninclude = [\"a.toml\"]",
                "a.toml:2:1: limits.head_bytes: is there twice".to_owned(),
            ),
            (
                &[("a.toml", "listen = \"127.0.0.1:1\"")],
                "include = [\"a.toml\"]",
                "a.toml:1:10: listen: expected a list of strings".to_owned(),
            ),
            (
                &[("a.toml", "[route]\nupstream = \"a\"\nhost = \"b\"")],
                "include = [\"a.toml\"]",
                "a.toml:1:1: route: expected a list of tables".to_owned(),
            ),
            (
                &[("a.toml", "[[limits]]")],
                "limits.head_bytes = 9999\ninclude = [\"a.toml\"]",
                "a.toml:1:1: limits: expected a table".to_owned(),
            ),
            (&[], "include = [\"[\"]", format!("{included}`[` is not a pattern")),
            (&[], "include = [\"/dev/zero\"]", format!("{included}cannot read /dev/zero: larger than 64MiB")),
        ] {
            let error = check(files, top).expect_err(top);
            if !error.starts_with(&wanted) || error.lines().count() != 1 {
                failed.push((wanted, error));
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
    }

    #[test]
    fn what_a_missing_file_would_have_said_is_not_called_missing() {
        let directory = write(&[("a.toml", "shards = ")]);
        for (file, wanted) in
            [("a.toml", "a.toml:1:10: not valid TOML"), ("b.toml", "f.toml:1:12: include: cannot read")]
        {
            let error =
                check_in(directory.path(), &format!("include = [\"{file}\"]\nshards = 0")).unwrap_err();
            let (first, second) = error.split_once('\n').expect("two slips, two errors");
            let own = "f.toml:2:10: shards: 0 is too small (hint: at least 1)";
            let (first, own_found) = if first == own { (second, first) } else { (first, second) };
            assert!(first.starts_with(wanted) && own_found == own, "{error}");
        }
    }

    #[test]
    fn a_link_to_the_file_itself_is_the_file_itself() {
        let directory = write(&[("f.toml", "")]);
        std::os::unix::fs::symlink("f.toml", directory.path().join("link.toml")).expect("a link");
        let error = check_in(directory.path(), &format!("include = [\"link.toml\"]\n{REST}")).unwrap_err();
        assert!(error.contains("link.toml is included twice, or includes itself"), "{error}");
        std::os::unix::fs::symlink("nowhere", directory.path().join("gone.toml")).expect("a link");
        let error = check_in(directory.path(), &format!("include = [\"g*.toml\"]\n{REST}")).unwrap_err();
        assert!(error.contains("cannot read gone.toml"), "{error}");
    }

    #[test]
    fn a_pattern_without_a_file_is_a_warning() {
        let config = check(&[], "include = [\"conf.d/*.toml\"]").expect("in order");
        let warning = config.warnings[0].to_string();
        assert!(warning.ends_with("f.toml:1:12: include: no file is called conf.d/*.toml"), "{warning}");
    }

    #[test]
    fn the_name_of_a_directory_is_no_pattern() {
        let directory = write(&[("odd[1]*/conf.d/a.toml", "shards = 3"), ("odd[1]*/f.toml", "")]);
        let text = format!("include = [\"conf.d/*.toml\"]\n{REST}");
        let config = check_in(&directory.path().join("odd[1]*"), &text).expect("in order");
        assert_eq!((config.shards.count, config.warnings.len()), (Some(3), 0));
    }

    #[test]
    fn values_of_files_and_of_the_environment() {
        let files = [("secret", "32KiB\r\n"), ("no", "true")];
        let path = std::env::var("PATH").expect("a PATH");
        let top = "limits.head_bytes = \"${file:secret}\"\nsmt = \"${file:no}\"\nforwarding.via = \"a$${b\"";
        let error = check(&files, top).unwrap_err();
        assert!(error.starts_with("f.toml:3:18: forwarding.via: `a${b` cannot"), "{error}");
        let whole = [
            "cpus = \"0-1\"",
            "paths.encoded_slash = \"slash\"",
            "limits.body_bytes = 1\nforwarding.trusted_proxies = [\"10.0.0.0/8\"]",
            "timeouts.request = \"1500ms\"\nlimits.receive_buffers_bytes = 512000001",
        ];
        for top in whole {
            check(&[], top).expect("in order, and again as it is printed");
        }
        let config = check(&files, top.split_once("\nfor").expect("a key").0).expect("in order");
        assert_eq!(config.limits.head_bytes, 32 << 10);
        let error = check(&[], "placement = \"${PATH}\"").unwrap_err();
        assert!(error.contains(&format!("`{path}` is not a placement")), "{error}");
    }

    #[test]
    fn a_missing_value_is_one_error() {
        let binary = |name: &str, bytes: &[u8]| {
            let directory = write(&[]);
            fs::write(directory.path().join(name), bytes).expect("a file");
            check_in(directory.path(), &format!("forwarding.via = \"${{file:{name}}}\"\n{REST}")).unwrap_err()
        };
        assert_eq!(binary("x", b"a\nb\xff"), "f.toml:1:18: cannot read x: line 2 is not UTF-8 text");
        assert_eq!(binary("x", &[b'x'; 65537]), "f.toml:1:18: cannot read x: larger than 64KiB");
        for (top, wanted) in [
            (
                "limits.head_bytes = \"${SLUICE_TEST_NONE}\"",
                "1:21: the environment has no `SLUICE_TEST_NONE`",
            ),
            ("forwarding.trusted_proxies = [\"${SLUICE_TEST_NONE}\"]", "1:31: the environment"),
            ("limits = \"${SLUICE_TEST_NONE}\"", "1:10: the environment"),
            ("listener = [\"${SLUICE_TEST_NONE}\"]", "1:13: the environment"),
            ("listener = \"${SLUICE_TEST_NONE}\"", "1:12: the environment"),
            ("include = [\"${SLUICE_TEST_NONE}/*.toml\"]", "1:12: the environment"),
            ("forwarding.via = \"${file:/dev/zero}\"", "1:18: cannot read /dev/zero: larger than 64KiB"),
            ("forwarding.via = \"${a${b}}\"", "1:18: `${a${b}` is neither a variable nor a file"),
            ("forwarding.via = \"${}\"", "1:18: `${}` is neither"),
            ("forwarding.via = \"${x\"", "1:18: `${` without `}`"),
            ("\"${PATH}\" = 1", "1:1: ${PATH}: unknown key"),
        ] {
            let error = check(&[], top).expect_err(top);
            assert!(
                error.starts_with(&format!("f.toml:{wanted}")) && error.lines().count() == 1,
                "{top}: {error}"
            );
        }
    }
}
