//! Columns of Arrow IPC messages, read in slices of rows by their places in the file.

use arrow::array::{Array, ArrayData, ArrayRef};
use arrow::buffer::{Buffer, MutableBuffer};
use arrow::datatypes::{DataType, Field};
use arrow::error::ArrowError;
use arrow::ipc::{Field as FbField, RecordBatch as FbBatch};
use lingqu_protocol::host::DiskFile;
use std::collections::HashMap;
use std::io;

/// Structs within structs.
const DEPTH_MAX: usize = 8;

/// Bytes of the buffers that one batch's views point into: all are held while the batch is read.
const VIEW_BYTES_MAX: u64 = 64 << 20;

/// Values of dictionaries, by their ids.
pub(super) type Dictionaries = HashMap<i64, ArrayRef>;

/// What a file claims that cannot be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Broken(pub(super) &'static str);

/// Why a slice cannot be read.
#[derive(Debug)]
pub(super) enum SliceError {
    Broken(Broken),
    Arrow(ArrowError),
    Io(io::Error),
}

impl From<Broken> for SliceError {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// A range of the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) at: u64,
    pub(super) len: u64,
}

impl Span {
    /// A part of it, which must lie in it.
    fn part(self, from: u64, len: u64) -> Result<Self, Broken> {
        let end = from.checked_add(len).filter(|end| *end <= self.len);
        let at = self.at.checked_add(from).filter(|_| end.is_some());
        at.map(|at| Self { at, len }).ok_or(Broken("a buffer is shorter than its rows need"))
    }
}

/// A column's type, as far as its buffers go.
#[derive(Clone, Debug)]
pub(super) struct Column {
    data_type: DataType,
    shape: Shape,
}

#[derive(Clone, Debug)]
enum Shape {
    Bits,
    /// Bytes of a value.
    Fixed(u64),
    /// Offsets of 4 or 8 bytes, then text.
    Text(u64),
    Views,
    /// Bytes of a key, the dictionary's id, its values' type.
    Dictionary(u64, i64, Box<Column>),
    Struct(Vec<Column>),
}

impl Column {
    /// Of a field of the schema.
    ///
    /// # Errors
    /// A type that no item has.
    pub(super) fn of(field: &Field, fb: FbField<'_>, depth: usize) -> Result<Self, Broken> {
        let data_type = field.data_type().clone();
        let shape = match &data_type {
            DataType::Dictionary(key, value) => {
                let id = fb.dictionary().map(|d| d.id()).ok_or(Broken("a dictionary without an id"))?;
                let width = key.primitive_width().ok_or(Broken("keys of no integer type"))? as u64;
                let shape = simple(value).ok_or(Broken("a dictionary of values that no item has"))?;
                let values = Self { data_type: value.as_ref().clone(), shape };
                Shape::Dictionary(width, id, Box::new(values))
            }
            DataType::Struct(fields) => {
                let children = fb.children().map(|c| c.iter().collect::<Vec<_>>()).unwrap_or_default();
                if depth >= DEPTH_MAX || children.len() != fields.len() {
                    return Err(Broken("structs lie too deep in each other, or lack their fields"));
                }
                let columns = fields.iter().zip(children).map(|(field, fb)| Self::of(field, fb, depth + 1));
                Shape::Struct(columns.collect::<Result<_, _>>()?)
            }
            other => simple(other).ok_or(Broken("it has a type that no item has"))?,
        };
        Ok(Self { data_type, shape })
    }

    /// The type of the values of the dictionary `id`, where this column uses it.
    pub(super) fn dictionary(&self, id: i64) -> Option<&Self> {
        match &self.shape {
            Shape::Dictionary(_, of, values) if *of == id => Some(values),
            Shape::Struct(children) => children.iter().find_map(|child| child.dictionary(id)),
            _ => None,
        }
    }
}

fn simple(data_type: &DataType) -> Option<Shape> {
    Some(match data_type {
        DataType::Boolean => Shape::Bits,
        DataType::Utf8 | DataType::Binary => Shape::Text(4),
        DataType::LargeUtf8 | DataType::LargeBinary => Shape::Text(8),
        DataType::Utf8View | DataType::BinaryView => Shape::Views,
        DataType::FixedSizeBinary(width) => Shape::Fixed(u64::try_from(*width).ok()?),
        other => Shape::Fixed(other.primitive_width()? as u64),
    })
}

/// A column of one batch, by its places in the file.
#[derive(Debug)]
pub(super) struct Placed {
    column: Column,
    rows: u64,
    has_nulls: bool,
    validity: Span,
    buffers: Vec<Span>,
    children: Vec<Placed>,
}

