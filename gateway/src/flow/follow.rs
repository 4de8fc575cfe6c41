//! A subscription, top to bottom: permit, cursor, then version after version (`deliver`); and where there is
//! nothing new, waiting without looking at anything.

use super::Flow;
use super::error::FlowError;
use super::pace::Pace;
use super::subscription::SubscriptionRow;
use super::wires::{Token, Wires, token};
use crate::gate::{Denied, FollowPermit, Peer, Permit};
use crate::metrics;
use lingqu_protocol::backflow::{ALIVE_EVERY, SINK_BYTES_MAX};
use lingqu_protocol::digest::Digest;
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::session::SessionError;
use lingqu_protocol::stream::Channel;
use lingqu_protocol::wire::{self, Alive, CaughtUp, Follow, FollowReady, Step, reply};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// Serves a subscription until either side ends it. What it does before it waits is boxed, as is each delivery: thousands wait.
///
/// # Errors
/// Why it ended, where it was not for that everything was said.
pub async fn follow<C: Channel, S: Send>(
    flow: &Arc<Flow>,
    permit: FollowPermit,
    peer: &Peer,
    ask: Follow,
    share: impl Fn(&C) -> S + Send + Sync,
    wires: &mut Wires<C>,
) -> Result<(), FlowError> {
    let id: TransferId = ask.subscription.parse().map_err(|e| FlowError::bad_data(format!("{e}")))?;
    let is_word = |c: u8| c.is_ascii_lowercase() || c == b'-' || c == b'_';
    if ask.sink.len() > SINK_BYTES_MAX || !ask.sink.bytes().all(is_word) {
        return Err(FlowError::bad_data("the kind of sink is a word of a-z"));
    }
    let known = Box::pin(flow.subscription(peer, id, permit.entry().id)).await?;
    let claim = flow.claim(id);
    let leash = permit.leash().clone();
    Box::pin(flow.begin_subscription(peer, id, &permit)).await?;
    let _counted = metrics::subscribed();
    let following = Following { flow, permit, peer, id, ask: &ask, share: &share, pace: Mutex::default() };
    claim.work(&leash, following.run(known, wires)).await
}

/// A subscription that stands.
pub(super) struct Following<'a, F> {
    pub(super) flow: &'a Arc<Flow>,
    pub(super) permit: FollowPermit,
    pub(super) peer: &'a Peer,
    pub(super) id: TransferId,
    pub(super) ask: &'a Follow,
    pub(super) share: &'a F,
    /// How its link got along with the versions before; it is with who sends one meanwhile.
    pub(super) pace: Mutex<Pace>,
}

impl<F> Following<'_, F> {
    async fn run<C: Channel, S: Send>(
        mut self,
        known: Option<SubscriptionRow>,
        wires: &mut Wires<C>,
    ) -> Result<(), FlowError>
    where
        F: Fn(&C) -> S + Send + Sync,
    {
        let entry = Arc::clone(self.permit.entry());
        let mut versions = Box::pin(self.flow.watch_versions(entry.id)).await?;
        let latest = *versions.borrow();
        let mut at = self.begins_at(latest)?;
        let mut slice = self.permit.slice();
        let token = token(self.flow.entropy())?;
        wires.reply(reply::Reply::FollowReady(self.ready(latest, &token, known.as_ref()))).await?;
        let (mut told, mut committed_at) = (None, 0);
        loop {
            self.permit.renew()?;
            let latest = *versions.borrow_and_update();
            self.permit.leash().set_behind(latest.saturating_sub(at));
            if latest > at {
                // Who begins gets the state, and not how it came about.
                let to = if at == 0 { latest } else { at + 1 };
                let changed = at > 0 && slice != self.permit.slice();
                slice = self.permit.slice();
                // Boxed: while nothing comes, a subscription holds nothing of a delivery.
                committed_at = Box::pin(self.deliver((at, to), changed, token, wires)).await?;
                at = to;
                continue;
            }
            if told != Some(at) {
                if committed_at == 0 && at > 0 {
                    committed_at = Box::pin(self.flow.version(entry.id, at)).await?.committed_at;
                }
                let now_ms = self.flow.now().0;
                let caught_up = CaughtUp { version: at, committed_at_ms: committed_at, now_ms };
                wires.reply(reply::Reply::CaughtUp(caught_up)).await?;
                told = Some(at);
                if self.ask.once {
                    return Ok(());
                }
            }
            if !self.wait(&mut versions, wires).await? {
                return Ok(());
            }
        }
    }

    /// Where the receiver's cursor is.
    fn begins_at(&self, latest: u64) -> Result<u64, FlowError> {
        let anew = |why| FlowError::Denied(Denied::StartAnew { why });
        let Some(cursor) = self.ask.cursor.as_ref().filter(|cursor| cursor.version > 0) else { return Ok(0) };
        let is_this = cursor.slice.parse().is_ok_and(|slice: Digest| self.permit.allowed().goes_on_from(&slice));
        if !is_this {
            return Err(anew("the regions or columns that are meant are others than those of your cursor"));
        }
        if cursor.version > latest {
            return Err(anew("your cursor is ahead of this gateway"));
        }
        Ok(cursor.version)
    }

    fn ready(&self, latest: u64, token: &Token, known: Option<&SubscriptionRow>) -> FollowReady {
        let allowed = self.permit.allowed();
        let items = allowed.columns.iter().filter_map(|at| allowed.entry.spec.items.get(*at));
        let keys: Vec<String> = items.filter(|item| item.key).map(|item| item.name.clone()).collect();
        let all = allowed.entry.spec.items.iter().filter(|item| item.key).count();
        FollowReady {
            entry: allowed.entry.id.to_string(),
            list: allowed.list.to_string(),
            regions: vec![allowed.region.own().to_string()],
            columns: allowed.names().into_iter().map(str::to_owned).collect(),
            // A part of a key tells nothing apart.
            keys: if keys.len() == all { keys } else { Vec::new() },
            latest,
            slice: self.permit.slice().to_string(),
            token: token.to_vec().into(),
            advice: known
                .filter(|row| row.version > 0)
                .map(|row| wire::Cursor { version: row.version, slice: row.slice.clone() }),
        }
    }

    /// Waits for a version, giving signs of life; false where the receiver has ended the request.
    async fn wait<C: Channel>(
        &mut self,
        versions: &mut watch::Receiver<u64>,
        wires: &mut Wires<C>,
    ) -> Result<bool, FlowError> {
        loop {
            tokio::select! {
                biased;
                () = self.permit.drained() => {
                    return Err(FlowError::Denied(Denied::Closed(crate::gate::ClosedWhy::Draining)));
                }
                said = wires.reader.message::<Step>("nothing, or the end") => {
                    return match said? {
                        None => Ok(false),
                        Some(_) => {
                            Err(SessionError::Unexpected { expected: "nothing, or the end", got: "a step" }.into())
                        }
                    };
                }
                changed = versions.changed() => {
                    // The sender lives as long as somebody listens.
                    changed.map_err(|_| FlowError::Machine("nobody tells of versions".into()))?;
                    return Ok(true);
                }
                () = tokio::time::sleep(ALIVE_EVERY) => {
                    self.permit.renew()?;
                    wires.reply(reply::Reply::Alive(Alive { now_ms: self.flow.now().0 })).await?;
                }
            }
        }
    }
}

/// What is no longer kept cannot be gone on from.
pub(super) fn gone(error: FlowError) -> FlowError {
    match error {
        FlowError::NotFound { .. } => {
            FlowError::Denied(Denied::StartAnew { why: "the next version after your cursor is no longer kept" })
        }
        other => other,
    }
}
