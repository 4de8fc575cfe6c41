//! What texts of applications and answers say, against the entry they are about.

use super::error::{Refusal, RegistryError};
use super::grant::Grant;
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::scope::{ApplicationSpec, Scope, ScopeError, ScopeErrors, ScopeSpec, effective};

/// entry.toml.
///
/// # Errors
/// [`Refusal::Spec`].
pub fn entry(toml: &str) -> Result<EntrySpec, Refusal> {
    EntrySpec::parse(toml).map_err(|e| Refusal::Spec { what: "entry.toml", problem: e.to_string() })
}

/// application.toml.
///
/// # Errors
/// [`Refusal::Spec`].
pub fn application(toml: &str) -> Result<ApplicationSpec, Refusal> {
    ApplicationSpec::parse(toml).map_err(|e| Refusal::Spec { what: "application.toml", problem: e.to_string() })
}

/// Whether an entry can be shared like this.
///
/// # Errors
/// [`Refusal::NotShared`], [`Refusal::NotOffered`] with every mistake.
pub fn check(scope: &Scope, spec: &EntrySpec) -> Result<(), Refusal> {
    scope.check(spec).map_err(|ScopeErrors(errors)| {
        if errors.contains(&ScopeError::NotShared) {
            return Refusal::NotShared(spec.name.clone());
        }
        Refusal::NotOffered(ScopeErrors(errors).to_string())
    })
}

/// What an answer gives of what was asked for, with the leaves that the entry has now in place of structures.
///
/// # Errors
/// A scope file that cannot be read, one that is wider than what was asked for, or one that does not fit the entry.
pub fn answered(application_toml: &str, scope_toml: Option<&str>, spec: &EntrySpec) -> Result<Scope, Refusal> {
    let asked = application(application_toml)?.scope;
    let answer = scope_toml.map(ScopeSpec::parse).transpose();
    let answer = answer.map_err(|e| Refusal::Spec { what: "the scope file", problem: e.to_string() })?;
    let scope = effective(&asked, answer.as_ref()).map_err(|e| Refusal::Wider(e.to_string()))?;
    check(&scope, spec)?;
    Ok(scope.resolved(spec))
}

/// What a grant that was made before gives.
///
/// # Errors
/// [`RegistryError::Damaged`]: it was checked when it was made.
pub fn granted(grant: &Grant) -> Result<Scope, RegistryError> {
    let damaged = |e: String| RegistryError::Damaged(format!("{}: {e}", grant.id));
    let asked = application(&grant.application_toml).map_err(|e| damaged(e.to_string()))?.scope;
    let answer = grant.scope_toml.as_deref().map(ScopeSpec::parse).transpose();
    let answer = answer.map_err(|e| damaged(e.to_string()))?;
    let scope = effective(&asked, answer.as_ref()).map_err(|e| damaged(e.to_string()))?;
    let columns = grant.leaves.clone().unwrap_or_else(|| scope.columns.clone());
    Ok(Scope { columns, ..scope })
}
