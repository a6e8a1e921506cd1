//! Bodies that a configuration brings along, in its text or in files: answers of routes and pages for errors.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::health::{Statuses, parse_statuses};
use super::problem::{Fault, Report};
use super::table::ErrorPagesKeys;
use super::units::show_bytes;
use super::values::{Field, Values};
use crate::policy::fixed::{BODY_BYTES_MAX, Content, ErrorPage, ErrorPages};

const TEXT: &str = "text/plain; charset=utf-8";

/// Types by the ends of names.
const TYPES: [(&str, &str); 11] = [
    ("html", "text/html; charset=utf-8"),
    ("htm", "text/html; charset=utf-8"),
    ("txt", TEXT),
    ("json", "application/json"),
    ("xml", "application/xml"),
    ("css", "text/css"),
    ("js", "text/javascript"),
    ("svg", "image/svg+xml"),
    ("png", "image/png"),
    ("ico", "image/x-icon"),
    ("pem", "application/x-pem-file"),
];

/// The body that `type`, `body` and `file` of a table come to.
pub(super) fn check_content(
    (content_type, body, file): (&Field<String>, &Field<String>, &Field<PathBuf>),
    section: &str,
    report: &mut Report,
) -> Content {
    if let (Some(_), Some(file)) = (body.given(), file.given()) {
        let fault = Fault::new("`body` and `file` exclude each other").hint("keep one of them");
        report.error(&file.at, &format!("{section}.file"), fault);
        return Content { content_type: "".into(), bytes: Box::default() };
    }
    let (usual_type, bytes) = match (body.given(), file.given()) {
        (Some(body), _) => (TEXT, body.value.clone().into_bytes()),
        (None, Some(file)) => {
            let bytes = read(&file.value).unwrap_or_else(|fault| {
                report.error(&file.at, &format!("{section}.file"), fault);
                Vec::new()
            });
            (type_of(&file.value), bytes)
        }
        (None, None) => ("", Vec::new()),
    };
    if bytes.len() > BODY_BYTES_MAX
        && let Some(body) = body.given()
    {
        let fault = Fault::new(format!("the body is larger than {}", show_bytes(BODY_BYTES_MAX as u64)));
        report.error(&body.at, &format!("{section}.body"), fault.hint("leave it to a server"));
    }
    let content_type = match content_type.given() {
        None => usual_type,
        Some(given) => {
            let is_fine = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
            if !given.value.contains('/')
                || !given.value.bytes().all(is_fine)
                || given.value.trim() != given.value
            {
                let fault = Fault::new(format!("`{}` is not a type", given.value));
                report.error(
                    &given.at,
                    &format!("{section}.type"),
                    fault.hint("write text/html, or another"),
                );
            }
            &given.value
        }
    };
    Content { content_type: content_type.into(), bytes: bytes.into() }
}

fn type_of(file: &Path) -> &'static str {
    let end = file.extension().and_then(|end| end.to_str()).unwrap_or_default();
    let known = TYPES.iter().find(|(known, _)| end.eq_ignore_ascii_case(known));
    known.map_or("application/octet-stream", |(_, content_type)| content_type)
}

/// Reads a file, but no more of it than may be: a device has no end.
fn read(file: &Path) -> Result<Vec<u8>, Fault> {
    let failed = |error: std::io::Error| Fault::new(format!("cannot read {}: {error}", file.display()));
    let mut bytes = Vec::new();
    let source = File::open(file).map_err(failed)?;
    source.take(BODY_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > BODY_BYTES_MAX {
        let most = show_bytes(BODY_BYTES_MAX as u64);
        let fault = Fault::new(format!("cannot read {}: it is larger than {most}", file.display()));
        return Err(fault.hint("leave it to a server"));
    }
    Ok(bytes)
}

/// The pages of a file or a route.
pub(super) fn check_pages(tables: &[Values], report: &mut Report) -> ErrorPages {
    let pages = tables.iter().filter(|table| !table.is_faulty).map(|table| {
        let keys = ErrorPagesKeys::settle(table);
        if keys.body == Field::Absent && keys.file == Field::Absent {
            let fault = Fault::new("there is no page").hint("add body = \"...\" or file = \"...\"");
            report.error(&table.at, "error_pages", fault);
        }
        ErrorPage {
            statuses: check_statuses(&keys, table, report),
            content: check_content((&keys.r#type, &keys.body, &keys.file), "error_pages", report),
        }
    });
    ErrorPages(pages.collect())
}

fn check_statuses(keys: &ErrorPagesKeys, table: &Values, report: &mut Report) -> Statuses {
    let key = "error_pages.status";
    let mut ranges = Vec::new();
    match &keys.status {
        Field::Faulty => {}
        Field::Given(given) if !given.value.is_empty() => {
            for text in &given.value {
                match parse_statuses(&text.value) {
                    Ok((first, _)) if first < 400 => {
                        let fault = Fault::new(format!("{first} is no error"));
                        report.error(&text.at, key, fault.hint("write statuses from 400 on"));
                    }
                    Ok(range) => ranges.push(range),
                    Err(fault) => report.error(&text.at, key, fault),
                }
            }
        }
        _ => {
            let fault = Fault::new("a page needs the statuses that it is for");
            report.error(&table.at, key, fault.hint("add status = \"502-504\""));
        }
    }
    Statuses(ranges)
}
