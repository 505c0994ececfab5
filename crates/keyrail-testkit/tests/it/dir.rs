//! Places are apart, on the checkout's own disk, and gone afterwards.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use keyrail_testkit::{TempDir, TempHome, free_port};

#[test]
fn a_directory_is_on_the_disk_of_the_build_and_goes_away() {
    let dir = TempDir::new().unwrap();
    let exe = std::env::current_exe().unwrap();
    assert_eq!(dir.path().metadata().unwrap().dev(), exe.metadata().unwrap().dev());
    let path = dir.path().to_path_buf();
    std::fs::write(dir.join("file"), b"x").unwrap();
    drop(dir);
    assert!(!path.exists());
}

#[test]
fn a_housed_command_sees_its_own_home_and_none_of_our_settings() {
    let home = TempHome::new().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "echo \"$HOME\"; pwd; env"]);
    home.house(&mut command);
    let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), home.path().to_str());
    assert_eq!(lines.next(), home.work().to_str());
    assert!(!lines.any(|line| line.starts_with("KEYRAIL_") || line.starts_with("XDG_")), "{text}");
}

#[test]
fn a_free_port_can_be_bound() {
    let port = free_port().unwrap();
    std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
}
