//! `ctl config pull`: what a host runs of its own, as files of a bundle.

use std::path::PathBuf;

use clap::Args;
use fleetvisor_proto::fleet::{LocalConfig, PullRequest};
use serde::Serialize;

use super::view::FileJson;
use crate::cli::{Cli, Form};
use crate::fleet::client::{FleetError, connect_bundles, reading};
use crate::fleet::exit::Exit;
use crate::fleet::print;
use crate::verb::{print_json, refuse_scope};

/// Shows the programs of a host's own configuration as a bundle
///
/// To hand them over to the fleet: pull them into a directory, take them out of the host's configuration, push the
/// directory. Secrets are shown, for they are part of it. With -o json one document: {"host", "files": [{"name",
/// "text"}], "left_out"}.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  ctl config pull web-01 > web.conf\n  ctl config pull web-01 --to conf.d/web"
)]
pub(super) struct Pull {
    /// The host's name
    host: String,
    /// Writes files into this directory, which must be empty or new, instead of to stdout
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

#[derive(Serialize)]
struct PulledJson {
    host: String,
    files: Vec<FileJson>,
    /// Sections that cannot be in a bundle.
    left_out: Vec<String>,
}

impl Pull {
    pub(super) async fn of_fleet(&self, cli: &Cli) -> Result<Exit, FleetError> {
        refuse_scope(&cli.scope)?;
        let mut bundles = connect_bundles(&cli.access).await?;
        let request = PullRequest { host: self.host.clone() };
        let LocalConfig { files, left_out, .. } =
            bundles.pull(reading(request, &cli.access)).await?.into_inner();
        let files: Vec<FileJson> = files
            .into_iter()
            .map(|file| FileJson { name: file.name, text: String::from_utf8_lossy(&file.text).into_owned() })
            .collect();
        if let Some(folder) = &self.to {
            self.write(folder, &files)?;
        }
        match cli.access.form() {
            Form::Json => print_json(&PulledJson { host: self.host.clone(), files, left_out })?,
            Form::Text => {
                if !left_out.is_empty() {
                    eprintln!("ctl: left out, for it cannot be in a bundle: {}", left_out.join(", "));
                }
                match self.to {
                    Some(_) => print::lines(&files.into_iter().map(|file| file.name).collect::<Vec<_>>())?,
                    None => {
                        let whole =
                            |file: FileJson| format!("; ---- {}\n{}", file.name, file.text.trim_end());
                        print::lines(&files.into_iter().map(whole).collect::<Vec<_>>())?;
                    }
                }
            }
        }
        Ok(Exit::Done)
    }

    fn write(&self, folder: &std::path::Path, files: &[FileJson]) -> Result<(), FleetError> {
        let failed = |error: std::io::Error| {
            FleetError::Usage(format!("cannot write to {}: {error}", folder.display()))
        };
        std::fs::create_dir_all(folder).map_err(failed)?;
        if std::fs::read_dir(folder).map_err(failed)?.next().is_some() {
            return Err(FleetError::Usage(format!("{} is not empty", folder.display())));
        }
        for file in files {
            // A name that a controller gives must not lead anywhere else.
            let name = std::path::Path::new(&file.name).file_name().unwrap_or_default();
            std::fs::write(folder.join(name), &file.text).map_err(failed)?;
        }
        Ok(())
    }
}
