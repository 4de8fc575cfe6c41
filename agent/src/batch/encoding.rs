//! Text files in the encodings that agencies have: found by looking, or said. What is read is handed on as UTF-8, with the
//! places of bytes that are none of the encoding's.

use crate::error::Text;
use encoding_rs::{Decoder, DecoderResult, Encoding, GB18030, GBK};
use std::collections::VecDeque;
use std::io::{self, Read};

/// Bytes read at a time; also what is looked at to find the encoding.
const WINDOW_BYTES: usize = 1 << 20;

/// Bytes of broken text that are remembered by their place; a file with more is in another encoding altogether.
const BROKEN_MAX: usize = 10_000;

/// Bytes of text that are decoded at a time.
const SCRATCH_BYTES: usize = 16 << 10;

const BOM: &[u8] = &[0xef, 0xbb, 0xbf];

/// What stands in for bytes that are none of the encoding's.
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

/// An encoding of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TextEncoding {
    /// UTF-8
    #[value(name = "utf-8", alias = "utf8")]
    Utf8,
    /// UTF-8 with a byte order mark, which Excel wants.
    #[value(name = "utf-8-bom")]
    Utf8Bom,
    /// GB18030, the national standard; what Windows calls ANSI on a Chinese system is a part of it.
    #[value(name = "gb18030")]
    Gb18030,
    /// GBK, for programs that know no more.
    #[value(name = "gbk", aliases = ["gb2312", "cp936"])]
    Gbk,
}

impl TextEncoding {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Utf8 => "UTF-8",
            Self::Utf8Bom => "UTF-8 with a byte order mark",
            Self::Gb18030 => "GB18030",
            Self::Gbk => "GBK",
        }
    }

    /// How text is written in it; `None` for UTF-8, which it has already.
    pub(super) fn legacy(self) -> Option<&'static Encoding> {
        match self {
            Self::Utf8 | Self::Utf8Bom => None,
            Self::Gb18030 => Some(GB18030),
            Self::Gbk => Some(GBK),
        }
    }
}

/// Reads text of any encoding as UTF-8. UTF-8 itself is passed on unchecked: its columns are checked as a whole.
pub(super) struct Decoded<R> {
    source: R,
    said: Option<TextEncoding>,
    raw: Vec<u8>,
    at: usize,
    ended: bool,
    mode: Mode,
    /// All was handed on; the decoder must not be asked again.
    finished: bool,
    /// Bytes handed on so far.
    handed: u64,
    /// Places, in what is handed on, of stand-ins for broken bytes.
    broken: VecDeque<u64>,
    scratch: Vec<u8>,
}

enum Mode {
    /// Nothing was read yet.
    Start,
    /// All so far is ASCII, which is the same in every encoding.
    Ascii,
    Utf8,
    Legacy(Box<Decoder>),
}

/// A file in no encoding that is read.
#[derive(Debug)]
pub(super) struct Unknown(pub(super) Box<Text>);

impl std::fmt::Display for Unknown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.en)
    }
}

impl std::error::Error for Unknown {}

impl<R: Read> Decoded<R> {
    /// Of `source`, in the encoding that was said, or else the one that is found.
    pub(super) fn new(source: R, said: Option<TextEncoding>) -> Self {
        Self {
            source,
            said,
            raw: Vec::new(),
            at: 0,
            ended: false,
            mode: Mode::Start,
            finished: false,
            handed: 0,
            broken: VecDeque::new(),
            scratch: vec![0; SCRATCH_BYTES],
        }
    }

    /// Appends more text to `out`; `false` at the end.
    ///
    /// # Errors
    /// What the disk says, or an [`Unknown`] encoding.
    pub(super) fn more(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
        if self.finished {
            return Ok(false);
        }
        if self.at == self.raw.len() && !self.ended {
            self.fill()?;
        }
        if matches!(self.mode, Mode::Start) {
            self.start()?;
        }
        let pending = self.raw.get(self.at..).unwrap_or_default();
        if matches!(self.mode, Mode::Ascii) && !pending.is_ascii() {
            // Found at the first byte that tells.
            let ascii = pending.iter().take_while(|b| b.is_ascii()).count();
            let line = pending.get(..ascii).and_then(|a| a.iter().rposition(|b| *b == b'\n')).map_or(0, |at| at + 1);
            self.mode = found(pending.get(line..).unwrap_or_default())?;
        }
        let before = out.len();
        let pending = self.raw.get(self.at..).unwrap_or_default();
        if let Mode::Legacy(decoder) = &mut self.mode {
            let done = decode(decoder, &mut self.scratch, pending, self.ended, out, self.handed, &mut self.broken)?;
            self.at += done;
        } else {
            out.extend_from_slice(pending);
            self.at = self.raw.len();
        }
        self.handed += (out.len() - before) as u64;
        self.finished = self.ended && self.at == self.raw.len();
        Ok(!self.finished || out.len() > before)
    }

