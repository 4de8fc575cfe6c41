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

#[cfg(test)]
mod tests {
    use super::*;
    use sqlx::error::{DatabaseError, ErrorKind};
    use std::borrow::Cow;
    use std::error::Error;
    use std::fmt;

    #[derive(Debug)]
    struct Code(i32);

    impl fmt::Display for Code {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "code {}", self.0)
        }
    }

    impl Error for Code {}

    impl DatabaseError for Code {
        fn message(&self) -> &str {
            "as SQLite says"
        }
        fn code(&self) -> Option<Cow<'_, str>> {
            Some(self.0.to_string().into())
        }
        fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
            self
        }
        fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
            self
        }
        fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
            self
        }
        fn kind(&self) -> ErrorKind {
            ErrorKind::Other
        }
    }

    #[test]
    fn a_failed_sync_poisons_wherever_it_comes() {
        let error = |code| sqlx::Error::Database(Box::new(Code(code)));
        for code in [IOERR_FSYNC, IOERR_DIR_FSYNC] {
            assert_eq!(failed(error(code)), StateError::Poisoned);
            assert_eq!(commit_failed(error(code)), StateError::Poisoned);
        }
        // A failed write (SQLITE_IOERR_WRITE) before the commit is clean; in it, the log may hold the commit.
        assert!(matches!(failed(error(778)), StateError::Storage(_)));
        assert_eq!(commit_failed(error(778)), StateError::Poisoned);
        assert_eq!(commit_failed(sqlx::Error::WorkerCrashed), StateError::Poisoned);
        assert_eq!(failed(error(FULL)), StateError::Full);
        assert_eq!(commit_failed(error(FULL)), StateError::Full);
        assert!(matches!(commit_failed(error(BUSY)), StateError::Storage(_)));
        assert!(matches!(failed(error(CORRUPT)), StateError::Damaged(_)));
    }
}
