//! The composition root: the one place that knows every part, and builds them in the order in which they depend on each
//! other. Clock, entropy and disk are made here and handed down; nothing below asks the system for them itself.

pub mod failpoint;
mod heartbeat;
mod housekeeping;
mod http;
mod lateness;
mod secret;

use crate::admin::{ControlSocket, Desk, Failure, Running, ServerError};
use crate::config::{Config, LogFormat};
use crate::edge::endpoint::{self, Door, LIMITS, handshakes};
use crate::edge::session::Services;
use crate::flow::record::{USED_PARENT, used};
use crate::flow::{Facts, Flow, FlowParts};
use crate::folder::{CutsFile, Folder, FolderError};
use crate::gate::{ClosedWhy, Gate};
use crate::lake::local::LocalStore;
use crate::lake::store::Lake;
use crate::ledger::Ledger;
use crate::metrics;
use crate::misuse::enforce::WatchParts;
use crate::misuse::observation::Fingerprint;
use crate::misuse::{self, Observer, Watch};
use crate::registry::port::Update;
use crate::registry::{OpenInvitations, OpenRenewals, Registry, RegistryError};
use crate::state::{Filter, Kind, SqliteState, State, StateError};
use lingqu_certs::key::PublicKey;
use lingqu_certs::moments;
use lingqu_certs::os::{OsDisk, OsEntropy, SystemClock};
use lingqu_certs::quic::server_endpoint;
use lingqu_certs::tls::TlsError;
use lingqu_certs::tls::peer::{Exceptions, PeerPolicy};
use lingqu_certs::tls::server::{ServerIdentity, server_config};
use lingqu_certs::{chain, key};
use lingqu_protocol::agency::AgentId;
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::host::{Clock, Entropy};
use metrics_exporter_prometheus::PrometheusBuilder;
use std::io::{self, IsTerminal as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// How long a drain lets transfers end before it parks them: a service manager that waits 90 seconds before it kills
/// (systemd's default) sees a clean end.
const DRAIN_FOR: Duration = Duration::from_secs(60);

/// Between two looks at whether a drain is over.
const DRAIN_LOOK: Duration = Duration::from_millis(50);

/// After transfers were parked, for their agents to hear of it.
const PARTING: Duration = Duration::from_secs(2);

/// Between two looks at the gateway's own certificate.
const RENEWAL_LOOK: Duration = Duration::from_secs(3600);

/// What the server's key signs to make the secret of its stateless resets: only who has the key can make it again, and a
/// TLS signature begins with other bytes.
const RESET_SECRET: &[u8] = b"lingqu stateless reset v1";

/// Signed with the server's key, this is what marks of pulls are sealed with.
const MARKS_SECRET: &[u8] = b"lingqu pull marks v1";

/// What the command line says over the configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServeOptions {
    /// UDP address of the QUIC endpoint.
    pub listen: Option<SocketAddr>,
    /// TCP address of metrics and health.
    pub http: Option<SocketAddr>,
}

/// Why a gateway does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Its folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Its state.
    #[error(transparent)]
    State(#[from] StateError),
    /// What its state says.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Its certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Its key.
    #[error(transparent)]
    Key(#[from] key::KeyError),
    /// Its certificate's file.
    #[error(transparent)]
    Chain(#[from] chain::ChainError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] ServerError),
    /// The machine.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The metrics recorder.
    #[error("metrics cannot be recorded: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::Folder(error) => error.into(),
            ServeError::Registry(error) => error.into(),
            ServeError::State(StateError::NewerSchema { .. } | StateError::OldSqlite { .. }) => {
                Self::usage(error.to_string(), "use a newer lingqu-gateway")
            }
            _ => Self::ours(error.to_string(), "mend what is named, then serve again; nothing was lost"),
        }
    }
}

