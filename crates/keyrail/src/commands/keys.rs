//! Data keys and their versions.

use std::time::{Duration, Instant};

use http::Method;
use keyrail_core::name::KeyVersionName;
use keyrail_engine::Access;
use serde_json::{Value, json};

use crate::cli::Global;
use crate::cli::keys::KeyCommand;
use crate::commands::{escaped, finish, list, print};
use crate::connect::Api;
use crate::failure::Failure;
use crate::output::{Output, note};
use crate::words::{seconds, time};

/// How long to wait for a write window whose end nobody tells.
const WINDOW_STEP: Duration = Duration::from_secs(30);

/// How long to wait for a count that goes on, beyond what the request itself waited for it.
const COUNT_STEP: Duration = Duration::from_secs(5);

fn version_path(name: &KeyVersionName, verb: &str) -> String {
    format!("/v1/keys/{}/versions/{}/{verb}", name.key, name.version)
}

pub(super) async fn run(global: &Global, command: KeyCommand) -> Result<(), Failure> {
    let post = async |path: String| print(global, Access::Write, Method::POST, &path, Value::Null).await;
    match command {
        KeyCommand::Create { name, label } => {
            print(global, Access::Write, Method::POST, "/v1/keys", json!({ "name": name, "label": label })).await
        }
        KeyCommand::Show { name } => {
            print(global, Access::Read, Method::GET, &format!("/v1/keys/{name}"), Value::Null).await
        }
        KeyCommand::List { app, page } => {
            let path = app.map_or("/v1/keys".to_owned(), |app| format!("/v1/keys?app={}", escaped(&app.to_string())));
            list(global, &path, &page).await
        }
        KeyCommand::Rotate { name } => post(format!("/v1/keys/{name}/rotate")).await,
        KeyCommand::Relabel { name, label } => {
            let path = format!("/v1/keys/{name}/relabel");
            print(global, Access::Write, Method::POST, &path, json!({ "label": label })).await
        }
        KeyCommand::Evidence { name } => {
            print(global, Access::Write, Method::GET, &version_path(&name, "evidence"), Value::Null).await
        }
        KeyCommand::Retire { name, acknowledge, wait } => retire(global, &name, &acknowledge, &wait).await,
        KeyCommand::Reinstate { name } => post(version_path(&name, "reinstate")).await,
        KeyCommand::Destroy { name, acknowledge } => {
            let body = json!({ "acknowledge": acknowledge });
            print(global, Access::Write, Method::POST, &version_path(&name, "destroy"), body).await
        }
        KeyCommand::Export { name } => post(version_path(&name, "export")).await,
        KeyCommand::Suspend { name } => post(version_path(&name, "suspend")).await,
        KeyCommand::Resume { name } => post(version_path(&name, "resume")).await,
        KeyCommand::Compromise { name } => post(version_path(&name, "compromise")).await,
    }
}

/// Shows the census and the use outside assets first; waits out a write window that is longer than a request may wait,
/// and a count that takes longer, up to a bound.
async fn retire(global: &Global, name: &KeyVersionName, acknowledge: &[String], wait: &str) -> Result<(), Failure> {
    let output = Output { json: global.json };
    let (mut looking, mut retiring) = (Patience::of(wait)?, Patience::of(wait)?);
    let api = Api::connect(global, Access::Write).await?;
    if !output.json {
        // Nothing is done yet, and whoever cannot see the evidence is not to retire on it. The retirement counts anew:
        // rows may come back while somebody reads this.
        match insist(&api, Method::GET, &version_path(name, "evidence"), &Value::Null, name, &mut looking).await {
            Ok(evidence) => output.print(&evidence)?,
            refused => return finish(api, refused, output).await,
        }
    }
    let body = json!({ "acknowledge": acknowledge });
    let answer = insist(&api, Method::POST, &version_path(name, "retire"), &body, name, &mut retiring).await;
    finish(api, answer, output).await
}

/// Asks until there is an answer, or a failure that does not pass in time.
async fn insist(
    api: &Api,
    method: Method,
    path: &str,
    body: &Value,
    name: &KeyVersionName,
    patience: &mut Patience,
) -> Result<Value, Failure> {
    loop {
        let failure = match api.send(method.clone(), path, body).await {
            Err(failure) => failure,
            answer => return answer,
        };
        let told = format!("waiting: {}", failure.title);
        let pause = patience.pause(failure, name, Instant::now())?;
        note(&told);
        tokio::time::sleep(pause).await;
    }
}

