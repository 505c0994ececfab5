//! A disk that fails by script, under a program that knows nothing of it, and what is left of it after a power cut.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use tempfile::TempDir;

use crate::child::run_to_end;

/// The disk under a directory. What commands that [`Disk::equip`] equips write, name and sync below it goes through a shim
/// under the system calls; see `disk/shim.c` for what that can do.
pub struct Disk {
    root: PathBuf,
    /// The shim, what it is told, and what it keeps.
    state: TempDir,
}

impl Disk {
    /// Builds the shim for what lies below `root`, all of which is taken for durable.
    ///
    /// # Errors
    /// There is no C compiler; there is no such directory.
    pub fn under(root: &Path) -> anyhow::Result<Self> {
        let root = root.canonicalize()?;
        // Beside it: what is durable is put back by renaming.
        let state = tempfile::tempdir_in(root.parent().context("no directory to work in")?)?;
        let source = state.path().join("shim.c");
        fs::write(&source, include_str!("disk/shim.c"))?;
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(state.path().join("shim.so")).arg(&source);
        run_to_end(compiler).context("the shim cannot be compiled")?;
        let disk = Self { root, state };
        disk.forget()?;
        Ok(disk)
    }

    /// Puts the shim under a command.
    pub fn equip(&self, command: &mut Command) {
        command.env("LD_PRELOAD", self.state.path().join("shim.so"));
        command.env("KEYRAIL_DISK_ROOT", &self.root).env("KEYRAIL_DISK_STATE", self.state.path());
    }

    /// From now on the disk does this, in lines of `CALLS PART WHAT`; nothing else fails.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn fails(&self, script: &str) -> anyhow::Result<()> {
        // At once: the shim may look at any moment.
        let next = self.state.path().join("faults.next");
        fs::write(&next, script)?;
        Ok(fs::rename(next, self.state.path().join("faults"))?)
    }

    /// From now on the disk works.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn works(&self) -> anyhow::Result<()> {
        self.fails("")
    }

    /// What a power cut leaves at the least: of each file what it held when it was synced last, of each directory the names
    /// that it had then. Whoever wrote there is dead.
    ///
    /// # Errors
    /// The directory cannot be replaced.
    pub fn lose_power(&self) -> anyhow::Result<()> {
        let left = self.state.path().join("left");
        let root = fs::read_to_string(self.state.path().join("durable/root")).context("nobody used this disk")?;
        self.put_back(&root, &left)?;
        fs::remove_dir_all(&self.root)?;
        fs::rename(left, &self.root)?;
        self.works()?;
        self.forget()
    }

    fn put_back(&self, key: &str, to: &Path) -> anyhow::Result<()> {
        let durable = self.state.path().join("durable");
        fs::DirBuilder::new().create(to)?;
        fs::set_permissions(to, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        // A directory that was never synced may be empty.
        let names = fs::read_to_string(durable.join("names").join(key)).unwrap_or_default();
        for line in names.lines() {
            let mut words = line.splitn(3, ' ');
            let (Some(kind), Some(key), Some(name)) = (words.next(), words.next(), words.next()) else { continue };
            let path = to.join(name);
            if kind == "d" {
                self.put_back(key, &path)?;
            } else {
                let content = fs::read(durable.join("files").join(key)).unwrap_or_default();
                fs::write(&path, content)?;
                fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
            }
        }
        Ok(())
    }

    /// All that is there is durable; the shim looks at it when it is started.
    fn forget(&self) -> anyhow::Result<()> {
        let durable = self.state.path().join("durable");
        if durable.exists() {
            fs::remove_dir_all(&durable)?;
        }
        fs::create_dir_all(durable.join("files"))?;
        Ok(fs::create_dir_all(durable.join("names"))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::Child;

    const LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

    /// Python on the disk; what it prints.
    fn run(disk: &Disk, root: &Path, script: &str) -> String {
        let mut command = Command::new("python3");
        command.args(["-c", script]).current_dir(root);
        disk.equip(&mut command);
        let ended = Child::start(command).unwrap().wait(LIMIT).unwrap();
        assert!(ended.status.success(), "{}", ended.stderr);
        ended.stdout
    }

    const OPEN: &str = "import os\nfile, dir = os.open('a', os.O_RDWR | os.O_CREAT), os.open('.', 0)\n\
        def tried(f, *args):\n  try: return f(*args)\n  except OSError as e: return e.errno\n";

    /// A shim that does nothing would let every test pass that it is for.
    #[test]
    fn the_disk_fails_as_it_is_told_and_keeps_what_was_synced() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("there"), "before").unwrap();
        let disk = Disk::under(&root).unwrap();
        let write = format!("{OPEN}print(tried(os.write, file, b'x' * 5000), tried(os.fsync, file))");
        for (script, said) in [
            ("s / fail:5", "5000 5"),
            ("s / done:5", "5000 5"),
            ("s other fail:5", "5000 None"),
            ("w / fail:28", "28 None"),
            ("w / done:28", "28 None"),
            ("s / lie", "5000 None"),
        ] {
            disk.fails(script).unwrap();
            assert_eq!(run(&disk, &root, &write).trim(), said, "{script}");
        }
        // Full: what is there can be overwritten, nothing grows, and nothing is made.
        disk.fails("wcr / full").unwrap();
        let full = format!(
            "{OPEN}print(tried(os.pwrite, file, b'y', 10), tried(os.pwrite, file, b'y', 100000), tried(os.mkdir, 'd'))"
        );
        assert_eq!(run(&disk, &root, &full).trim(), "1 28 28");
        disk.works().unwrap();
        // Synced, synced by a lie, not synced, named and not synced.
        let writes = format!(
            "{OPEN}os.ftruncate(file, 0); os.pwrite(file, b'synced', 0); os.fsync(file); os.fsync(dir)\n\
             os.pwrite(file, b'lost!!', 0)\nos.rename('there', 'elsewhere'); open('b', 'w').write('b')"
        );
        run(&disk, &root, &writes);
        disk.lose_power().unwrap();
        let read = |name: &str| fs::read_to_string(root.join(name)).ok();
        assert_eq!(
            ["a", "there", "elsewhere", "b"].map(read),
            [Some("synced".into()), Some("before".into()), None, None]
        );
        disk.fails("s / lie").unwrap();
        run(&disk, &root, &format!("{OPEN}os.pwrite(file, b'a lie', 0); os.fsync(file); os.fsync(dir)"));
        disk.lose_power().unwrap();
        assert_eq!(read("a"), Some("synced".into()));
    }
}
