//! The work in the database: the table, its rows, the cursor.

use super::super::gone::{Gone, not_held, not_rows};
use super::super::{Begin, Column, Cursor, Mode, Shape, Take, other_columns, other_entry, out_of_order};
use super::binary::{Decoder, TakeRows, encode};
use super::error::PgError;
use super::target::{Target, check_name, quoted};
use crate::error::{AgentError, Told};
use arrow::array::RecordBatch;
use futures::StreamExt as _;
use lingqu_protocol::digest::{from_hex, to_hex};
use lingqu_protocol::entry::ItemType;
use lingqu_protocol::rows::{RowsDigest, RowsSum};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

/// Places of rows that are deleted in one statement.
const PLACES_MAX: usize = 10_000;

/// What a session is like: a lock that is not got is told; a client that died is noticed within two minutes, so that the next one
/// need not wait for its transaction; a commit is durable whatever the server's default is.
const SESSION: &str = "SET lock_timeout = '30s'; SET tcp_keepalives_idle = 60; SET tcp_keepalives_interval = 15; \
                       SET tcp_keepalives_count = 4; SET client_min_messages = 'warning'; SET timezone = 'UTC'; \
                       SELECT set_config('synchronous_commit', 'on', false) \
                       WHERE current_setting('synchronous_commit') = 'off';";

/// The table of cursors.
const CURSORS: &str = "lingqu_backflow";

/// A connection with what is known of the table.
pub(super) struct Open {
    connection: PgConnection,
    entry: String,
    /// The name of the table of cursors, and of the table, as SQL has them.
    cursors: String,
    table: String,
    /// The key of the cursor.
    sink: String,
    pub(super) known: Option<Known>,
    pub(super) version: Option<Building>,
}

/// What the cursor's row says.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) cursor: Cursor,
    pub(super) shape: Shape,
    sum: RowsSum,
}

/// A version under way, in a transaction.
pub(super) struct Building {
    begin: Begin,
    before: RowsSum,
    came: RowsDigest,
    gone: RowsDigest,
    /// Rows to take away, where they have no key.
    keyless: Gone,
    is_staged: bool,
    is_applied: bool,
}

pub(super) async fn connect(target: &Target, entry: &str) -> Result<Open, PgError> {
    let connecting = PgConnection::connect_with(&target.options).await;
    let mut connection = connecting.map_err(|error| target.refused(error))?;
    sqlx::raw_sql(SESSION).execute(&mut connection).await?;
    let schema = match &target.schema {
        Some(schema) => schema.clone(),
        None => {
            let row = sqlx::query("SELECT current_schema()::text").fetch_one(&mut connection).await?;
            row.try_get::<Option<String>, _>(0)?.unwrap_or_else(|| "public".to_owned())
        }
    };
    let cursors = format!("{}.{}", quoted(&schema), quoted(CURSORS));
    let table = format!("{}.{}", quoted(&schema), quoted(&target.table));
    let open = Open {
        connection,
        entry: entry.to_owned(),
        cursors,
        table,
        sink: target.table.clone(),
        known: None,
        version: None,
    };
    Ok(open)
}

