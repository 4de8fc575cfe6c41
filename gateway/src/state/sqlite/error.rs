//! What an error of SQLite means to the state. The codes are SQLite's own and never change.

use super::super::StateError;

const BUSY: i32 = 5;
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const CONSTRAINT: i32 = 19;
const NOT_A_DATABASE: i32 = 26;
const IOERR_FSYNC: i32 = 1034;
const IOERR_DIR_FSYNC: i32 = 1290;

/// The extended code, where the error is SQLite's own.
fn code(error: &sqlx::Error) -> Option<i32> {
    let sqlx::Error::Database(error) = error else { return None };
    error.code()?.parse().ok()
}

/// Of a statement before the commit: nothing can have become durable.
pub(super) fn failed(error: sqlx::Error) -> StateError {
    let code = code(&error);
    if let Some(IOERR_FSYNC | IOERR_DIR_FSYNC) = code {
        return StateError::Poisoned;
    }
    match code.map(|code| code & 0xff) {
        Some(FULL) => StateError::Full,
        Some(CORRUPT | NOT_A_DATABASE | CONSTRAINT) => StateError::Damaged(error.to_string()),
        _ if matches!(error, sqlx::Error::PoolClosed) => StateError::Closed,
        _ => StateError::Storage(error.to_string()),
    }
}

/// Of the commit itself: unless SQLite is known to have stopped before the sync, nobody knows.
pub(super) fn commit_failed(error: sqlx::Error) -> StateError {
    match code(&error).map(|code| code & 0xff) {
        Some(FULL) => StateError::Full,
        Some(BUSY) => StateError::Storage(error.to_string()),
        _ => StateError::Poisoned,
    }
}

/// A number that SQLite, whose integers are signed, gave for one that cannot be negative.
pub(super) fn unsigned(number: i64) -> Result<u64, StateError> {
    u64::try_from(number).map_err(|_| StateError::Damaged(format!("a count is {number}")))
}

/// A number for SQLite. One that is larger than SQLite can hold is found nowhere, which is what the largest is.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A stored hash.
pub(super) fn hash(bytes: &[u8]) -> Result<[u8; 32], StateError> {
    bytes.try_into().map_err(|_| StateError::Damaged(format!("a hash has {} bytes", bytes.len())))
}
