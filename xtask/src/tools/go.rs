//! Programs that come as Go packages. Debian's Go is older than they ask for, but it can fetch modules, and newer
//! toolchains are modules: one of a fixed version is fetched, which Go verifies against its checksum database.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::{ensure_program, on_path};
use crate::command::Cmd;
use crate::workspace::Workspace;

/// A program that comes as a Go package, at a fixed version.
pub(crate) struct GoTool {
    /// The program.
    pub(crate) name: &'static str,
    /// The package that it is built from, with its version.
    pub(crate) package: &'static str,
}

impl GoTool {
    /// The program, which is installed at first use.
    ///
    /// # Errors
    /// It is absent and cannot be installed; the error names it.
    pub(crate) fn ensure(&self, workspace: &Workspace) -> anyhow::Result<PathBuf> {
        let root = workspace.own_dir().join("tools");
        let (own, stamp) = (root.join("bin").join(self.name), root.join(format!("{}.version", self.name)));
        if std::fs::read_to_string(&stamp).is_ok_and(|had| had == self.package) && on_path(&own) {
            return Ok(own);
        }
        self.install(&root).with_context(|| format!("the tool `{}` cannot be had", self.name))?;
        std::fs::write(stamp, self.package)?;
        Ok(own)
    }

    fn install(&self, root: &Path) -> anyhow::Result<()> {
        let home = root.join("go");
        let toolchain = toolchain(&home)?;
        let go = go(&toolchain.join("bin/go"), &home).env("GOROOT", &toolchain).env("GOBIN", root.join("bin"));
        go.args(["install", self.package]).run()?;
        // The program is all that is used later; what it was built with is near a gigabyte.
        std::fs::remove_dir_all(home)?;
        Ok(())
    }
}

/// The version of the toolchain.
const GO: &str = "1.25.5";

/// The directory of the toolchain, which is fetched.
fn toolchain(home: &Path) -> anyhow::Result<PathBuf> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("no Go is known for {other}"),
    };
    ensure_program("go", "golang-go")?;
    let module = format!("golang.org/toolchain@v0.0.1-go{GO}.linux-{arch}");
    go(Path::new("go"), home).args(["mod", "download", &module]).run()?;
    let dir = home.join("pkg/mod").join(module);
    make_executable(&dir.join("bin"))?;
    for tools in std::fs::read_dir(dir.join("pkg/tool"))? {
        make_executable(&tools?.path())?;
    }
    Ok(dir)
}

/// A Go command that keeps everything under `home`, and neither looks for another Go nor for a C compiler.
fn go(program: &Path, home: &Path) -> Cmd {
    let go = Cmd::new(program).env("GOPATH", home).env("GOMODCACHE", home.join("pkg/mod"));
    let go = go.env("GOCACHE", home.join("build")).env("GOFLAGS", "-modcacherw");
    go.env("GOTOOLCHAIN", "local").env("CGO_ENABLED", "0")
}

/// The files of a module are not executable.
fn make_executable(dir: &Path) -> anyhow::Result<()> {
    for file in std::fs::read_dir(dir)? {
        std::fs::set_permissions(file?.path(), std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}