impl Open {
    pub(super) async fn run(&mut self, sql: &str) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.connection).await?;
        Ok(())
    }

    pub(super) fn building(&mut self) -> Result<&mut Building, AgentError> {
        self.version.as_mut().ok_or_else(|| out_of_order("rows"))
    }

    /// The table of cursors with a row of ours: what a version locks.
    pub(super) async fn make_cursors(&mut self) -> Result<(), PgError> {
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {} (sink text PRIMARY KEY, entry text NOT NULL, version bigint NOT NULL, slice text \
             NOT NULL, columns text NOT NULL, row_count bigint NOT NULL, rows_sum text NOT NULL, committed_at timestamptz NOT \
             NULL DEFAULT now())",
            self.cursors
        );
        match self.run(&sql).await {
            // Somebody else made it at the same moment.
            Err(sqlx::Error::Database(e)) if matches!(e.code().as_deref(), Some("23505" | "42P07")) => {}
            made => made?,
        }
        let sql = format!(
            "INSERT INTO {} (sink, entry, version, slice, columns, row_count, rows_sum) VALUES ($1, $2, 0, '', '[]', 0, $3) ON \
             CONFLICT DO NOTHING",
            self.cursors
        );
        let empty = to_hex(&RowsSum::default().to_bytes());
        let row = sqlx::query(AssertSqlSafe(sql)).bind(&self.sink).bind(&self.entry).bind(empty);
        row.execute(&mut self.connection).await?;
        Ok(())
    }

    pub(super) async fn has_cursors(&mut self) -> Result<bool, PgError> {
        let row = sqlx::query("SELECT to_regclass($1) IS NOT NULL").bind(&self.cursors);
        Ok(row.fetch_one(&mut self.connection).await?.try_get(0)?)
    }

    /// What the cursor's row says; `None` where nothing was committed, or the table is not there any more.
    pub(super) async fn load(&mut self, shown: &str) -> Result<Option<Known>, PgError> {
        let sql = format!("SELECT entry, version, slice, columns, rows_sum FROM {} WHERE sink = $1", self.cursors);
        let row = sqlx::query(AssertSqlSafe(sql)).bind(&self.sink).fetch_optional(&mut self.connection).await?;
        let Some(row) = row else { return Ok(None) };
        let version: i64 = row.try_get("version")?;
        let entry: String = row.try_get("entry")?;
        if version == 0 {
            return Ok(None);
        }
        if entry != self.entry {
            return Err(other_entry(shown, &entry, &self.entry).into());
        }
        let damaged = || {
            let told = Told::new(
                "cursor",
                format!("{shown}: the cursor's row is damaged"),
                format!("{shown}：游标记录已损坏"),
            );
            PgError::Told(AgentError::Integrity(told))
        };
        let (columns, sum): (String, String) = (row.try_get("columns")?, row.try_get("rows_sum")?);
        let known = Known {
            cursor: Cursor { version: u64::try_from(version).map_err(|_| damaged())?, slice: row.try_get("slice")? },
            shape: serde_json::from_str(&columns).map_err(|_| damaged())?,
            sum: RowsSum::from_bytes(&from_hex(&sum).and_then(|b| b.try_into().ok()).ok_or_else(damaged)?),
        };
        if self.columns().await?.is_empty() {
            tracing::warn!(table = shown, "the table is not there any more; everything comes again");
            return Ok(None);
        }
        Ok(Some(known))
    }

    /// Names and types of the table's columns; none where it is not there.
    async fn columns(&mut self) -> Result<Vec<(String, String)>, PgError> {
        let rows = sqlx::query(
            "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute \
             WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        );
        let rows = rows.bind(&self.table).fetch_all(&mut self.connection).await?;
        let mut columns = Vec::with_capacity(rows.len());
        for row in rows {
            columns.push((row.try_get(0)?, row.try_get(1)?));
        }
        Ok(columns)
    }

    pub(super) async fn begin(&mut self, shown: &str, version: &Begin) -> Result<(), PgError> {
        if version.entry != self.entry {
            return Err(other_entry(shown, &self.entry, &version.entry).into());
        }
        let shape = version.shape_after(self.known.as_ref().map(|known| &known.shape));
        let version = &Begin { shape, ..version.clone() };
        if let (Some(known), Mode::Append | Mode::Changes) = (&self.known, version.mode)
            && let Some(why) = version.shape.differs_from(&known.shape)
        {
            return Err(other_columns(shown, &why).into());
        }
        version.shape.0.iter().try_for_each(|column| check_name(&column.name))?;
        if self.known.is_some() {
            // By itself and at once: a new column locks readers out, and in the transaction it would until its end.
            let there = self.columns().await?;
            self.widen(shown, &version.shape, &there).await?;
        }
        self.run("BEGIN").await?;
        self.version = Some(Building {
            before: match version.mode {
                Mode::Full => RowsSum::default(),
                Mode::Append | Mode::Changes => self.known.as_ref().map_or_else(RowsSum::default, |known| known.sum),
            },
            begin: version.clone(),
            came: version.shape.digest(),
            gone: version.shape.digest(),
            keyless: Gone::default(),
            is_staged: false,
            is_applied: false,
        });
        self.lock(shown).await?;
        self.shape_up(shown, version).await
    }

    /// Takes the cursor's row for this transaction; it must be as it was.
    async fn lock(&mut self, shown: &str) -> Result<(), PgError> {
        let sql = format!("SELECT version, slice FROM {} WHERE sink = $1 FOR UPDATE", self.cursors);
        let row = sqlx::query(AssertSqlSafe(sql)).bind(&self.sink).fetch_one(&mut self.connection).await?;
        let (version, slice): (i64, String) = (row.try_get(0)?, row.try_get(1)?);
        let known = self.known.as_ref().map(|known| known.cursor.clone()).unwrap_or_default();
        // A table that is gone has a cursor that counts for nothing.
        let same = u64::try_from(version).ok() == Some(known.version) && slice == known.slice;
        if same || self.known.is_none() && self.columns().await?.is_empty() {
            return Ok(());
        }
        Err(super::super::kept::is_held(shown).into())
    }

    /// Makes the table, or gives it the columns that it lacks; empties it for a full version.
    async fn shape_up(&mut self, shown: &str, version: &Begin) -> Result<(), PgError> {
        let there = self.columns().await?;
        if there.is_empty() {
            let columns: Vec<String> = version.shape.0.iter().map(definition).collect();
            self.run(&format!("CREATE TABLE {} ({})", self.table, columns.join(", "))).await?;
            let keys = version.shape.keys();
            if !keys.is_empty() {
                let keys = names(&Shape(keys.iter().filter_map(|k| version.shape.0.get(*k)).cloned().collect()), "");
                self.run(&format!("CREATE INDEX ON {} ({keys})", self.table)).await?;
            }
            return Ok(());
        }
        self.widen(shown, &version.shape, &there).await?;
        let lock = format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", self.table);
        self.run(&lock).await?;
        if self.known.is_none() {
            let sql = format!("SELECT EXISTS (SELECT 1 FROM {})", self.table);
            let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(&mut self.connection).await?;
            if row.try_get::<bool, _>(0)? {
                return Err(in_use(shown).into());
            }
        }
        if version.mode == Mode::Full {
            let sql = format!("DELETE FROM {}", self.table);
            self.run(&sql).await?;
        }
        Ok(())
    }

    /// Gives the table the columns that it lacks.
    async fn widen(&mut self, shown: &str, shape: &Shape, there: &[(String, String)]) -> Result<(), PgError> {
        for column in &shape.0 {
            let wanted = sql_type(column.item_type);
            match there.iter().find(|(name, _)| *name == column.name) {
                Some((_, found)) if *found == wanted => {}
                Some((name, found)) => {
                    let why = format!("the column {name:?} is {found}, and {wanted} is needed");
                    return Err(other_columns(shown, &why).into());
                }
                None => {
                    let sql = format!("ALTER TABLE {} ADD COLUMN {}", self.table, definition(column));
                    self.run(&sql).await?;
                }
            }
        }
        Ok(())
    }

    /// Remembers rows that go.
    pub(super) async fn stage(&mut self, batch: &RecordBatch) -> Result<(), PgError> {
        let table = self.table.clone();
        let building = self.building()?;
        let hashes = building.gone.update(batch).map_err(|e| not_rows(&e))?;
        let keys = building.begin.shape.keys();
        if keys.is_empty() {
            building.keyless.add(hashes);
            return Ok(());
        }
        let names = names(&Shape(keys.iter().filter_map(|k| building.begin.shape.0.get(*k)).cloned().collect()), "");
        if !std::mem::replace(&mut building.is_staged, true) {
            let sql =
                format!("CREATE TEMP TABLE lingqu_gone ON COMMIT DROP AS SELECT {names} FROM {table} WHERE false");
            self.run(&sql).await?;
        }
        let bytes = encode(batch, &keys)?;
        self.copy_in(&format!("COPY pg_temp.lingqu_gone ({names}) FROM STDIN (FORMAT binary)"), &bytes).await
    }

    pub(super) async fn insert(&mut self, batch: &RecordBatch) -> Result<(), PgError> {
        let building = self.building()?;
        building.came.update(batch).map_err(|e| not_rows(&e))?;
        let names = names(&building.begin.shape, "");
        let bytes = encode(batch, &(0..batch.num_columns()).collect::<Vec<_>>())?;
        let sql = format!("COPY {} ({names}) FROM STDIN (FORMAT binary)", self.table);
        self.copy_in(&sql, &bytes).await
    }

    /// Takes away the rows that go, and checks that they were those.
    pub(super) async fn apply(&mut self, shown: &str) -> Result<(), PgError> {
        let building = self.building()?;
        let expected = building.gone.sum();
        if std::mem::replace(&mut building.is_applied, true) || expected.count == 0 {
            return Ok(());
        }
        let shape = building.begin.shape.clone();
        let mut found = shape.digest();
        if building.is_staged {
            let same: Vec<String> = shape
                .keys()
                .iter()
                .filter_map(|key| shape.0.get(*key))
                .map(|column| format!("t.{0} = g.{0}", quoted(&column.name)))
                .collect();
            let sql = format!(
                "COPY (DELETE FROM {} t USING pg_temp.lingqu_gone g WHERE {} RETURNING {}) TO STDOUT (FORMAT binary)",
                self.table,
                same.join(" AND "),
                names(&shape, "t.")
            );
            self.run("ANALYZE pg_temp.lingqu_gone").await?;
            self.copy_out(&sql, &shape, false, &mut |batch, _| {
                found.update(batch).map_err(|e| not_rows(&e))?;
                Ok(())
            })
            .await?;
        } else {
            self.apply_keyless(&shape, &mut found).await?;
        }
        if found.sum() == expected {
            return Ok(());
        }
        Err(not_held(shown, expected.count.abs_diff(found.sum().count).max(1)).into())
    }

    /// Looks for rows without a key by all of their columns.
    async fn apply_keyless(&mut self, shape: &Shape, found: &mut RowsDigest) -> Result<(), PgError> {
        let mut gone = std::mem::take(&mut self.building()?.keyless);
        let mut places: Vec<String> = Vec::new();
        let sql = format!("COPY (SELECT ctid, {} FROM {}) TO STDOUT (FORMAT binary)", names(shape, ""), self.table);
        let mut digest = shape.digest();
        self.copy_out(&sql, shape, true, &mut |batch, at| {
            let hashes = digest.update(batch).map_err(|e| not_rows(&e))?;
            let Some(stays) = gone.mask(hashes) else { return Ok(()) };
            let goes = arrow::compute::not(&stays).map_err(|e| not_rows(&e))?;
            let rows = arrow::compute::filter_record_batch(batch, &goes).map_err(|e| not_rows(&e))?;
            found.update(&rows).map_err(|e| not_rows(&e))?;
            let at = at.iter().zip(goes.iter()).filter(|(_, goes)| *goes == Some(true));
            places.extend(at.map(|([a, b, c, d, e, f], _)| {
                format!("({},{})", u32::from_be_bytes([*a, *b, *c, *d]), u16::from_be_bytes([*e, *f]))
            }));
            Ok(())
        })
        .await?;
        for some in places.chunks(PLACES_MAX) {
            let sql = format!("DELETE FROM {} WHERE ctid = ANY($1::text[]::tid[])", self.table);
            sqlx::query(AssertSqlSafe(sql)).bind(some).execute(&mut self.connection).await?;
        }
        Ok(())
    }

    pub(super) async fn commit(&mut self, cursor: &Cursor) -> Result<(), PgError> {
        let building = self.building()?;
        let (shape, sum) = (building.begin.shape.clone(), building.sum());
        let columns = serde_json::to_string(&shape)
            .map_err(|e| AgentError::Machine(Told::new("cursor", e.to_string(), e.to_string())))?;
        let too_large = || AgentError::Peer(Told::new("version", "a version over 2^63", "版本号过大"));
        let version = i64::try_from(cursor.version).map_err(|_| too_large())?;
        let rows = i64::try_from(sum.count).map_err(|_| too_large())?;
        let sql = format!(
            "UPDATE {} SET entry = $2, version = $3, slice = $4, columns = $5, row_count = $6, rows_sum = $7, committed_at = \
             now() WHERE sink = $1",
            self.cursors
        );
        let row = sqlx::query(AssertSqlSafe(sql)).bind(&self.sink).bind(&self.entry).bind(version).bind(&cursor.slice);
        let row = row.bind(columns).bind(rows).bind(to_hex(&sum.to_bytes()));
        row.execute(&mut self.connection).await?;
        // Whatever this says, only another look at the cursor tells what is so.
        self.version = None;
        self.known = None;
        self.run("COMMIT").await?;
        self.known = Some(Known { cursor: cursor.clone(), shape, sum });
        Ok(())
    }

    async fn copy_in(&mut self, sql: &str, bytes: &[u8]) -> Result<(), PgError> {
        let mut copy = self.connection.copy_in_raw(sql).await?;
        copy.send(bytes).await?;
        copy.finish().await?;
        Ok(())
    }

    /// All rows that the table has.
    pub(super) async fn read(&mut self, shape: &Shape, take: &mut Take<'_>) -> Result<(), PgError> {
        let sql = format!("COPY (SELECT {} FROM {}) TO STDOUT (FORMAT binary)", names(shape, ""), self.table);
        self.copy_out(&sql, shape, false, &mut |batch, _| Ok(take(batch)?)).await
    }

    async fn copy_out(
        &mut self,
        sql: &str,
        shape: &Shape,
        with_places: bool,
        take: &mut TakeRows<'_, PgError>,
    ) -> Result<(), PgError> {
        let mut decoder = Decoder::new(shape, with_places);
        let mut pieces = self.connection.copy_out_raw(sql).await?;
        while let Some(piece) = pieces.next().await {
            decoder.piece(&piece?, take)?;
        }
        decoder.end(take)
    }
}

