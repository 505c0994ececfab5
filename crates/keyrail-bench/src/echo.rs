//! The floor: the same axum and hyper, without middleware, with a fixed answer.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tower::ServiceExt;

/// An answer of the length that one encrypted item of 64 bytes has.
const ANSWER: [u8; 340] = [b'x'; 340];

/// How many bytes one record of the log has.
const RECORD_LEN: usize = 512;

type Synced = mpsc::UnboundedSender<oneshot::Sender<()>>;

/// Serves until it is killed; prints its address.
pub(crate) fn run(synced: Option<&Path>) -> anyhow::Result<()> {
    let sync = synced.map(start_syncing).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(sync))
}

async fn serve(sync: Option<Synced>) -> anyhow::Result<()> {
    let router = match sync {
        None => Router::new().route("/echo", post(|_body: Bytes| async { ANSWER.as_slice() })),
        Some(sync) => {
            let sync = Arc::new(sync);
            Router::new().route(
                "/echo",
                post(move |_body: Bytes| {
                    let sync = sync.clone();
                    async move {
                        let (done, waits) = oneshot::channel();
                        let _sent = sync.send(done);
                        let _synced = waits.await;
                        ANSWER.as_slice()
                    }
                }),
            )
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on http://{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let router = router.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| router.clone().oneshot(request));
            let _ended = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Whoever waits is written and synced together with all others that wait.
fn start_syncing(path: &Path) -> anyhow::Result<Synced> {
    let mut file = Zeroed::create(path)?;
    let (sender, mut receiver) = mpsc::unbounded_channel::<oneshot::Sender<()>>();
    std::thread::Builder::new().name("sync".to_owned()).spawn(move || {
        while let Some(first) = receiver.blocking_recv() {
            let mut waiting = vec![first];
            while let Ok(more) = receiver.try_recv() {
                waiting.push(more);
            }
            let written = file.append_synced(&vec![7; RECORD_LEN * waiting.len()]);
            if written.is_err() {
                return;
            }
            for done in waiting {
                let _gone = done.send(());
            }
        }
    })?;
    Ok(sender)
}

/// A file that grows by whole steps of zeros ahead of what is written, as Keyrail's journal does: a sync within a step
/// costs a file system less than one that makes a new length durable.
pub(crate) struct Zeroed {
    file: File,
    written: u64,
    len: u64,
}

/// How much is filled with zeros at once.
const STEP_LEN: u64 = 1024 * 1024;

impl Zeroed {
    pub(crate) fn create(path: &Path) -> std::io::Result<Self> {
        Ok(Self { file: File::create(path)?, written: 0, len: 0 })
    }

    /// Writes behind what is there, and waits until it is durable.
    pub(crate) fn append_synced(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let end = self.written + bytes.len() as u64;
        while end > self.len {
            self.file.write_all_at(&vec![0; STEP_LEN as usize], self.len)?;
            self.len += STEP_LEN;
        }
        self.file.write_all_at(bytes, self.written)?;
        self.written = end;
        self.file.sync_data()
    }
}
