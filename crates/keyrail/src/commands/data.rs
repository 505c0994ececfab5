//! Encrypt, decrypt and re-encrypt what comes on standard input.

use std::io::{IsTerminal, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use keyrail_crypto::envelope::PLAINTEXT_LEN_MAX;
use keyrail_engine::Access;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use crate::cli::Global;
use crate::cli::keys::DataArgs;
use crate::connect::Api;
use crate::failure::{Exit, Failure};
use crate::output::{line, note, raw};
use crate::words::pair;

/// The most bytes of a line with a ciphertext: base64 and the envelope around the longest plaintext.
const LINE_LEN_MAX: usize = PLAINTEXT_LEN_MAX / 3 * 4 + 4_096;

fn context(args: &DataArgs) -> Result<Value, Failure> {
    let mut pairs = Map::new();
    for text in &args.context {
        let (key, value) = pair(text)?;
        if pairs.insert(key.to_owned(), json!(value)).is_some() {
            return Err(Failure::caller(format!("the context has `{key}` twice"), "name each key once"));
        }
    }
    Ok(Value::Object(pairs))
}

fn read_input(max: usize) -> Result<Zeroizing<Vec<u8>>, Failure> {
    if std::io::stdin().is_terminal() {
        note("reading from the terminal; end with ctrl-d");
    }
    let mut input = Zeroizing::new(Vec::new());
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    let read = std::io::stdin().lock().take(limit).read_to_end(&mut input);
    read.map_err(|error| Failure::caller(format!("standard input cannot be read: {error}"), "pipe the data in"))?;
    if input.len() > max {
        return Err(Failure::caller(
            format!("standard input is longer than {max} bytes"),
            "encrypt a data key for long data: see `data-key` in the API",
        ));
    }
    Ok(input)
}

fn read_ciphertext() -> Result<String, Failure> {
    let input = read_input(LINE_LEN_MAX)?;
    let text = std::str::from_utf8(&input).map_err(|_| {
        Failure::caller("standard input is not a ciphertext", "a ciphertext is a text that begins with kr1.")
    })?;
    Ok(text.trim().to_owned())
}

async fn one_item(global: &Global, args: &DataArgs, verb: &str, item: Value) -> Result<Value, Failure> {
    let api = Api::connect(global, Access::Write).await?;
    let path = format!("/v1/keys/{}/{verb}", args.key);
    let answer = api.send(Method::POST, &path, &json!({ "items": [item] })).await;
    let closed = api.close().await;
    let mut answer = answer?;
    closed?;
    let item =
        answer.pointer_mut("/items/0").map(Value::take).ok_or_else(|| Failure::bug("an answer without its item"))?;
    match item.get("error") {
        None => Ok(item),
        Some(error) => Err(item_failure(error)),
    }
}

fn item_failure(error: &Value) -> Failure {
    let text = |name: &str| error.get(name).and_then(Value::as_str).map(str::to_owned);
    let code = text("code").unwrap_or_default();
    let exit = match code.as_str() {
        "unopenable" => Exit::StoredData,
        "crypto_failed" => Exit::Dependency,
        "version_unusable" => Exit::Refused,
        _ => Exit::Caller,
    };
    Failure {
        title: text("title").unwrap_or_default(),
        code,
        hint: text("hint"),
        exit,
        seconds_left: None,
        request_id: None,
    }
}

pub(super) async fn encrypt(global: &Global, args: DataArgs) -> Result<(), Failure> {
    let plaintext = read_input(PLAINTEXT_LEN_MAX)?;
    let item = json!({ "plaintext": STANDARD.encode(plaintext.as_slice()), "context": context(&args)? });
    let done = one_item(global, &args, "encrypt", item).await?;
    print_ciphertext(global, &done)
}

pub(super) async fn reencrypt(global: &Global, args: DataArgs) -> Result<(), Failure> {
    let item = json!({ "ciphertext": read_ciphertext()?, "context": context(&args)? });
    let done = one_item(global, &args, "reencrypt", item).await?;
    print_ciphertext(global, &done)
}

fn print_ciphertext(global: &Global, done: &Value) -> Result<(), Failure> {
    let ciphertext =
        done.get("ciphertext").and_then(Value::as_str).ok_or_else(|| Failure::bug("an answer without a ciphertext"))?;
    if global.json { line(&done.to_string()) } else { line(ciphertext) }
}

pub(super) async fn decrypt(global: &Global, args: DataArgs) -> Result<(), Failure> {
    let item = json!({ "ciphertext": read_ciphertext()?, "context": context(&args)? });
    let done = one_item(global, &args, "decrypt", item).await?;
    if global.json {
        return line(&done.to_string());
    }
    let encoded =
        done.get("plaintext").and_then(Value::as_str).ok_or_else(|| Failure::bug("an answer without a plaintext"))?;
    let plaintext =
        Zeroizing::new(STANDARD.decode(encoded).map_err(|_| Failure::bug("a plaintext that is not base64"))?);
    raw(&plaintext)
}
