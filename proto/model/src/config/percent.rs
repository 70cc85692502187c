//! Python's `format % mapping` for the values an expansion can have: text and integers. Exact in its results
//! and its error texts; widths and precisions are limited. It does not say what is available, see
//! [`super::expand`].

use super::expand::Scope;
use super::python::{ascii, repr};

/// Wider fields, and more digits, than this are refused.
const MAX_WIDTH: usize = 1 << 16;
/// Longer results are refused.
const MAX_RESULT: usize = 1 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Int(i64),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum FormatError {
    /// The mapping has no such name: Python's `KeyError`.
    UnknownName(String),
    /// Any other exception's text.
    Bad(String),
}

fn bad<T>(text: impl Into<String>) -> Result<T, FormatError> {
    Err(FormatError::Bad(text.into()))
}

/// What a conversion takes. A format without a name takes the mapping itself, once.
enum Argument<'a> {
    Value(&'a Value),
    Mapping,
}

impl Argument<'_> {
    fn type_name(&self) -> &'static str {
        match self {
            Argument::Value(Value::Text(_)) => "str",
            Argument::Value(Value::Int(_)) => "int",
            Argument::Mapping => "dict",
        }
    }
}

#[derive(Default)]
struct Spec {
    left: bool,
    sign: bool,
    blank: bool,
    alternate: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

pub(super) fn format(text: &str, scope: &Scope<'_>) -> Result<String, FormatError> {
    let mut formatter =
        Formatter { text: text.chars().collect(), at: 0, scope, next: Some(Argument::Mapping) };
    let mut out = String::with_capacity(text.len());
    while let Some(c) = formatter.take() {
        if c != '%' {
            out.push(c);
        } else if formatter.peek() == Some('%') {
            formatter.at += 1;
            out.push('%');
        } else {
            out.push_str(&formatter.conversion()?);
        }
        if out.len() > MAX_RESULT {
            return bad("result too long");
        }
    }
    Ok(out)
}

struct Formatter<'a> {
    text: Vec<char>,
    at: usize,
    scope: &'a Scope<'a>,
    next: Option<Argument<'a>>,
}

