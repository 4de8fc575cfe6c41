//! What a database says, as errors of this program: whose fault it is and whether it may pass.

use super::binary::BinaryError;
use crate::error::{AgentError, Told};

/// An error at the database, before it is told.
#[derive(Debug)]
pub(super) enum PgError {
    /// What it says.
    Sql(sqlx::Error),
    /// Rows that it or we cannot read or write.
    Rows(BinaryError),
    /// Told already.
    Told(AgentError),
}

impl From<sqlx::Error> for PgError {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<BinaryError> for PgError {
    fn from(error: BinaryError) -> Self {
        Self::Rows(error)
    }
}

impl From<AgentError> for PgError {
    fn from(error: AgentError) -> Self {
        Self::Told(error)
    }
}

impl PgError {
    /// As the command's error; `shown` names the table.
    pub(super) fn told(self, shown: &str) -> AgentError {
        match self {
            Self::Told(error) => error,
            Self::Rows(error @ BinaryError::Cannot { .. }) => AgentError::Data(
                Told::new(
                    "postgres_value",
                    format!("{shown}: {error}"),
                    format!("{shown}：数据库无法存放该值（{error}）"),
                )
                .next("ask the provider to correct it, or use a folder", "请提供部门更正，或改用文件夹接收"),
            ),
            Self::Rows(error) => AgentError::Integrity(Told::new(
                "postgres_rows",
                format!("{shown}: {error}"),
                format!("{shown}：数据库返回的数据无法读取（{error}）"),
            )),
            Self::Sql(sqlx::Error::Database(error)) => {
                let code = error.code().unwrap_or_default().into_owned();
                database(shown, &code, &crate::output::clean(error.message()))
            }
            Self::Sql(sqlx::Error::Tls(error)) => untrusted(shown, &error.to_string()),
            Self::Sql(sqlx::Error::Io(error)) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
                Some(error @ rustls::Error::InvalidCertificate(_)) => untrusted(shown, &error.to_string()),
                _ => away(shown, &error.to_string()),
            },
            Self::Sql(error @ (sqlx::Error::Protocol(_) | sqlx::Error::PoolTimedOut)) => {
                away(shown, &error.to_string())
            }
            Self::Sql(error) => AgentError::Machine(Told::new(
                "postgres",
                format!("{shown}: {error}"),
                format!("{shown}：数据库操作失败（{error}）"),
            )),
        }
    }
}

/// The database cannot be reached for now.
pub(super) fn away(shown: &str, why: &str) -> AgentError {
    AgentError::Unreachable(
        Told::new("postgres_away", format!("{shown}: {why}"), format!("{shown}：数据库暂不可用（{why}）"))
            .next("start the database, or check its address", "请启动数据库，或核对地址"),
    )
}

/// Its certificate is not the one that was asked for, or it has none: nothing that passes while somebody waits.
fn untrusted(shown: &str, why: &str) -> AgentError {
    AgentError::Usage(
        Told::new("postgres_tls", format!("{shown}: TLS: {why}"), format!("{shown}：TLS 校验未通过（{why}）")).next(
            "name the certificate's root (sslrootcert=FILE) and the host as the certificate does, or ask who runs the database",
            "请核对根证书（sslrootcert=FILE）与主机名是否和数据库证书一致，或联系数据库管理员",
        ),
    )
}

/// By its SQLSTATE.
fn database(shown: &str, code: &str, message: &str) -> AgentError {
    let told = || {
        Told::new(
            "postgres",
            format!("{shown}: {message} ({code})"),
            format!("{shown}：数据库报错 {message}（{code}）"),
        )
    };
    match code.get(..2).unwrap_or_default() {
        // Connection, serialisation, out of connections, shutting down, a lock that was not got.
        "08" | "40" | "57" => away(shown, message),
        "53" if code == "53300" => away(shown, message),
        "55" if code == "55P03" => away(shown, message),
        "53" => AgentError::Machine(told().next("make room at the database", "请清理数据库空间或资源")),
        "22" => AgentError::Data(told().next("ask the provider to correct it", "请提供部门更正数据")),
        "28" | "3D" | "42" | "3F" => AgentError::Usage(told().next(
            "check user, password (PGPASSWORD, ~/.pgpass), database and privileges",
            "请核对用户、密码（PGPASSWORD、~/.pgpass）、数据库和权限",
        )),
        _ => AgentError::Machine(told()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_is_not_the_right_one_does_not_pass_and_a_line_that_broke_may() {
        let io = |inner: rustls::Error| PgError::Sql(sqlx::Error::Io(std::io::Error::other(inner))).told("t");
        for (error, exit) in [
            (io(rustls::Error::InvalidCertificate(rustls::CertificateError::Expired)), 2),
            (PgError::Sql(sqlx::Error::Tls("it speaks no TLS".into())).told("t"), 2),
            (io(rustls::Error::HandshakeNotComplete), 6),
            (PgError::Sql(sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into())).told("t"), 6),
        ] {
            assert_eq!((error.exit_code(), error.is_transient()), (exit, exit == 6), "{error}");
        }
    }

    #[test]
    fn what_may_pass_is_told_from_what_will_not() {
        for (code, exit, passes) in [
            ("57P01", 6, true),
            ("40001", 6, true),
            ("53300", 6, true),
            ("53100", 1, false),
            ("28P01", 2, false),
            ("42501", 2, false),
            ("22021", 7, false),
            ("XX000", 1, false),
            ("", 1, false),
        ] {
            let error = database("t", code, "m");
            assert_eq!((error.exit_code(), error.is_transient()), (exit, passes), "{code}");
        }
    }
}
