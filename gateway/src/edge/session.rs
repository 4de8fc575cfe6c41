//! One connection, top to bottom: hello, then requests, each on a stream of its own: request → gate → flow, or request →
//! registry. Nothing here knows QUIC.

use super::close;
use super::operation::{self, Caller};
use super::watching::{self, Asked};
use super::windows::Windows;
use crate::flow::{self, Flow, FlowError, Router, Wires};
use crate::gate::{self, Denied, FollowAsk, Gate, Peer, Target};
use crate::metrics;
use crate::misuse::Observer;

use crate::registry::{Certified, Page, Registry};
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::name::escape_for_log;
use lingqu_protocol::predicate::Predicate;
use lingqu_protocol::session::{FrameReader, FrameWriter, SessionError};
use lingqu_protocol::stream::Channel;
use lingqu_protocol::wire::request::Ask;
use lingqu_protocol::wire::{self, Hello, Pull, Records, Request, Welcome};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tracing::Instrument;
use tracing::field::Empty;

/// A connection that says nothing is let go after this: hello is one round trip.
const HELLO_WAIT: Duration = Duration::from_secs(10);

/// A stream that was opened and says nothing is let go after this.
const REQUEST_WAIT: Duration = Duration::from_secs(10);

/// Requests of one connection at a time: what an agent of a large agency runs beside each other, far below what would
/// let one connection take the gateway's memory.
const REQUESTS_MAX: usize = 64;

/// Streams that an agent with a transfer or many requests may have open: its hello, its requests, and one more than it may
/// ask at a time so that it hears "busy".
const REQUEST_STREAMS_MAX: u32 = 66;

/// Data streams that an agent with a transfer may have open over all its transfers.
const DATA_STREAMS_MAX: u32 = 64;

/// Streams for hello and requests that a connection begins with. Room is kept for every stream that may come, and most
/// connections stand for months with a request or two; with one of the gateway's own these fit in a table of 16 places, of
/// which seven eighths are used. One that runs a transfer, or half as many requests at a time, is let all.
pub const REQUEST_STREAMS_FIRST: u32 = 13;

/// Data streams that a connection begins with: with those for requests they fit in a table of 32 places.
pub const DATA_STREAMS_FIRST: u32 = 14;

/// Between the answer to an agent that may not speak any more and the end of its connection: the answer arrives first.
const FAREWELL: Duration = Duration::from_millis(500);

/// What every session stands on.
pub struct Services {
    /// Who may do what.
    pub gate: Arc<Gate>,
    /// Agencies, entries, applications and grants.
    pub registry: Arc<Registry>,
    /// Data in and out.
    pub flow: Arc<Flow>,
    /// Who watches over misuse.
    pub observer: Arc<Observer>,
    /// Memory for bytes in flight.
    pub windows: Arc<Windows>,
    /// Numbers connections.
    pub connections: AtomicU64,
}

/// Adds what is known of an entry's latest version, for those who know of its texts too: its provider and the authority.
async fn with_latest(flow: &Flow, page: &mut Page) -> Result<(), FlowError> {
    for (id, json) in &mut page.records {
        if let (Ok(entry), Some(fields)) = (id.parse(), json.as_object_mut())
            && fields.contains_key("latest")
        {
            fields.insert("latest_version".into(), flow.latest_version(entry).await?.into());
        }
    }
    Ok(())
}

impl Services {
    fn certificate(&self, certified: Certified) -> wire::Certificate {
        let identity = self.registry.identity();
        wire::Certificate {
            chain_der: certified.chain_der.into_iter().map(Into::into).collect(),
            agent: certified.agent.to_string(),
            gateway: identity.gateway.to_string(),
            domain: identity.domain.clone(),
            root_key: identity.root.to_string(),
            statement: self.flow.facts().statement.clone().into(),
        }
    }
}

fn records(page: Page) -> Records {
    let record =
        |(id, json): (String, serde_json::Value)| wire::Record { id, json: json.to_string().into_bytes().into() };
    Records { records: page.records.into_iter().map(record).collect(), next: page.next }
}

