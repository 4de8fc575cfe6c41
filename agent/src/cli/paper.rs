//! Signing here, signing elsewhere, handing in, checking.

use super::args::{SendArgs, SignArgs, SignFileArgs, VerifyArgs};
use super::{App, check, read_input, write_output};
use crate::draft::{self, Summary};
use crate::error::{AgentError, Told};
use crate::output::clean;
use crate::records;
use lingqu_certs::document::{payload_digest, prepare, sign_prepared};
use lingqu_certs::key::PublicKey;
use lingqu_certs::officer::{Officer, read_envelope};
use lingqu_protocol::digest::Digest;
use lingqu_protocol::documents::{Body, DOCUMENT_BYTES_MAX, Document};
use lingqu_protocol::dsse::{ENVELOPE_TEXT_BYTES_MAX, Envelope, parse_pae};
use lingqu_protocol::host::Timestamp;
use serde_json::{Value, json};
use std::path::Path;

/// Bytes of a file that holds a public key: one line, with room for a comment.
const KEY_TEXT_BYTES_MAX: usize = 4 * 1024;

/// Bytes that DSSE puts before a payload.
const PREPARED_HEAD_BYTES_MAX: usize = 1024;

/// Drafts a document and either writes it down to be signed elsewhere, or signs it and hands it in.
pub(super) async fn act<B: Body>(
    app: &App,
    sign: &SignArgs,
    follows: Option<Digest>,
    body: B,
) -> Result<(), AgentError> {
    let gateway = app.profile()?.settings().gateway;
    let document = draft::document(&app.machine, gateway, follows, sign.valid_days, body)?;
    match (&sign.prepare, &sign.key) {
        (Some(file), _) => write_prepared(app, file, &document),
        (None, Some(dir)) => {
            let envelope = Officer::load(dir)?.seal(&document)?;
            hand_in(app, &envelope).await
        }
        // clap asks for one of the two.
        (None, None) => Err(AgentError::Usage(Told::new(
            "no_signer",
            "nobody signs: add --key or --prepare",
            "缺少 --key 或 --prepare",
        ))),
    }
}

/// `sign`: needs no profile and no connection.
pub(super) fn sign(app: &App, args: &SignFileArgs) -> Result<(), AgentError> {
    let (summary, payload) = sign_file(args)?;
    let mut made = summary.made.clone();
    let out = args.out.display().to_string();
    merge(&mut made, json!({ "document": summary.document, "out": out, "gateway": summary.gateway }));
    app.output.say(&made, |o| {
        let text = readable(&payload);
        let until = Timestamp(summary.expires_at);
        format!(
            "{text}\n{}: {out} ({} {until})",
            o.pick("signed; hand it in with `lingqu send`", "已签署，请用 `lingqu send` 提交"),
            o.pick("until", "有效期至"),
        )
    })
}

/// `send`.
pub(super) async fn send(app: &App, args: &SendArgs) -> Result<(), AgentError> {
    let envelope = Envelope::from_json(&read_input(&args.file, ENVELOPE_TEXT_BYTES_MAX)?)?;
    let summary = known(&envelope.payload_type, &envelope.payload)?;
    let gateway = app.profile()?.settings().gateway;
    if summary.gateway != gateway {
        return Err(AgentError::Usage(
            Told::new(
                "other_gateway",
                format!("the document is for {}, and this profile's gateway is {gateway}", summary.gateway),
                format!("该文书面向 {}，而本配置的网关为 {gateway}", summary.gateway),
            )
            .next("use the profile of that gateway", "使用对应网关的配置"),
        ));
    }
    hand_in(app, &envelope).await
}

/// `verify`: needs no connection.
pub(super) fn verify(app: &App, args: &VerifyArgs) -> Result<(), AgentError> {
    let root = trust(app, args.trust.as_deref())?;
    let envelope = Envelope::from_json(&read_input(&args.file, ENVELOPE_TEXT_BYTES_MAX)?)?;
    // Beside a profile a document must be for its gateway; an auditor without one is told for which it is.
    let expected = match &app.profile_dir {
        Some(_) => Some(app.profile()?.settings().gateway),
        None => None,
    };
    let signer = args.signer.as_deref().map(read_envelope).transpose()?;
    let officer = check::verified(&envelope, signer.as_ref(), &root, expected)?;
    let signer = officer.as_ref().map(|o| json!({ "name": o.name, "agency": o.agency, "role": o.role }));
    let document: Value = serde_json::from_slice(&envelope.payload).unwrap_or(Value::Null);
    let made = json!({
        "valid": true,
        "id": document.get("id"),
        "type": envelope.payload_type,
        "digest": payload_digest(&envelope),
        "signer": signer.unwrap_or_else(|| json!("root")),
        "document": document,
    });
    app.output.say(&made, |o| {
        let by = officer.as_ref().map_or_else(
            || o.pick("the root", "根").to_owned(),
            |officer| format!("{} ({})", clean(&officer.name), clean(&officer.agency)),
        );
        format!("{}\n{}: {by}", readable(&envelope.payload), o.pick("valid, signed by", "验证通过，签署人"))
    })
}

