//! One way to the API: over the network, or within this process on a data directory.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use http::{Method, Request};
use http_body_util::{BodyExt, Limited};
use keyrail_client::Client;
use keyrail_engine::anchor::Anchors;
use keyrail_engine::{Access, Engine, EngineOptions, RootSource};
use keyrail_http::{LocalCall, Problem, Service};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tower::ServiceExt;
use zeroize::Zeroizing;

use crate::anchors;
use crate::cli::Global;
use crate::clock::SystemClock;
use crate::failure::Failure;

/// The most bytes of an answer within the process.
const ANSWER_LEN_MAX: usize = 128 * 1024 * 1024;

/// The most bytes of a token file.
const TOKEN_LEN_MAX: u64 = 4_096;

/// The API, wherever it is.
pub(crate) enum Api {
    Remote(Box<Client>),
    Local(Local),
}

/// The API within this process.
pub(crate) struct Local {
    router: Router,
    pub(crate) service: Arc<Service>,
    access: Access,
    token: Option<Zeroizing<String>>,
}

/// The data directory that is meant.
pub(crate) fn data_dir(global: &Global) -> Result<PathBuf, Failure> {
    if let Some(dir) = &global.data_dir {
        return Ok(dir.clone());
    }
    Ok(home()?.join("data"))
}

/// Where Keyrail's own files lie by default.
pub(crate) fn home() -> Result<PathBuf, Failure> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    let home =
        home.ok_or_else(|| Failure::caller("there is no home directory", "name a data directory with --data-dir"))?;
    Ok(PathBuf::from(home).join(".local/share/keyrail"))
}

/// The token that the caller shows.
pub(crate) fn token(global: &Global) -> Result<Option<Zeroizing<String>>, Failure> {
    let text = match &global.token_file {
        Some(path) => read_limited(path, TOKEN_LEN_MAX)?,
        None => match std::env::var("KEYRAIL_TOKEN") {
            Ok(text) if !text.is_empty() => Zeroizing::new(text),
            _ => return Ok(None),
        },
    };
    Ok(Some(Zeroizing::new(text.trim().to_owned())))
}

fn read_limited(path: &Path, max: u64) -> Result<Zeroizing<String>, Failure> {
    let failed = |error| Failure::file("read", path, &error);
    let mut text = Zeroizing::new(String::new());
    std::fs::File::open(path).map_err(failed)?.take(max).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Opens the engine of a data directory, unsealed.
pub(crate) async fn open_engine(data_dir: PathBuf, access: Access, anchors: Anchors) -> Result<Engine, Failure> {
    open_engine_with(data_dir, access, &RootSource::Configured, anchors).await
}

/// The same with another root of trust.
async fn open_engine_with(
    data_dir: PathBuf,
    access: Access,
    root: &RootSource,
    anchors: Anchors,
) -> Result<Engine, Failure> {
    let options =
        EngineOptions { data_dir, access, clock: Arc::new(SystemClock::new()), assets: Some(keyrail_data::assets) };
    let engine = Engine::open_anchored(options, anchors)?;
    engine.unseal_with(root).await?;
    Ok(engine)
}

impl Api {
    /// Connects to the server, or opens the data directory.
    pub(crate) async fn connect(global: &Global, access: Access) -> Result<Self, Failure> {
        Self::connect_with(global, access, &RootSource::Configured).await
    }

    /// Connects to the server, or opens the data directory with a root of trust.
    pub(crate) async fn connect_with(global: &Global, access: Access, root: &RootSource) -> Result<Self, Failure> {
        let token = token(global)?;
        if let Some(server) = &global.server {
            return Ok(Self::Remote(Box::new(Client::new(server, token, global.ca_cert.as_deref())?)));
        }
        let engine = open_engine_with(data_dir(global)?, access, root, anchors::named(global)).await?;
        let service = Service::new(engine, false);
        Ok(Self::Local(Local { router: keyrail_http::router(service.clone()), service, access, token }))
    }

    /// Sends a request; an answer that says no becomes a failure.
    pub(crate) async fn send(&self, method: Method, path: &str, body: &Value) -> Result<Value, Failure> {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let (ok, answer) = self.exchange(method, path, body).await?;
        let parsed = serde_json::from_slice(&answer);
        if ok {
            return parsed.map_err(|_| Failure::bug("an answer that is no JSON"));
        }
        match serde_json::from_slice::<Problem>(&answer) {
            Ok(problem) => Err(Failure::of(problem)),
            // Health answers say no with their ordinary body.
            Err(_) => parsed.map_err(|_| Failure::bug("an error that is no problem")),
        }
    }

    /// Sends a request, and reads the answer as a type.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<T, Failure> {
        let answer = self.send(method, path, body).await?;
        serde_json::from_value(answer).map_err(|_| Failure::bug("an answer of an unknown form"))
    }

    async fn exchange(&self, method: Method, path: &str, body: Vec<u8>) -> Result<(bool, Vec<u8>), Failure> {
        match self {
            Self::Remote(client) => {
                let reply = client.send(method, path, &[], body).await?;
                Ok((reply.status.is_success(), reply.body.to_vec()))
            }
            Self::Local(local) => local.exchange(method, path, body).await,
        }
    }

    /// Does the background work that is due, and closes the data directory.
    pub(crate) async fn close(self) -> Result<(), Failure> {
        let Self::Local(local) = self else { return Ok(()) };
        let mut worked = Ok(());
        if local.access == Access::Write {
            let engine = local.service.engine();
            worked = engine.tick().await;
            while worked.is_ok() && engine.has_more_to_do().await {
                worked = engine.tick().await;
            }
        }
        local.service.close().await?;
        Ok(worked?)
    }
}

impl Local {
    async fn exchange(&self, method: Method, path: &str, body: Vec<u8>) -> Result<(bool, Vec<u8>), Failure> {
        let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        match &self.token {
            Some(token) => request = request.header("authorization", format!("Bearer {}", token.as_str())),
            None => request = request.extension(LocalCall),
        }
        let request = request.body(Body::from(body)).map_err(|_| Failure::bug("a request that cannot be made"))?;
        let Ok(response) = self.router.clone().oneshot(request).await;
        let ok = response.status().is_success();
        let read = Limited::new(response.into_body(), ANSWER_LEN_MAX).collect().await;
        let body = read.map_err(|_| Failure::bug("an answer that is too long"))?;
        Ok((ok, body.to_bytes().to_vec()))
    }
}
