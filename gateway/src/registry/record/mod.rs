//! How the registry's things are written in the state: one explicit row type each, as JSON. Rows are read back into
//! domain types with every check, for a state may be restored from anywhere.

mod backflow;
mod misuse;
mod people;
mod things;

use super::error::RegistryError;
use crate::state::{Draft, Kind, Record};
use lingqu_protocol::host::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Display;
use std::str::FromStr;

/// A thing of the registry with a place in the state.
pub trait Stored: Sized + Send + Sync {
    /// What it is there.
    const KIND: Kind;
    /// Its body there.
    type Row: Serialize + DeserializeOwned;
    /// Its id there.
    fn id(&self) -> String;
    /// The agency that it belongs to: who asked, for what was asked.
    fn owner(&self) -> Option<String>;
    /// What it hangs on: the provider, for what was asked of one.
    fn parent(&self) -> Option<String> {
        None
    }
    /// Its body.
    fn to_row(&self) -> Self::Row;
    /// What the body says; the text says what is wrong with it.
    ///
    /// # Errors
    /// A body that this program cannot have written.
    fn from_row(row: Self::Row) -> Result<Self, String>;
}

/// The record of a thing.
///
/// # Errors
/// [`RegistryError::Damaged`]; none is known.
pub fn draft<T: Stored>(thing: &T, now: Timestamp) -> Result<Draft, RegistryError> {
    let id = thing.id();
    let body = serde_json::to_vec(&thing.to_row())
        .map_err(|e| RegistryError::Damaged(format!("{} {id} cannot be written: {e}", T::KIND)))?;
    Ok(Draft { kind: T::KIND, id, agency: thing.owner(), parent: thing.parent(), body, changed_at: now })
}

/// The thing in a record.
///
/// # Errors
/// [`RegistryError::Damaged`], with the record's id.
pub fn thing<T: Stored>(record: &Record) -> Result<T, RegistryError> {
    let damaged = |why: String| RegistryError::Damaged(format!("{} {}: {why}", record.kind, record.id));
    let row: T::Row = serde_json::from_slice(&record.body).map_err(|e| damaged(e.to_string()))?;
    let thing = T::from_row(row).map_err(damaged)?;
    // The record is found by its id, so a body under another's id would be taken for it.
    if record.kind != T::KIND || thing.id() != record.id {
        return Err(damaged(format!("it holds {} {}", T::KIND, thing.id())));
    }
    Ok(thing)
}

fn parse<T: FromStr<Err: Display>>(what: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|e| format!("{what} {text:?}: {e}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
