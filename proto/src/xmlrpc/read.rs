//! Documents in: XML read within limits, elements folded to values ([`super::element`]), and the shape of a
//! call or an answer around them. No DOCTYPE, no entity but XML's five, no namespace.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::element::{Dialect, Element, Tag, fold};
use super::value::Value;
use crate::fault::Fault;

/// What a document may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub bytes: usize,
    /// Elements inside one another; a value in an array or struct takes three.
    pub depth: usize,
    /// Elements in all.
    pub elements: usize,
}

impl Limits {
    /// For what any client may send.
    pub const REQUEST: Limits = Limits { bytes: 4 << 20, depth: 96, elements: 200_000 };

    /// For what a server answers: thousands of processes, or a whole log.
    pub const RESPONSE: Limits = Limits { bytes: 512 << 20, depth: 96, elements: 8_000_000 };
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XmlRpcError {
    #[error("XML-RPC document of {bytes} bytes, more than the {limit} allowed")]
    TooLarge { bytes: usize, limit: usize },
    #[error("XML-RPC document with more than {limit} elements inside one another")]
    TooDeep { limit: usize },
    #[error("XML-RPC document with more than {limit} elements")]
    TooMany { limit: usize },
    #[error("XML-RPC document with a DOCTYPE, which is refused")]
    Doctype,
    #[error("not well-formed XML at byte {at}: {reason}")]
    Xml { at: usize, reason: String },
    #[error("XML-RPC document with {what} (before byte {at})")]
    Value { at: usize, what: &'static str },
    #[error("XML-RPC call without a method name")]
    NoMethod,
    #[error("not an answer of XML-RPC: {0}")]
    NotAResponse(&'static str),
}

/// A `methodCall`.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// As written, `supervisor.getState`; never empty.
    pub method: String,
    pub params: Vec<Value>,
}

/// Reads a client's call the way Supervisor's server does: any root element will do, `params` may be left
/// out, a value without a type is a string.
pub fn parse_call(body: &[u8], limits: &Limits) -> Result<Call, XmlRpcError> {
    let found = document(body, Dialect::Request, limits)?;
    match found.method {
        Some(method) if !method.is_empty() => Ok(Call { method, params: found.params.unwrap_or_default() }),
        Some(_) | None => Err(XmlRpcError::NoMethod),
    }
}

/// Reads a server's answer: its one value, or its fault. Control characters, which XML forbids and
/// Supervisor sends as it finds them in a log, are let through.
pub fn parse_response(body: &[u8], limits: &Limits) -> Result<Result<Value, Fault>, XmlRpcError> {
    let found = document(body, Dialect::Response, limits)?;
    if let Some(fault) = found.fault {
        let code = fault.get("faultCode").and_then(Value::as_int);
        let text = fault.get("faultString").and_then(Value::as_str);
        return match (code, text) {
            (Some(code), Some(text)) => Ok(Err(Fault { code, text: text.to_owned() })),
            (None, _) | (_, None) => Err(XmlRpcError::NotAResponse("a fault without code and string")),
        };
    }
    let mut params = found.params.ok_or(XmlRpcError::NotAResponse("neither params nor fault"))?.into_iter();
    match (params.next(), params.next()) {
        (Some(value), None) => Ok(Ok(value)),
        (None, _) => Err(XmlRpcError::NotAResponse("no value")),
        (Some(_), Some(_)) => Err(XmlRpcError::NotAResponse("more than one value")),
    }
}

/// What the document said outside of values.
#[derive(Debug, Default)]
struct Found {
    method: Option<String>,
    params: Option<Vec<Value>>,
    fault: Option<Value>,
}

/// An element whose end was not read yet.
#[derive(Debug)]
struct Open {
    tag: Tag,
    text: Option<String>,
    children: Vec<Element>,
}

fn document(body: &[u8], dialect: Dialect, limits: &Limits) -> Result<Found, XmlRpcError> {
    if body.len() > limits.bytes {
        return Err(XmlRpcError::TooLarge { bytes: body.len(), limit: limits.bytes });
    }
    let text = std::str::from_utf8(body)
        .map_err(|error| XmlRpcError::Xml { at: error.valid_up_to(), reason: "not UTF-8".to_owned() })?;
    let mut tree =
        Tree { dialect, limits, open: Vec::new(), elements: 0, rooted: false, found: Found::default() };
    let mut reader = Reader::from_str(text);
    reader.config_mut().check_comments = true;
    let mut started = false;
    loop {
        let event = reader.read_event();
        let at = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
        let malformed = |reason: String| XmlRpcError::Xml { at, reason };
        match event.map_err(|error| malformed(error.to_string()))? {
            Event::Start(start) => tree.start(&start, at)?,
            Event::Empty(start) => {
                tree.start(&start, at)?;
                tree.end(at)?;
            }
            Event::End(_) => tree.end(at)?,
            Event::Text(text) => {
                let content = text.xml_content().map_err(|error| malformed(error.to_string()))?;
                if dialect == Dialect::Request && content.contains("]]>") {
                    return Err(malformed("]]> outside of CDATA".to_owned()));
                }
                tree.text(&content, at)?;
            }
            Event::CData(data) => {
                let content = data.xml_content().map_err(|error| malformed(error.to_string()))?;
                if !tree.is_inside() {
                    return Err(malformed("CDATA outside of the document".to_owned()));
                }
                tree.text(&content, at)?;
            }
            Event::GeneralRef(reference) => {
                if !tree.is_inside() {
                    return Err(malformed("a reference outside of the document".to_owned()));
                }
                let resolved =
                    match reference.resolve_char_ref().map_err(|error| malformed(error.to_string()))? {
                        Some(char) => char,
                        None => match reference.as_ref() {
                            b"lt" => '<',
                            b"gt" => '>',
                            b"amp" => '&',
                            b"apos" => '\'',
                            b"quot" => '"',
                            _ => return Err(malformed("undefined entity".to_owned())),
                        },
                    };
                tree.text(resolved.encode_utf8(&mut [0; 4]), at)?;
            }
            Event::Decl(_) if started => {
                return Err(malformed("XML declaration that is not at the start".to_owned()));
            }
            Event::Decl(_) | Event::Comment(_) | Event::PI(_) => {}
            Event::DocType(_) => return Err(XmlRpcError::Doctype),
            Event::Eof if tree.is_inside() => return Err(malformed("the end is missing".to_owned())),
            Event::Eof if !tree.rooted => return Err(malformed("no element found".to_owned())),
            Event::Eof => return Ok(tree.found),
        }
        started = true;
    }
}

struct Tree<'a> {
    dialect: Dialect,
    limits: &'a Limits,
    open: Vec<Open>,
    elements: usize,
    rooted: bool,
    found: Found,
}

impl Tree<'_> {
    fn is_inside(&self) -> bool {
        !self.open.is_empty()
    }

