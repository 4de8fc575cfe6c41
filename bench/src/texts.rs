//! The TOML files that agencies write: entries and applications.

/// An entry of files.
pub fn file_entry(name: &str) -> String {
    format!(
        "\
name = \"{name}\"
abstract = \"合成测试文件\"
format = \"file\"
update_frequency = \"irregular\"
sharing_class = \"conditional\"
conditions = \"仅用于测试\"
purposes = [\"测试\"]
sharing_methods = [\"file_download\"]
grade = \"general-1\"
"
    )
}

/// An entry of a table whose rows flow back by region: its columns' names and types, and whether they are its key.
pub fn flowing_entry(code: &str, items: &[(&str, &str, bool)]) -> String {
    let item = |(name, of, key): &(&str, &str, bool)| {
        format!("\n[[items]]\nname = \"{name}\"\ntype = \"{of}\"\nkey = {key}\npersonal = false\n")
    };
    let items: String = items.iter().map(item).collect();
    format!(
        "\
name = \"回流测试\"
code = \"{code}\"
abstract = \"合成数据\"
format = \"table\"
update_frequency = \"daily\"
sharing_class = \"unconditional\"
sharing_methods = [\"batch_exchange\"]
region_column = \"region\"
grade = \"general-1\"
{items}"
    )
}

/// What an application asks for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The entry's code.
    pub entry: &'a str,
    /// 使用依据.
    pub basis: &'a str,
    /// 使用场景.
    pub scenario: &'a str,
    /// 使用用途.
    pub purpose: &'a str,
    /// The way it is shared.
    pub method: &'a str,
    /// Columns; of files there are none.
    pub columns: &'a [&'a str],
    /// The condition on rows.
    pub rows: Option<&'a str>,
}

impl Asked<'_> {
    /// As application.toml.
    pub fn to_toml(&self) -> String {
        let mut text = format!(
            "\
entry = \"{}\"
basis = \"{}\"
scenario = \"{}\"
purposes = [\"{}\"]
methods = [\"{}\"]
networks = [\"127.0.0.0/8\"]
from = 2020-01-01
until = 2099-12-31
",
            self.entry, self.basis, self.scenario, self.purpose, self.method
        );
        if !self.columns.is_empty() {
            let columns: Vec<String> = self.columns.iter().map(|column| format!("\"{column}\"")).collect();
            text += &format!("columns = [{}]\n", columns.join(", "));
        }
        if let Some(rows) = self.rows {
            text += &format!("where = \"{rows}\"\n");
        }
        text
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use lingqu_protocol::entry::EntrySpec;
    use lingqu_protocol::scope::ApplicationSpec;

    #[test]
    fn they_are_what_the_programs_read() {
        EntrySpec::parse(&file_entry("文件")).unwrap();
        EntrySpec::parse(&flowing_entry("300002/000011", &[("region", "string", false), ("id", "int64", true)]))
            .unwrap();
        let asked = Asked {
            entry: "307010/000001",
            basis: "办法",
            scenario: "场景",
            purpose: "测试",
            method: "batch_exchange",
            columns: &["region", "name"],
            rows: Some("region within '44'"),
        };
        let spec = ApplicationSpec::parse(&asked.to_toml()).unwrap();
        assert_eq!(spec.scope.columns, ["region", "name"]);
        assert!(spec.scope.rows.is_some());
    }
}
