//! From a template's text to what it is made of: text, and actions between `{{` and `}}`.

use super::eval::FUNCTIONS;

/// A part of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Text(String),
    /// The value of a pipeline.
    Print(Expr),
    /// What is shown if a value is something, and what otherwise.
    If(Expr, Vec<Node>, Vec<Node>),
    /// As `If`, with the value as what a dot means.
    With(Expr, Vec<Node>, Vec<Node>),
    /// Once for each of several, by the names of the variables for key and value; and what is shown if there are none.
    Range(Vec<String>, Expr, Vec<Node>, Vec<Node>),
}

/// What has a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expr {
    /// `.`, or `$` for the whole; `$name` for a variable; then fields.
    Path(Root, Vec<String>),
    Text(String),
    Number(i64),
    Bool(bool),
    /// A function of these.
    Call(&'static str, Vec<Expr>),
    /// Fields of what stands in parentheses.
    Fields(Box<Expr>, Vec<String>),
    /// A field with an argument, `.Label "name"`.
    Lookup(Box<Expr>, Box<Expr>),
}

/// Where a path begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Root {
    Dot,
    Whole,
    Variable(String),
}

/// Words that begin an action and are known.
const WORDS: &str = "{{.Field}}, {{json .}}, {{if}}, {{else}}, {{with}}, {{range}}, {{end}}";

/// The parts of a text.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, String> {
    let mut pieces = pieces(text)?.into_iter();
    let (nodes, end) = block(&mut pieces, true)?;
    match end {
        None => Ok(nodes),
        Some(word) => Err(format!("{{{{{word}}}}} ends nothing")),
    }
}

/// Text, or what stands between braces.
enum Piece {
    Text(String),
    Action(String),
}

fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let (mut pieces, mut rest, mut trim) = (Vec::new(), text, false);
    loop {
        let (before, after) = match rest.split_once("{{") {
            Some((before, after)) => (before, Some(after)),
            None => (rest, None),
        };
        let mut before = if trim { before.trim_start() } else { before };
        let Some(after) = after else {
            pieces.push(Piece::Text(before.to_owned()));
            return Ok(pieces);
        };
        let end = end_of_action(after).ok_or("a {{ is not closed")?;
        let mut inside = &after[..end];
        if let Some(cut) = inside.strip_prefix("- ") {
            (inside, before) = (cut, before.trim_end());
        }
        trim = inside.ends_with(" -");
        if trim {
            inside = &inside[..inside.len() - 2];
        }
        pieces.push(Piece::Text(before.to_owned()));
        pieces.push(Piece::Action(inside.trim().to_owned()));
        rest = &after[end + 2..];
    }
}

/// Where the next `}}` stands outside of quotes.
fn end_of_action(text: &str) -> Option<usize> {
    let (mut quote, mut escaped) = (None, false);
    for (at, c) in text.char_indices() {
        match quote {
            None if text[at..].starts_with("}}") => return Some(at),
            None if c == '"' || c == '`' => quote = Some(c),
            Some('"') if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            _ => {}
        }
    }
    None
}

/// The nodes up to an `end` or `else`, which is told.
fn block(
    pieces: &mut impl Iterator<Item = Piece>,
    outermost: bool,
) -> Result<(Vec<Node>, Option<String>), String> {
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let action = match piece {
            Piece::Text(text) if text.is_empty() => continue,
            Piece::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Piece::Action(action) => action,
        };
        if action.starts_with("/*") && action.ends_with("*/") {
            continue;
        }
        let (word, rest) = action.split_once(char::is_whitespace).unwrap_or((&action, ""));
        nodes.push(match word {
            "end" | "else" => return Ok((nodes, Some(action))),
            "if" | "with" | "range" => nested(word, rest, pieces)?,
            "define" | "template" | "block" | "break" | "continue" => {
                return Err(format!("{{{{{word}}}}} is not known; there are {WORDS}"));
            }
            _ => Node::Print(pipeline(&action)?),
        });
    }
    match outermost {
        true => Ok((nodes, None)),
        false => Err("an {{end}} is missing".to_owned()),
    }
}

