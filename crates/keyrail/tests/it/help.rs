//! What every command says of itself, in one golden file.

use std::fmt::Write;

use crate::place::Place;

/// The help of a command, and of all below it.
fn collect(place: &Place, words: &mut Vec<String>, out: &mut String) {
    let mut args: Vec<&str> = words.iter().map(String::as_str).collect();
    args.push("--help");
    let mut command = place.command(&args);
    let ran = command.env("COLUMNS", "100").env("NO_COLOR", "1").output().unwrap();
    assert!(ran.status.success(), "{words:?}");
    assert!(ran.stderr.is_empty(), "{words:?}: {}", String::from_utf8_lossy(&ran.stderr));
    let text = String::from_utf8(ran.stdout).unwrap();
    writeln!(out, "$ keyrail {}\n{}", args.join(" "), text.trim_end()).unwrap();
    out.push('\n');
    let listed =
        text.split("Commands:\n").nth(1).unwrap_or_default().split("\n\n").next().unwrap_or_default().to_owned();
    for line in listed.lines() {
        let Some(name) = line.strip_prefix("  ").and_then(|rest| rest.split(' ').next()) else { continue };
        if !name.is_empty() && name != "help" {
            words.push(name.to_owned());
            collect(place, words, out);
            words.pop();
        }
    }
}

#[test]
fn every_command_says_what_it_does() {
    let place = Place::new();
    let mut found = String::new();
    collect(&place, &mut Vec::new(), &mut found);
    // The contract's nouns and verbs are all there.
    for line in [
        "init",
        "serve",
        "domain create",
        "app create",
        "label list",
        "label set",
        "token create",
        "key create",
        "key show",
        "key list",
        "key rotate",
        "key retire",
        "key reinstate",
        "key destroy",
        "key export",
        "master rotate",
        "encrypt",
        "decrypt",
        "asset add",
        "asset protect",
        "asset unprotect",
        "asset census",
        "asset accept-damaged",
        "campaign start",
        "campaign status",
        "campaign pause",
        "campaign resume",
        "campaign rollback",
        "audit show",
        "audit verify",
        "verify",
        "root status",
        "quickstart",
    ] {
        assert!(found.contains(&format!("$ keyrail {line} --help\n")), "{line}");
    }
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/help.golden");
    if std::env::var_os("KEYRAIL_BLESS").is_some() {
        std::fs::write(golden, &found).unwrap();
    }
    assert_eq!(found, std::fs::read_to_string(golden).unwrap(), "KEYRAIL_BLESS=1 writes the file anew");
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let place = Place::new();
    for (shell, mark) in [("bash", "_keyrail()"), ("zsh", "#compdef keyrail"), ("fish", "complete -c keyrail")] {
        let text = place.ok(&format!("completions {shell}")).text();
        assert!(text.contains(mark), "{shell}");
        for word in ["accept-damaged", "reinstate", "local-operator", "token-file"] {
            assert!(text.contains(word), "{shell}: {word}");
        }
    }
    assert_eq!(place.run("completions tcsh").code, 2);
    // A shell takes what is made for it.
    std::fs::write(place.file("keyrail.bash"), place.ok("completions bash").stdout).unwrap();
    let checked = std::process::Command::new("bash").arg("-n").arg(place.file("keyrail.bash")).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    place.ok(&format!("man {}", place.file("man").display()));
    for page in ["keyrail.1", "keyrail-key-retire.1", "keyrail-asset-accept-damaged.1", "keyrail-campaign-rollback.1"] {
        let text = std::fs::read_to_string(place.file("man").join(page)).unwrap();
        assert!(text.contains(".TH keyrail") && text.contains(".SH SYNOPSIS"), "{page}");
    }
    assert!(place.ok("--version").text().starts_with("keyrail "));
}
