//! Masks and pseudonyms, column by column: one new buffer of offsets and one of text for each, of the right size at once.
//! It comes last before the wire, so that the provider's condition on rows was judged on the values themselves.

use super::error::FlowError;
use super::pseudonym::{PSEUDONYM_CHARS, PseudonymKey};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StringArray};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef};
use lingqu_protocol::scope::{PSEUDONYM_ALGORITHM, Transform};
use std::collections::HashMap;
use std::sync::Arc;

/// The key in a column's metadata that says what happened to it.
pub const TRANSFORM_METADATA: &str = "lingqu.transform";

/// What happens to the columns of a batch.
#[derive(Clone)]
pub struct Transforming {
    columns: Vec<Option<Transform>>,
    key: PseudonymKey,
    schema: SchemaRef,
}

impl Transforming {
    /// Of batches with this schema, where `transform` gives what happens to a column by its place.
    ///
    /// # Errors
    /// A column of a type that cannot be treated so: the gate lets none through.
    pub fn new(
        schema: &Schema,
        transform: impl Fn(usize) -> Option<Transform>,
        key: PseudonymKey,
    ) -> Result<Self, FlowError> {
        let columns: Vec<_> = (0..schema.fields().len()).map(transform).collect();
        let fields = schema.fields().iter().zip(&columns).map(|(field, transform)| match transform {
            None => Ok(field.as_ref().clone()),
            Some(transform) => delivered(field, *transform),
        });
        let fields = fields.collect::<Result<Vec<_>, _>>()?;
        Ok(Self { columns, key, schema: Arc::new(Schema::new(fields)) })
    }

    /// The schema of what leaves.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Whether every column leaves in clear.
    pub fn is_idle(&self) -> bool {
        self.columns.iter().all(Option::is_none)
    }

    /// A batch as it leaves. It blocks for as long as hashing takes.
    ///
    /// # Errors
    /// A batch of another schema: ours.
    pub fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch, FlowError> {
        if batch.num_columns() != self.columns.len() {
            return Err(FlowError::Machine("a batch has other columns than were permitted".into()));
        }
        let columns = batch.columns().iter().zip(&self.columns).map(|(column, transform)| match transform {
            None => Ok(Arc::clone(column)),
            Some(Transform::Mask { prefix, suffix }) => masked(column, (*prefix).into(), (*suffix).into()),
            Some(Transform::Pseudonym) => self.pseudonyms(column),
            Some(Transform::Drop) => Err(unfit(column.data_type())),
        });
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .map_err(|e| FlowError::Machine(e.to_string()))
    }

    fn pseudonyms(&self, column: &ArrayRef) -> Result<ArrayRef, FlowError> {
        if let Some(texts) = column.as_string_opt::<i32>() {
            return self.each(column, |row| texts.value(row), |value| self.key.text(value));
        }
        if let Some(numbers) = column.as_primitive_opt::<Int64Type>() {
            return self.each(column, |row| numbers.value(row), |value| self.key.number(value));
        }
        if let Some(numbers) = column.as_primitive_opt::<Int32Type>() {
            return self.each(column, |row| numbers.value(row), |value| self.key.number(value.into()));
        }
        Err(unfit(column.data_type()))
    }

    /// Of runs of one value, as sorted columns have them, the first is hashed alone.
    fn each<T: PartialEq + Copy>(
        &self,
        column: &ArrayRef,
        value: impl Fn(usize) -> T,
        pseudonym: impl Fn(T) -> [u8; PSEUDONYM_CHARS],
    ) -> Result<ArrayRef, FlowError> {
        let rows = column.len();
        let mut texts = Texts::with_capacity(rows, (rows - column.null_count()) * PSEUDONYM_CHARS);
        let mut last: Option<(T, [u8; PSEUDONYM_CHARS])> = None;
        for row in 0..rows {
            if column.is_valid(row) {
                let value = value(row);
                let text = match last {
                    Some((before, text)) if before == value => text,
                    _ => pseudonym(value),
                };
                last = Some((value, text));
                texts.values.extend_from_slice(&text);
            }
            texts.end_of_row();
        }
        texts.finish(column)
    }
}