/// `if`, `with` or `range`, to its `end`.
fn nested(word: &str, rest: &str, pieces: &mut impl Iterator<Item = Piece>) -> Result<Node, String> {
    let (names, rest) = match (word, rest.split_once(":=")) {
        ("range", Some((names, rest))) => {
            let names: Vec<String> = names.split(',').map(|name| name.trim().to_owned()).collect();
            if names.len() > 2 || names.iter().any(|name| !name.starts_with('$') || name.len() < 2) {
                return Err(format!("{:?} are no variables", names.join(",")));
            }
            (names, rest)
        }
        _ => (Vec::new(), rest),
    };
    let value = pipeline(rest)?;
    let (then, end) = block(pieces, false)?;
    let otherwise = match end.as_deref() {
        Some("else") => match block(pieces, false)? {
            (nodes, Some(end)) if end == "end" => nodes,
            (_, end) => return Err(format!("{{{{{}}}}} is one too many", end.unwrap_or_default())),
        },
        Some("end") | None => Vec::new(),
        Some(more) => {
            let again = more.strip_prefix("else").map_or("", str::trim_start);
            match again.split_once(char::is_whitespace) {
                Some(("if", rest)) => vec![nested("if", rest, pieces)?],
                _ => return Err(format!("{{{{{more}}}}} is not known; there is {{{{else if}}}}")),
            }
        }
    };
    Ok(match word {
        "if" => Node::If(value, then, otherwise),
        "with" => Node::With(value, then, otherwise),
        _ => Node::Range(names, value, then, otherwise),
    })
}

/// What an action says.
fn pipeline(text: &str) -> Result<Expr, String> {
    let tokens = tokens(text)?;
    let (value, rest) = pipe(&tokens)?;
    match rest.first() {
        None => Ok(value),
        Some(token) => Err(format!("{token:?} is one too many in {{{{{text}}}}}")),
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A name, a path, a number.
    Word(String),
    Text(String),
    Open,
    /// With the fields that follow at once.
    Close(Vec<String>),
    Pipe,
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let (mut tokens, mut chars) = (Vec::new(), text.chars().peekable());
    while let Some(c) = chars.next() {
        tokens.push(match c {
            c if c.is_whitespace() => continue,
            '(' => Token::Open,
            ')' => {
                let mut fields = String::new();
                while let Some(c) = chars.next_if(|c| *c == '.' || c.is_alphanumeric() || *c == '_') {
                    fields.push(c);
                }
                Token::Close(fields.split('.').skip(1).map(str::to_owned).collect())
            }
            '|' => Token::Pipe,
            '`' => Token::Text(chars.by_ref().take_while(|c| *c != '`').collect()),
            '"' => {
                let (mut quoted, mut closed) = (String::new(), false);
                while let Some(c) = chars.next() {
                    match c {
                        '"' => {
                            closed = true;
                            break;
                        }
                        '\\' => quoted.push(match chars.next() {
                            Some('n') => '\n',
                            Some('t') => '\t',
                            Some(c @ ('"' | '\\')) => c,
                            other => return Err(format!("\\{} is not known", other.unwrap_or(' '))),
                        }),
                        c => quoted.push(c),
                    }
                }
                if !closed {
                    return Err("a quote is not closed".to_owned());
                }
                Token::Text(quoted)
            }
            c => {
                let mut word = String::from(c);
                while let Some(c) = chars.next_if(|c| !c.is_whitespace() && !"()|\"`".contains(*c)) {
                    word.push(c);
                }
                Token::Word(word)
            }
        });
    }
    Ok(tokens)
}

/// Commands with a `|` between: the value of each is the last argument of the next.
fn pipe(tokens: &[Token]) -> Result<(Expr, &[Token]), String> {
    let (mut value, mut rest) = command(tokens, None)?;
    while let Some((Token::Pipe, after)) = rest.split_first() {
        (value, rest) = command(after, Some(value))?;
    }
    Ok((value, rest))
}

fn command(tokens: &[Token], piped: Option<Expr>) -> Result<(Expr, &[Token]), String> {
    let Some((first, mut rest)) = tokens.split_first() else {
        return Err("an action is empty".to_owned());
    };
    let function = match first {
        Token::Word(word) => function(word)?,
        _ => None,
    };
    let head = match function {
        Some(_) => None,
        None => {
            let (head, after) = operand(tokens)?;
            rest = after;
            Some(head)
        }
    };
    let mut arguments = Vec::new();
    while let Some(token) = rest.first() {
        if matches!(token, Token::Pipe | Token::Close(_)) {
            break;
        }
        let (argument, after) = operand(rest)?;
        arguments.push(argument);
        rest = after;
    }
    arguments.extend(piped);
    let value = match (function, head, arguments.len()) {
        (Some(function), _, count) => {
            let (least, most) = FUNCTIONS
                .iter()
                .find(|known| known.0 == function)
                .map_or((0, 0), |known| (known.1, known.2));
            if count < least || count > most {
                return Err(format!(
                    "{function} takes {least} argument(s) at least, and at most {most}"
                ));
            }
            Expr::Call(function, arguments)
        }
        (None, Some(head), 0) => head,
        (None, Some(head @ Expr::Path(..)), 1) if names_label(&head) => {
            Expr::Lookup(Box::new(head), Box::new(arguments.remove(0)))
        }
        _ => return Err(format!("{} takes no argument", shown(first))),
    };
    Ok((value, rest))
}

/// The one field that is a function too, in docker's lists.
fn names_label(head: &Expr) -> bool {
    matches!(head, Expr::Path(_, fields) if fields.last().is_some_and(|field| field == "Label"))
}

fn shown(token: &Token) -> String {
    match token {
        Token::Word(word) => word.clone(),
        Token::Text(text) => format!("{text:?}"),
        other => format!("{other:?}"),
    }
}

/// A word that is a function's name.
fn function(word: &str) -> Result<Option<&'static str>, String> {
    let plain = word.starts_with(|c: char| c.is_ascii_alphabetic()) && !["true", "false"].contains(&word);
    if !plain {
        return Ok(None);
    }
    match FUNCTIONS.iter().find(|known| known.0 == word) {
        Some(known) => Ok(Some(known.0)),
        None => {
            let names: Vec<&str> = FUNCTIONS.iter().map(|known| known.0).collect();
            Err(format!(
                "there is no function {word:?}; there are {}",
                names.join(", ")
            ))
        }
    }
}

