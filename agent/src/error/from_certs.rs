//! Errors of keys, profiles and documents in this program's words.

use super::{AgentError, Told};
use lingqu_certs::ca::CaError;
use lingqu_certs::document::DocumentError;
use lingqu_certs::invitation::BadInvitation;
use lingqu_certs::key::KeyError;
use lingqu_certs::officer::OfficerError;
use lingqu_certs::profile::ProfileError;
use lingqu_protocol::dsse::EnvelopeError;
use std::io;

impl From<ProfileError> for AgentError {
    fn from(error: ProfileError) -> Self {
        let text = error.to_string();
        match error {
            ProfileError::Exists(dir) => Self::Usage(
                Told::new("profile_exists", format!("{dir} is a profile already"), format!("{dir} 已是代理配置")).next(
                    "use it (`lingqu status`), or join into another folder with --profile",
                    "直接使用（`lingqu status`），或用 --profile 指定其他目录接入",
                ),
            ),
            ProfileError::Missing(dir) => Self::Usage(
                Told::new("profile_missing", format!("{dir} is not a profile"), format!("{dir} 不是代理配置目录"))
                    .next(
                        format!("run `lingqu --profile {dir} join INVITATION` first, or name another folder"),
                        format!("先执行 `lingqu --profile {dir} join 邀请`，或指定其他目录"),
                    ),
            ),
            ProfileError::Refused(_) | ProfileError::NotOurs(_) => Self::Integrity(
                Told::new("certificate", text.clone(), format!("新证书无效：{text}"))
                    .next("tell the gateway's operator; the old certificate stays", "告知网关运维人员；原证书保持不变"),
            ),
            ProfileError::Io { .. }
            | ProfileError::Damaged { .. }
            | ProfileError::Key(_)
            | ProfileError::Chain(_)
            | ProfileError::Request(_)
            | ProfileError::Tls(_) => Self::Machine(
                Told::new("profile", text.clone(), format!("代理配置不可用：{text}"))
                    .next("check the profile's folder and who owns it", "检查代理配置目录及其权限"),
            ),
        }
    }
}

impl From<KeyError> for AgentError {
    fn from(error: KeyError) -> Self {
        Self::Machine(Told::new("key", error.to_string(), format!("密钥不可用：{error}")))
    }
}

impl From<CaError> for AgentError {
    fn from(error: CaError) -> Self {
        Self::Machine(Told::new("certificate", error.to_string(), format!("无法生成证书材料：{error}")))
    }
}

impl From<EnvelopeError> for AgentError {
    fn from(error: EnvelopeError) -> Self {
        Self::Usage(
            Told::new("not_a_document", error.to_string(), format!("不是签名文书：{error}"))
                .next("name a file that `sign` or `--prepare` wrote", "请给出由 `sign` 或 `--prepare` 生成的文件"),
        )
    }
}

impl From<DocumentError> for AgentError {
    fn from(error: DocumentError) -> Self {
        let text = error.to_string();
        match error {
            DocumentError::Envelope(error) => error.into(),
            DocumentError::WrongType { .. } | DocumentError::NotWritable(_) => {
                Self::Usage(Told::new("document", text.clone(), format!("文书类型或内容不符：{text}")))
            }
            DocumentError::SignatureCount(_)
            | DocumentError::UnknownSigner(_)
            | DocumentError::UnknownAlgorithm(_)
            | DocumentError::Forged
            | DocumentError::Malformed(_)
            | DocumentError::OtherGateway { .. }
            | DocumentError::Expired(_)
            | DocumentError::FromTheFuture(_) => Self::Integrity(
                Told::new("document", text.clone(), format!("文书验证未通过：{text}"))
                    .next("do not act on it; ask whoever gave it to you", "不要据此办理，向提供者核实"),
            ),
        }
    }
}

impl From<OfficerError> for AgentError {
    fn from(error: OfficerError) -> Self {
        let text = error.to_string();
        match error {
            OfficerError::Key(KeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Self::Usage(Told::new("officer_key", text.clone(), format!("找不到签署人密钥：{text}")).next(
                    "name the folder that `lingqu officer request --out` made",
                    "请给出由 `lingqu officer request --out` 生成的目录",
                ))
            }
            OfficerError::Key(error) => error.into(),
            OfficerError::Document(error) => error.into(),
            OfficerError::Io { .. } => {
                Self::Machine(Told::new("officer", text.clone(), format!("签署人目录不可用：{text}")))
            }
            OfficerError::BadRequest(_) | OfficerError::NotAnOfficers(_) => {
                Self::Usage(Told::new("officer", text.clone(), format!("签署人请求不符合要求：{text}")))
            }
        }
    }
}

impl From<BadInvitation> for AgentError {
    fn from(error: BadInvitation) -> Self {
        Self::Usage(
            Told::new("invitation", error.to_string(), format!("邀请无效：{error}"))
                .next("copy the whole line that the operator printed", "完整复制运维人员给出的邀请"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_fault_is_told_apart() {
        let exit = |error: AgentError| error.exit_code();
        assert_eq!(exit(ProfileError::Missing("p".into()).into()), 2);
        assert_eq!(exit(ProfileError::Exists("p".into()).into()), 2);
        assert_eq!(exit(ProfileError::NotOurs("another's").into()), 5);
        assert_eq!(exit(ProfileError::Damaged { file: "f".into(), why: "w".into() }.into()), 1);
        assert_eq!(exit(DocumentError::Forged.into()), 5);
        assert_eq!(exit(EnvelopeError::NotPrepared.into()), 2);
        let io = |kind: io::ErrorKind| KeyError::Io { what: "reading".into(), source: kind.into() };
        assert_eq!(exit(OfficerError::Key(io(io::ErrorKind::NotFound)).into()), 2);
        assert_eq!(exit(OfficerError::Key(io(io::ErrorKind::PermissionDenied)).into()), 1);
        assert_eq!(exit(BadInvitation::Damaged.into()), 2);
    }

    #[test]
    fn a_second_join_says_what_next() {
        let told = AgentError::from(ProfileError::Exists("p".into())).told();
        assert!(told.next.en.contains("--profile"), "{told}");
    }
}
