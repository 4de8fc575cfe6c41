//! What the programs are compared with in the same run: a plain copy made durable, and QUIC from memory to memory with
//! the very windows and datagrams that the programs use.

use crate::error::BenchError;
use crate::program::{Line, Outcome, Running};
use crate::report::Sample;
use bytes::Bytes;
use lingqu_certs::os::SystemClock;
use lingqu_certs::quic::{self, Handshakes, Limits};
use lingqu_protocol::digest::{from_hex, to_hex};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::version::TLS13;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// The name in the certificate of the comparison's own server.
const NAME: &str = "baseline.invalid";

/// The protocol's name in the comparison's handshake.
const ALPN: &[u8] = b"baseline";

/// Bytes that are handed to QUIC at once: as the programs do.
const BLOCK_BYTES: usize = 1 << 20;

/// Streams side by side: as many as a transfer of files uses at most by default.
pub const STREAMS: u32 = 4;

/// `cp` and then fsync of file and folder.
///
/// # Errors
/// When it does not work.
pub fn copy(from: &Path, to: &Path) -> Result<Sample, BenchError> {
    let since = Instant::now();
    let outcome = Line::new(Path::new("cp")).arg(from).arg(to).run(0)?;
    let file = File::open(to).and_then(|file| file.sync_all().and(file.metadata()));
    let bytes = file.map_err(BenchError::io("syncing", to))?.len();
    if let Some(dir) = to.parent() {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(BenchError::io("syncing", dir))?;
    }
    Ok(Sample {
        seconds: since.elapsed().as_secs_f64(),
        bytes,
        agent_cpu_seconds: outcome.usage.cpu_seconds,
        ..Sample::default()
    })
}

/// The server of the comparison, a process of this same program.
#[derive(Debug)]
pub struct Sink {
    running: Running,
    address: String,
    certificate: String,
    me: std::path::PathBuf,
}

impl Sink {
    /// Starts it.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start() -> Result<Self, BenchError> {
        let me = std::env::current_exe().map_err(BenchError::system("finding this program"))?;
        let (running, line) = Line::new(&me).arg("quinn-sink").start()?.first_line()?;
        let mut words = line.split(' ').skip(1).map(str::to_owned);
        let (Some(address), Some(certificate)) = (words.next(), words.next()) else {
            return Err(BenchError::Wrong(format!("the sink said {line:?}")));
        };
        Ok(Self { running, address, certificate, me })
    }

    /// Sends `bytes` of memory to it.
    ///
    /// # Errors
    /// When it does not work.
    pub fn send(&mut self, bytes: u64) -> Result<Sample, BenchError> {
        let before = self.running.usage().cpu_seconds;
        let line = Line::new(&self.me).arg("quinn-source").args(["--to", &self.address]);
        let line = line.args(["--certificate", &self.certificate]).args(["--bytes", &bytes.to_string()]);
        let outcome: Outcome = line.run(0)?;
        let seconds = outcome.json()?.get("seconds").and_then(serde_json::Value::as_f64);
        let usage = self.running.usage();
        Ok(Sample {
            seconds: seconds.ok_or_else(|| BenchError::Wrong("the source gave no time".to_owned()))?,
            bytes,
            agent_cpu_seconds: outcome.usage.cpu_seconds,
            gateway_cpu_seconds: usage.cpu_seconds - before,
            agent_peak_bytes: outcome.usage.peak_bytes,
            gateway_peak_bytes: usage.peak_bytes,
            ..Sample::default()
        })
    }
}

/// `quinn-sink`: takes what comes, counts it and forgets it. Does not return while it works.
///
/// # Errors
/// When it cannot listen.
pub async fn sink() -> Result<(), BenchError> {
    let made =
        rcgen::generate_simple_self_signed([NAME.to_owned()]).map_err(BenchError::data("making a certificate"))?;
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(BenchError::data("setting TLS up"))?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .map_err(BenchError::data("setting TLS up"))?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let handshakes = Handshakes { waiting_max: 16, waiting_bytes_max: 1 << 20, reset_secret: None };
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let endpoint = quic::server_endpoint(listen, tls, limits(), handshakes, Arc::new(SystemClock::new()))
        .map_err(BenchError::system("listening"))?;
    let address = endpoint.local_addr().map_err(BenchError::system("listening"))?;
    println!("ready {address} {}", to_hex(&certificate));
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            let Ok(connection) = incoming.await else { return };
            while let Ok((send, recv)) = connection.accept_bi().await {
                tokio::spawn(drain(send, recv));
            }
        });
    }
    Ok(())
}

async fn drain(mut send: quinn::SendStream, mut recv: quinn::RecvStream) {
    let mut bytes = 0u64;
    while let Ok(Some(chunk)) = recv.read_chunk(usize::MAX, true).await {
        bytes += chunk.bytes.len() as u64;
    }
    // A source that is gone needs no answer.
    let _ = send.write_all(&bytes.to_be_bytes()).await;
    let _ = send.finish();
}

/// `quinn-source`: sends `bytes` of memory and prints how long it took from the first byte to the last answer.
///
/// # Errors
/// When the sink cannot be reached or did not get everything.
pub async fn source(to: SocketAddr, certificate_hex: &str, bytes: u64) -> Result<(), BenchError> {
    let der =
        from_hex(certificate_hex).ok_or_else(|| BenchError::Usage("--certificate is not hexadecimal".to_owned()))?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(der)).map_err(BenchError::data("reading the certificate"))?;
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(BenchError::data("setting TLS up"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let endpoint = quic::client_endpoint(local, limits()).map_err(BenchError::system("opening a socket"))?;
    let config = quic::client_config(tls, limits()).map_err(BenchError::system("setting QUIC up"))?;
    let connecting = endpoint.connect_with(config, to, NAME).map_err(BenchError::data("connecting"))?;
    let connection = connecting.await.map_err(BenchError::data("connecting"))?;
    let block = Bytes::from(vec![0x5a; BLOCK_BYTES]);
    let since = Instant::now();
    let mut streams = tokio::task::JoinSet::new();
    for i in 0..u64::from(STREAMS) {
        let share = bytes / u64::from(STREAMS) + u64::from(i < bytes % u64::from(STREAMS));
        streams.spawn(send_share(connection.clone(), block.clone(), share));
    }
    let mut arrived = 0;
    while let Some(done) = streams.join_next().await {
        arrived += done.map_err(BenchError::data("sending"))??;
    }
    let seconds = since.elapsed().as_secs_f64();
    connection.close(0u32.into(), b"");
    endpoint.wait_idle().await;
    crate::error::check(arrived == bytes, || format!("{arrived} of {bytes} bytes arrived"))?;
    println!("{}", serde_json::json!({ "bytes": bytes, "seconds": seconds }));
    Ok(())
}

async fn send_share(connection: quinn::Connection, block: Bytes, share: u64) -> Result<u64, BenchError> {
    let (mut send, mut recv) = connection.open_bi().await.map_err(BenchError::data("opening a stream"))?;
    let mut left = share;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
        send.write_chunk(block.slice(..now)).await.map_err(BenchError::data("sending"))?;
        left -= now as u64;
    }
    send.finish().map_err(BenchError::data("sending"))?;
    let mut answer = [0; 8];
    recv.read_exact(&mut answer).await.map_err(BenchError::data("waiting for the answer"))?;
    Ok(u64::from_be_bytes(answer))
}

fn limits() -> Limits {
    Limits::streams(STREAMS * 2, STREAMS * 2)
}
