//! Entries and applications, as people would write them.

use super::template::{CITY, PURPOSE};

/// An entry of rows with every type of item. `note` and `operator_name` are never granted to anyone by default.
pub fn table_entry_toml(code: &str) -> String {
    let items = [
        ("region", "string", ""),
        ("credit_code", "string", "key = true\n"),
        ("operator_name", "string", "personal = true\n"),
        ("staff", "int32", ""),
        ("visits", "int64", ""),
        ("score", "float64", ""),
        ("capital", "decimal(15,2)", ""),
        ("opened", "date", ""),
        ("checked_at", "timestamp", ""),
        ("active", "bool", ""),
        ("seal", "binary", ""),
        ("note", "string", ""),
    ];
    let items: String = items
        .iter()
        .map(|(name, of, more)| {
            let personal = if more.contains("personal") { "" } else { "personal = false\n" };
            format!("\n[[items]]\nname = \"{name}\"\ntype = \"{of}\"\n{more}{personal}")
        })
        .collect();
    format!(
        r#"name = "个体工商户登记信息"
code = "{code}"
abstract = "合成数据，仅供测试"
format = "table"
update_frequency = "daily"
sharing_class = "conditional"
conditions = "限依法履职使用"
purposes = ["{PURPOSE}"]
sharing_methods = ["batch_exchange"]
region_column = "region"
grade = "general-2"
{items}"#
    )
}

/// An entry of files.
pub fn file_entry_toml(code: &str) -> String {
    format!(
        r#"name = "登记档案"
code = "{code}"
abstract = "合成数据，仅供测试"
format = "file"
update_frequency = "daily"
sharing_class = "conditional"
conditions = "限依法履职使用"
purposes = ["{PURPOSE}"]
sharing_methods = ["file_download"]
grade = "general-2"
"#
    )
}

/// The scope that the requester has by default of an entry of rows: seven columns, the rows of [`CITY`].
pub fn table_scope() -> String {
    let columns = ["region", "credit_code", "staff", "capital", "opened", "checked_at", "active"];
    format!("columns = {columns:?}\nwhere = \"region within '{CITY}'\"")
}

/// An application for the entry of this code. `scope` holds `columns` and `where` of an entry of rows, and any other key
/// that overrides one of the defaults.
pub fn application_toml(code: &str, scope: &str) -> String {
    let methods = if scope.contains("columns") { "batch_exchange" } else { "file_download" };
    let defaults = [
        ("entry", format!("{code:?}")),
        ("basis", "\"社会救助暂行办法\"".to_owned()),
        ("scenario", "\"低收入家庭经济状况核对\"".to_owned()),
        ("purposes", format!("[{PURPOSE:?}]")),
        ("methods", format!("[{methods:?}]")),
        ("networks", "[\"127.0.0.0/8\"]".to_owned()),
        ("from", day(-1)),
        ("until", day(200)),
    ];
    let given = |key: &str| scope.lines().any(|line| line.split('=').next().is_some_and(|k| k.trim() == key));
    let defaults = defaults.iter().filter(|(key, _)| !given(key)).map(|(key, value)| format!("{key} = {value}\n"));
    format!("{}{scope}\n", defaults.collect::<String>())
}

/// The day so many days from today, in the time zone of the law (UTC+8).
pub fn day(from_today: i64) -> String {
    let beijing = chrono::Utc::now() + chrono::Duration::hours(8) + chrono::Duration::days(from_today);
    beijing.date_naive().to_string()
}