/// Serves one connection until either side ends it.
///
/// # Errors
/// Why it ended, where it was not the peer's wish.
pub async fn serve<C: Channel>(services: Arc<Services>, caller: Caller, channel: C) -> Result<(), SessionError> {
    // The first stream stays open as long as the connection does: it is dropped, and so reset, with this function.
    let _control = match tokio::time::timeout(HELLO_WAIT, Box::pin(welcome(&services, &caller, &channel))).await {
        Ok(Ok(control)) => control,
        Ok(Err(error)) => {
            channel.close(error.close_code());
            return Err(error);
        }
        Err(_) => {
            channel.close(CloseCode::Protocol);
            return Err(SessionError::Incomplete);
        }
    };
    let router = Arc::new(Router::default());
    let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
    let number = services.connections.fetch_add(1, Ordering::Relaxed);
    let _stands = match &caller {
        Caller::Agent { peer, .. } => Some(services.observer.connected(peer, number)),
        Caller::Invited { .. } | Caller::Expired { .. } => None,
    };
    let caller = Arc::new(caller);
    let mut has_all_streams = false;
    loop {
        tokio::select! {
            stream = channel.accept_bi() => {
                let (send, recv) = match stream {
                    Ok(stream) => stream,
                    Err(end) => return ended(end.into()),
                };
                let running = REQUESTS_MAX - requests.available_permits();
                if !has_all_streams && running * 2 >= REQUEST_STREAMS_FIRST as usize {
                    let_all_streams(&channel);
                    has_all_streams = true;
                }
                let wires = Wires {
                    channel: channel.clone(),
                    writer: FrameWriter::new(send),
                    reader: FrameReader::new(recv),
                    router: Arc::clone(&router),
                    signer: match caller.as_ref() {
                        Caller::Agent { key, .. } => Some(*key),
                        Caller::Invited { .. } | Caller::Expired { .. } => None,
                    },
                };
                let place = Arc::clone(&requests).try_acquire_owned().ok();
                let (services, caller) = (Arc::clone(&services), Arc::clone(&caller));
                let span = tracing::info_span!(
                    "request",
                    caller = %caller.name(),
                    operation = Empty,
                    transfer = Empty,
                    subject = Empty,
                );
                tokio::spawn(async move {
                    answer(&services, &caller, number, wires, place.is_some()).await;
                    drop(place);
                }.instrument(span));
            }
            stream = channel.accept_uni() => {
                let recv = match stream {
                    Ok(recv) => recv,
                    Err(end) => return ended(end.into()),
                };
                let router = Arc::clone(&router);
                tokio::spawn(async move {
                    let routed = tokio::time::timeout(REQUEST_WAIT, router.route(recv)).await;
                    if let Ok(Err(error)) = routed {
                        tracing::debug!(%error, "a data stream that belongs nowhere");
                    }
                });
            }
        }
    }
}

fn let_all_streams(channel: &impl Channel) {
    channel.set_streams(REQUEST_STREAMS_MAX, DATA_STREAMS_MAX);
}

/// A peer that closes with `Done` has said all it wanted.
fn ended(error: SessionError) -> Result<(), SessionError> {
    if error.close_code() == CloseCode::Done { Ok(()) } else { Err(error) }
}

type ControlStream<C> = (FrameWriter<<C as Channel>::Send>, FrameReader<<C as Channel>::Recv>);

async fn welcome<C: Channel>(
    services: &Services,
    caller: &Caller,
    channel: &C,
) -> Result<ControlStream<C>, SessionError> {
    let (send, recv) = channel.accept_bi().await?;
    let (mut writer, mut reader) = (FrameWriter::new(send), FrameReader::new(recv));
    let hello: Hello = reader.expect("a hello").await?;
    let Some(version) = wire::negotiate(&hello.versions) else {
        return Err(SessionError::Unexpected {
            expected: "a version of the protocol that is spoken here",
            got: "others",
        });
    };
    let greeting = services.flow.greeting(&hello.checkpoint).await;
    let facts = services.flow.facts();
    writer
        .message(&Welcome {
            version,
            limits: Some(wire::limits()),
            gateway: facts.gateway.to_string(),
            domain: facts.domain.clone(),
            now_ms: services.flow.now().0,
            address_seen: caller.address().to_string(),
            checkpoint: greeting.checkpoint,
            consistency: greeting.consistency.into_iter().map(|hash| hash.to_vec().into()).collect(),
            statement: facts.statement.clone().into(),
        })
        .await?;
    Ok((writer, reader))
}

