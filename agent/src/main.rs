//! The `lingqu` command: builds the machine, reads the command line, and ends with the exit code.

use clap::Parser as _;
use lingqu_agent::cli::{self, App, args::Cli};
use lingqu_agent::error::{AgentError, Told};
use lingqu_agent::machine::Machine;
use lingqu_agent::output::{Language, Output};
use lingqu_certs::os::{OsDisk, OsEntropy, SystemClock};
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;
use tracing_subscriber::EnvFilter;

/// Exit code of a command line that cannot be read.
const USAGE: u8 = 2;

/// Exit code of a fault of this program.
const OUR_FAULT: u8 = 1;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // `--help` and `--version` come here too; they go to standard output and are no error.
            if !error.use_stderr() || !std::env::args().any(|arg| arg == "--json") {
                let code = if error.use_stderr() { USAGE } else { cli::DONE };
                let _unwritable = error.print();
                return ExitCode::from(code);
            }
            let error = AgentError::Usage(
                Told::new("usage", error.to_string(), format!("命令行有误：{error}"))
                    .next("see `lingqu --help`", "参见 `lingqu --help`"),
            );
            Output { json: true, language: language() }.say_error(&error);
            return ExitCode::from(error.exit_code());
        }
    };
    let output = Output { json: cli.json, language: language() };
    logs();
    let machine =
        Machine { clock: Arc::new(SystemClock::new()), entropy: Arc::new(OsEntropy::new()), disk: Arc::new(OsDisk) };
    let app = App { machine, output, profile_dir: cli.profile };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no runtime: {error}");
            return ExitCode::from(OUR_FAULT);
        }
    };
    let code = match runtime.block_on(cli::run(&app, cli.command)) {
        Ok(code) => code,
        Err(error) => {
            output.say_error(&error);
            error.exit_code()
        }
    };
    // Blocking reads of a dead disk or of standard input must not keep the command from ending.
    runtime.shutdown_background();
    ExitCode::from(code)
}

fn language() -> Language {
    let values = ["LC_ALL", "LC_MESSAGES", "LANG"].map(|name| std::env::var(name).ok());
    Language::from_locale(values.each_ref().map(Option::as_deref))
}

/// Logs go to standard error: warnings, or what LINGQU_LOG asks for.
fn logs() {
    let filter = EnvFilter::try_from_env("LINGQU_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
