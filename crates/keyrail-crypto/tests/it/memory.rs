//! Protected memory and the hardened process, each looked at in a process of its own.

use std::process::Command;

use keyrail_crypto::locked::{Protection, protection};
use keyrail_crypto::process::harden;
use keyrail_crypto::secret::DataKey;
use rustix::process::{DumpableBehavior, Resource, Rlimit, dumpable_behavior, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

/// Says to a process of this test what it is to do.
const TASK: &str = "KEYRAIL_MEMORY_TASK";

/// Runs `task` in a process that runs one test of this binary only, and gives what it printed.
fn in_a_process(test: &str, task: &str) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", test, "--nocapture"]).env(TASK, task).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("task done"), "{said}");
    said
}

fn task() -> Option<String> {
    std::env::var(TASK).ok()
}

/// The flags of each mapping of this process (proc(5): `lo` locked, `dd` not dumped, `wf` wiped on fork).
fn page_flags() -> Vec<Vec<String>> {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let flags = maps.lines().filter_map(|line| line.strip_prefix("VmFlags:"));
    flags.map(|flags| flags.split_whitespace().map(str::to_owned).collect()).collect()
}

/// Makes keys, uses them and checks that they are what they were.
fn use_keys(count: usize) {
    let keys: Vec<_> = (0..count).map(|_| DataKey::generate().unwrap()).collect();
    let copies: Vec<_> = keys.iter().map(|key| *key.danger_export().unwrap().as_bytes()).collect();
    assert!(keys.iter().zip(&copies).all(|(key, copy)| key.danger_export().unwrap().as_bytes() == copy));
}

#[test]
fn keys_work_where_no_memory_may_be_locked() {
    let Some(task) = task() else {
        let none = in_a_process("memory::keys_work_where_no_memory_may_be_locked", "0");
        assert!(none.contains("Unlocked"), "{none}");
        let some = in_a_process("memory::keys_work_where_no_memory_may_be_locked", "8388608");
        assert!(!some.contains("Unlocked"), "{some}");
        return;
    };
    // Root may lock beyond the limit; this thread shall not.
    let had = capabilities(None).unwrap();
    let without = rustix::thread::CapabilitySets {
        effective: had.effective - CapabilitySet::IPC_LOCK,
        permitted: had.permitted - CapabilitySet::IPC_LOCK,
        inheritable: had.inheritable - CapabilitySet::IPC_LOCK,
    };
    set_capabilities(None, without).unwrap();
    let limit = task.parse().unwrap();
    setrlimit(Resource::Memlock, Rlimit { current: Some(limit), maximum: Some(limit) }).unwrap();
    use_keys(5_000);
    if protection() == Protection::Unlocked {
        let flags = page_flags();
        let ours = flags.iter().find(|flags| flags.contains(&"wf".to_owned())).expect("pages that a fork wipes");
        assert!(ours.contains(&"dd".to_owned()), "left out of dumps: {ours:?}");
        assert!(!ours.contains(&"lo".to_owned()), "not locked: {ours:?}");
    }
    println!("{:?}, task done", protection());
}

#[test]
fn the_pages_are_locked_and_not_dumped() {
    if task().is_none() {
        in_a_process("memory::the_pages_are_locked_and_not_dumped", "look");
        return;
    }
    let key = DataKey::generate().unwrap();
    let flags = page_flags();
    let has = |flags: &Vec<String>, flag: &str| flags.iter().any(|word| word == flag);
    // Left out of dumps, and locked as far as the machine allows it.
    let locked = protection() != Protection::Unlocked;
    assert!(flags.iter().any(|flags| has(flags, "dd") && has(flags, if locked { "lo" } else { "wf" })), "{flags:?}");
    assert!(key.ct_eq(&key));
    println!("task done");
}

#[test]
fn many_threads_share_the_pages_and_never_a_slot() {
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for round in 0..20 {
                    use_keys(50 + round);
                }
            });
        }
    });
}

#[test]
fn there_is_an_end_to_the_keys_in_memory_and_it_is_an_error() {
    if task().is_none() {
        in_a_process("memory::there_is_an_end_to_the_keys_in_memory_and_it_is_an_error", "exhaust");
        return;
    }
    let mut keys = Vec::new();
    let error = loop {
        match DataKey::generate() {
            Ok(key) => keys.push(key),
            Err(error) => break error,
        }
    };
    assert_eq!(keys.len(), 16 * 1024 * 1024 / 32, "half a million keys of 32 bytes");
    assert_eq!(error.to_string(), "the operating system gave no memory for secrets: the limit is reached");
    keys.truncate(1_000);
    // What was given back can be had again.
    use_keys(1_000);
    println!("task done");
}

#[test]
fn a_hardened_process_cannot_be_dumped() {
    if task().is_none() {
        in_a_process("memory::a_hardened_process_cannot_be_dumped", "harden");
        return;
    }
    assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::Dumpable, "before");
    harden().unwrap();
    assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    assert_eq!(getrlimit(Resource::Core), Rlimit { current: Some(0), maximum: Some(0) });
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"]);
    println!("task done");
}
