//! Where the registry hands on what is in force. The gate stands behind this port; a command that works without a
//! running gateway has nobody to tell.

use super::agency::Agency;
use super::agent::Agent;
use super::backflow::List;
use super::grant::Grant;
use super::stop::{Selector, Stop};
use lingqu_protocol::agency::CreditCode;
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::ids::EntryId;
use lingqu_protocol::scope::Scope;
use std::io;
use std::sync::Arc;

/// An entry as the gate needs it.
#[derive(Clone, Debug)]
pub struct EntryUpdate {
    /// Its id.
    pub id: EntryId,
    /// Its code, once it was published.
    pub code: Option<String>,
    /// Whose data it is.
    pub provider: CreditCode,
    /// The text in force; where none was published yet, the latest.
    pub spec: Arc<EntrySpec>,
    /// Whether it is published.
    pub published: bool,
}

/// One change of what is in force.
#[derive(Clone, Debug)]
pub enum Update {
    /// A new or changed agency.
    Agency(Agency),
    /// A new or changed agent.
    Agent(Agent),
    /// A new or changed entry.
    Entry(EntryUpdate),
    /// A new or changed grant.
    Grant(Box<Grant>, Arc<Scope>),
    /// A new or revoked list of what flows back to whom.
    Backflow(Arc<List>),
    /// A stop.
    Stop(Stop),
    /// The end of a stop.
    Resume(Selector),
}

/// Keeps cuts that acted and whose commit failed, apart from the state, so that they hold over a restart.
pub trait Cuts: Send + Sync + 'static {
    /// Those that are kept.
    fn all(&self) -> Vec<Stop>;
    /// Keeps one, durably; where its selector is kept already, the first reason stands.
    ///
    /// # Errors
    /// What the system says; the cut is in [`Self::all`] all the same.
    fn keep(&self, stop: Stop) -> io::Result<()>;
    /// Forgets one that was recorded, or lifted.
    ///
    /// # Errors
    /// What the system says.
    fn forget(&self, selector: &Selector) -> io::Result<()>;
}

/// Puts changes in force. What they narrow is cut before the call returns.
pub trait Publish: Send + Sync + 'static {
    /// Puts `updates` in force together.
    fn publish(&self, updates: Vec<Update>);
}

/// Nobody: for a command that works on the folder while no gateway serves it.
#[derive(Clone, Copy, Debug)]
pub struct Nobody;

impl Cuts for Nobody {
    fn all(&self) -> Vec<Stop> {
        Vec::new()
    }
    fn keep(&self, _: Stop) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "nobody keeps it"))
    }
    fn forget(&self, _: &Selector) -> io::Result<()> {
        Ok(())
    }
}

impl Publish for Nobody {
    fn publish(&self, _: Vec<Update>) {}
}
