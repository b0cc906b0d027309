//! Writes the dashboards anew.

use std::io::Write as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = counterfoil_dashboards::directory();
    let mut out = std::io::stdout().lock();
    for (name, text) in counterfoil_dashboards::files()? {
        let file = directory.join(name);
        std::fs::write(&file, text)
            .map_err(|error| format!("writing dashboard {}: {error}", file.display()))?;
        writeln!(out, "{}", file.display())?;
    }
    Ok(())
}
