//! Processes of this program that stand for many peers: a setting at their start, then orders and answers, a line of JSON
//! each. What they measure is not measured beside the process that gives the orders.

use crate::error::BenchError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use tokio::sync::mpsc;

/// One of them, as its master holds it; killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Process {
    /// Starts this program with a command of its own that takes `--setting`.
    pub(crate) fn start(command: &str, setting: &impl Serialize) -> Result<Self, BenchError> {
        let setting = serde_json::to_string(setting).map_err(BenchError::data("a peer's setting"))?;
        let me = std::env::current_exe().map_err(BenchError::system("finding this program"))?;
        let mut command_line = Command::new(me);
        command_line.args([command, "--setting", &setting]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command_line.spawn().map_err(BenchError::system("starting a peer"))?;
        let (Some(orders), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(BenchError::Wrong("a peer has no pipes".to_owned()));
        };
        Ok(Self { child, orders, answers: BufReader::new(answers) })
    }

    /// Tells it to do something.
    pub(crate) fn order(&mut self, order: &impl Serialize) -> Result<(), BenchError> {
        let line = serde_json::to_string(order).map_err(BenchError::data("an order"))? + "\n";
        self.orders.write_all(line.as_bytes()).map_err(BenchError::system("giving an order"))
    }

    /// Waits for its next answer.
    pub(crate) fn answer<T: DeserializeOwned>(&mut self) -> Result<T, BenchError> {
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(BenchError::system("reading a peer's answer"))?;
        serde_json::from_str(&line).map_err(BenchError::data("a peer's answer"))
    }

    /// Tells it to do something, and waits for its answer.
    pub(crate) fn ask<T: DeserializeOwned>(&mut self, order: &impl Serialize) -> Result<T, BenchError> {
        self.order(order)?;
        self.answer()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already, or ended now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The orders of the process that runs here, read by a thread of its own; ends with standard input.
pub(crate) fn orders() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            // Without a line or a reader there is nothing more to do.
            let Ok(line) = line else { return };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Answers an order.
pub(crate) fn say(json: &serde_json::Value) -> Result<(), BenchError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{json}").and_then(|()| out.flush()).map_err(BenchError::system("answering"))
}
