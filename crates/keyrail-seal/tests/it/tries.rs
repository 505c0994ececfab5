//! How often a token is given a PIN: a wrong one once, whoever asks and however its file is written.

use std::path::Path;
use std::sync::Barrier;

use keyrail_seal::{Pkcs11Root, RootOfTrust, RootSlot, RootSpec};
use keyrail_testkit::softhsm::{PIN, Shim, SoftHsm, in_child};

use crate::place::{Place, protected_by, word};

/// `CKR_DEVICE_ERROR`, PKCS #11 3.1, section 6.
const DEVICE_ERROR: u64 = 0x30;

/// A store's root on a token behind a shim, with a PIN file.
struct Tries {
    place: Place,
    shim: Shim,
    slot: RootSlot,
}

impl Tries {
    /// Runs `test` in a child, where SoftHSM2 is set up for it.
    fn run(name: &str, test: impl FnOnce(&Self)) {
        let hsm = SoftHsm::new().unwrap();
        // The child compiles no shim of its own: its environment names the one of the parent.
        let shim = hsm.shim().unwrap();
        let equip = |command: &mut std::process::Command| {
            hsm.equip(command);
            shim.equip(command).unwrap();
            command.env("TRIES_SHIM", shim.module());
        };
        if !in_child(&format!("tries::{name}"), equip).unwrap() {
            return;
        }
        let shim = Shim::at(Path::new(&std::env::var_os("TRIES_SHIM").unwrap())).unwrap();
        let place = Place::new();
        place.write("pin", PIN.as_bytes(), 0o600);
        let root = root(shim.module(), &place, "pin");
        root.make_key_if_absent().unwrap();
        let slot = protected_by(&root).1;
        test(&Self { place, shim, slot });
    }

    /// What opening the slot comes to, with this PIN in the file.
    fn open(&self, pin: &str) -> &'static str {
        self.place.write("pin", pin.as_bytes(), 0o600);
        self.open_as_it_is(self.shim.module())
    }

    fn open_as_it_is(&self, module: &Path) -> &'static str {
        root(module, &self.place, "pin").open(&self.slot).map_or_else(|error| word(&error), |_| "opened")
    }

    fn given(&self) -> usize {
        self.shim.calls("Login")
    }
}

fn root(module: &Path, place: &Place, pin: &str) -> Pkcs11Root {
    let spec =
        format!("pkcs11:{}?token=keyrail%20test&object=root&pin-file={}", module.display(), place.path(pin).display());
    let RootSpec::Pkcs11(spec) = spec.parse().unwrap() else { panic!("another kind") };
    Pkcs11Root::new(spec)
}

#[test]
fn a_wrong_pin_is_given_once_to_all_who_wait() {
    Tries::run("a_wrong_pin_is_given_once_to_all_who_wait", |tries| {
        tries.shim.lock_after(9).unwrap();
        tries.place.write("pin", b"999999-wrong", 0o600);
        let before = tries.given();
        tries.shim.script("Login", 0, 1, 300).unwrap();
        let together = Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    together.wait();
                    assert_eq!(tries.open_as_it_is(tries.shim.module()), "pin-refused");
                });
            }
        });
        assert_eq!(tries.given(), before + 1);
        assert_eq!(tries.open(PIN), "opened");
    });
}

#[test]
fn a_refused_pin_is_known_again_among_others_and_in_a_file_that_is_written_anew() {
    Tries::run("a_refused_pin_is_known_again_among_others_and_in_a_file_that_is_written_anew", |tries| {
        tries.shim.lock_after(9).unwrap();
        let before = tries.given();
        for _ in 0..3 {
            assert_eq!((tries.open("111111-wrong"), tries.open("222222-wrong")), ("pin-refused", "pin-refused"));
        }
        assert_eq!(tries.given(), before + 2);
        // The security officer gives the token another PIN, and it counts anew: one of them may be right now.
        tries.shim.unlock().unwrap();
        for _ in 0..3 {
            assert_eq!(tries.open("111111-wrong"), "pin-refused");
        }
        assert_eq!(tries.given(), before + 3);
        assert_eq!(tries.open(PIN), "opened");
    });
}

#[test]
fn a_pin_of_which_nobody_knows_is_not_given_again_once_a_wrong_one_is_counted() {
    Tries::run("a_pin_of_which_nobody_knows_is_not_given_again_once_a_wrong_one_is_counted", |tries| {
        tries.shim.lock_after(9).unwrap();
        let before = tries.given();
        tries.shim.script("Login", DEVICE_ERROR, 1, 0).unwrap();
        assert_eq!(tries.open(PIN), "token-failed");
        assert_eq!(tries.given(), before + 1, "it was given again at once");
        assert_eq!(tries.open(PIN), "opened", "nothing was counted");
        tries.shim.script("Login", DEVICE_ERROR, 1, 0).unwrap();
        assert_eq!(tries.open(PIN), "token-failed");
        tries.shim.count_wrong(1).unwrap();
        let before = tries.given();
        for _ in 0..2 {
            assert_eq!(tries.open(PIN), "pin-doubtful");
        }
        assert_eq!(tries.given(), before);
        // Somebody logs in by another tool.
        tries.shim.unlock().unwrap();
        assert_eq!(tries.open(PIN), "opened");
    });
}

#[test]
fn a_link_to_a_module_is_that_module() {
    Tries::run("a_link_to_a_module_is_that_module", |tries| {
        let link = tries.place.path("link.so");
        std::os::unix::fs::symlink(tries.shim.module(), &link).unwrap();
        let before = tries.shim.calls("Initialize");
        tries.shim.script("Login", 0, 1, 1_000).unwrap();
        std::thread::scope(|scope| {
            let given = tries.given();
            let first = scope.spawn(|| tries.open_as_it_is(tries.shim.module()));
            while tries.given() == given {
                assert!(!first.is_finished());
                std::thread::yield_now();
            }
            assert_eq!(tries.open_as_it_is(&link), "opened");
            assert_eq!(first.join().unwrap(), "opened");
        });
        assert_eq!(tries.shim.calls("Initialize"), before + 2, "one of them ended the other's session");
    });
}
