//! What the demonstration tells in the end: sentences in English and Chinese, and the same as JSON.

use serde_json::{Map, Value, json};
use std::time::Instant;

/// The account as it grows.
#[derive(Debug)]
pub(super) struct Account {
    since: Instant,
    steps: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    name: &'static str,
    english: String,
    chinese: String,
    commands: Vec<String>,
    facts: Map<String, Value>,
    at_seconds: f64,
}

impl Account {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), steps: Vec::new() }
    }

    pub(super) fn seconds(&self) -> f64 {
        self.since.elapsed().as_secs_f64()
    }

    /// Adds a step, and says it on standard error at once. `facts` is a JSON object.
    pub(super) fn step(
        &mut self,
        name: &'static str,
        english: String,
        chinese: String,
        commands: Vec<String>,
        facts: Value,
    ) {
        let at_seconds = self.seconds();
        eprintln!("[{at_seconds:5.1} s] {english}\n          {chinese}");
        let facts = match facts {
            Value::Object(facts) => facts,
            _ => Map::new(),
        };
        self.steps.push(Step { name, english, chinese, commands, facts, at_seconds });
    }

    pub(super) fn to_json(&self, dir: &str, next: &[String]) -> Value {
        let step = |s: &Step| {
            json!({
                "step": s.name, "text": s.english, "text_zh": s.chinese, "at_seconds": s.at_seconds,
                "commands": s.commands, "facts": s.facts,
            })
        };
        json!({
            "seconds": self.seconds(),
            "dir": dir,
            "steps": self.steps.iter().map(step).collect::<Vec<_>>(),
            "next": next,
        })
    }

    pub(super) fn to_text(&self, dir: &str, next: &[String]) -> String {
        let mut text = String::from("\nWhat was shown / 演示结果\n");
        for (i, step) in self.steps.iter().enumerate() {
            text += &format!("\n{:>2}. {}\n    {}\n", i + 1, step.english, step.chinese);
            for command in &step.commands {
                text += &format!("      $ {command}\n");
            }
        }
        text += &format!(
            "\n{:.1} seconds. Market registrations are synthetic; region codes are real.\n{:.1} 秒。市场主体登记为合成数据，行政区划代码为真实代码。\n",
            self.seconds(),
            self.seconds()
        );
        text += &format!("\nEverything lies in {dir}. To go on / 数据保留在该目录，可继续：\n");
        for command in next {
            text += &format!("  {command}\n");
        }
        text
    }
}
