//! Documents out, in the layout of Python's `xmlrpc.client`: one line break after each part, `&`, `<` and
//! `>` escaped, everything else as it is. That includes control characters, which XML forbids: Supervisor
//! sends them so, and [`super::parse_response`] reads them.

use std::fmt::Write as _;

use super::scalar;
use super::value::Value;
use crate::fault::Fault;

const HEADER: &str = "<?xml version='1.0'?>\n";

/// A `methodCall` document.
pub fn write_call(method: &str, params: &[Value]) -> String {
    let mut out = String::from(HEADER);
    out.push_str("<methodCall>\n<methodName>");
    escape(method, &mut out);
    out.push_str("</methodName>\n<params>\n");
    for param in params {
        out.push_str("<param>\n");
        value(param, &mut out);
        out.push_str("</param>\n");
    }
    out.push_str("</params>\n</methodCall>\n");
    out
}

/// A `methodResponse` document with a result. [`Value::Nil`] is written as `<nil/>`, which not every client
/// reads: Supervisor's own methods never answer it.
pub fn write_response(result: &Value) -> String {
    let mut out = String::from(HEADER);
    out.push_str("<methodResponse>\n<params>\n<param>\n");
    value(result, &mut out);
    out.push_str("</param>\n</params>\n</methodResponse>\n");
    out
}

/// A `methodResponse` document with a fault.
pub fn write_fault(fault: &Fault) -> String {
    let mut out = String::from(HEADER);
    out.push_str("<methodResponse>\n<fault>\n");
    let body = Value::record([
        ("faultCode", Value::Int(fault.code)),
        ("faultString", Value::from(fault.text.as_str())),
    ]);
    value(&body, &mut out);
    out.push_str("</fault>\n</methodResponse>\n");
    out
}

fn value(value_: &Value, out: &mut String) {
    out.push_str("<value>");
    match value_ {
        Value::Int(int) => write!(out, "<int>{int}</int>").expect("a String takes everything"),
        Value::Bool(bool) => {
            write!(out, "<boolean>{}</boolean>", u8::from(*bool)).expect("a String takes everything")
        }
        Value::String(string) => {
            out.push_str("<string>");
            escape(string, out);
            out.push_str("</string>");
        }
        Value::Double(double) => {
            out.push_str("<double>");
            out.push_str(&scalar::repr(*double));
            out.push_str("</double>");
        }
        Value::DateTime(moment) => {
            out.push_str("<dateTime.iso8601>");
            escape(moment, out);
            out.push_str("</dateTime.iso8601>");
        }
        Value::Base64(bytes) => {
            out.push_str("<base64>\n");
            scalar::base64_encode(bytes, out);
            out.push_str("</base64>");
        }
        Value::Array(items) => {
            out.push_str("<array><data>\n");
            for item in items {
                value(item, out);
            }
            out.push_str("</data></array>");
        }
        Value::Struct(members) => {
            out.push_str("<struct>\n");
            for (name, member) in members {
                out.push_str("<member>\n<name>");
                escape(name, out);
                out.push_str("</name>\n");
                value(member, out);
                out.push_str("</member>\n");
            }
            out.push_str("</struct>");
        }
        // The one type that Python ends without a line break.
        Value::Nil => {
            out.push_str("<nil/></value>");
            return;
        }
    }
    out.push_str("</value>\n");
}

