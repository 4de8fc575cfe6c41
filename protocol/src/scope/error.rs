//! What is wrong with a scope.

use super::{SharingMethod, Transform};
use crate::entry::ItemType;
use crate::predicate::TypeMistakes;
use chrono::NaiveDate;
use std::fmt;

/// Why a scope cannot be. The fault is its writer's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// The entry is 不予共享.
    #[error("the entry is not shared (article 15)")]
    NotShared,
    /// Columns of an entry of files.
    #[error("the entry is one of files: leave columns out")]
    FilesHaveNoColumns,
    /// A table without columns.
    #[error("the entry is a table: list the columns that are needed")]
    NoColumns,
    /// A column that the entry does not have.
    #[error("the entry has no column {0:?}: see `catalogue show` for its items")]
    NoColumn(String),
    /// A condition on rows that does not fit the entry.
    #[error("where: {0}")]
    Rows(TypeMistakes),
    /// Regions of an entry that has none.
    #[error("the entry has no region column: leave regions out")]
    NoRegions,
    /// A transform of what is not among the columns.
    #[error("transforms: {0:?} is not among the columns: remove it")]
    NoColumnToTransform(String),
    /// A transform that the column's type does not take.
    #[error("transforms: {column} is {item_type}, and {transform} takes {}", .transform.takes())]
    TransformUnfit {
        /// The column.
        column: String,
        /// Its type.
        item_type: ItemType,
        /// What was to happen to it.
        transform: Transform,
    },
    /// No column is left.
    #[error("transforms: every column is dropped: leave one")]
    AllDropped,
    /// A method that the entry does not offer.
    #[error("the entry does not offer {0}: see its sharing_methods")]
    MethodNotOffered(SharingMethod),
    /// A purpose that a conditional entry does not allow.
    #[error("the entry is not shared for {0:?}: see its purposes")]
    PurposeNotOffered(String),
    /// An answer gives more than was asked.
    #[error("{key}: {what} was not asked for: an answer can only narrow the request")]
    Wider {
        /// The key.
        key: &'static str,
        /// What is too much.
        what: String,
    },
    /// A period that ends before it begins.
    #[error("the period ends on {until}, before it begins on {from}")]
    EmptyPeriod {
        /// Its first day.
        from: NaiveDate,
        /// Its last day.
        until: NaiveDate,
    },
}

/// Every reason why a scope cannot be; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeErrors(pub Vec<ScopeError>);

impl ScopeErrors {
    pub(super) fn none_or(errors: Vec<ScopeError>) -> Result<(), Self> {
        if errors.is_empty() { Ok(()) } else { Err(Self(errors)) }
    }
}

impl fmt::Display for ScopeErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if i == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for ScopeErrors {}
