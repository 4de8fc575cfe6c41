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
            Self::Sql(
                error @ (sqlx::Error::Io(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::PoolTimedOut),
            ) => away(shown, &error.to_string()),
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
            .next("start the database, or check its address and TLS", "请启动数据库，或核对地址和 TLS 设置"),
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
