//! Receipts, checked with no connection.

use super::args::ReceiptVerifyArgs;
use super::{App, paper, read_input};
use crate::error::{AgentError, Told};
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::receipt::{RECEIPT_BYTES_MAX, Receipt, ReceiptError};
use serde_json::json;

/// `receipt verify`.
pub(super) fn verify(app: &App, args: &ReceiptVerifyArgs) -> Result<(), AgentError> {
    let root = paper::trust(app, args.trust.as_deref())?;
    let receipt = Receipt::from_json(&read_input(&args.file, RECEIPT_BYTES_MAX)?).map_err(|e| refused(&e))?;
    let verified = lingqu_certs::receipt::verify(&receipt, &root).map_err(|e| refused(&e))?;
    let statement = serde_json::to_value(&receipt.statement).unwrap_or_default();
    let made = json!({
        "valid": true,
        "id": receipt.statement.transfer,
        "statement": statement,
        "ledger": { "index": receipt.ledger.index, "size": verified.checkpoint.size },
        "cosigned_by": verified.cosigned_by,
    });
    app.output.say(&made, |o| {
        let s = &receipt.statement;
        let mut text = format!("{}: {}\n", o.pick("valid receipt", "回执验证通过"), s.transfer);
        let mut line = |name: &str, value: String| text.push_str(&format!("  {name}: {value}\n"));
        line(o.pick("agent", "代理"), s.agent.to_string());
        line(o.pick("entry", "目录条目"), format!("{} v{}", s.entry, s.dataset_version));
        line(o.pick("bytes", "字节数"), s.bytes.to_string());
        if let Some(rows) = s.rows {
            line(o.pick("rows", "行数"), rows.to_string());
        }
        if let Some(files) = s.files_count {
            line(o.pick("files", "文件数"), files.to_string());
        }
        line("bytes_root", s.bytes_root.to_string());
        if let Some(digest) = &s.rows_digest {
            line("rows_digest", digest.to_string());
        }
        line(o.pick("committed", "提交时间"), Timestamp(s.committed_at).to_rfc3339());
        line(o.pick("ledger", "台账"), format!("{} / {}", receipt.ledger.index, verified.checkpoint.size));
        line(o.pick("cosigned", "会签"), verified.cosigned_by.clone().unwrap_or_else(|| "-".into()));
        text
    })
}

fn refused(error: &ReceiptError) -> AgentError {
    let told = Told::new("receipt", error.to_string(), format!("回执验证未通过：{error}"));
    match error {
        ReceiptError::Unknown { .. } => {
            AgentError::Usage(told.next("use a newer version of this program", "使用更新版本的程序"))
        }
        _ => {
            AgentError::Integrity(told.next("do not rely on it; ask whoever gave it to you", "不要采信，向提供者核实"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_that_proves_nothing_is_an_integrity_error_and_a_newer_one_is_not() {
        assert_eq!(refused(&ReceiptError::Malformed("x".into())).exit_code(), 5);
        assert_eq!(refused(&ReceiptError::Cosignature).exit_code(), 5);
        assert_eq!(refused(&ReceiptError::Unknown { what: "receipt version", found: "2".into() }).exit_code(), 2);
    }
}
