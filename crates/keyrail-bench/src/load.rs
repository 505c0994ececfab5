//! The load: one request over and over, on many connections, from a process of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::floor::percentiles;

/// What is sent, how and for how long.
#[derive(ClapArgs)]
pub(crate) struct Args {
    /// Host and port.
    #[arg(long)]
    address: String,
    /// A file with the whole request, headers and body.
    #[arg(long)]
    request: PathBuf,
    /// How many connections.
    #[arg(long)]
    connections: usize,
    /// For how long, in seconds.
    #[arg(long)]
    seconds: f64,
}

/// How long the connections warm up before anything counts.
const WARM_UP: Duration = Duration::from_millis(500);

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let request: Arc<[u8]> = std::fs::read(&args.request)?.into();
    // One thread: the load must not take the cores from what is measured.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let micros = runtime.block_on(send_all(args, request))?;
    let mut micros = micros;
    let count = micros.len();
    let latency = percentiles(&mut micros);
    println!(
        "{}",
        json!({ "per_second": count as f64 / args.seconds, "p50_micros": latency.p50_micros, "p99_micros": latency.p99_micros, "requests": count })
    );
    Ok(())
}

async fn send_all(args: &Args, request: Arc<[u8]>) -> anyhow::Result<Vec<f64>> {
    let from = Instant::now() + WARM_UP;
    let until = from + Duration::from_secs_f64(args.seconds);
    let mut tasks = Vec::with_capacity(args.connections);
    for _ in 0..args.connections {
        let stream = TcpStream::connect(&args.address).await?;
        stream.set_nodelay(true)?;
        tasks.push(tokio::spawn(connection(stream, request.clone(), from, until)));
    }
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await??);
    }
    Ok(all)
}

async fn connection(
    mut stream: TcpStream,
    request: Arc<[u8]>,
    from: Instant,
    until: Instant,
) -> anyhow::Result<Vec<f64>> {
    let mut micros = Vec::with_capacity(16_384);
    let mut buffer = vec![0; 1024 * 1024];
    loop {
        let begun = Instant::now();
        if begun >= until {
            return Ok(micros);
        }
        stream.write_all(&request).await?;
        read_answer(&mut stream, &mut buffer).await?;
        let ended = Instant::now();
        if begun >= from && ended <= until {
            micros.push((ended - begun).as_secs_f64() * 1e6);
        }
    }
}

/// Reads one answer with a content length, and checks that it says yes.
async fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) -> anyhow::Result<()> {
    let mut filled = 0;
    loop {
        let space = buffer.get_mut(filled..).context("an answer without an end")?;
        let read = stream.read(space).await?;
        if read == 0 {
            bail!("the server closed the connection");
        }
        filled += read;
        let seen = buffer.get(..filled).unwrap_or_default();
        let Some(head_len) = seen.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4) else {
            continue;
        };
        let head = std::str::from_utf8(seen.get(..head_len).unwrap_or_default())?;
        if !head.starts_with("HTTP/1.1 200") {
            bail!("the server said no: {}", String::from_utf8_lossy(seen));
        }
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned));
        let length: usize = length.context("an answer without a length")?.trim().parse()?;
        let whole = head_len + length;
        let mut left = whole.saturating_sub(filled);
        while left > 0 {
            let step = left.min(buffer.len());
            let read = stream.read(buffer.get_mut(..step).unwrap_or_default()).await?;
            if read == 0 {
                bail!("the server closed the connection");
            }
            left -= read;
        }
        return Ok(());
    }
}