fn operand(tokens: &[Token]) -> Result<(Expr, &[Token]), String> {
    let Some((first, rest)) = tokens.split_first() else {
        return Err("something is missing at the end of an action".to_owned());
    };
    let value = match first {
        Token::Text(text) => Expr::Text(text.clone()),
        Token::Open => {
            let (value, rest) = pipe(rest)?;
            return match rest.split_first() {
                Some((Token::Close(fields), rest)) if fields.is_empty() => Ok((value, rest)),
                Some((Token::Close(fields), rest)) => {
                    Ok((Expr::Fields(Box::new(value), fields.clone()), rest))
                }
                _ => Err("a ( is not closed".to_owned()),
            };
        }
        Token::Word(word) => match function(word)? {
            Some(function) => Expr::Call(function, Vec::new()),
            None => literal(word)?,
        },
        Token::Close(_) | Token::Pipe => return Err(format!("{first:?} stands where a value is to be")),
    };
    Ok((value, rest))
}

fn literal(word: &str) -> Result<Expr, String> {
    if let Ok(number) = word.parse::<i64>() {
        return Ok(Expr::Number(number));
    }
    if let Ok(truth) = word.parse::<bool>() {
        return Ok(Expr::Bool(truth));
    }
    let wrong = || format!("{word:?} is no field and no value");
    let (root, fields) = match word.strip_prefix('$') {
        Some(variable) => {
            let (name, fields) = variable.split_once('.').unwrap_or((variable, ""));
            let root = match name {
                "" => Root::Whole,
                name => Root::Variable(format!("${name}")),
            };
            (root, fields)
        }
        None => (Root::Dot, word.strip_prefix('.').ok_or_else(wrong)?),
    };
    let fields: Vec<String> = match fields {
        "" => Vec::new(),
        fields => fields.split('.').map(str::to_owned).collect(),
    };
    let is_name = |name: &String| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    match fields.iter().all(is_name) {
        true => Ok(Expr::Path(root, fields)),
        false => Err(wrong()),
    }
}