/// A column as it leaves.
fn delivered(field: &Field, transform: Transform) -> Result<Field, FlowError> {
    let fits = match transform {
        Transform::Drop => false,
        Transform::Mask { .. } => *field.data_type() == DataType::Utf8,
        Transform::Pseudonym => matches!(field.data_type(), DataType::Utf8 | DataType::Int32 | DataType::Int64),
    };
    if !fits {
        return Err(unfit(field.data_type()));
    }
    let said = match transform {
        Transform::Pseudonym => format!("{transform} {PSEUDONYM_ALGORITHM}"),
        other => other.to_string(),
    };
    let metadata = HashMap::from([(TRANSFORM_METADATA.to_owned(), said)]);
    Ok(Field::new(field.name(), DataType::Utf8, field.is_nullable()).with_metadata(metadata))
}

fn masked(column: &ArrayRef, prefix: usize, suffix: usize) -> Result<ArrayRef, FlowError> {
    let array = column.as_string_opt::<i32>().ok_or_else(|| unfit(column.data_type()))?;
    // A star is never longer than what it stands for.
    let mut texts = Texts::with_capacity(array.len(), array.value_data().len());
    for row in 0..array.len() {
        if array.is_valid(row) {
            mask(array.value(row), prefix, suffix, &mut texts.values);
        }
        texts.end_of_row();
    }
    texts.finish(column)
}

/// Appends a text of which so many characters at each end are kept; one that has no more than both is hidden whole.
fn mask(text: &str, prefix: usize, suffix: usize, out: &mut Vec<u8>) {
    let chars = text.chars().count();
    let kept = prefix + suffix;
    if chars <= kept {
        out.extend(std::iter::repeat_n(b'*', chars));
        return;
    }
    let at = |place: usize| text.char_indices().nth(place).map_or(text.len(), |(at, _)| at);
    let (head, tail) = (at(prefix), if suffix == 0 { text.len() } else { at(chars - suffix) });
    out.extend_from_slice(text.as_bytes().get(..head).unwrap_or_default());
    out.extend(std::iter::repeat_n(b'*', chars - kept));
    out.extend_from_slice(text.as_bytes().get(tail..).unwrap_or_default());
}

/// A column of texts while it is made.
struct Texts {
    offsets: Vec<i32>,
    values: Vec<u8>,
}

impl Texts {
    fn with_capacity(rows: usize, bytes: usize) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        Self { offsets, values: Vec::with_capacity(bytes) }
    }

    fn end_of_row(&mut self) {
        // Batches are cut to a few megabytes; one that was not would be refused below, for its offsets do not grow.
        self.offsets.push(i32::try_from(self.values.len()).unwrap_or(i32::MAX));
    }

    /// With the nulls of the column that it is made of.
    fn finish(self, of: &ArrayRef) -> Result<ArrayRef, FlowError> {
        let offsets = OffsetBuffer::new(ScalarBuffer::from(self.offsets));
        let made = StringArray::try_new(offsets, self.values.into(), of.nulls().cloned());
        Ok(Arc::new(made.map_err(|e| FlowError::Machine(e.to_string()))?))
    }
}

