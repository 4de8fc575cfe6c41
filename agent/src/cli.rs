//! The `lingqu` command: what can be said ([`args`]), and what is done about it.

pub mod args;

use crate::connect::Link;
use crate::error::{AgentError, Told};
use crate::machine::Machine;
use crate::output::Output;
use lingqu_certs::profile::Profile;
use std::path::PathBuf;

/// What every command is given.
#[derive(Debug)]
pub struct App {
    /// Clock, entropy and disk.
    pub machine: Machine,
    /// How it speaks.
    pub output: Output,
    /// The profile's folder, where one was named.
    pub profile_dir: Option<PathBuf>,
}

impl App {
    /// The folder that was named for the profile.
    ///
    /// # Errors
    /// `Usage` where none was.
    pub fn profile_dir(&self) -> Result<&PathBuf, AgentError> {
        self.profile_dir.as_ref().ok_or_else(|| {
            AgentError::Usage(
                Told::new("no_profile", "no profile was named", "未指定代理配置目录").next(
                    "add --profile DIR, or set LINGQU_PROFILE",
                    "加上 --profile 目录，或设置环境变量 LINGQU_PROFILE",
                ),
            )
        })
    }

    /// The profile that was named.
    ///
    /// # Errors
    /// `Usage` where none was, or it is none.
    pub fn profile(&self) -> Result<Profile, AgentError> {
        Ok(Profile::load(self.profile_dir()?)?)
    }

    /// The way to the profile's gateway.
    ///
    /// # Errors
    /// As [`Self::profile`].
    pub fn link(&self) -> Result<Link, AgentError> {
        Ok(Link::new(self.machine.clone(), self.profile()?))
    }
}