/// Hands out a batch's nodes and buffers in their order.
struct Claims<'a> {
    batch: FbBatch<'a>,
    body: Span,
    node: usize,
    buffer: usize,
    variadic: usize,
    rows: i64,
}

impl Placed {
    /// Every column of a batch.
    ///
    /// # Errors
    /// A head that claims what is not there.
    pub(super) fn all(columns: &[Column], batch: FbBatch<'_>, body: Span) -> Result<Vec<Self>, Broken> {
        if batch.compression().is_some() {
            return Err(Broken("its batches are compressed: write it without compression"));
        }
        // Every value takes a bit or more of the body.
        let rows = batch.length();
        let most = body.len.saturating_mul(8);
        if u64::try_from(rows).is_ok_and(|rows| rows > most) && !columns.is_empty() {
            return Err(Broken("a batch claims more rows than its bytes can hold"));
        }
        let mut claims = Claims { batch, body, node: 0, buffer: 0, variadic: 0, rows };
        let placed = columns.iter().map(|column| claims.place(column)).collect::<Result<Vec<_>, _>>()?;
        let nodes = batch.nodes().map_or(0, |n| n.len());
        let buffers = batch.buffers().map_or(0, |b| b.len());
        if (claims.node, claims.buffer) != (nodes, buffers) {
            return Err(Broken("a batch has other columns than its schema"));
        }
        Ok(placed)
    }

    /// Bytes of text in some rows.
    pub(super) fn text_bytes(&self, file: &dyn DiskFile, from: usize, rows: usize) -> Result<u64, SliceError> {
        match (&self.column.shape, self.buffers.as_slice()) {
            (Shape::Text(width), [offsets, _]) => {
                let first = self.offset(file, *offsets, *width, from as u64)?;
                let last = self.offset(file, *offsets, *width, (from + rows) as u64)?;
                Ok(last.checked_sub(first).ok_or(Broken("offsets that go backwards"))?)
            }
            (Shape::Struct(_), _) => self
                .children
                .iter()
                .try_fold(0u64, |sum, child| Ok(sum.saturating_add(child.text_bytes(file, from, rows)?))),
            _ => Ok(0),
        }
    }

    fn offset(&self, file: &dyn DiskFile, offsets: Span, width: u64, at: u64) -> Result<u64, SliceError> {
        // No rows, no offsets.
        if offsets.len == 0 && self.rows == 0 {
            return Ok(0);
        }
        let bytes = read(file, offsets.part(at * width, width)?)?;
        Ok(number(&bytes, width)?)
    }

    /// The values of some rows; `from` is a multiple of eight.
    pub(super) fn slice(
        &self,
        file: &dyn DiskFile,
        dictionaries: &Dictionaries,
        from: usize,
        rows: usize,
    ) -> Result<ArrayData, SliceError> {
        let (first, count) = (from as u64, rows as u64);
        let bits = |span: Span| span.part(first / 8, count.div_ceil(8)).map_err(SliceError::from);
        let nulls = if self.has_nulls { Some(read(file, bits(self.validity)?)?) } else { None };
        let mut children = Vec::new();
        let buffers = match (&self.column.shape, self.buffers.as_slice()) {
            (Shape::Bits, [values]) => vec![read(file, bits(*values)?)?],
            (Shape::Fixed(width), [values]) => {
                let (from, len) = (first.checked_mul(*width), count.checked_mul(*width));
                let (from, len) = from.zip(len).ok_or(Broken("a length that overflows"))?;
                vec![read(file, values.part(from, len)?)?]
            }
            (Shape::Text(width), [offsets, text]) => self.text(file, *offsets, *text, *width, first, count)?,
            (Shape::Views, [views, data @ ..]) => {
                let mut all = vec![read(file, views.part(first * 16, count * 16)?)?];
                for span in data {
                    all.push(read(file, *span)?);
                }
                all
            }
            (Shape::Dictionary(width, id, _), [keys]) => {
                let values = dictionaries.get(id).ok_or(Broken("a dictionary that did not come"))?;
                children.push(values.to_data());
                vec![read(file, keys.part(first * width, count * width)?)?]
            }
            (Shape::Struct(_), []) => {
                for child in &self.children {
                    children.push(child.slice(file, dictionaries, from, rows)?);
                }
                Vec::new()
            }
            _ => return Err(Broken("a column has other buffers than its type").into()),
        };
        // Validates everything: lengths, offsets, UTF-8, keys.
        ArrayData::try_new(self.column.data_type.clone(), rows, nulls, 0, buffers, children).map_err(SliceError::Arrow)
    }