impl Building {
    /// Count and sum of the rows after this version.
    pub(super) fn sum(&self) -> RowsSum {
        let mut sum = self.before;
        sum.take(&self.gone.sum());
        sum.merge(&self.came.sum());
        sum
    }
}

/// The columns' names as SQL has them, each behind `prefix`.
fn names(shape: &Shape, prefix: &str) -> String {
    let names: Vec<String> = shape.0.iter().map(|column| format!("{prefix}{}", quoted(&column.name))).collect();
    names.join(", ")
}

fn definition(column: &Column) -> String {
    format!("{} {}", quoted(&column.name), sql_type(column.item_type))
}

/// The database's type of an item, in the database's own spelling.
fn sql_type(item_type: ItemType) -> String {
    match item_type {
        ItemType::String => "text".into(),
        ItemType::Int32 => "integer".into(),
        ItemType::Int64 => "bigint".into(),
        ItemType::Float64 => "double precision".into(),
        ItemType::Decimal(digits, scale) => format!("numeric({digits},{scale})"),
        ItemType::Date => "date".into(),
        ItemType::Timestamp => "timestamp with time zone".into(),
        ItemType::Bool => "boolean".into(),
        ItemType::Binary => "bytea".into(),
    }
}

/// A table that is not ours.
fn in_use(shown: &str) -> AgentError {
    AgentError::Usage(
        Told::new(
            "table_in_use",
            format!("{shown} holds rows that did not come from a backflow"),
            format!("{shown} 中已有其他数据"),
        )
        .next("name a new table, or empty this one", "请指定新表，或清空该表"),
    )
}