/// Answers one request. However it ends, the agent is told: by the answer, or by a fault.
async fn answer<C: Channel>(
    services: &Services,
    caller: &Caller,
    connection: u64,
    mut wires: Wires<C>,
    has_place: bool,
) {
    let request = match tokio::time::timeout(REQUEST_WAIT, wires.reader.message::<Request>("a request")).await {
        Ok(Ok(Some(request))) => request,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => return refuse(&mut wires, error.into()).await,
        Err(_) => return refuse(&mut wires, FlowError::TooSlow { what: "a request" }).await,
    };
    let Some(ask) = request.ask else {
        let error = SessionError::Unexpected { expected: "a request that is known here", got: "another" };
        return refuse(&mut wires, error.into()).await;
    };
    let name = operation::name(&ask);
    let is_transfer = operation::moves_data(&ask);
    let span = tracing::Span::current();
    span.record("operation", name);
    if let Some((transfer, subject)) = operation::subject(&ask) {
        span.record("transfer", escape_for_log(transfer)).record("subject", escape_for_log(subject));
    }
    let _share = (is_transfer && has_place && caller.may(&ask)).then(|| {
        let_all_streams(&wires.channel);
        services.windows.take(connection, &wires.channel)
    });
    let asked = Asked::of(&ask, services.observer.fingerprint());
    let outcome = if has_place {
        perform(services, caller, connection, &asked, ask, &mut wires).await
    } else {
        Err(FlowError::Busy)
    };
    if let Caller::Agent { peer, .. } = caller {
        let answered = asked.answered(&services.gate, peer, outcome.as_ref().copied());
        services.observer.answered(peer, connection, answered);
    }
    metrics::request(name, outcome.as_ref().err().map_or("done", close::outcome));
    match outcome {
        Ok(()) => {
            if is_transfer {
                tracing::info!("done");
            }
            wires.writer.finish();
        }
        Err(error) => {
            if let Some(peer) = caller.peer() {
                Box::pin(services.flow.note_refusal(peer, &error)).await;
            }
            refuse(&mut wires, error).await;
            if let Some(peer) = caller.peer()
                && let Err(denied) = services.gate.admit(peer)
            {
                // It was blocked or stopped while it was connected: it hears why, and then it is gone.
                tokio::time::sleep(FAREWELL).await;
                wires.channel.close(denied.code());
            }
        }
    }
}

async fn refuse<C: Channel>(wires: &mut Wires<C>, error: FlowError) {
    let fault = close::fault(&error);
    let outcome = close::outcome(&error);
    if outcome == "internal" {
        // The one that an operator looks for: the peer was told nothing of its inside.
        tracing::error!(word = %fault.word, %error, detail = ?error, "failed");
    } else {
        tracing::info!(outcome, word = %fault.word, error = %escape_for_log(&error.to_string()), "refused");
    }
    let code = fault.close_code();
    let told = wires.reply(wire::reply::Reply::Fault(fault)).await;
    wires.reader.stop(code);
    match told {
        Ok(()) => wires.writer.finish(),
        Err(_) => wires.writer.reset(code),
    }
}

async fn perform<C: Channel>(
    services: &Services,
    caller: &Caller,
    connection: u64,
    asked: &Asked,
    ask: Ask,
    wires: &mut Wires<C>,
) -> Result<(), FlowError> {
    if !caller.may(&ask) {
        return Err(FlowError::Denied(not_for(caller)));
    }
    let registry = &services.registry;
    match (caller, ask) {
        (Caller::Invited { key, .. }, Ask::Join(join)) => {
            let certificate = Box::pin(registry.join(key, &join.csr_der)).await?;
            wires.reply(wire::reply::Reply::Certificate(services.certificate(certificate))).await
        }
        (Caller::Expired { peer, key, .. }, Ask::Renew(renew)) => {
            services.gate.admit(peer)?;
            let certificate = Box::pin(registry.renew_expired(&peer.agent, key, &renew.csr_der)).await?;
            wires.reply(wire::reply::Reply::Certificate(services.certificate(certificate))).await
        }
        (Caller::Agent { peer, .. }, ask) => {
            services.gate.admit(peer)?;
            perform_for_agent(services, (peer, connection), asked, ask, wires).await
        }
        // `may` lets nothing else through.
        (Caller::Invited { .. } | Caller::Expired { .. }, _) => Err(FlowError::Denied(not_for(caller))),
    }
}