fn unfit(found: &DataType) -> FlowError {
    FlowError::Machine(format!("a column of {found} cannot be masked or given a pseudonym"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::pseudonym::PseudonymSecret;
    use super::*;
    use crate::gate::Under;
    use arrow::array::{BooleanArray, Int32Array, Int64Array};
    use lingqu_certs::os::OsEntropy;
    use lingqu_protocol::ids::GrantId;
    use proptest::prelude::*;

    fn key(grant: u128) -> PseudonymKey {
        static SECRET: std::sync::LazyLock<PseudonymSecret> =
            std::sync::LazyLock::new(|| PseudonymSecret::generate(&OsEntropy::new()).unwrap());
        SECRET.key(Under::Grant(GrantId::from_bits(grant))).unwrap()
    }

    fn apply(columns: Vec<(&str, ArrayRef)>, transforms: &[Option<Transform>]) -> RecordBatch {
        let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
        Transforming::new(batch.schema_ref(), |place| transforms[place], key(1)).unwrap().apply(&batch).unwrap()
    }

    fn texts(array: &ArrayRef) -> Vec<Option<&str>> {
        array.as_string::<i32>().iter().collect()
    }

    #[test]
    fn masks_count_characters_and_hide_short_texts_whole() {
        for (text, prefix, suffix, expected) in [
            ("440304199001011234", 3, 4, "440***********1234"),
            ("张三丰", 1, 0, "张**"),
            ("张三丰", 0, 1, "**丰"),
            ("张三", 1, 1, "**"),
            ("a😀b", 1, 1, "a*b"),
            ("a", 0, 0, "*"),
            ("", 3, 4, ""),
            ("abc", 5, 0, "***"),
            ("abc", 3, 0, "***"),
            ("abcd", 3, 0, "abc*"),
        ] {
            let mut out = Vec::new();
            mask(text, prefix, suffix, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn each_column_has_its_transform_and_the_schema_says_so() {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("name", Arc::new(StringArray::from(vec![Some("张三丰"), None, Some("")]))),
            ("id", Arc::new(StringArray::from(vec![Some("x"), Some(""), None]))),
            ("n32", Arc::new(Int32Array::from(vec![Some(5), None, Some(5)]))),
            ("n64", Arc::new(Int64Array::from(vec![Some(5), Some(6), None]))),
            ("open", Arc::new(BooleanArray::from(vec![true, false, true]))),
        ];
        let mask = Some(Transform::Mask { prefix: 1, suffix: 0 });
        let pseudonym = Some(Transform::Pseudonym);
        let out = apply(columns, &[mask, pseudonym, pseudonym, pseudonym, None]);
        assert_eq!(texts(out.column(0)), [Some("张**"), None, Some("")]);
        let ids = texts(out.column(1));
        assert!(ids[0].unwrap().len() == PSEUDONYM_CHARS && ids[1].is_some_and(|p| !p.is_empty()) && ids[2].is_none());
        let (n32, n64) = (texts(out.column(2)), texts(out.column(3)));
        assert_eq!((n32[0], n32[1]), (n64[0], None), "a number is the same in every width");
        assert_eq!(n32[0], n32[2]);
        let schema = out.schema();
        let said = |place: usize| schema.field(place).metadata().get(TRANSFORM_METADATA).cloned();
        assert_eq!(said(0).as_deref(), Some("mask(1,0)"));
        assert_eq!(said(2).as_deref(), Some("pseudonym hmac-sha256-128"));
        assert_eq!((schema.field(3).data_type(), said(4)), (&DataType::Utf8, None));
    }

    #[test]
    fn what_cannot_be_treated_so_is_refused_before_a_row_is_read() {
        let fields = |data_type| Schema::new(vec![Field::new("c", data_type, true)]);
        let mask = Transform::Mask { prefix: 0, suffix: 0 };
        for (data_type, transform) in [
            (DataType::Int32, mask),
            (DataType::Boolean, Transform::Pseudonym),
            (DataType::Float64, Transform::Pseudonym),
            (DataType::Utf8, Transform::Drop),
        ] {
            assert!(Transforming::new(&fields(data_type), |_| Some(transform), key(1)).is_err());
        }
    }

    proptest! {
        #[test]
        fn rows_are_treated_one_by_one_and_nothing_else_is_in_the_buffers(
            values in prop::collection::vec(prop::option::weighted(0.8, "[ab张😀]{0,6}"), 0..40),
            prefix in 0usize..4, suffix in 0usize..4, cut in 0usize..40,
        ) {
            let whole: ArrayRef = Arc::new(StringArray::from(values.clone()));
            let cut = cut.min(values.len());
            let (column, values) = (whole.slice(cut, values.len() - cut), &values[cut..]);
            let mask = Transform::Mask { prefix: prefix as u8, suffix: suffix as u8 };
            let out = apply(vec![("m", column.clone()), ("p", column)], &[Some(mask), Some(Transform::Pseudonym)]);
            let mut bytes = [0, 0];
            for (row, value) in values.iter().enumerate() {
                let (masked, pseudonym) = (texts(out.column(0))[row], texts(out.column(1))[row]);
                match value {
                    None => prop_assert!(masked.is_none() && pseudonym.is_none()),
                    Some(value) => {
                        let chars: Vec<char> = value.chars().collect();
                        let hidden = chars.len() <= prefix + suffix;
                        let expected: String = chars.iter().enumerate().map(|(i, c)| {
                            if hidden || (i >= prefix && i + suffix < chars.len()) { '*' } else { *c }
                        }).collect();
                        prop_assert_eq!(masked, Some(expected.as_str()));
                        let alone = key(1).text(value);
                        prop_assert_eq!(pseudonym.map(str::as_bytes), Some(&alone[..]));
                        bytes[0] += expected.len();
                        bytes[1] += PSEUDONYM_CHARS;
                    }
                }
            }
            for (place, bytes) in bytes.into_iter().enumerate() {
                prop_assert_eq!(out.column(place).as_string::<i32>().value_data().len(), bytes);
            }
        }
    }
}