/// Serves from a folder until the process is told to end. Prints one line when it is ready.
///
/// # Errors
/// Why it cannot begin. What happens later is logged and does not end it.
pub async fn serve(dir: &Path, options: ServeOptions) -> Result<(), ServeError> {
    let folder = Folder::open(dir)?;
    log(&folder.config);
    failpoint::arm(std::env::var("LINGQU_FAILPOINT").ok());
    if let Some(file) = std::env::var_os("LINGQU_MOMENTS") {
        moments::listen(Path::new(&file)).map_err(doing("listening for moments"))?;
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let entropy: Arc<dyn Entropy> = Arc::new(OsEntropy::new());
    let _lock = Folder::lock(&folder.layout)?;
    let recorder = PrometheusBuilder::new().install_recorder()?;
    metrics::describe();

    let state: Arc<dyn State> = Arc::new(SqliteState::open(&folder.layout.state()).await?);
    let store = LocalStore::open(Arc::new(OsDisk), folder.layout.lake()).map_err(doing("opening the lake"))?;
    let cuts = CutsFile::open(&folder.layout.cuts())?;
    let gate = Arc::new(Gate::new(Arc::clone(&clock)));
    let mut print = [0; 32];
    entropy.fill(&mut print).map_err(doing("random bytes"))?;
    let (observer, observed) = misuse::pair(Fingerprint::new(print), Arc::clone(&clock));
    let observer = Arc::new(observer);
    let ca = folder.ca.certificate().clone();
    let domain = folder.identity.domain.clone();
    folder.renew_server(clock.wall(), entropy.as_ref())?;
    let server_key = key::SigningKey::load(&folder.layout.server_key())?;
    let reset_secret = Digest::sha256(&server_key.sign(RESET_SECRET)).bytes;
    let identity = server_identity(&folder, &server_key, clock.as_ref())?;
    let ledger = Ledger::new(
        Arc::clone(&state),
        Arc::new(folder.receipt_key),
        &domain,
        folder.identity.gateway,
        folder.identity.statement.clone(),
    );
    let facts = Facts {
        gateway: folder.identity.gateway,
        domain: domain.clone(),
        statement: folder.identity.statement.to_json().into(),
        marks_key: Digest::sha256(&server_key.sign(MARKS_SECRET)).bytes,
    };
    let secret = folder.layout.pseudonym_secret();
    let pseudonyms = secret::open(&secret, state.as_ref(), clock.as_ref(), entropy.as_ref()).await?;
    let registry = Registry::new(
        Arc::clone(&state),
        Arc::new(Watched { gate: Arc::clone(&gate), observer: Arc::clone(&observer) }),
        Arc::clone(&clock),
        Arc::clone(&entropy),
        Arc::new(folder.ca),
        folder.identity,
    );
    let registry = Arc::new(registry.keeping(Arc::new(cuts)));
    let flow = Arc::new(Flow::new(FlowParts {
        state: Arc::clone(&state),
        ledger: Arc::new(ledger),
        lake: Lake::new(Arc::new(store)),
        clock: Arc::clone(&clock),
        entropy: Arc::clone(&entropy),
        pseudonyms,
        facts,
        failpoint: failpoint::pass,
    }));

    if let Err(error) = crate::lake::split::clear(flow.lake()).await {
        tracing::warn!(%error, "what an earlier process kept beside the lake could not be removed");
    }
    registry.load().await?;
    registry.record_cuts().await?;
    restore_used(&gate, state.as_ref()).await?;
    let parts = WatchParts {
        registry: Arc::clone(&registry),
        gate: Arc::clone(&gate),
        state: Arc::clone(&state),
        clock: Arc::clone(&clock),
        thresholds: folder.config.misuse.clone(),
    };
    tokio::spawn(Watch::begin(parts, observed).await?.run());
    heartbeat::watchdog(&gate).map_err(doing("starting the watchdog"))?;
    let pulse = tokio::spawn(heartbeat::run(Arc::clone(&gate), Arc::clone(&flow), Arc::clone(&clock)));

    let exceptions =
        Excepted { invitations: registry.invitations(), renewals: registry.renewals(), clock: Arc::clone(&clock) };
    let policy = Arc::new(PeerPolicy::new(&ca, &domain, Arc::new(exceptions))?);
    let tls = server_config(Arc::clone(&policy), Arc::clone(&identity), Arc::clone(&clock))?;
    let listen = options.listen.unwrap_or(folder.config.listen);
    let endpoint = server_endpoint(listen, tls, LIMITS, handshakes(reset_secret), Arc::clone(&clock))
        .map_err(doing(format!("listening on UDP {listen}")))?;
    let quic = endpoint.local_addr().map_err(doing("the QUIC address"))?;
    let listen = options.http.unwrap_or(folder.config.http);
    let listener = TcpListener::bind(listen).await.map_err(doing(format!("listening on TCP {listen}")))?;
    let web = listener.local_addr().map_err(doing("the HTTP address"))?;
    tokio::spawn(http::serve(listener, Arc::clone(&gate), recorder));
    let control = ControlSocket::bind(&folder.layout)?;
    let running = Running { gate: Arc::clone(&gate), sight: Arc::clone(observer.sight()) };
    tokio::spawn(control.serve(Desk {
        registry: Arc::clone(&registry),
        state: Arc::clone(&state),
        running: Some(running),
    }));
    tokio::spawn(renew(dir.to_owned(), Arc::clone(&identity), Arc::clone(&clock), Arc::clone(&entropy)));

    tokio::spawn(housekeeping::run(Arc::clone(&flow), folder.config.retention, Arc::clone(&clock)));
    let hours = folder.config.backflow_late_hours;
    tokio::spawn(lateness::run(Arc::clone(&flow), Arc::clone(&registry), hours));
    let ending = Arc::clone(&flow);
    let services = Arc::new(Services {
        gate: Arc::clone(&gate),
        registry,
        flow,
        observer,
        windows: Arc::default(),
        connections: AtomicU64::new(0),
    });
    let door = Arc::new(Door { services, policy, clock });
    let accepting = tokio::spawn(endpoint::accept(door, endpoint.clone()));
    first_pulse(&gate).await;
    println!("ready quic={quic} http={web}");
    tracing::info!(%quic, http = %web, "ready");

    told_to_end().await.map_err(doing("waiting for signals"))?;
    tracing::info!(running = gate.running(), "draining");
    drain(&gate).await;
    accepting.abort();
    endpoint.close(CloseCode::Draining.code().into(), b"");
    // A peer that does not hear it finds out by itself; the process does not wait for it.
    let _ = tokio::time::timeout(PARTING, endpoint.wait_idle()).await;
    pulse.abort();
    if let Err(error) = ending.flush_denials(true).await {
        tracing::error!(%error, "the last minute's refusals could not be recorded");
    }
    tracing::info!("ended");
    Ok(())
}

/// Logs go to standard error; every line of a request carries its caller, every line of a transfer its id.
fn log(config: &Config) {
    let filter = EnvFilter::try_new(&config.log_filter).unwrap_or_else(|_| EnvFilter::new("info"));
    // A log that cannot be written (a full disk behind standard error) is no reason to panic in the middle of a task.
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).log_internal_errors(false);
    match config.log_format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().init(),
    }
}

