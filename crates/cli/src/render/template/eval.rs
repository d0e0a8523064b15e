//! What a template shows of a value.

use serde_json::{Map, Value};

use super::super::plain::{Show, json};
use super::parse::{Expr, Node, Root};

/// The functions, with how many arguments they take at least and at most.
pub(super) const FUNCTIONS: [(&str, usize, usize); 19] = [
    ("json", 1, 1),
    ("join", 2, 2),
    ("split", 2, 2),
    ("index", 1, 9),
    ("len", 1, 1),
    ("lower", 1, 1),
    ("upper", 1, 1),
    ("title", 1, 1),
    ("print", 0, 9),
    ("println", 0, 9),
    ("eq", 2, 9),
    ("ne", 2, 2),
    ("lt", 2, 2),
    ("le", 2, 2),
    ("gt", 2, 2),
    ("ge", 2, 2),
    ("and", 1, 9),
    ("or", 1, 9),
    ("not", 1, 1),
];

/// What a name stands for, from the innermost outwards.
struct Scope<'a> {
    whole: &'a Value,
    dot: &'a Value,
    variables: Vec<(String, Value)>,
    /// How values are shown.
    show: Show,
}

/// The text that `nodes` make of a value, what they take of it made fit by `show`.
pub(super) fn text(nodes: &[Node], value: &Value, show: Show) -> Result<String, String> {
    let mut out = String::new();
    let mut scope = Scope {
        whole: value,
        dot: value,
        variables: Vec::new(),
        show,
    };
    write(nodes, &mut scope, &mut out)?;
    Ok(out)
}

fn write(nodes: &[Node], scope: &mut Scope<'_>, out: &mut String) -> Result<(), String> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            // The user's own, as what stands around it.
            Node::Print(Expr::Text(text)) => out.push_str(text),
            Node::Print(expr) => out.push_str(&(scope.show)(&shown(&value(expr, scope)?))),
            Node::If(expr, then, otherwise) => match is_something(&value(expr, scope)?) {
                true => write(then, scope, out)?,
                false => write(otherwise, scope, out)?,
            },
            Node::With(expr, then, otherwise) => {
                let value = value(expr, scope)?;
                match is_something(&value) {
                    true => within(scope, &value, &[], then, out)?,
                    false => write(otherwise, scope, out)?,
                }
            }
            Node::Range(names, expr, then, otherwise) => {
                let over = value(expr, scope)?;
                let entries: Vec<(Value, Value)> = match over {
                    Value::Array(all) => all
                        .into_iter()
                        .enumerate()
                        .map(|(n, it)| (n.into(), it))
                        .collect(),
                    Value::Object(all) => all.into_iter().map(|(key, it)| (key.into(), it)).collect(),
                    Value::Null => Vec::new(),
                    other => return Err(format!("there is nothing to range over in {}", shown(&other))),
                };
                if entries.is_empty() {
                    write(otherwise, scope, out)?;
                }
                for (key, entry) in &entries {
                    let variables = match names.as_slice() {
                        [one] => vec![(one.clone(), entry.clone())],
                        [first, second] => {
                            vec![(first.clone(), key.clone()), (second.clone(), entry.clone())]
                        }
                        _ => Vec::new(),
                    };
                    within(scope, entry, &variables, then, out)?;
                }
            }
        }
    }
    Ok(())
}

fn within(
    scope: &Scope<'_>,
    dot: &Value,
    variables: &[(String, Value)],
    nodes: &[Node],
    out: &mut String,
) -> Result<(), String> {
    let mut inner = Scope {
        whole: scope.whole,
        dot,
        variables: [&scope.variables, variables].concat(),
        show: scope.show,
    };
    write(nodes, &mut inner, out)
}

fn value(expr: &Expr, scope: &Scope<'_>) -> Result<Value, String> {
    Ok(match expr {
        Expr::Text(text) => text.clone().into(),
        Expr::Number(number) => (*number).into(),
        Expr::Bool(truth) => (*truth).into(),
        Expr::Path(root, fields) => {
            let root = match root {
                Root::Dot => scope.dot,
                Root::Whole => scope.whole,
                Root::Variable(name) => {
                    let known = scope.variables.iter().rev().find(|(known, _)| known == name);
                    known
                        .map(|(_, value)| value)
                        .ok_or_else(|| format!("there is no variable {name}"))?
                }
            };
            fields_of(root, fields)?.clone()
        }
        Expr::Fields(of, fields) => fields_of(&value(of, scope)?, fields)?.clone(),
        Expr::Lookup(of, key) => match (value(of, scope)?, value(key, scope)?) {
            // Among the names of columns: that of a label's is the label.
            (Value::String(_), Value::String(key)) => key.to_uppercase().into(),
            (of, key) => index(&of, &key)?,
        },
        Expr::Call(function, arguments) => {
            let arguments: Result<Vec<Value>, String> =
                arguments.iter().map(|argument| value(argument, scope)).collect();
            call(function, arguments?)?
        }
    })
}

fn fields_of<'v>(value: &'v Value, fields: &[String]) -> Result<&'v Value, String> {
    fields.iter().try_fold(value, |at, name| field(at, name))
}

