//! A value of XML-RPC, and how callers look into one.

use std::borrow::Cow;

/// What a parameter or a result can be.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// XML-RPC promises 32 bits; servers and Python's clients send and read more.
    Int(i64),
    Bool(bool),
    String(String),
    Double(f64),
    /// `20261121T10:55:00`, without a zone.
    DateTime(String),
    Base64(Vec<u8>),
    Array(Vec<Value>),
    /// Members in the order written; names are unique when read, the last value of a repeated name wins.
    /// Most names are those of a method's answer, and need no memory of their own.
    Struct(Vec<(Cow<'static, str>, Value)>),
    Nil,
}

impl Value {
    /// A struct of these members, in order.
    pub fn record<N: Into<Cow<'static, str>>, const M: usize>(members: [(N, Value); M]) -> Value {
        Value::Struct(members.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }

    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(int) => Some(*int),
            Value::Bool(_)
            | Value::String(_)
            | Value::Double(_)
            | Value::DateTime(_)
            | Value::Base64(_)
            | Value::Array(_)
            | Value::Struct(_)
            | Value::Nil => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(bool) => Some(*bool),
            Value::Int(_)
            | Value::String(_)
            | Value::Double(_)
            | Value::DateTime(_)
            | Value::Base64(_)
            | Value::Array(_)
            | Value::Struct(_)
            | Value::Nil => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(string) => Some(string),
            Value::Int(_)
            | Value::Bool(_)
            | Value::Double(_)
            | Value::DateTime(_)
            | Value::Base64(_)
            | Value::Array(_)
            | Value::Struct(_)
            | Value::Nil => None,
        }
    }

    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Value::Array(items) => Some(items),
            Value::Int(_)
            | Value::Bool(_)
            | Value::String(_)
            | Value::Double(_)
            | Value::DateTime(_)
            | Value::Base64(_)
            | Value::Struct(_)
            | Value::Nil => None,
        }
    }

    /// The member of a struct with this name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Struct(members) => {
                members.iter().find(|(member, _)| member == name).map(|(_, value)| value)
            }
            Value::Int(_)
            | Value::Bool(_)
            | Value::String(_)
            | Value::Double(_)
            | Value::DateTime(_)
            | Value::Base64(_)
            | Value::Array(_)
            | Value::Nil => None,
        }
    }
}

impl From<i64> for Value {
    fn from(int: i64) -> Value {
        Value::Int(int)
    }
}

impl From<i32> for Value {
    fn from(int: i32) -> Value {
        Value::Int(i64::from(int))
    }
}

impl From<bool> for Value {
    fn from(bool: bool) -> Value {
        Value::Bool(bool)
    }
}

impl From<&str> for Value {
    fn from(string: &str) -> Value {
        Value::String(string.to_owned())
    }
}

impl From<String> for Value {
    fn from(string: String) -> Value {
        Value::String(string)
    }
}

impl From<Vec<Value>> for Value {
    fn from(items: Vec<Value>) -> Value {
        Value::Array(items)
    }
}