    fn start(&mut self, start: &BytesStart<'_>, at: usize) -> Result<(), XmlRpcError> {
        let malformed = |reason: String| XmlRpcError::Xml { at, reason };
        if self.open.is_empty() && self.rooted {
            return Err(malformed("something after the end of the document".to_owned()));
        }
        if !is_name(start.name().as_ref()) {
            return Err(malformed("an element without a proper name".to_owned()));
        }
        if !start.attributes_raw().is_empty() {
            for attribute in start.attributes() {
                attribute.map_err(|error| malformed(error.to_string()))?;
            }
        }
        self.elements += 1;
        if self.elements > self.limits.elements {
            return Err(XmlRpcError::TooMany { limit: self.limits.elements });
        }
        if self.open.len() >= self.limits.depth {
            return Err(XmlRpcError::TooDeep { limit: self.limits.depth });
        }
        self.rooted = true;
        self.open.push(Open {
            tag: Tag::of(start.name().as_ref(), self.dialect),
            text: None,
            children: Vec::new(),
        });
        Ok(())
    }

    fn text(&mut self, text: &str, at: usize) -> Result<(), XmlRpcError> {
        let Some(open) = self.open.last_mut() else {
            return if text.bytes().all(|byte| byte.is_ascii_whitespace()) {
                Ok(())
            } else {
                Err(XmlRpcError::Xml { at, reason: "text outside of the document".to_owned() })
            };
        };
        if self.dialect == Dialect::Request && !text.chars().all(is_xml_char) {
            return Err(XmlRpcError::Xml { at, reason: "a character that XML does not allow".to_owned() });
        }
        if open.tag.keeps_text() && open.children.is_empty() {
            match &mut open.text {
                Some(kept) => kept.push_str(text),
                None => open.text = Some(text.to_owned()),
            }
        }
        Ok(())
    }