/// How long a retirement is waited for, from the first refusal on: what a count takes before is not waiting.
struct Patience {
    wait: Duration,
    until: Option<Instant>,
}

impl Patience {
    fn of(wait: &str) -> Result<Self, Failure> {
        let length = Duration::from_secs(seconds(wait)?);
        if Instant::now().checked_add(length).is_none() {
            let title = format!("`{wait}` is longer than any clock counts");
            return Err(Failure::caller(title, "write a time like 5m, 12h or 30d"));
        }
        Ok(Self { wait: length, until: None })
    }

    /// How long to wait at `now` before the next attempt. Each attempt counts all assets of the key, so that a window is
    /// waited out as a whole.
    ///
    /// The failure itself, with a hint, if it does not pass by waiting, or lasts for longer than this command waits.
    fn pause(&mut self, failure: Failure, name: &KeyVersionName, now: Instant) -> Result<Duration, Failure> {
        let pause = match failure.code.as_str() {
            "write_window_open" => {
                failure.seconds_left.map_or(WINDOW_STEP, |seconds| Duration::from_secs(seconds.max(1)))
            }
            "still_counting" => COUNT_STEP,
            _ => return Err(failure),
        };
        let until = *self.until.get_or_insert_with(|| now.checked_add(self.wait).unwrap_or(now));
        if now.checked_add(pause).is_some_and(|then| then <= until) {
            return Ok(pause);
        }
        if failure.code == "still_counting" {
            return Err(failure);
        }
        // Its time goes by all the same.
        let hint = format!(
            "the window runs on by itself: run `keyrail key retire {name}` again in {}, or wait here with --wait",
            time(pause.as_secs())
        );
        Err(Failure { hint: Some(hint), ..failure })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    fn failure(code: &str, seconds_left: Option<u64>) -> Failure {
        Failure { seconds_left, ..Failure::new(Exit::Refused, code, "not yet", "wait") }
    }

    /// Attempts at a version whose window closes after `window` seconds and whose count answers `counting` times late;
    /// gives how many there were and how long it took, or the failure.
    fn attempts(wait: &str, window: u64, mut counting: u32) -> Result<(u32, u64), Failure> {
        let mut patience = Patience::of(wait).unwrap();
        // The first refusal may come long after the command began: its time counts from there.
        let begun = Instant::now() + Duration::from_secs(86_400);
        let (mut tried, mut passed) = (0, Duration::ZERO);
        loop {
            tried += 1;
            let failed = match window.saturating_sub(passed.as_secs()) {
                0 if counting > 0 => {
                    counting -= 1;
                    failure("still_counting", None)
                }
                0 => return Ok((tried, passed.as_secs())),
                left => failure("write_window_open", Some(left)),
            };
            passed += patience.pause(failed, &"acme/prod/crm/pii@1".parse().unwrap(), begun + passed)?;
        }
    }

    /// Each attempt is a census of every asset.
    #[test]
    fn a_long_window_is_waited_out_between_two_attempts() {
        let hour = "1h";
        assert_eq!(attempts(hour, 0, 0).unwrap(), (1, 0));
        assert_eq!(attempts(hour, 3_000, 0).unwrap(), (2, 3_000));
        assert_eq!(attempts(hour, 3_000, 3).unwrap(), (5, 3_015));
        let refused = attempts(hour, 3_700, 0).unwrap_err();
        assert_eq!(refused.code, "write_window_open");
        assert!(refused.hint.unwrap().contains("again in 62m"));
        let refused = attempts(hour, 3_599, 3).unwrap_err();
        assert_eq!((refused.code.as_str(), refused.hint.as_deref()), ("still_counting", Some("wait")));
        let other = Patience::of(hour).unwrap().pause(
            failure("retire_blocked", None),
            &"a/prod/b/c@1".parse().unwrap(),
            Instant::now(),
        );
        assert_eq!(other.unwrap_err().code, "retire_blocked");
    }
}
