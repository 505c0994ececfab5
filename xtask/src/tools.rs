//! Tools that the tests need: taken from the path where they are there, else installed, else named as missing.

mod go;
mod postgres;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::command::Cmd;
use crate::workspace::Workspace;
pub(crate) use go::GoTool;
pub(crate) use postgres::postgres;

/// A program that comes as a crate, at a fixed version so that its findings do not change by themselves.
pub(crate) struct CargoTool {
    /// The crate and the program.
    pub(crate) name: &'static str,
    /// The version.
    pub(crate) version: &'static str,
    /// Further arguments of `cargo install`.
    pub(crate) install_args: &'static [&'static str],
}

impl CargoTool {
    /// The program: the one on the path if it has this version, else our own, which is installed at first use.
    ///
    /// # Errors
    /// It is absent and cannot be installed.
    pub(crate) fn ensure(&self, workspace: &Workspace) -> anyhow::Result<PathBuf> {
        let root = workspace.own_dir().join("tools");
        let own = root.join("bin").join(self.name);
        let known = [PathBuf::from(self.name), own.clone()];
        if let Some(found) = known.into_iter().find(|program| self.is_version_of(program)) {
            return Ok(found);
        }
        self.install(workspace, &root).with_context(|| format!("the tool `{}` cannot be had", self.name))?;
        Ok(own)
    }

    fn is_version_of(&self, program: &Path) -> bool {
        let said = Cmd::new(program).args(["--version"]).output();
        said.is_ok_and(|said| said.split_whitespace().any(|word| word == self.version))
    }

    /// Installed unoptimised and without debugging information: building such a tool takes longer than running it.
    fn install(&self, workspace: &Workspace, root: &Path) -> anyhow::Result<()> {
        let build = root.join("build");
        let place = ["--root".as_ref(), root.as_os_str(), "--target-dir".as_ref(), build.as_os_str()];
        let install = ["install", self.name, "--version", self.version, "--locked", "--debug", "--force"];
        let install = workspace.cargo(&install).args(self.install_args).args(place);
        install.env("CARGO_PROFILE_DEV_DEBUG", "0").run()
    }
}

/// Makes sure that a program is on the path, and installs the Debian package that holds it where it is not.
///
/// # Errors
/// It is absent and cannot be installed; the error names it.
pub(crate) fn ensure_program(program: &str, package: &str) -> anyhow::Result<()> {
    if on_path(program) {
        return Ok(());
    }
    apt_install(package).with_context(|| format!("the tool `{program}` cannot be had"))?;
    if !on_path(program) {
        bail!("the tool `{program}` cannot be had: package `{package}` does not hold it");
    }
    Ok(())
}

/// The Python interpreter of an environment that holds the packages of `xtask/python-requirements.txt`.
///
/// # Errors
/// Python or a package is absent and cannot be installed; the error names it.
pub(crate) fn python(workspace: &Workspace) -> anyhow::Result<PathBuf> {
    let requirements = workspace.join("xtask/python-requirements.txt");
    let wanted = std::fs::read_to_string(&requirements)?;
    let venv = workspace.own_dir().join("venv");
    let (python, stamp) = (venv.join("bin/python"), venv.join("requirements.txt"));
    if std::fs::read_to_string(&stamp).is_ok_and(|had| had == wanted) && on_path(&python) {
        return Ok(python);
    }
    make_venv(&venv)?;
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r"];
    let installed = Cmd::new(&python).args(install).args([&requirements]).run();
    installed.context("the Python packages of `xtask/python-requirements.txt` cannot be had")?;
    std::fs::write(stamp, wanted)?;
    Ok(python)
}

fn make_venv(venv: &Path) -> anyhow::Result<()> {
    ensure_program("python3", "python3")?;
    let make = || Cmd::new("python3").args(["-m", "venv", "--clear"]).args([venv]).run();
    if make().is_ok() {
        return Ok(());
    }
    // Debian ships Python without the part that makes environments.
    apt_install("python3-venv").and_then(|()| make()).context("the tool `python3 -m venv` cannot be had")
}

fn on_path(program: impl AsRef<Path>) -> bool {
    let program = program.as_ref();
    if program.is_absolute() {
        return program.is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

fn apt_install(package: &str) -> anyhow::Result<()> {
    if !on_path("apt-get") {
        bail!("package `{package}` is missing, and there is no apt-get to install it with");
    }
    // A failed update matters only if the install fails too: the lists may be there already.
    let _ = apt(&["update", "-qq"]).run();
    apt(&["install", "-qq", "-y", "--no-install-recommends", package]).run()
}

fn apt(args: &[&str]) -> Cmd {
    let command = if rustix::process::geteuid().is_root() {
        Cmd::new("apt-get")
    } else {
        Cmd::new("sudo").args(["--non-interactive", "apt-get"])
    };
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive")
}