    /// Whether bytes from `from` to `to` of what was handed on stand in for broken ones; places before are forgotten.
    pub(super) fn is_broken(&mut self, from: u64, to: u64) -> bool {
        while self.broken.front().is_some_and(|place| *place < from) {
            self.broken.pop_front();
        }
        self.broken.front().is_some_and(|place| *place < to)
    }

    fn fill(&mut self) -> io::Result<()> {
        self.raw.resize(WINDOW_BYTES, 0);
        self.at = 0;
        let mut len = 0;
        while let Some(rest) = self.raw.get_mut(len..).filter(|rest| !rest.is_empty()) {
            let read = self.source.read(rest)?;
            if read == 0 {
                self.ended = true;
                break;
            }
            len += read;
        }
        self.raw.truncate(len);
        Ok(())
    }

    fn start(&mut self) -> io::Result<()> {
        if self.raw.starts_with(&[0xff, 0xfe]) || self.raw.starts_with(&[0xfe, 0xff]) {
            return Err(unknown(
                "it is UTF-16: save it as UTF-8 or GB18030",
                "文件为 UTF-16 编码：请另存为 UTF-8 或 GB18030",
            ));
        }
        let marked = self.raw.starts_with(BOM);
        if marked {
            self.at = BOM.len();
        }
        self.mode = match self.said {
            Some(said) => legacy(said).unwrap_or(Mode::Utf8),
            None if marked => Mode::Utf8,
            None => Mode::Ascii,
        };
        Ok(())
    }
}

fn legacy(encoding: TextEncoding) -> Option<Mode> {
    let decoder = encoding.legacy()?.new_decoder_without_bom_handling();
    Some(Mode::Legacy(Box::new(decoder)))
}

/// The encoding of a text that is not all ASCII: the one in which more of its lines are whole. Damage to some lines does
/// not change what the others say; UTF-8 wins a tie, for other text is hardly ever valid UTF-8 by chance.
fn found(window: &[u8]) -> io::Result<Mode> {
    let (mut utf8, mut gb, mut lines) = (0u64, 0u64, 0u64);
    for line in window.split(|b| *b == b'\n').filter(|line| !line.is_ascii()) {
        lines += 1;
        // The last line may be cut anywhere.
        let is_utf8 = std::str::from_utf8(line).is_ok_and(|_| true)
            || std::str::from_utf8(line).is_err_and(|e| e.error_len().is_none() && window.ends_with(line));
        let is_gb = GB18030.decode_without_bom_handling_and_without_replacement(line).is_some();
        utf8 += u64::from(is_utf8);
        gb += u64::from(is_gb);
    }
    if utf8 * 2 >= lines && utf8 >= gb {
        return Ok(Mode::Utf8);
    }
    if gb * 2 >= lines {
        return legacy(TextEncoding::Gb18030).ok_or_else(|| unknown("no decoder", "缺少解码器"));
    }
    Err(unknown(
        "its text is neither UTF-8 nor GB18030 in most lines: say --encoding, or convert the file",
        "多数行既不是 UTF-8 也不是 GB18030：请用 --encoding 指定编码，或先转换文件",
    ))
}

fn unknown(en: &str, zh: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, Unknown(Box::new(Text::new(en, zh))))
}