impl<'a> Formatter<'a> {
    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    fn argument(&mut self) -> Result<Argument<'a>, FormatError> {
        self.next.take().map_or_else(|| bad("not enough arguments for format string"), Ok)
    }

    /// Everything after the `%`.
    fn conversion(&mut self) -> Result<String, FormatError> {
        if self.peek() == Some('(') {
            let name = self.name()?;
            let value = self.scope.get(&name).ok_or(FormatError::UnknownName(name))?;
            self.next = Some(Argument::Value(value));
        }
        let mut spec = Spec::default();
        while let Some(c) = self.peek() {
            match c {
                '-' => spec.left = true,
                '+' => spec.sign = true,
                ' ' => spec.blank = true,
                '#' => spec.alternate = true,
                '0' => spec.zero = true,
                _ => break,
            }
            self.at += 1;
        }
        self.width(&mut spec)?;
        self.precision(&mut spec)?;
        if matches!(self.peek(), Some('h' | 'l' | 'L')) {
            self.at += 1;
        }
        let Some(code) = self.take() else { return bad("incomplete format") };
        let argument = self.argument()?;
        self.convert(code, &spec, &argument)
    }

    /// `(name)`, with balanced parentheses inside.
    fn name(&mut self) -> Result<String, FormatError> {
        self.at += 1;
        let mut depth = 1;
        let mut name = String::new();
        while let Some(c) = self.take() {
            match c {
                ')' => depth -= 1,
                '(' => depth += 1,
                _ => {}
            }
            if depth == 0 {
                return Ok(name);
            }
            name.push(c);
        }
        bad("incomplete format key")
    }

    fn width(&mut self, spec: &mut Spec) -> Result<(), FormatError> {
        if self.peek() == Some('*') {
            self.at += 1;
            let width = self.star()?;
            spec.left |= width < 0;
            spec.width = Some(limited(width.unsigned_abs(), "width too big")?);
        } else if self.peek().is_some_and(|c| c.is_ascii_digit()) {
            spec.width = Some(self.number("width too big")?);
        }
        Ok(())
    }

    fn precision(&mut self, spec: &mut Spec) -> Result<(), FormatError> {
        if self.peek() == Some('.') {
            self.at += 1;
            spec.precision = Some(if self.peek() == Some('*') {
                self.at += 1;
                limited(self.star()?.max(0).unsigned_abs(), "precision too big")?
            } else {
                self.number("precision too big")?
            });
        }
        Ok(())
    }

    fn star(&mut self) -> Result<i64, FormatError> {
        match self.argument()? {
            Argument::Value(Value::Int(value)) => Ok(*value),
            Argument::Value(Value::Text(_)) | Argument::Mapping => bad("* wants int"),
        }
    }

    fn number(&mut self, too_big: &str) -> Result<usize, FormatError> {
        let mut value = 0u64;
        while let Some(digit) = self.peek().and_then(|c| c.to_digit(10)) {
            self.at += 1;
            value = value.saturating_mul(10).saturating_add(u64::from(digit));
        }
        limited(value, too_big)
    }

    fn convert(&self, code: char, spec: &Spec, argument: &Argument<'_>) -> Result<String, FormatError> {
        let (body, signed) = match code {
            's' | 'r' | 'a' => (self.text(code, argument), false),
            'd' | 'i' | 'u' | 'o' | 'x' | 'X' => (integer(code, spec, argument)?, true),
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => match argument {
                Argument::Value(Value::Int(value)) => (float(code, spec, *value as f64), true),
                other => return bad(format!("must be real number, not {}", other.type_name())),
            },
            'c' => (character(argument)?, false),
            other => {
                let shown = if matches!(other, '\x1f'..='}') { other } else { '?' };
                let code = u32::from(other);
                let index = self.at - 1;
                return bad(format!("unsupported format character '{shown}' (0x{code:x}) at index {index}"));
            }
        };
        Ok(pad(body, code, spec, signed))
    }

    fn text(&self, code: char, argument: &Argument<'_>) -> String {
        match (argument, code) {
            (Argument::Value(Value::Text(text)), 's') => text.clone(),
            (Argument::Value(Value::Text(text)), 'r') => repr(text),
            (Argument::Value(Value::Text(text)), _) => ascii(text),
            (Argument::Value(Value::Int(value)), _) => value.to_string(),
            (Argument::Mapping, code) => {
                let shown = if code == 'a' { ascii } else { repr };
                let entry = |(name, value): (&str, &Value)| match value {
                    Value::Text(text) => format!("{}: {}", shown(name), shown(text)),
                    Value::Int(value) => format!("{}: {value}", shown(name)),
                };
                format!("{{{}}}", self.scope.entries().map(entry).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

fn limited(value: u64, too_big: &str) -> Result<usize, FormatError> {
    match usize::try_from(value) {
        Ok(value) if value <= MAX_WIDTH => Ok(value),
        _ => bad(too_big),
    }
}

fn character(argument: &Argument<'_>) -> Result<String, FormatError> {
    match argument {
        Argument::Value(Value::Text(text)) if text.chars().count() == 1 => Ok(text.clone()),
        Argument::Value(Value::Int(value)) => match u32::try_from(*value).ok().and_then(char::from_u32) {
            Some(c) => Ok(c.to_string()),
            None => bad("%c arg not in range(0x110000)"),
        },
        Argument::Value(Value::Text(_)) | Argument::Mapping => bad("%c requires int or char"),
    }
}

/// Sign, the prefix of `#`, and at least `precision` digits.
fn integer(code: char, spec: &Spec, argument: &Argument<'_>) -> Result<String, FormatError> {
    let Argument::Value(Value::Int(value)) = argument else {
        let wanted = if matches!(code, 'o' | 'x' | 'X') { "an integer" } else { "a real number" };
        return bad(format!("%{code} format: {wanted} is required, not {}", argument.type_name()));
    };
    let size = value.unsigned_abs();
    let (prefix, digits) = match code {
        'o' => ("0o", format!("{size:o}")),
        'x' => ("0x", format!("{size:x}")),
        'X' => ("0X", format!("{size:X}")),
        _ => ("", size.to_string()),
    };
    let sign = if *value < 0 { "-" } else { "" };
    let prefix = if spec.alternate { prefix } else { "" };
    Ok(format!("{sign}{prefix}{digits:0>width$}", width = spec.precision.unwrap_or(0)))
}

fn float(code: char, spec: &Spec, value: f64) -> String {
    let precision = spec.precision.unwrap_or(6);
    let text = match code.to_ascii_lowercase() {
        'f' => fixed(value, precision, spec.alternate),
        'e' => exponential(value, precision, spec.alternate),
        _ => general(value, precision.max(1), spec.alternate),
    };
    if code.is_ascii_uppercase() { text.to_uppercase() } else { text }
}

fn fixed(value: f64, precision: usize, point: bool) -> String {
    let point = if precision == 0 && point { "." } else { "" };
    format!("{value:.precision$}{point}")
}

fn exponential(value: f64, precision: usize, point: bool) -> String {
    let text = format!("{value:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let point = if precision == 0 && point { "." } else { "" };
    format!("{mantissa}{point}e+{exponent:0>2}")
}

/// The shorter of the two, without the zeros at the end. Integers have no negative exponent.
fn general(value: f64, precision: usize, alternate: bool) -> String {
    let digits = precision - 1;
    let rounded = format!("{value:.digits$e}");
    let exponent = rounded.split_once('e').and_then(|(_, e)| e.parse::<usize>().ok()).unwrap_or(0);
    let (body, tail) = if exponent < precision {
        (fixed(value, digits - exponent, alternate), String::new())
    } else {
        let text = exponential(value, digits, alternate);
        let at = text.find('e').unwrap_or(text.len());
        (text[..at].to_owned(), text[at..].to_owned())
    };
    let body = match body.contains('.') && !alternate {
        true => body.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => body,
    };
    body + &tail
}

/// Width, sign and fill. Zeros go between sign or prefix and digits, and only for numbers.
fn pad(body: String, code: char, spec: &Spec, number: bool) -> String {
    let body = match spec.precision {
        Some(precision) if matches!(code, 's' | 'r' | 'a') => body.chars().take(precision).collect(),
        _ => body,
    };
    let (mut front, body) = match body.strip_prefix('-') {
        Some(rest) if number => ("-".to_owned(), rest.to_owned()),
        _ if number && spec.sign => ("+".to_owned(), body),
        _ if number && spec.blank => (" ".to_owned(), body),
        _ => (String::new(), body),
    };
    let split = if spec.alternate && matches!(code, 'x' | 'X' | 'o') { 2 } else { 0 };
    front.push_str(&body[..split]);
    let body = &body[split..];
    let missing = spec.width.unwrap_or(0).saturating_sub(front.chars().count() + body.chars().count());
    if spec.left {
        format!("{front}{body}{}", " ".repeat(missing))
    } else if spec.zero && number {
        format!("{front}{}{body}", "0".repeat(missing))
    } else {
        format!("{}{front}{body}", " ".repeat(missing))
    }
}