/// Why a kind of caller may not ask what it asked at all.
const fn not_for(caller: &Caller) -> Denied {
    match caller {
        Caller::Expired { .. } => Denied::CertificateExpired,
        Caller::Agent { .. } | Caller::Invited { .. } => Denied::UnknownAgent,
    }
}

/// Each of what can be asked is boxed: a request takes the memory of what it does, and thousands of subscriptions stand.
async fn perform_for_agent<C: Channel>(
    services: &Services,
    from: (&Peer, u64),
    asked: &Asked,
    ask: Ask,
    wires: &mut Wires<C>,
) -> Result<(), FlowError> {
    let (peer, observer) = (from.0, &services.observer);
    let (registry, flow, gate) = (&services.registry, &services.flow, &services.gate);
    match ask {
        Ask::Join(_) => Err(FlowError::Denied(Denied::UnknownAgent)),
        Ask::Renew(renew) => {
            let certificate = Box::pin(registry.renew(&peer.agent, &renew.csr_der)).await?;
            wires.reply(wire::reply::Reply::Certificate(services.certificate(certificate))).await
        }
        Ask::Document(document) => {
            let taken = Box::pin(registry.take_document(&peer.agent, &document.envelope)).await?;
            let json = taken.json.to_string().into_bytes().into();
            let taken = wire::DocumentTaken { document: taken.document.to_string(), json };
            wires.reply(wire::reply::Reply::Document(taken)).await
        }
        Ask::Narrow(narrow) => {
            Box::pin(registry.narrow(&peer.agent, &narrow.grant, &narrow.reason)).await?;
            wires.reply(wire::reply::Reply::Done(wire::Done {})).await
        }
        Ask::Read(read) => {
            let records: Records = match read.kind.as_str() {
                "transfer" => Box::pin(flow.transfers(peer, &read.id, &read.after)).await?,
                "subscription" => Box::pin(flow.subscriptions(peer, &read.id, &read.after)).await?,
                "reconcile" => Box::pin(reconcile(services, peer, &read)).await?,
                "version" | "version_region" => Box::pin(versions(services, peer, &read)).await?,
                kind => {
                    let mut page = Box::pin(registry.read(&peer.agent, kind, &read.id, &read.after)).await?;
                    if kind == "catalogue" && !read.id.is_empty() {
                        Box::pin(with_latest(flow, &mut page)).await?;
                    }
                    records(page)
                }
            };
            wires.reply(wire::reply::Reply::Records(records)).await
        }
        Ask::Cancel(cancel) => {
            Box::pin(flow.cancel(peer, &cancel.transfer)).await?;
            wires.reply(wire::reply::Reply::Done(wire::Done {})).await
        }
        Ask::PushFiles(ask) => {
            let permit = gate.push(peer, &ask.entry)?;
            let _watched = watching::push(observer, from, asked, &permit);
            Box::pin(flow::push_files(flow, permit, peer, ask, wires)).await
        }
        Ask::PushBatch(ask) => {
            let permit = gate.push(peer, &ask.entry)?;
            let _watched = watching::push(observer, from, asked, &permit);
            Box::pin(flow::push_batch(flow, permit, peer, ask, wires)).await
        }
        Ask::Follow(ask) => {
            let wanted = FollowAsk { entry: ask.entry.clone(), columns: ask.columns.clone() };
            let permit = gate.follow(peer, wanted)?;
            watching::follow(observer, from, asked, &permit);
            let share = |channel: &C| services.windows.take(from.1, channel);
            Box::pin(flow::follow(flow, permit, peer, ask, share, wires)).await
        }
        Ask::Pull(ask) => {
            let wanted = wanted(&ask)?;
            let permit = gate.pull(peer, &wanted)?;
            let _watched = watching::pull(observer, from, asked, &permit, &wanted);
            Box::pin(flow::pull(flow, permit, peer, ask, wires)).await
        }
        Ask::Query(ask) => {
            let permit = gate.service(peer, &by_key(&ask.target, &ask.columns, &ask.purpose))?;
            let keys = ask.key.iter().map(|key| (key.name.as_str(), key.value.as_str()));
            let _watched = watching::service(observer, from, asked, &permit, keys);
            Box::pin(flow::query(flow, permit, peer, ask, wires)).await
        }
        Ask::MatchKeys(ask) => {
            let permit = gate.service(peer, &by_key(&ask.target, &ask.columns, &ask.purpose))?;
            // One question, whose value is all of its keys; and each of them, as it is answered.
            let watched = watching::service(observer, from, asked, &permit, [("", ask.keys_digest.as_str())]);
            let answered = |hash, is_found| watched.key(hash, is_found);
            Box::pin(flow::match_keys(flow, permit, peer, ask, answered, wires)).await
        }
    }
}

