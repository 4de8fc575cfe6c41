//! Which database and table: read from the command line, where no password may stand.

use super::error::PgError;
use crate::error::{AgentError, Told};
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use std::io::ErrorKind;
use std::str::FromStr as _;

/// Bytes of a name in PostgreSQL: a longer one is cut there without a word.
const NAME_BYTES_MAX: usize = 63;

/// A table of a database.
#[derive(Clone)]
pub struct Target {
    pub(super) options: PgConnectOptions,
    /// The schema, where one was said.
    pub(super) schema: Option<String>,
    /// The table.
    pub(super) table: String,
    shown: String,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Target({})", self.shown)
    }
}

impl Target {
    /// From `--postgres URL --table [SCHEMA.]TABLE`. A password comes from `PGPASSWORD`, from the file that `PGPASSFILE` names, or
    /// from `~/.pgpass`.
    ///
    /// # Errors
    /// A URL that is none, or with a password in it; a name that PostgreSQL does not take.
    pub fn parse(url: &str, table: &str) -> Result<Self, AgentError> {
        let usage = |word: &str, en: String, zh: String| {
            let told = Told::new(word, en, zh);
            AgentError::Usage(told.next(
                "write postgres://USER@HOST:PORT/DATABASE?sslmode=verify-full",
                "格式：postgres://用户@主机:端口/数据库?sslmode=verify-full",
            ))
        };
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            let (en, zh) = ("--postgres takes a URL that begins with postgres://", "--postgres 须以 postgres:// 开头");
            return Err(usage("postgres_url", en.into(), zh.into()));
        }
        if has_password(url) {
            return Err(usage(
                "password_on_the_command_line",
                "a password in the URL is seen by everybody on this machine: put it into PGPASSWORD or ~/.pgpass"
                    .into(),
                "URL 中的密码会被本机其他用户看到：请使用 PGPASSWORD 或 ~/.pgpass".into(),
            ));
        }
        // What sqlx says of a URL is not repeated: it may hold what somebody typed by mistake.
        let options = PgConnectOptions::from_str(url)
            .map_err(|_| usage("postgres_url", "this is no URL of a database".into(), "数据库地址无法解析".into()))?
            .application_name("lingqu backflow")
            .disable_statement_logging();
        let (schema, table) = match table.split_once('.') {
            Some((schema, table)) => (Some(schema), table),
            None => (None, table),
        };
        for name in schema.iter().chain([&table]) {
            check_name(name)?;
        }
        let (host, port) = (options.get_host(), options.get_port());
        let place = match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{host}:{port}"),
        };
        let database = options.get_database().unwrap_or_else(|| options.get_username());
        let name = schema.map_or_else(|| table.to_owned(), |schema| format!("{schema}.{table}"));
        let shown = format!("{name} ({place}/{database})");
        Ok(Self { schema: schema.map(str::to_owned), table: table.to_owned(), options, shown })
    }

    /// Why no connection came about. A file that is not there is one that the URL names: a database whose socket is not there
    /// yet may be waited for, and one that is asked by its address is no file.
    pub(super) fn refused(&self, error: sqlx::Error) -> PgError {
        match &error {
            sqlx::Error::Io(io) if io.kind() == ErrorKind::NotFound && self.options.get_socket().is_none() => {
                let (en, zh) = ("a file that the URL names is not there", "URL 中指定的文件不存在");
                let told = Told::new("postgres_file", format!("{}: {en}", self.shown), format!("{}：{zh}", self.shown));
                let next = ("check sslrootcert, sslcert and sslkey", "请核对 sslrootcert、sslcert、sslkey 的路径");
                PgError::Told(AgentError::Usage(told.next(next.0, next.1)))
            }
            _ => PgError::Sql(error),
        }
    }

    /// What it is called where people read: never with a password.
    pub fn shown(&self) -> &str {
        &self.shown
    }
}

fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let (authority, query) = match rest.split_once(['/', '?']) {
        Some((authority, query)) => (authority, query),
        None => (rest, ""),
    };
    let in_user = authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'));
    in_user || query.to_ascii_lowercase().contains("password=")
}

/// A name that PostgreSQL keeps as it is.
///
/// # Errors
/// One that it does not.
pub(super) fn check_name(name: &str) -> Result<(), AgentError> {
    if !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.contains('\0') {
        return Ok(());
    }
    let shown = crate::output::clean(name);
    Err(AgentError::Usage(Told::new(
        "postgres_name",
        format!("PostgreSQL's names have 1 to {NAME_BYTES_MAX} bytes, and {shown:?} has {}", name.len()),
        format!("PostgreSQL 名称须为 1 至 {NAME_BYTES_MAX} 字节，{shown:?} 为 {} 字节", name.len()),
    )))
}

/// A name as SQL has it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_refused_and_never_said() {
        for url in ["postgres://u:secret@h/d", "postgres://u@h/d?password=secret", "postgresql://:secret@h"] {
            let error = Target::parse(url, "t").unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
        for url in ["mysql://h/d", "postgres://h:port/d"] {
            assert_eq!(Target::parse(url, "t").unwrap_err().told().word, "postgres_url", "{url}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_does_not_pass_and_a_socket_may_come() {
        let told = |url: &str, kind: ErrorKind| {
            Target::parse(url, "t").unwrap().refused(sqlx::Error::Io(kind.into())).told("t")
        };
        for (url, kind, word) in [
            ("postgres://h/d?sslrootcert=/no", ErrorKind::NotFound, "postgres_file"),
            ("postgres://h/d?sslrootcert=/no", ErrorKind::ConnectionRefused, "postgres_away"),
            ("postgres://%2Frun%2Fpostgresql/d", ErrorKind::NotFound, "postgres_away"),
        ] {
            let error = told(url, kind);
            assert_eq!(
                (error.told().word.as_str(), error.is_transient()),
                (word, word == "postgres_away"),
                "{url} {kind}"
            );
        }
    }

    #[test]
    fn a_table_may_have_a_schema_and_any_name() {
        let target = Target::parse("postgres://u@h:5433/d", "回流.登记\"信息").unwrap();
        assert_eq!((target.schema.as_deref(), target.table.as_str()), (Some("回流"), "登记\"信息"));
        assert_eq!(target.shown(), "回流.登记\"信息 (h:5433/d)");
        assert_eq!(quoted(&target.table), "\"登记\"\"信息\"");
        for table in ["", "a.", ".b", &"x".repeat(64)] {
            assert!(Target::parse("postgres://h/d", table).is_err(), "{table:?}");
        }
    }
}