    fn end(&mut self, at: usize) -> Result<(), XmlRpcError> {
        let open = self
            .open
            .pop()
            .ok_or_else(|| XmlRpcError::Xml { at, reason: "an end without a start".to_owned() })?;
        let tag = open.tag;
        let mut element = fold(tag, self.dialect, open.text, open.children)
            .map_err(|what| XmlRpcError::Value { at, what })?;
        match tag {
            Tag::MethodName => {
                self.found.method = match element.value.take() {
                    Some(Value::String(method)) => Some(method),
                    Some(_) | None => None,
                }
            }
            Tag::Params => {
                let params = std::mem::take(&mut element.children);
                self.found.params = Some(params.into_iter().map(Element::into_value).collect());
            }
            Tag::Fault => self.found.fault = element.value.take(),
            Tag::Param
            | Tag::Value
            | Tag::Int
            | Tag::Boolean
            | Tag::String
            | Tag::Double
            | Tag::DateTime
            | Tag::Base64
            | Tag::Array
            | Tag::Data
            | Tag::Struct
            | Tag::Nil
            | Tag::Other => {}
        }
        if let Some(parent) = self.open.last_mut() {
            parent.children.push(element);
        }
        Ok(())
    }
}

fn is_name(name: &[u8]) -> bool {
    let start = |byte: &u8| byte.is_ascii_alphabetic() || matches!(byte, b'_' | b':') || !byte.is_ascii();
    name.first().is_some_and(start)
        && name.iter().all(|byte| start(byte) || byte.is_ascii_digit() || matches!(byte, b'-' | b'.'))
}

