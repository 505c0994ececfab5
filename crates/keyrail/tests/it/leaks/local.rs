//! Everything that handles a secret, done from the command line on a data directory, with the log at trace level.

use serde_json::Value;

use super::secrets::Secrets;
use super::table::make_table;
use crate::place::{Place, Ran};

const KEY: &str = "acme/prod/crm/local";
const PLAINTEXT: &[u8] = b"the plaintext of the command line: 4929-1337-0042";

/// What a command prints to standard output.
#[derive(Clone, Copy, PartialEq)]
enum Prints {
    /// Nothing that is secret.
    Nothing,
    /// A secret, by design: shown once, or asked for.
    Secret,
}

struct Cli<'a> {
    place: &'a Place,
    secrets: &'a mut Secrets,
}

impl Cli<'_> {
    fn run(&mut self, line: &str, stdin: &[u8], code: i32, prints: Prints) -> Ran {
        let dir = self.place.data_dir();
        let mut args = vec!["--json", "--data-dir", dir.to_str().unwrap()];
        args.extend(line.split(' '));
        let ran = self.place.run_traced(&args, stdin);
        assert_eq!(ran.code, code, "{line}: {}", ran.stderr.lines().last().unwrap_or_default());
        self.secrets.say("log of a command", &ran.stderr);
        if prints == Prints::Nothing {
            self.secrets.say("answer of a command", &ran.text());
        }
        ran
    }

    fn ok(&mut self, line: &str) -> Value {
        let ran = self.run(line, b"", 0, Prints::Nothing);
        ran.text().lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default()
    }
}

/// Makes a store and uses it; gives the owner's token.
pub(super) fn use_locally(place: &Place, init: &str, secrets: &mut Secrets) -> String {
    let table = make_table(&place.file("local.sqlite"), "local", secrets);
    let mut cli = Cli { place, secrets };
    let made = cli.run(init, b"", 0, Prints::Secret).json();
    let token = made["token"].as_str().unwrap().to_owned();
    cli.secrets.keep_token("owner's token", &token);
    for line in [
        "domain create acme",
        "app create acme/prod/crm",
        "label set swift --write-window 0s --destroy-wait 0s --cache 1s",
        &format!("key create {KEY} --label swift"),
    ] {
        cli.ok(line);
    }
    let made = cli.run("token create --role app --app acme/prod/crm --ttl 1h", b"", 0, Prints::Secret).json();
    cli.secrets.keep_token("token of the command line", made["token"].as_str().unwrap());
    cli.ok(&format!("token revoke {}", made["id"].as_str().unwrap()));

    cli.secrets.keep("plaintext of the command line", PLAINTEXT);
    let sealed = cli.run(&format!("encrypt {KEY} --context row=1"), PLAINTEXT, 0, Prints::Nothing);
    let sealed = sealed.last_json()["ciphertext"].as_str().unwrap().as_bytes().to_vec();
    let opened = cli.run(&format!("decrypt {KEY} --context row=1"), &sealed, 0, Prints::Secret);
    assert!(!opened.stdout.is_empty());
    cli.run(&format!("decrypt {KEY} --context row=2"), &sealed, 5, Prints::Nothing);
    // The plaintext where a ciphertext belongs.
    cli.run(&format!("decrypt {KEY}"), PLAINTEXT, 2, Prints::Nothing);
    let exported = cli.run(&format!("key export {KEY}@1"), b"", 0, Prints::Secret).json();
    cli.secrets.keep("exported key of the command line", exported["key"].as_str().unwrap());
    assert_eq!(cli.secrets.count("exported"), 1);

    cli.ok(&format!(
        "asset add local --url sqlite:{} --table people --id id --column email --column profile:$.phone --key {KEY}",
        table.display()
    ));
    for line in ["asset protect local --dry-run", "asset protect local", "asset census local"] {
        cli.ok(line);
    }
    cli.ok(&format!("key rotate {KEY}"));
    cli.ok("master rotate acme/prod");
    cli.run(&format!("reencrypt {KEY} --context row=1"), &sealed, 0, Prints::Nothing);
    cli.ok("campaign start local");
    cli.ok(&format!("key evidence {KEY}@1"));
    cli.ok(&format!("key retire {KEY}@1 --acknowledge local-operator"));
    cli.run(&format!("decrypt {KEY} --context row=1"), &sealed, 3, Prints::Nothing);
    cli.secrets.keep_keys_if_known(place);
    cli.ok(&format!("key destroy {KEY}@1 --acknowledge local-operator"));
    cli.ok("asset unprotect local");
    for line in
        ["audit show --limit 100", "token list", "root status", "root evidence", "health", "verify", "audit verify"]
    {
        cli.ok(line);
    }
    let traced = |(_, text): &&(&str, String)| text.contains("\"level\":\"TRACE\"");
    assert!(cli.secrets.said.iter().filter(traced).count() > 20, "commands log at trace level");
    token
}