fn server_identity(
    folder: &Folder,
    key: &key::SigningKey,
    clock: &dyn Clock,
) -> Result<Arc<ServerIdentity>, ServeError> {
    let chain = chain::load(&folder.layout.server_certificate())?;
    let ca = folder.ca.certificate();
    Ok(Arc::new(ServerIdentity::new(ca, &folder.identity.domain, chain, key, clock.wall())?))
}

/// What was used up under each permission before this start.
async fn restore_used(gate: &Gate, state: &dyn State) -> Result<(), ServeError> {
    let filter = Filter { parent: Some(USED_PARENT.to_owned()), ..Filter::default() };
    let mut after: Option<String> = None;
    loop {
        let page = state.list(Kind::Setting, filter.clone(), after.as_deref(), 1000).await?;
        for record in &page {
            let (under, used) = used(record)?;
            gate.restore_used(under, used);
        }
        match page.last() {
            Some(last) => after = Some(last.id.clone()),
            None => return Ok(()),
        }
    }
}

/// Ready means that permits are given, not that a socket is open.
async fn first_pulse(gate: &Gate) {
    while gate.closed() == Some(ClosedWhy::Starting) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Renews the gateway's own certificate in time; connections that stand are not touched.
async fn renew(
    dir: std::path::PathBuf,
    identity: Arc<ServerIdentity>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
) {
    let mut tick = tokio::time::interval(RENEWAL_LOOK);
    loop {
        tick.tick().await;
        let renewed = Folder::open(&dir).map_err(ServeError::from).and_then(|folder| {
            let renewed = folder.renew_server(clock.wall(), entropy.as_ref())?;
            let layout = &folder.layout;
            // A file that an operator put there is taken up as well.
            identity.reload(&layout.server_certificate(), &layout.server_key(), clock.wall())?;
            Ok(renewed)
        });
        match renewed {
            Ok(true) => tracing::info!("the gateway's certificate was renewed"),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "the gateway's certificate was not renewed; the old one stays"),
        }
    }
}

async fn told_to_end() -> io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// No new permits; what runs may end in time, and is parked resumably where it does not, or where a second signal asks
/// for it.
async fn drain(gate: &Gate) {
    gate.drain();
    let deadline = tokio::time::Instant::now() + DRAIN_FOR;
    let told_again = told_to_end();
    tokio::pin!(told_again);
    while gate.running() > 0 && tokio::time::Instant::now() < deadline {
        tokio::select! {
            () = tokio::time::sleep(DRAIN_LOOK) => {}
            _ = &mut told_again => break,
        }
    }
    if gate.running() > 0 {
        tracing::warn!(running = gate.running(), "parking what still runs");
        gate.close(ClosedWhy::Draining);
        tokio::time::sleep(PARTING).await;
    }
}

fn doing(what: impl Into<String>) -> impl FnOnce(io::Error) -> ServeError {
    let what = what.into();
    move |source| ServeError::Io { what, source }
}

/// The gate, and whoever watches over it: a grant that is made or changed is looked at beside the others of its requester.
struct Watched {
    gate: Arc<Gate>,
    observer: Arc<Observer>,
}

impl crate::registry::Publish for Watched {
    fn publish(&self, updates: Vec<Update>) {
        // What is loaded at the start was looked at when it was made.
        let starting = self.gate.closed() == Some(ClosedWhy::Starting);
        let changed: Vec<_> = updates
            .iter()
            .filter_map(|update| match update {
                Update::Grant(grant, _) if !starting => Some((grant.requester, grant.id)),
                _ => None,
            })
            .collect();
        crate::registry::Publish::publish(self.gate.as_ref(), updates);
        changed.into_iter().for_each(|(requester, grant)| self.observer.grant_changed(requester, grant));
    }
}

/// Whom the handshake lets in beside agents.
struct Excepted {
    invitations: Arc<OpenInvitations>,
    renewals: Arc<OpenRenewals>,
    clock: Arc<dyn Clock>,
}

impl Exceptions for Excepted {
    fn is_invited(&self, key: &PublicKey) -> bool {
        self.invitations.is_open(key.as_bytes(), self.clock.wall())
    }

    fn may_renew_expired(&self, agent: &AgentId, key: &PublicKey) -> bool {
        self.renewals.is_open(agent, key, self.clock.wall())
    }
}
