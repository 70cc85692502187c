//! What one XML element comes to once its end is read. Supervisor folds a request up from the innermost
//! element, by tag alone and wherever it stands; so do we, and answers are folded the same way.

use std::borrow::Cow;

use super::scalar;
use super::value::Value;

/// Who wrote the document: a client's request is read as Supervisor's server does, an answer as Python's
/// client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Request,
    Response,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    MethodName,
    Params,
    Param,
    Fault,
    Value,
    Int,
    Boolean,
    String,
    Double,
    DateTime,
    Base64,
    Array,
    Data,
    Struct,
    Nil,
    /// `member`, `name`, the document itself, and whatever is not XML-RPC's.
    Other,
}

impl Tag {
    pub(super) fn of(name: &[u8], dialect: Dialect) -> Tag {
        match (name, dialect) {
            (b"methodName", _) => Tag::MethodName,
            (b"params", _) => Tag::Params,
            (b"param", _) => Tag::Param,
            (b"fault", Dialect::Response) => Tag::Fault,
            (b"value", _) => Tag::Value,
            (b"int" | b"i4", _) => Tag::Int,
            (b"i1" | b"i2" | b"i8" | b"biginteger", Dialect::Response) => Tag::Int,
            (b"boolean", _) => Tag::Boolean,
            (b"string", _) => Tag::String,
            (b"double", _) => Tag::Double,
            (b"float", Dialect::Response) => Tag::Double,
            (b"dateTime.iso8601", _) => Tag::DateTime,
            (b"base64", _) => Tag::Base64,
            (b"array", _) => Tag::Array,
            (b"data", _) => Tag::Data,
            (b"struct", _) => Tag::Struct,
            (b"nil", _) => Tag::Nil,
            _ => Tag::Other,
        }
    }

    /// Whether text directly inside can matter; the rest is indentation.
    pub(super) fn keeps_text(self) -> bool {
        match self {
            Tag::MethodName
            | Tag::Value
            | Tag::Int
            | Tag::Boolean
            | Tag::String
            | Tag::Double
            | Tag::DateTime
            | Tag::Base64
            | Tag::Other => true,
            Tag::Params | Tag::Param | Tag::Fault | Tag::Array | Tag::Data | Tag::Struct | Tag::Nil => false,
        }
    }
}

/// An element whose end was read: its text or value, and what is left inside it.
#[derive(Debug, Default)]
pub(super) struct Element {
    pub(super) value: Option<Value>,
    pub(super) children: Vec<Element>,
}

impl Element {
    fn folded(value: Value) -> Element {
        Element { value: Some(value), children: Vec::new() }
    }

    pub(super) fn into_value(self) -> Value {
        self.value.unwrap_or(Value::Nil)
    }
}

/// Folds an element at its end. `text` is what stood before its first child. The error says what is wrong
/// with it.
pub(super) fn fold(
    tag: Tag,
    dialect: Dialect,
    text: Option<String>,
    children: Vec<Element>,
) -> Result<Element, &'static str> {
    let first = |children: Vec<Element>| children.into_iter().next();
    let text_or_empty = |text: Option<String>| text.unwrap_or_default();
    Ok(match tag {
        Tag::Value => match first(children) {
            Some(child) => Element { value: child.value, children: Vec::new() },
            None => Element::folded(Value::String(text_or_empty(text))),
        },
        Tag::String => Element::folded(Value::String(text_or_empty(text))),
        Tag::Int => {
            let int = text.as_deref().and_then(scalar::int);
            Element::folded(Value::Int(int.ok_or("an integer that is none")?))
        }
        Tag::Boolean => {
            let text = text_or_empty(text);
            match (text.as_str(), dialect) {
                ("1", _) => Element::folded(Value::Bool(true)),
                ("0", _) | (_, Dialect::Request) => Element::folded(Value::Bool(false)),
                (_, Dialect::Response) => return Err("a boolean that is neither 0 nor 1"),
            }
        }
        Tag::Double => {
            let double = text.as_deref().and_then(scalar::double);
            Element::folded(Value::Double(double.ok_or("a double that is none")?))
        }
        Tag::DateTime => {
            let text = text_or_empty(text);
            // Python's client takes any text for a date; its server does not.
            if dialect == Dialect::Request && !scalar::is_datetime(&text) {
                return Err("a dateTime that is none");
            }
            Element::folded(Value::DateTime(text))
        }
        Tag::Base64 => {
            let bytes = scalar::base64_decode(&text_or_empty(text)).ok_or("base64 that can't be decoded")?;
            Element::folded(match dialect {
                // Supervisor hands it to methods as text, which a log line or stdin data then is.
                Dialect::Request => {
                    Value::String(String::from_utf8(bytes).map_err(|_| "base64 of something not UTF-8")?)
                }
                Dialect::Response => Value::Base64(bytes),
            })
        }
        Tag::Array => match (first(children), dialect) {
            (Some(data), _) => Element { value: data.value, children: Vec::new() },
            (None, Dialect::Response) => Element::folded(Value::Array(Vec::new())),
            (None, Dialect::Request) => return Err("an array without data"),
        },
        Tag::Data => Element::folded(Value::Array(children.into_iter().map(Element::into_value).collect())),
        Tag::Struct => Element::folded(Value::Struct(members(children)?)),
        Tag::Param | Tag::Fault => match first(children) {
            Some(child) => Element { value: child.value, children: Vec::new() },
            None => return Err("a parameter without a value"),
        },
        Tag::Nil => Element::default(),
        Tag::MethodName | Tag::Params | Tag::Other => Element { value: text.map(Value::String), children },
    })
}

fn members(children: Vec<Element>) -> Result<Vec<(Cow<'static, str>, Value)>, &'static str> {
    let mut members: Vec<(Cow<'static, str>, Value)> = Vec::with_capacity(children.len());
    // A hostile struct of many members must not cost their square.
    let mut seen: std::collections::HashMap<String, usize> = std::collections::HashMap::new();
    let small = children.len() <= 32;
    for member in children {
        let mut parts = member.children.into_iter();
        let (Some(name), Some(value), None) = (parts.next(), parts.next(), parts.next()) else {
            return Err("a member that is not a name and a value");
        };
        let name = match name.value {
            Some(Value::String(name)) => name,
            None => String::new(),
            Some(_) => return Err("a member whose name is not text"),
        };
        let value = value.into_value();
        let known = if small {
            members.iter().position(|(known, _)| *known == name)
        } else {
            seen.get(&name).copied()
        };
        match known {
            Some(at) => members[at].1 = value,
            None => {
                if !small {
                    seen.insert(name.clone(), members.len());
                }
                members.push((name.into(), value));
            }
        }
    }
    Ok(members)
}
