//! `lingqu-gateway`.

use clap::Parser as _;
use lingqu_gateway::cli::{self, Cli};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => ExitCode::from(runtime.block_on(cli::run(cli))),
        Err(error) => {
            eprintln!("error 错误: the system gives no threads: {error}");
            ExitCode::from(1)
        }
    }
}