/// The versions of an entry (`version`, its id or code), or the regions of one (`version_region`, id or code, `@`, number).
/// How many rows lie where is for the provider and the authority: to others there are none.
async fn versions(services: &Services, peer: &Peer, read: &wire::Read) -> Result<Records, FlowError> {
    let missing = || FlowError::NotFound { what: "version" };
    let (entry, number) = match (read.kind.as_str(), read.id.rsplit_once('@')) {
        ("version_region", Some((entry, number))) => (entry, Some(number.parse::<u64>().map_err(|_| missing())?)),
        ("version_region", None) => return Err(missing()),
        _ => (read.id.as_str(), None),
    };
    if entry.is_empty() {
        return Err(missing());
    }
    let page = services.registry.read(&peer.agent, "catalogue", entry, "").await?;
    // Only those two are told of the latest text of an entry.
    let known = page.records.into_iter().next().filter(|(_, json)| json.get("latest").is_some());
    let id = known.and_then(|(id, _)| id.parse().ok()).ok_or_else(missing)?;
    match number {
        Some(number) => services.flow.version_regions(id, number, &read.after).await,
        None => services.flow.versions(id, &read.after).await,
    }
}

/// What is asked for by key, as the gate judges it.
fn by_key(target: &str, columns: &[String], purpose: &str) -> gate::Ask {
    gate::Ask {
        target: Target::parse(target),
        columns: columns.to_vec(),
        rows: None,
        region: None,
        purpose: (!purpose.is_empty()).then(|| purpose.to_owned()),
    }
}

/// What the gateway has of an agency's own slice of a version (id or code, `@`, number; without one the latest).
async fn reconcile(services: &Services, peer: &Peer, read: &wire::Read) -> Result<Records, FlowError> {
    let (entry, number) = match read.id.rsplit_once('@') {
        Some((entry, number)) => {
            let number = number.parse().map_err(|_| FlowError::NotFound { what: "version" })?;
            (entry, number)
        }
        None => (read.id.as_str(), 0),
    };
    let permit = services.gate.follow(peer, FollowAsk { entry: entry.to_owned(), columns: Vec::new() })?;
    services.flow.reconcile(permit.allowed(), number, &read.after).await
}

/// What a pull asks for, as the gate judges it.
fn wanted(ask: &Pull) -> Result<gate::Ask, FlowError> {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let rows = text(&ask.r#where).map(|t| Predicate::parse(&t)).transpose();
    let region = text(&ask.region).map(|t| t.parse()).transpose();
    Ok(gate::Ask {
        target: Target::parse(&ask.target),
        columns: ask.columns.clone(),
        rows: rows.map_err(|e| FlowError::bad_data(format!("--where: {e}")))?,
        region: region
            .map_err(|e: lingqu_protocol::region::RegionError| FlowError::bad_data(format!("--region: {e}")))?,
        purpose: text(&ask.purpose),
    })
}
