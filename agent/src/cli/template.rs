//! `catalogue template`: an entry from a file of rows.

use super::args::TemplateArgs;
use super::{App, write_output};
use crate::batch::{ReadOptions, template};
use crate::error::AgentError;
use serde_json::json;

pub(super) fn template(app: &App, args: &TemplateArgs) -> Result<(), AgentError> {
    let options = ReadOptions { encoding: args.encoding, sheet: args.sheet.clone(), ..ReadOptions::default() };
    let made = template::template(&*app.machine.disk, &args.from, &options)?;
    if let Some(out) = &args.out {
        write_output(out, made.toml.as_bytes())?;
    }
    let said = json!({
        "id": made.name, "items": made.items, "rows_looked_at": made.rows, "out": args.out,
        "toml": args.out.is_none().then_some(&made.toml),
    });
    app.output.say(&said, |o| match &args.out {
        Some(out) => format!(
            "{}: {} ({} {})",
            o.pick("written", "已写入"),
            out.display(),
            made.items,
            o.pick("items", "个数据项")
        ),
        None => made.toml.clone(),
    })
}