/// The root's public key: from a file, or the profile's.
pub(super) fn trust(app: &App, file: Option<&Path>) -> Result<PublicKey, AgentError> {
    let Some(path) = file else {
        if app.profile_dir.is_none() {
            return Err(AgentError::Usage(
                Told::new("no_trust", "nothing says which root is trusted", "未指定信任的根").next(
                    "add --trust FILE with the root's public key (root.pub), or --profile DIR to trust its root",
                    "用 --trust 给出根的公钥文件（root.pub），或用 --profile 使用该配置所信任的根",
                ),
            ));
        }
        return Ok(app.profile()?.settings().root);
    };
    let text = super::read_text(path, KEY_TEXT_BYTES_MAX)?;
    text.trim().parse().map_err(|e| {
        let path = path.display();
        AgentError::Usage(
            Told::new("trust_file", format!("{path}: {e}"), format!("{path} 不是公钥：{e}"))
                .next("name the root's file root.pub", "请给出根的 root.pub 文件"),
        )
    })
}

/// Signs what was prepared, where it is an officer's to sign, and gives what was signed.
fn sign_file(args: &SignFileArgs) -> Result<(Summary, Vec<u8>), AgentError> {
    let prepared = read_input(&args.file, DOCUMENT_BYTES_MAX + PREPARED_HEAD_BYTES_MAX)?;
    let (payload_type, payload) = parse_pae(&prepared)?;
    let summary = known(&payload_type, &payload)?;
    let officer = Officer::load(&args.key)?;
    let envelope = sign_prepared(&prepared, officer.key())?;
    write_output(&args.out, envelope.to_json().as_bytes())?;
    Ok((summary, payload))
}

/// Adds the fields of `more` that `object` does not have.
pub(super) fn merge(object: &mut Value, more: Value) {
    if let (Value::Object(object), Value::Object(more)) = (object, more) {
        for (name, value) in more {
            object.entry(name).or_insert(value);
        }
    }
}

fn write_prepared<B: Body>(app: &App, file: &Path, document: &Document<B>) -> Result<(), AgentError> {
    let prepared = prepare(document)?;
    write_output(file, &prepared)?;
    let payload = parse_pae(&prepared)?.1;
    let mut made = known(B::TYPE, &payload)?.made;
    let path = file.display().to_string();
    merge(&mut made, json!({ "document": document.id, "prepared": path }));
    app.output.say(&made, |o| {
        let then = format!("lingqu sign {path} --key ODIR --out S;  lingqu send S");
        format!("{}: {path}\n{}: {then}", o.pick("to be signed", "待签署"), o.pick("then", "随后"))
    })
}

async fn hand_in(app: &App, envelope: &Envelope) -> Result<(), AgentError> {
    let summary = known(&envelope.payload_type, &envelope.payload)?;
    let said = app.with_session(async |session| records::hand_in(session, envelope).await).await?;
    let mut made = summary.made;
    merge(&mut made, said);
    merge(&mut made, json!({ "document": summary.document }));
    app.output.say(&made, |o| {
        let field = |name: &str| made.get(name).and_then(Value::as_str).map(clean);
        let status = field("status").map(|s| format!(" ({s})")).unwrap_or_default();
        format!("{}: {}{status}", o.pick("done", "已办理"), field("id").unwrap_or_default())
    })
}

pub(super) fn known(payload_type: &str, payload: &[u8]) -> Result<Summary, AgentError> {
    draft::summary(payload_type, payload).ok_or_else(|| {
        AgentError::Usage(
            Told::new(
                "not_an_officers",
                format!("{} is not a document that an officer signs", clean(payload_type)),
                format!("{} 不是由签署人签署的文书", clean(payload_type)),
            )
            .next("name a file that `--prepare` or `sign` wrote", "请给出由 `--prepare` 或 `sign` 生成的文件"),
        )
    })
}

/// A payload as it is read: JSON, with control characters made visible.
fn readable(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).lines().map(|line| clean(line) + "\n").collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
