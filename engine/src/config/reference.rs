//! The reference of all keys, docs/reference.md, from the table.

use std::fmt::Write as _;

use super::key::{Key, Kind, Section};
use super::table::SECTIONS;

const INTRODUCTION: &str = "\
# Reference of keys

Every key of the configuration, made from the table in `engine/src/config/table.rs`; [configuration.md](configuration.md) explains
them. *Scope* says where a key may be written: in the file as a whole (global), or also in an `[[upstream]]` or `[[route]]`, which
inherit from each other in the order route, upstream, global. *Change* says what a changed value takes: `restart` for what decides
which sockets, shards and memory exist, `reload` for the rest. Until Sluice can reload its configuration, both take a restart.
`--set SECTION.KEY=VALUE` sets every key of the global scope, also one without a flag.
";

/// The text of the reference, in Markdown.
pub fn reference() -> String {
    let mut out = INTRODUCTION.to_owned();
    for section in SECTIONS {
        let title = match section.name {
            "" => "Top level".to_owned(),
            _ => format!("`{}`", section.title()),
        };
        let _ = write!(out, "\n## {title}\n\n{}\n\n", section.doc.trim());
        out.push_str(
            "| key | value | default | scope | change | flag | meaning |\n|---|---|---|---|---|---|---|\n",
        );
        for key in section.keys {
            write_row(&mut out, section, key);
        }
    }
    out
}

fn write_row(out: &mut String, section: &Section, key: &Key) {
    let code =
        |text: &str| if text.is_empty() { String::new() } else { format!("`{}`", text.replace('|', "\\|")) };
    let value = match (&key.kind, key.kind.range()) {
        (_, Some((least, most))) => format!("{least} to {most}"),
        (Kind::Table(inner), _) => format!("a table: [`{}`](#{})", inner.name, inner.name.replace('.', "")),
        (Kind::Tables(inner), _) => {
            format!("tables: [`[[{}]]`](#{})", inner.name, inner.name.replace('.', ""))
        }
        (Kind::Texts(placeholder), _) => format!("list of {placeholder}"),
        (kind, _) => code(&kind.placeholder()),
    };
    let _ = writeln!(
        out,
        "| `{}` | {value} | {} | {} | {} | {} | {} |",
        key.name,
        code(key.default),
        if section.scope() == super::key::Scopes::GLOBAL {
            key.scopes.to_string()
        } else {
            section.scope().to_string()
        },
        key.change,
        code(key.flag),
        key.doc.split(" [default:").next().unwrap_or_default().replace('|', "\\|"),
    );
}
