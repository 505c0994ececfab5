//! The steps that are one command of cargo.

use std::path::PathBuf;

use crate::command::Cmd;
use crate::report::Tally;
use crate::tools::{self, CargoTool, GoTool};
use crate::workspace::{Scale, Workspace};

/// The sources are formatted.
pub(super) fn fmt(workspace: &Workspace) -> anyhow::Result<Tally> {
    workspace.cargo(&["fmt", "--all", "--check"]).run()?;
    Ok(Tally::default())
}

/// No lint fires.
pub(super) fn clippy(workspace: &Workspace) -> anyhow::Result<Tally> {
    let args = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    workspace.cargo(&args).run()?;
    Ok(Tally::default())
}

/// Unit, integration and documentation tests. All run, also after one has failed.
pub(super) fn test(workspace: &Workspace) -> anyhow::Result<Tally> {
    let tools = test_tools(workspace)?;
    let command = workspace.cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]);
    let command = command.env("KEYRAIL_TEST_SCALE", workspace.scale.as_str());
    let command = tools.into_iter().fold(command, |command, (name, place)| command.env(name, place));
    let mut tally = Tally::default();
    let status = binary_under_test(workspace, command)?.follow(|line| tally.read_harness_line(line))?;
    if !status.success() && tally.failed() == 0 {
        anyhow::bail!("`cargo test` failed ({status}) without a failed test: see its messages above");
    }
    Ok(tally)
}

/// What the tests need: installed where it is absent. Each with the variable that tells the tests where it is.
pub(super) fn test_tools(workspace: &Workspace) -> anyhow::Result<Vec<(&'static str, PathBuf)>> {
    for (program, package) in TEST_PROGRAMS {
        tools::ensure_program(program, package)?;
    }
    let mut found = tools::postgres(workspace)?;
    found.push(("KEYRAIL_PYTHON", tools::python(workspace)?));
    found.push(("KEYRAIL_LITEWITNESS", LITEWITNESS.ensure(workspace)?));
    Ok(found)
}

/// At full scale the tests that start a server start the release build; otherwise the one built beside them.
fn binary_under_test(workspace: &Workspace, command: Cmd) -> anyhow::Result<Cmd> {
    if workspace.scale == Scale::Ordinary {
        return Ok(command);
    }
    workspace.cargo(&["build", "--release", "--locked", "-p", "keyrail"]).run()?;
    Ok(command.env("KEYRAIL_BIN", workspace.target().join("release/keyrail")))
}

/// The documentation builds without warnings.
pub(super) fn doc(workspace: &Workspace) -> anyhow::Result<Tally> {
    let command = workspace.cargo(&["doc", "--workspace", "--no-deps", "--locked"]);
    command.env("RUSTDOCFLAGS", "-D warnings").run()?;
    Ok(Tally::default())
}

/// Bans, licences and sources of the dependencies; `deny.toml` says what and why.
pub(super) fn deny(workspace: &Workspace) -> anyhow::Result<Tally> {
    let program = CARGO_DENY.ensure(workspace)?;
    let args = ["--all-features", "--locked", "check", "bans", "licenses", "sources"];
    Cmd::new(program).args(args).run()?;
    Ok(Tally::default())
}

const CARGO_DENY: CargoTool =
    CargoTool { name: "cargo-deny", version: "0.20.2", install_args: &["--no-default-features"] };

/// A witness of transparency logs that is not ours.
const LITEWITNESS: GoTool = GoTool { name: "litewitness", package: "filippo.io/torchwood/cmd/litewitness@v0.9.0" };

/// Programs that tests call, each with the Debian package that holds it: a core of a running process is forced with
/// `gcore`, system calls are traced with `strace`, an HSM is played by SoftHSM2, also behind `p11-kit server`.
const TEST_PROGRAMS: &[(&str, &str)] = &[
    ("cc", "gcc"),
    ("gcore", "gdb"),
    ("p11-kit", "p11-kit"),
    ("pkcs11-tool", "opensc"),
    ("softhsm2-util", "softhsm2"),
    ("ssh-agent", "openssh-client"),
    ("strace", "strace"),
];
