//! `lingqu-gateway`.

mod allocator;

use clap::Parser as _;
use lingqu_gateway::cli::{self, Cli};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    if let Some(error) = allocator::settle(cli.serves()) {
        eprintln!("warning 警告: the memory allocator keeps its defaults: {error}");
    }
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => ExitCode::from(runtime.block_on(cli::run(cli))),
        Err(error) => {
            eprintln!("error 错误: the system gives no threads: {error}");
            ExitCode::from(1)
        }
    }
}