/// Decodes all of `input`; the decoder keeps a character that is cut. Gives the bytes that were taken.
fn decode(
    decoder: &mut Decoder,
    scratch: &mut [u8],
    input: &[u8],
    last: bool,
    out: &mut Vec<u8>,
    handed: u64,
    broken: &mut VecDeque<u64>,
) -> io::Result<usize> {
    let begun = out.len();
    let mut taken = 0;
    loop {
        let rest = input.get(taken..).unwrap_or_default();
        let (result, read, written) = decoder.decode_to_utf8_without_replacement(rest, scratch, last);
        out.extend_from_slice(scratch.get(..written).unwrap_or_default());
        taken += read;
        match result {
            DecoderResult::InputEmpty => return Ok(taken),
            DecoderResult::OutputFull => {}
            DecoderResult::Malformed(..) => {
                if broken.len() >= BROKEN_MAX {
                    return Err(unknown(
                        "it is in another encoding than was said or found: too many bytes are none of it",
                        "编码与所指定或识别的不符：无法识别的字节过多",
                    ));
                }
                broken.push_back(handed + (out.len() - begun) as u64);
                out.extend_from_slice(REPLACEMENT);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(bytes: &[u8], said: Option<TextEncoding>) -> Result<(String, bool, usize), String> {
        let mut decoded = Decoded::new(bytes, said);
        let mut out = Vec::new();
        while decoded.more(&mut out).map_err(|e| e.to_string())? {}
        let broken = decoded.broken.len();
        let is_utf8 = !matches!(decoded.mode, Mode::Legacy(_));
        Ok((String::from_utf8_lossy(&out).into_owned(), is_utf8, broken))
    }

    fn gb(text: &str) -> Vec<u8> {
        GB18030.encode(text).0.into_owned()
    }

    #[test]
    fn the_encoding_is_found_where_the_first_text_stands() {
        let text = "区划,名称\n110101001,东华门街道\n";
        assert_eq!(all(text.as_bytes(), None).unwrap(), (text.into(), true, 0));
        assert_eq!(all(&gb(text), None).unwrap(), (text.into(), false, 0));
        let marked = [BOM, text.as_bytes()].concat();
        assert_eq!(all(&marked, None).unwrap().0, text);
        let late = "a,b\n".repeat(400_000) + text;
        let (read, encoding, _) = all(&gb(&late), None).unwrap();
        assert_eq!((read.len(), encoding), (late.len(), false));
        assert!(all("𠀀,丂\n".as_bytes(), None).unwrap().1);
        assert_eq!(all(&gb("𠀀,€\n"), None).unwrap().0, "𠀀,€\n");
    }

    #[test]
    fn damage_to_a_line_does_not_change_what_the_others_say() {
        let lines: String = (0..50).map(|n| format!("{n},街道办事处\n")).collect();
        let mut bytes = gb(&lines);
        let at = bytes.iter().position(|b| !b.is_ascii()).unwrap();
        bytes[at + 1] = 0xff;
        let (text, encoding, broken) = all(&bytes, None).unwrap();
        assert_eq!((encoding, broken), (false, 1));
        assert!(text.contains('\u{fffd}'));
        let mut bytes = lines.into_bytes();
        let at = bytes.iter().position(|b| !b.is_ascii()).unwrap();
        bytes[at] = 0xff;
        assert!(all(&bytes, None).unwrap().1);
    }

    #[test]
    fn other_encodings_are_said_so() {
        assert!(all(&[0xff, 0xfe, b'a', 0], None).unwrap_err().contains("UTF-16"));
        let junk: Vec<u8> = [0xff, 0xff, b'\n'].repeat(100);
        assert!(all(&junk, None).unwrap_err().contains("neither"));
        assert!(all(&[0xff; 200_000], Some(TextEncoding::Gb18030)).unwrap_err().contains("another encoding"));
    }

    proptest! {
        #[test]
        fn gb18030_reads_back_whatever_the_cuts(text in "[a-z\\n一-龥𠀀-𠀐]{0,40}", pieces in 1usize..7) {
            struct Slow(Vec<u8>, usize);
            impl Read for Slow {
                fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                    let n = self.1.min(self.0.len()).min(buf.len());
                    buf[..n].copy_from_slice(&self.0[..n]);
                    self.0.drain(..n);
                    Ok(n)
                }
            }
            let mut decoded = Decoded::new(Slow(gb(&text), pieces), Some(TextEncoding::Gb18030));
            let mut out = Vec::new();
            while decoded.more(&mut out).unwrap() {}
            prop_assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }
}
