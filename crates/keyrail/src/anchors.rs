//! The anchors that the command line and the environment name, and the way to witnesses.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use keyrail_audit::COSIGNATURES_LEN_MAX;
use keyrail_client::Client;
use keyrail_engine::anchor::{ANCHOR_WAIT_SECONDS_MAX, AnchorSpec, Anchors, DialWitness};
use keyrail_engine::ports::{WitnessPort, WitnessReply};

use crate::cli::Global;

/// The anchors that were named.
pub(crate) fn named(global: &Global) -> Anchors {
    let dial = dial(global.ca_cert.clone());
    Anchors { specs: global.anchor.clone(), required: global.anchor_required, dial: Some(dial) }
}

/// The anchors in KEYRAIL_ANCHORS, separated by spaces.
pub(crate) fn from_environment(text: &str) -> Result<Vec<AnchorSpec>, String> {
    text.split_whitespace().map(|spec| spec.parse().map_err(|error| format!("KEYRAIL_ANCHORS: {error}"))).collect()
}

/// A private witness may have a certificate of a private authority.
fn dial(ca_cert: Option<PathBuf>) -> DialWitness {
    Arc::new(move |url| Ok(Box::new(Way::new(url, ca_cert.as_deref())?)))
}

/// The way to one witness. It has a runtime of its own, so that a thread that keeps an anchor waits for nobody else.
struct Way {
    runtime: Option<tokio::runtime::Runtime>,
    client: Client,
}

impl Way {
    fn new(url: &str, ca_cert: Option<&Path>) -> Result<Self, String> {
        let client = Client::new(url, None, ca_cert).map_err(|error| told(&error))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self { runtime: Some(runtime.map_err(|error| error.to_string())?), client })
    }
}

impl WitnessPort for Way {
    fn post(&self, path: &str, body: String) -> Result<WitnessReply, String> {
        let runtime = self.runtime.as_ref().ok_or("the way there is closed")?;
        let answer = self.client.post_text(path, body, ANCHOR_WAIT_SECONDS_MAX, COSIGNATURES_LEN_MAX);
        let reply = runtime.block_on(answer).map_err(|error| told(&error))?;
        let body = String::from_utf8(reply.body.to_vec()).unwrap_or_default();
        Ok(WitnessReply { status: reply.status.as_u16(), body })
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // To wait for its end is not allowed where this may be dropped, and there is nothing to wait for.
            runtime.shutdown_background();
        }
    }
}

fn told(error: &keyrail_client::ClientError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
