//! `query`: one record by its key.

use super::App;
use super::args::QueryArgs;
use crate::batch::json_rows;
use crate::error::{AgentError, Told};
use crate::lookup::{self, Found};
use crate::output::{Output, clean};
use crate::transfer::peer;
use lingqu_protocol::keys::FOUND_COLUMN;
use lingqu_protocol::wire::{KeyValue, Query};
use serde_json::{Value, json};

/// `query`.
pub(super) async fn query(app: &App, args: &QueryArgs) -> Result<(), AgentError> {
    let ask = Query {
        target: args.target.clone(),
        version: args.version.unwrap_or(0),
        key: key(&args.key)?,
        columns: args.columns.iter().map(|name| name.trim().to_owned()).collect(),
        purpose: args.purpose.clone().unwrap_or_default(),
    };
    let found = app.with_session(async |session| lookup::query(session, ask.clone()).await).await?;
    let said = told(&found)?;
    app.output.say(&said, |output| lines(output, &said))
}

/// Values with the names of their items; a value alone has none.
fn key(said: &[String]) -> Result<Vec<KeyValue>, AgentError> {
    let value = |text: &String| match text.split_once('=') {
        Some((name, value)) => KeyValue { name: name.trim().to_owned(), value: value.to_owned() },
        None => KeyValue { name: String::new(), value: text.clone() },
    };
    let key: Vec<KeyValue> = said.iter().map(value).collect();
    for (at, one) in key.iter().enumerate() {
        if key.iter().take(at).any(|before| before.name == one.name) {
            let shown = clean(&one.name);
            let told = Told::new(
                "bad_option",
                format!("--key: the item {shown:?} is there twice"),
                format!("--key：数据项 {shown:?} 重复"),
            );
            return Err(AgentError::Usage(told.next("see `lingqu query --help`", "参见 `lingqu query --help`")));
        }
    }
    Ok(key)
}

/// What was found, for programs.
fn told(found: &Found) -> Result<Value, AgentError> {
    let mut records = Vec::new();
    for batch in &found.batches {
        let rows = json_rows(batch).ok_or_else(|| peer("columns of a type that is not sent", "列类型不受支持"))?;
        records.extend(rows);
    }
    for record in &mut records {
        // Every record that is here was found.
        record.as_object_mut().and_then(|fields| fields.remove(FOUND_COLUMN));
    }
    let answer = &found.answer;
    Ok(json!({
        "grant": answer.grant, "entry": answer.entry, "version": answer.version, "found": answer.rows > 0,
        "records": records, "leaf": answer.leaf,
    }))
}

/// One field a line, an empty line between records.
fn lines(output: &Output, said: &Value) -> String {
    let records = said["records"].as_array().map(Vec::as_slice).unwrap_or_default();
    if records.is_empty() {
        return output.pick("not found", "未找到").to_owned();
    }
    let one = |record: &Value| {
        let fields = record.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
        let line = |(name, value): (&String, &Value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            format!("{}: {}\n", clean(name), clean(&value))
        };
        fields.map(line).collect::<String>()
    };
    records.iter().map(one).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray};
    use lingqu_protocol::wire::Answer;
    use std::sync::Arc;

    #[test]
    fn a_key_is_named_or_alone() {
        let texts = |said: &[&str]| {
            let said: Vec<String> = said.iter().map(|s| (*s).to_owned()).collect();
            key(&said).map(|key| key.into_iter().map(|one| (one.name, one.value)).collect::<Vec<_>>())
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(texts(&["x"]).unwrap(), [pair("", "x")]);
        assert_eq!(texts(&["=a=b"]).unwrap(), [pair("", "a=b")], "a value that has the sign");
        assert_eq!(texts(&["a=1", "b="]).unwrap(), [pair("a", "1"), pair("b", "")]);
        assert_eq!(texts(&["a=1", "a=2"]).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn what_was_found_is_told_and_the_mark_of_it_is_not() {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("code", Arc::new(StringArray::from(vec!["007"]))),
            (FOUND_COLUMN, Arc::new(BooleanArray::from(vec![true]))),
            ("staff", Arc::new(Int64Array::from(vec![None]))),
        ];
        let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
        let answer = Answer { grant: "g".into(), rows: 1, version: 3, leaf: 9, ..Answer::default() };
        let said = told(&Found { answer, batches: vec![batch] }).unwrap();
        assert_eq!(said["records"], json!([{"code": "007", "staff": null}]));
        assert_eq!((&said["found"], &said["version"], &said["leaf"]), (&json!(true), &json!(3), &json!(9)));
        let none = told(&Found { answer: Answer::default(), batches: vec![] }).unwrap();
        assert_eq!((&none["found"], &none["records"]), (&json!(false), &json!([])));
    }
}