/// A field by its name; in other letters where there is but one, since docker's values are called otherwise in Go.
fn field<'v>(value: &'v Value, name: &str) -> Result<&'v Value, String> {
    match value {
        Value::Object(fields) => fields
            .get(name)
            .or_else(|| {
                let mut alike = fields
                    .iter()
                    .filter(|(known, _)| known.eq_ignore_ascii_case(name));
                alike
                    .next()
                    .filter(|_| alike.next().is_none())
                    .map(|(_, value)| value)
            })
            .ok_or_else(|| format!("there is no field {name:?} here")),
        // What is not there has no fields either.
        Value::Null => Ok(&Value::Null),
        other => Err(format!("{} has no field {name:?}", shown(other))),
    }
}

fn call(function: &str, arguments: Vec<Value>) -> Result<Value, String> {
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        other => Err(format!("{function} takes a text, not {}", shown(other))),
    };
    let compared = |wanted: &[std::cmp::Ordering]| -> Result<Value, String> {
        let order = match (&arguments[0], &arguments[1]) {
            (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (a, b) => return Err(format!("{} and {} cannot be compared", shown(a), shown(b))),
        };
        Ok(order.is_some_and(|order| wanted.contains(&order)).into())
    };
    use std::cmp::Ordering::{Equal, Greater, Less};
    Ok(match function {
        "json" => json(&serde_json::to_string(&arguments[0]).unwrap_or_default()).into(),
        "join" => {
            let parts: Vec<String> = match &arguments[0] {
                Value::Array(all) => all.iter().map(shown).collect(),
                Value::Null => Vec::new(),
                other => return Err(format!("join takes several, not {}", shown(other))),
            };
            parts.join(&text(&arguments[1])?).into()
        }
        "split" => {
            let (whole, separator) = (text(&arguments[0])?, text(&arguments[1])?);
            whole.split(&*separator).collect::<Vec<_>>().into()
        }
        "index" => {
            let mut at = arguments[0].clone();
            for key in &arguments[1..] {
                at = index(&at, key)?;
            }
            at
        }
        "len" => match &arguments[0] {
            Value::String(text) => text.len(),
            Value::Array(all) => all.len(),
            Value::Object(all) => all.len(),
            Value::Null => 0,
            other => return Err(format!("{} has no length", shown(other))),
        }
        .into(),
        "lower" => text(&arguments[0])?.to_lowercase().into(),
        "upper" => text(&arguments[0])?.to_uppercase().into(),
        "title" => {
            let text = text(&arguments[0])?;
            let mut chars = text.chars();
            let first = chars
                .next()
                .map(|c| c.to_uppercase().to_string())
                .unwrap_or_default();
            (first + chars.as_str()).into()
        }
        "print" => arguments.iter().map(shown).collect::<Vec<_>>().concat().into(),
        "println" => (arguments.iter().map(shown).collect::<Vec<_>>().join(" ") + "\n").into(),
        "eq" => arguments[1..].iter().any(|other| *other == arguments[0]).into(),
        "ne" => (arguments[0] != arguments[1]).into(),
        "lt" => compared(&[Less])?,
        "le" => compared(&[Less, Equal])?,
        "gt" => compared(&[Greater])?,
        "ge" => compared(&[Greater, Equal])?,
        "and" => pick(arguments, |value| !is_something(value)),
        "or" => pick(arguments, is_something),
        "not" => (!is_something(&arguments[0])).into(),
        // The parser knows no others.
        other => return Err(format!("there is no function {other:?}")),
    })
}

/// The first that `wanted` takes, or else the last.
fn pick(values: Vec<Value>, wanted: impl Fn(&Value) -> bool) -> Value {
    let at = values.iter().position(wanted).unwrap_or(values.len() - 1);
    values.into_iter().nth(at).unwrap_or_default()
}

/// What lies in several by a number or a name; what is not there by a name is nothing.
fn index(of: &Value, key: &Value) -> Result<Value, String> {
    match (of, key) {
        (Value::Array(all), Value::Number(n)) => {
            let found = n.as_u64().and_then(|n| all.get(usize::try_from(n).ok()?));
            found
                .cloned()
                .ok_or_else(|| format!("there is no number {n} among {}", all.len()))
        }
        (Value::Object(all), Value::String(name)) => Ok(all.get(name).cloned().unwrap_or_else(|| "".into())),
        (Value::Null, _) => Ok("".into()),
        (of, key) => Err(format!("{} cannot be indexed by {}", shown(of), shown(key))),
    }
}

/// Whether a condition holds: what is empty, 0, false or not there is nothing.
fn is_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(all) => !all.is_empty(),
        Value::Object(all) => !all.is_empty(),
    }
}

/// A value as Go prints it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(all) => format!("[{}]", all.iter().map(shown).collect::<Vec<_>>().join(" ")),
        Value::Object(all) => format!("map[{}]", pairs(all).join(" ")),
        plain => plain.to_string(),
    }
}

fn pairs(all: &Map<String, Value>) -> Vec<String> {
    let mut pairs: Vec<String> = all
        .iter()
        .map(|(key, value)| format!("{key}:{}", shown(value)))
        .collect();
    pairs.sort();
    pairs
}