fn escape(text: &str, out: &mut String) {
    let mut rest = text;
    while let Some(at) = rest.bytes().position(|byte| matches!(byte, b'&' | b'<' | b'>')) {
        out.push_str(&rest[..at]);
        out.push_str(match rest.as_bytes()[at] {
            b'&' => "&amp;",
            b'<' => "&lt;",
            _ => "&gt;",
        });
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;

    use super::*;
    use crate::fault::FaultCode;
    use crate::xmlrpc::{Call, Limits, parse_call, parse_response};

    #[test]
    fn a_call_has_the_layout_of_pythons_client() {
        let written = write_call("supervisor.startProcess", &[Value::from("a<b"), Value::from(true)]);
        assert_eq!(
            written,
            "<?xml version='1.0'?>\n<methodCall>\n<methodName>supervisor.startProcess</methodName>\n<params>\n\
             <param>\n<value><string>a&lt;b</string></value>\n</param>\n\
             <param>\n<value><boolean>1</boolean></value>\n</param>\n</params>\n</methodCall>\n"
        );
    }

    #[test]
    fn an_answer_has_the_layout_of_pythons_server() {
        let result = Value::Array(vec![
            Value::record([("n", Value::Int(-1)), ("d", Value::Double(0.5))]),
            Value::Base64(b"hi".to_vec()),
        ]);
        assert_eq!(
            write_response(&result),
            "<?xml version='1.0'?>\n<methodResponse>\n<params>\n<param>\n<value><array><data>\n\
             <value><struct>\n<member>\n<name>n</name>\n<value><int>-1</int></value>\n</member>\n\
             <member>\n<name>d</name>\n<value><double>0.5</double></value>\n</member>\n</struct></value>\n\
             <value><base64>\naGk=\n</base64></value>\n</data></array></value>\n</param>\n</params>\n\
             </methodResponse>\n"
        );
        assert_eq!(
            write_fault(&Fault::new(FaultCode::Failed)),
            "<?xml version='1.0'?>\n<methodResponse>\n<fault>\n<value><struct>\n<member>\n<name>faultCode</name>\n\
             <value><int>30</int></value>\n</member>\n<member>\n<name>faultString</name>\n\
             <value><string>FAILED</string></value>\n</member>\n</struct></value>\n</fault>\n</methodResponse>\n"
        );
    }

    /// Text that survives XML: its own line ends, no other control character.
    fn text() -> impl Strategy<Value = String> {
        "[ -~\t\nä€𝄞&<>\\]]{0,24}"
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Value::Int),
            any::<bool>().prop_map(Value::Bool),
            text().prop_map(Value::String),
            any::<f64>().prop_filter("nan equals nothing", |double| !double.is_nan()).prop_map(Value::Double),
            Just(Value::DateTime("20261121T10:55:00".to_owned())),
            proptest::collection::vec(any::<u8>(), 0..130).prop_map(Value::Base64),
            Just(Value::Nil),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
                proptest::collection::btree_map(text(), inner, 0..6).prop_map(|members| Value::Struct(
                    members.into_iter().map(|(name, value)| (Cow::Owned(name), value)).collect()
                )),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_answered_is_read_back(value in any_value()) {
            let written = write_response(&value);
            prop_assert_eq!(parse_response(written.as_bytes(), &Limits::RESPONSE), Ok(Ok(value)));
        }

        #[test]
        fn calls_are_read_back(method in "[a-zA-Z.&<]{1,20}", params in proptest::collection::vec(text(), 0..4)) {
            let params: Vec<Value> = params.into_iter().map(Value::String).collect();
            let written = write_call(&method, &params);
            prop_assert_eq!(parse_call(written.as_bytes(), &Limits::REQUEST), Ok(Call { method, params }));
        }

        #[test]
        fn faults_are_read_back(code in any::<i64>(), text in text()) {
            let fault = Fault { code, text };
            prop_assert_eq!(parse_response(write_fault(&fault).as_bytes(), &Limits::RESPONSE), Ok(Err(fault)));
        }

        #[test]
        fn no_bytes_make_the_readers_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_call(&body, &Limits::REQUEST);
            let _ = parse_response(&body, &Limits::RESPONSE);
        }

        #[test]
        fn no_markup_makes_the_readers_panic(
            parts in proptest::collection::vec(
                proptest::sample::select(vec![
                    "<methodCall>", "</methodCall>", "<methodName>", "</methodName>", "<params>", "</params>",
                    "<param>", "</param>", "<value>", "</value>", "<int>", "</int>", "<struct>", "</struct>",
                    "<member>", "</member>", "<name>", "</name>", "<array>", "</array>", "<data>", "</data>",
                    "<fault>", "</fault>", "<nil/>", "<string/>", "&#0;", "&lt;", "&", "<!--", "-->", "<![CDATA[",
                    "]]>", "<?", "?>", "<!DOCTYPE x>", "7", " ", "é",
                ]),
                0..30,
            )
        ) {
            let body = parts.concat();
            let _ = parse_call(body.as_bytes(), &Limits::REQUEST);
            let _ = parse_response(body.as_bytes(), &Limits::RESPONSE);
        }
    }
}
