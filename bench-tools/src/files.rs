//! Writing a report: the same name with three endings, so that the readable lies beside the machine-readable.

use std::path::PathBuf;

use clap::Args;

use crate::Failure;

/// Where a report goes.
#[derive(Clone, Debug, Default, Args)]
pub struct ReportArgs {
    /// Directory for the report
    #[arg(long, value_name = "DIR", default_value = "reports")]
    pub out: PathBuf,
    /// Name of the report's files [default: the subcommand, the server it starts if it is one, and the date]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Write the JSON to this file too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// A remark for the report, such as "emulated: speed means nothing"
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
}

impl ReportArgs {
    /// Makes the directory: it must be there before an hour of measuring, not after.
    ///
    /// # Errors
    /// What the file system says, with the path.
    pub(crate) fn make_dir(&self) -> Result<(), Failure> {
        std::fs::create_dir_all(&self.out).map_err(|error| {
            Failure::Usage(format!("cannot make the directory {}: {error}", self.out.display()))
        })
    }

    /// Writes the report's files; without a name, under that of the subcommand and the day.
    ///
    /// # Errors
    /// What the file system says, with the path.
    pub(crate) fn write(
        &self,
        subcommand: &str,
        day: &str,
        json: &str,
        markdown: &str,
        svg: &str,
    ) -> Result<(), Failure> {
        let name = self.name.clone().unwrap_or_else(|| format!("{subcommand}-{day}"));
        let file = |extension: &str| self.out.join(format!("{name}.{extension}"));
        let mut files = vec![(file("json"), json), (file("md"), markdown), (file("svg"), svg)];
        files.extend(self.json.iter().map(|path| (path.clone(), json)));
        for (path, text) in files {
            std::fs::write(&path, text)
                .map_err(|error| Failure::Usage(format!("cannot write {}: {error}", path.display())))?;
            eprintln!("sluice-bench: wrote {}", path.display());
        }
        Ok(())
    }
}
