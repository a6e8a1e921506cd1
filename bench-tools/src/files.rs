//! Writing a report: the same name with three endings, so that the readable lies beside the machine-readable.

use std::path::Path;

use crate::Failure;

/// Writes NAME.json, NAME.md and NAME.svg into a directory, and the JSON to one more file if asked.
///
/// # Errors
/// What the file system says, with the path.
pub(crate) fn write(
    dir: &Path,
    name: &str,
    json: &str,
    markdown: &str,
    svg: &str,
    json_too: Option<&Path>,
) -> Result<(), Failure> {
    let file = |extension: &str| dir.join(format!("{name}.{extension}"));
    let mut files = vec![(file("json"), json), (file("md"), markdown), (file("svg"), svg)];
    files.extend(json_too.map(|path| (path.to_owned(), json)));
    for (path, text) in files {
        std::fs::write(&path, text)
            .map_err(|error| Failure::Usage(format!("cannot write {}: {error}", path.display())))?;
        eprintln!("sluice-bench: wrote {}", path.display());
    }
    Ok(())
}
