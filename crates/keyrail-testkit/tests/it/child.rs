//! Children are waited for without sleeping and ended by their own id.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant};

use keyrail_testkit::{Child, READY_LIMIT, Server};

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

#[test]
fn a_server_is_ready_when_it_names_its_address() {
    let script = "echo starting >&2; echo 'listening on http://127.0.0.1:4711'; exec sleep 600";
    let server = Server::start(shell(script), READY_LIMIT).unwrap();
    assert_eq!(server.url(), "http://127.0.0.1:4711");
    let exit = server.into_child().kill().unwrap();
    assert_eq!(exit.status.signal(), Some(9));
    assert!(exit.stdout.contains("listening"));
}

#[test]
fn a_server_that_ends_first_is_an_error_with_its_words() {
    let error = Server::start(shell("echo 'error: the port is taken' >&2; exit 6"), READY_LIMIT).err().unwrap();
    assert!(error.to_string().contains("the port is taken"), "{error}");
}

#[test]
fn a_silent_server_is_given_up_at_the_limit() {
    let began = Instant::now();
    let error = Server::start(shell("exec sleep 600"), Duration::from_millis(200)).err().unwrap();
    assert!(error.to_string().contains("within 200ms"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn stop_lets_it_end_in_its_own_way() {
    let child = Child::start(shell("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done")).unwrap();
    child.wait_line(READY_LIMIT, |line| (line == "up").then_some(())).unwrap();
    let exit = child.stop(READY_LIMIT).unwrap();
    assert!(exit.status.success());
    assert_eq!(exit.stdout, "up\nbye\n");
}

#[test]
fn waiting_has_a_limit_and_then_kills() {
    let child = Child::start(shell("exec sleep 600")).unwrap();
    let pid = child.pid();
    assert!(child.wait(Duration::from_millis(100)).is_err());
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "the child must not outlive its handle");
}