    fn text(
        &self,
        file: &dyn DiskFile,
        offsets: Span,
        text: Span,
        width: u64,
        first: u64,
        count: u64,
    ) -> Result<Vec<Buffer>, SliceError> {
        if count == 0 {
            let none = if width == 4 { Buffer::from(vec![0i32]) } else { Buffer::from(vec![0i64]) };
            return Ok(vec![none, Buffer::from(Vec::<u8>::new())]);
        }
        let at = first.checked_mul(width).ok_or(Broken("a length that overflows"))?;
        let places = read(file, offsets.part(at, (count + 1) * width)?)?;
        let mut moved = MutableBuffer::with_capacity(places.len());
        let mut begin = None;
        let mut last = 0;
        for place in places.chunks_exact(width as usize) {
            let place = number(place, width)?;
            let begin = *begin.get_or_insert(place);
            let place = place.checked_sub(begin).filter(|place| *place >= last);
            last = place.ok_or(Broken("offsets that go backwards"))?;
            match width {
                4 => moved.push(i32::try_from(last).map_err(|_| Broken("offsets that overflow"))?),
                _ => moved.push(i64::try_from(last).map_err(|_| Broken("offsets that overflow"))?),
            }
        }
        // Checked for its size before: see `text_bytes`.
        let text = read(file, text.part(begin.unwrap_or(0), last)?)?;
        Ok(vec![moved.into(), text])
    }
}

impl Claims<'_> {
    fn place(&mut self, column: &Column) -> Result<Placed, Broken> {
        let nodes = self.batch.nodes().unwrap_or_default();
        if self.node >= nodes.len() {
            return Err(Broken("a batch has other columns than its schema"));
        }
        let node = nodes.get(self.node);
        self.node += 1;
        if node.length() != self.rows || !(0..=self.rows).contains(&node.null_count()) {
            return Err(Broken("a column has another number of rows than its batch"));
        }
        let validity = self.buffer()?;
        let mut buffers = Vec::new();
        let mut children = Vec::new();
        match &column.shape {
            Shape::Bits | Shape::Fixed(_) | Shape::Dictionary(..) => buffers.push(self.buffer()?),
            Shape::Text(_) => buffers.extend([self.buffer()?, self.buffer()?]),
            Shape::Views => {
                buffers.push(self.buffer()?);
                let counts = self.batch.variadicBufferCounts().unwrap_or_default();
                let count = if self.variadic < counts.len() { counts.get(self.variadic) } else { -1 };
                self.variadic += 1;
                let mut bytes = 0u64;
                for _ in 0..u64::try_from(count).map_err(|_| Broken("views without their buffers"))? {
                    let span = self.buffer()?;
                    bytes = bytes.saturating_add(span.len);
                    buffers.push(span);
                }
                if bytes > VIEW_BYTES_MAX {
                    return Err(Broken("a batch with views has more than 64 MiB: write smaller batches"));
                }
            }
            Shape::Struct(columns) => {
                children = columns.iter().map(|column| self.place(column)).collect::<Result<_, _>>()?;
            }
        }
        let rows = u64::try_from(self.rows).map_err(|_| Broken("a length below zero"))?;
        let has_nulls = node.null_count() > 0;
        Ok(Placed { column: column.clone(), rows, has_nulls, validity, buffers, children })
    }

    fn buffer(&mut self) -> Result<Span, Broken> {
        let buffers = self.batch.buffers().unwrap_or_default();
        if self.buffer >= buffers.len() {
            return Err(Broken("a batch has other columns than its schema"));
        }
        let buffer = buffers.get(self.buffer);
        self.buffer += 1;
        let span = u64::try_from(buffer.offset()).ok().zip(u64::try_from(buffer.length()).ok());
        let (at, len) = span.ok_or(Broken("a buffer of less than no bytes"))?;
        self.body.part(at, len).map_err(|_| Broken("a buffer lies outside of its batch"))
    }
}

fn read(file: &dyn DiskFile, span: Span) -> Result<Buffer, SliceError> {
    let len = usize::try_from(span.len).map_err(|_| Broken("a length that overflows"))?;
    let mut bytes = MutableBuffer::from_len_zeroed(len);
    file.read_exact_at(bytes.as_slice_mut(), span.at).map_err(SliceError::Io)?;
    Ok(bytes.into())
}

fn number(bytes: &[u8], width: u64) -> Result<u64, Broken> {
    let value = match width {
        4 => bytes.first_chunk::<4>().map(|b| i64::from(i32::from_le_bytes(*b))),
        _ => bytes.first_chunk::<8>().map(|b| i64::from_le_bytes(*b)),
    };
    value.and_then(|v| u64::try_from(v).ok()).ok_or(Broken("an offset below zero"))
}
