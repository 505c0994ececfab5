//! `init`, killed: what it left is nothing that a second one minds, or a whole store.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::SmallRng;
use rustix::process::Signal;

use super::world::{spin, wait_for};
use crate::place::Place;

pub(super) struct Init<'a> {
    make: Box<dyn Fn() -> Place + 'a>,
    random: SmallRng,
    /// How long an undisturbed one takes from its first directory on.
    takes: Duration,
}

impl<'a> Init<'a> {
    pub(super) fn new(make: impl Fn() -> Place + 'a) -> Self {
        let mut init =
            Self { make: Box::new(make), random: rand::SeedableRng::seed_from_u64(11), takes: Duration::ZERO };
        let place = (init.make)();
        let mut child = init.start(&place);
        let begun = Instant::now();
        assert!(child.wait().unwrap().success());
        init.takes = begun.elapsed();
        init
    }

    /// Starts it, and returns when its directory is there.
    fn start(&self, place: &Place) -> std::process::Child {
        let dir = place.data_dir();
        let mut command = place.command(&["--data-dir", dir.to_str().unwrap()]);
        command.args(place.init().split(' '));
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        wait_for("the directory of `init`", || dir.exists());
        child
    }

    /// Kills one; tells whether it was at work, and had not said that it was done.
    pub(super) fn kill(&mut self) -> bool {
        let place = (self.make)();
        let mut child = self.start(&place);
        spin(self.takes.mul_f64(self.random.random_range(0.0..1.0)));
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        let acknowledged = !output.stdout.is_empty();
        // What looks at it says what there is, and that is never a bug of its own.
        for line in ["verify", "audit verify", "root status"] {
            let ran = place.run(line);
            assert!([0, 2, 4, 5, 6].contains(&ran.code), "{line}: {}: {}", ran.code, ran.stderr);
            assert!(!acknowledged || ran.code == 0, "{line}: {}", ran.stderr);
        }
        let again = place.run(&place.init());
        match again.code {
            0 => assert!(!acknowledged, "a store that was acknowledged is gone"),
            2 => {}
            code => panic!("init again ended with {code}: {}", again.stderr),
        }
        for line in ["domain create acme", "verify", "audit verify"] {
            place.ok(line);
        }
        output.status.signal() == Some(Signal::KILL.as_raw()) && !acknowledged
    }
}