fn is_xml_char(char: char) -> bool {
    matches!(char, '\t' | '\n' | '\r') || (char >= ' ' && !matches!(char, '\u{fffe}' | '\u{ffff}'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(body: &str) -> Result<Call, XmlRpcError> {
        parse_call(body.as_bytes(), &Limits::REQUEST)
    }

    fn param(value: &str) -> Result<Value, XmlRpcError> {
        let body = format!(
            "<methodCall><methodName>m</methodName><params><param>{value}</param></params></methodCall>"
        );
        call(&body).map(|mut call| call.params.remove(0))
    }

    fn string(text: &str) -> Value {
        Value::from(text)
    }

    #[test]
    fn a_call_may_leave_its_params_out() {
        let read =
            call("<?xml version='1.0'?>\n<methodCall><methodName>a.b</methodName></methodCall>").unwrap();
        assert_eq!(read.method, "a.b");
        assert!(read.params.is_empty());
    }

    #[test]
    fn values_are_read_as_supervisor_reads_them() {
        for (text, value) in [
            ("<value><int> 4 </int></value>", Value::Int(4)),
            ("<value><i4>-4</i4></value>", Value::Int(-4)),
            ("<value>\n <boolean>1</boolean>\n</value>", Value::Bool(true)),
            ("<value><boolean>true</boolean></value>", Value::Bool(false)),
            ("<value>plain</value>", string("plain")),
            ("<value/>", string("")),
            ("<value><string/></value>", string("")),
            ("<value> a &lt;&#66;&#x43;<![CDATA[<d>]]> </value>", string(" a <BC<d> ")),
            ("<value><string>a\r\nb\rc</string></value>", string("a\nb\nc")),
            ("<value><double>-1.5e3</double></value>", Value::Double(-1500.0)),
            ("<value><base64>aGk=</base64></value>", string("hi")),
            ("<value><nil/></value>", Value::Nil),
            ("<value><i8>5</i8></value>", string("5")),
            (
                "<value><array><data><value><int>1</int></value><value>x</value></data></array></value>",
                Value::Array(vec![Value::Int(1), string("x")]),
            ),
            ("<value><array><data/></array></value>", Value::Array(vec![])),
            (
                "<value><struct><member><name>a</name><value>1</value></member>\
                 <member><name>b</name><value>2</value></member>\
                 <member><name>a</name><value>3</value></member></struct></value>",
                Value::record([("a", string("3")), ("b", string("2"))]),
            ),
        ] {
            assert_eq!(param(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn what_supervisor_cannot_read_is_refused() {
        for text in [
            "<value><int/></value>",
            "<value><int>four</int></value>",
            "<value><double>x</double></value>",
            "<value><dateTime.iso8601>now</dateTime.iso8601></value>",
            "<value><array/></value>",
            "<value><struct><member><name>a</name></member></struct></value>",
            "<value><base64>/w==</base64></value>",
        ] {
            assert!(matches!(param(text), Err(XmlRpcError::Value { .. })), "{text}");
        }
        for text in [
            "<value>\u{1}</value>",
            "<value>&#1;</value>",
            "<value>&nbsp;</value>",
            "<value>&amp</value>",
            "<value>]]></value>",
            "<value a></value>",
            "<value",
            "<1/>",
        ] {
            assert!(matches!(param(text), Err(XmlRpcError::Xml { .. })), "{text}");
        }
    }

    #[test]
    fn documents_that_are_no_call_are_refused() {
        for body in
            ["", "not xml", "<methodCall>", "<a/><b/>", "<a/>x", "<a></b>", " <?xml version='1.0'?><a/>"]
        {
            assert!(matches!(call(body), Err(XmlRpcError::Xml { .. })), "{body:?}");
        }
        for body in ["<a/>", "<methodCall><params/></methodCall>", "<methodCall><methodName/></methodCall>"] {
            assert_eq!(call(body), Err(XmlRpcError::NoMethod), "{body:?}");
        }
        let bomb = "<!DOCTYPE a [<!ENTITY b \"ha\">]><a>&b;</a>";
        assert_eq!(call(bomb), Err(XmlRpcError::Doctype));
        assert!(matches!(parse_call(b"<a>\xff</a>", &Limits::REQUEST), Err(XmlRpcError::Xml { at: 3, .. })));
    }

    #[test]
    fn limits_hold() {
        let deep = "<a>".repeat(100_000);
        assert!(matches!(call(&deep), Err(XmlRpcError::TooDeep { .. })));
        let many = format!("<a>{}</a>", "<b/>".repeat(200_001));
        assert!(matches!(call(&many), Err(XmlRpcError::TooMany { .. })));
        let large = " ".repeat((4 << 20) + 1);
        assert!(matches!(call(&large), Err(XmlRpcError::TooLarge { .. })));
    }

    #[test]
    fn control_characters_in_an_answer_are_let_through() {
        let body = b"<methodResponse><params><param><value><string>\x1b[1m</string></value></param></params></methodResponse>";
        assert_eq!(parse_response(body, &Limits::RESPONSE), Ok(Ok(string("\u{1b}[1m"))));
    }

    #[test]
    fn an_answer_is_one_value_or_a_fault() {
        let fault = "<methodResponse><fault><value><struct><member><name>faultCode</name><value><int>10</int></value></member><member><name>faultString</name><value><string>BAD_NAME: x</string></value></member></struct></value></fault></methodResponse>";
        assert_eq!(
            parse_response(fault.as_bytes(), &Limits::RESPONSE),
            Ok(Err(Fault { code: 10, text: "BAD_NAME: x".to_owned() }))
        );
        for body in [
            "<methodResponse/>",
            "<methodResponse><params/></methodResponse>",
            "<methodResponse><fault><value>x</value></fault></methodResponse>",
            "<html><body/></html>",
        ] {
            assert!(
                matches!(
                    parse_response(body.as_bytes(), &Limits::RESPONSE),
                    Err(XmlRpcError::NotAResponse(_))
                ),
                "{body}"
            );
        }
    }
}
