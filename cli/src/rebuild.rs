//! Makes derived files anew from the books.

use std::{fs, path::Path};

use anyhow::Context as _;
use counterfoil_collector::rebuild_rollups;
use counterfoil_columns::DataDirectory;

use crate::{
    args::{RebuildArgs, RebuildCommand},
    console::{Console, line},
    exit::{OK, Outcome},
};

/// Runs `counterfoil rebuild`.
pub(crate) fn run(args: &RebuildArgs) -> Outcome {
    let RebuildCommand::Rollups { data_dir } = &args.command;
    rollups(data_dir)?;
    Ok(OK)
}

fn rollups(data_dir: &Path) -> anyhow::Result<()> {
    let data = DataDirectory::open(data_dir)?;
    let logs = data.books().join("log");
    let listing = || format!("listing {}", logs.display());
    let mut origins = Vec::new();
    for entry in fs::read_dir(&logs).with_context(listing)? {
        origins.extend(entry.with_context(listing)?.file_name().into_string().ok());
    }
    origins.sort();
    let console = Console::new();
    for origin in origins {
        let manifests = rebuild_rollups(&data, &origin, |done, size| {
            console.progress(format!("{origin}: {done} of {size} manifests"));
        })?;
        console.say(format_args!("{origin}: {manifests} manifests folded"));
    }
    console.finish();
    line("the roll-ups are as the books have it");
    Ok(())
}
