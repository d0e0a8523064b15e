//! Filters of a listing, in containerd's grammar (its `pkg/filters`):
//!
//! ```text
//! selectors := selector ("," selector)*       all of them hold
//! selector  := fieldpath (operator value)     or the field is there
//! fieldpath := field ("." field)*
//! field     := quoted | [A-Za-z0-9_-]+
//! operator  := "==" | "!=" | "~="             the last: a regular expression
//! value     := quoted | [^\s,=!~] [^\s,]*
//! quoted    := a string of Go's in "…"; of an expression also in /…/ or |…|
//! ```
//!
//! Blanks may stand before a field, an operator and a value, not before a comma or a dot, nor at the end: so does
//! containerd's scanner have it. A value may begin with a dot, where containerd wants quotes around it. A regular
//! expression that is none is refused, where containerd logs that and finds nothing: whoever asked cannot read that log.
//!
//! Of several filters one must hold; where there is none, everything does. The fields are `name`, `parent`, `kind`
//! (`view`, `active`, `committed`) and `labels."a label"`.

use regex::Regex;

use crate::wire::{Info, Kind};

/// A listing's filters, understood.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// One of them must hold, where there is any.
    any: Vec<Vec<Selector>>,
}

/// A filter that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("filter {filter:?}: {why} at byte {at}")]
pub struct FilterError {
    filter: String,
    at: usize,
    why: String,
}

#[derive(Debug, Clone)]
struct Selector {
    field: Field,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Field {
    Name,
    Parent,
    Kind,
    Label(String),
    /// Nothing has it.
    Unknown,
}

#[derive(Debug, Clone)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

impl Filter {
    /// Reads all filters of a listing.
    ///
    /// # Errors
    /// One is none.
    pub fn parse_all(filters: &[String]) -> Result<Filter, FilterError> {
        let mut any = Vec::new();
        for filter in filters {
            // An empty one lets everything pass.
            any.push(match filter.is_empty() {
                true => Vec::new(),
                false => Parser { text: filter, at: 0 }.selectors()?,
            });
        }
        Ok(Filter { any })
    }

    /// Whether it lets a snapshot pass.
    pub fn matches(&self, info: &Info) -> bool {
        self.any.is_empty() || self.any.iter().any(|all| all.iter().all(|one| one.matches(info)))
    }
}

impl Selector {
    fn matches(&self, info: &Info) -> bool {
        let value = self.field.of(info);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value == Some(wanted),
            // One that is not there is not equal to anything.
            Test::NotEqual(other) => value.unwrap_or_default() != other,
            // Nor is it asked for here whether it is there.
            Test::Matches(regex) => regex.is_match(value.unwrap_or_default()),
        }
    }
}

impl Field {
    fn new(mut path: Vec<String>) -> Field {
        match path.remove(0).as_str() {
            "name" => Field::Name,
            "parent" => Field::Parent,
            "kind" => Field::Kind,
            "labels" => Field::Label(path.join(".")),
            _ => Field::Unknown,
        }
    }

    fn of<'a>(&self, info: &'a Info) -> Option<&'a str> {
        match self {
            Field::Name => Some(&info.name),
            Field::Parent => Some(&info.parent),
            Field::Kind => match info.kind() {
                Kind::View => Some("view"),
                Kind::Active => Some("active"),
                Kind::Committed => Some("committed"),
                Kind::Unknown => None,
            },
            Field::Label(name) => info.labels.get(name).map(String::as_str),
            Field::Unknown => None,
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip_blanks(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    /// As many characters as are so.
    fn take_while(&mut self, is_so: impl Fn(char) -> bool) -> String {
        let rest = self.rest();
        let taken = rest[..rest.find(|c| !is_so(c)).unwrap_or(rest.len())].to_owned();
        self.at += taken.len();
        taken
    }

    fn eat(&mut self, wanted: &str) -> bool {
        let is = self.rest().starts_with(wanted);
        self.at += if is { wanted.len() } else { 0 };
        is
    }

    fn error<T>(&self, why: impl Into<String>) -> Result<T, FilterError> {
        Err(FilterError {
            filter: self.text.to_owned(),
            at: self.at,
            why: why.into(),
        })
    }

    fn selectors(mut self) -> Result<Vec<Selector>, FilterError> {
        let mut all = vec![self.selector()?];
        while self.eat(",") {
            all.push(self.selector()?);
        }
        match self.peek() {
            None => Ok(all),
            Some(_) => self.error("a comma is expected"),
        }
    }

    fn selector(&mut self) -> Result<Selector, FilterError> {
        let mut path = vec![self.field()?];
        while self.eat(".") {
            path.push(self.field()?);
        }
        let field = Field::new(path);
        if matches!(self.peek(), None | Some(',')) {
            let test = Test::Present;
            return Ok(Selector { field, test });
        }
        self.skip_blanks();
        let at = self.at;
        let test = match self.take_while(|c| "=!~".contains(c)).as_str() {
            "==" => Test::Equal(self.value(&['"'])?),
            "!=" => Test::NotEqual(self.value(&['"'])?),
            "~=" => {
                let expression = self.value(&['"', '/', '|'])?;
                match Regex::new(&expression) {
                    Ok(regex) => Test::Matches(regex),
                    Err(error) => return self.error(format!("no regular expression before ({error})")),
                }
            }
            _ => {
                self.at = at;
                return self.error("an operator (== != ~=) is expected");
            }
        };
        Ok(Selector { field, test })
    }

    fn field(&mut self) -> Result<String, FilterError> {
        self.skip_blanks();
        if self.peek() == Some('"') {
            return self.quoted();
        }
        match self.take_while(|c| c.is_ascii_alphanumeric() || "_-".contains(c)) {
            empty if empty.is_empty() => self.error("a field's name is expected"),
            field => Ok(field),
        }
    }

    fn value(&mut self, quotes: &[char]) -> Result<String, FilterError> {
        self.skip_blanks();
        match self.peek() {
            Some(quote) if quotes.contains(&quote) => return self.quoted(),
            Some('/' | '|') => return self.error("only a regular expression is quoted so"),
            _ => {}
        }
        match self.take_while(|c| c != ',' && !c.is_whitespace()) {
            empty if empty.is_empty() => self.error("a value is expected"),
            value => Ok(value),
        }
    }

    /// A string in quotes, which the next character is. Of an expression's own quotes, only they themselves are
    /// escaped: a backslash means much there.
    fn quoted(&mut self) -> Result<String, FilterError> {
        let mut out = Vec::new();
        let quote = self.peek().unwrap_or('"');
        self.at += quote.len_utf8();
        loop {
            let Some(c) = self.peek() else {
                return self.error("a quote is not closed");
            };
            self.at += c.len_utf8();
            match c {
                _ if c == quote => break,
                '\\' if quote == '"' => self.escape(&mut out)?,
                '\\' if self.peek() == Some(quote) => {
                    self.at += quote.len_utf8();
                    out.push(quote as u8);
                }
                '\n' => return self.error("a line ends within quotes"),
                _ => out.extend(c.encode_utf8(&mut [0; 4]).bytes()),
            }
        }
        match String::from_utf8(out) {
            Ok(text) => Ok(text),
            Err(_) => self.error("the text in quotes is not UTF-8"),
        }
    }

    /// What follows a backslash in a string of Go's.
    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), FilterError> {
        let Some(c) = self.peek() else {
            return self.error("a quote is not closed");
        };
        self.at += c.len_utf8();
        let simple = match c {
            'a' => 7,
            'b' => 8,
            't' => b'\t',
            'n' => b'\n',
            'v' => 11,
            'f' => 12,
            'r' => b'\r',
            '\\' | '"' => c as u8,
            'x' => self.number(2, 16)? as u8,
            '0'..='7' => {
                self.at -= 1;
                match u8::try_from(self.number(3, 8)?) {
                    Ok(byte) => byte,
                    Err(_) => return self.error("an octal number is larger than a byte"),
                }
            }
            'u' | 'U' => {
                let code = self.number(if c == 'u' { 4 } else { 8 }, 16)?;
                match char::from_u32(code) {
                    Some(c) => out.extend(c.encode_utf8(&mut [0; 4]).bytes()),
                    None => return self.error("there is no such character"),
                }
                return Ok(());
            }
            _ => return self.error("nothing is escaped so"),
        };
        out.push(simple);
        Ok(())
    }

    fn number(&mut self, digits: usize, radix: u32) -> Result<u32, FilterError> {
        let text = self
            .rest()
            .get(..digits)
            .filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
        match text.and_then(|text| u32::from_str_radix(text, radix).ok()) {
            Some(number) => {
                self.at += digits;
                Ok(number)
            }
            None => self.error(format!("{digits} digits are expected")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Labels;

    fn info() -> Info {
        Info {
            name: "k8s.io/3/sha256:abc".into(),
            parent: "k8s.io/2/sha256:def".into(),
            kind: Kind::Committed as i32,
            labels: Labels::from([
                ("containerd.io/snapshot.ref".into(), "sha256:abc".into()),
                ("empty".into(), String::new()),
                ("a, \"b\"".into(), "x y".into()),
            ]),
            ..Info::default()
        }
    }

    fn holds(filters: &[&str]) -> bool {
        let filters: Vec<String> = filters.iter().map(|text| (*text).to_owned()).collect();
        Filter::parse_all(&filters).unwrap().matches(&info())
    }

    #[test]
    fn selectors() {
        for (filter, wanted) in [
            ("", true),
            ("name", true),
            ("name==k8s.io/3/sha256:abc", true),
            ("name==k8s.io", false),
            ("name!=k8s.io", true),
            ("kind==committed", true),
            ("kind==active", false),
            ("kind~=^(view|committed)$", true),
            ("parent==\"\"", false),
            ("parent==\"k8s.io/2/sha256:def\"", true),
            (
                "labels.\"containerd.io/snapshot.ref\"==sha256:abc,parent==\"k8s.io/2/sha256:def\"",
                true,
            ),
            (
                "labels.\"containerd.io/snapshot.ref\"==sha256:abc,parent==\"\"",
                false,
            ),
            ("labels.containerd", false),
            ("labels.empty", true),
            ("labels.empty==\"\"", true),
            ("labels.absent", false),
            ("labels.absent==\"\"", false),
            ("labels.absent!=x", true),
            ("labels.absent~=.*", true),
            ("labels.absent~=\".*\"", true),
            ("labels.absent~=.", false),
            ("kind==committed, name~=k8s", true),
            ("kind==active, name~=k8s", false),
            (" name ==  k8s.io/3/sha256:abc", true),
            ("name\t!=\tk8s.io", true),
            ("labels. empty", true),
            ("labels.1a==x", false),
            ("labels.1-a!=x", true),
            ("1==2", false),
            ("labels.\"a, \\\"b\\\"\"==\"x y\"", true),
            ("labels.\"\\x65mpty\"", true),
            ("labels.\"\\145\\u006dpty\"", true),
            ("name~=/^k8s\\.io\\/\\d+/", true),
            ("name~=|^k8s\\.io/\\d+/|,kind==committed", true),
            ("nothing", false),
            ("nothing!=x", true),
            ("name.more==k8s.io/3/sha256:abc", true),
        ] {
            assert_eq!(holds(&[filter]), wanted, "{filter}");
        }
        assert!(holds(&[]));
        assert!(holds(&["kind==active", "kind==committed"]));
        assert!(!holds(&["kind==active", "kind==view"]));
        assert!(holds(&["kind==active", ""]));
    }

    #[test]
    fn what_is_no_filter_is_refused_with_the_place() {
        for (filter, at) in [
            (",", 0),
            ("name,", 5),
            ("name=", 4),
            ("name=x", 4),
            ("name==", 6),
            ("name==,", 6),
            ("name==a b", 7),
            ("name ", 5),
            ("name , kind", 5),
            ("name .x==a", 5),
            ("name==a ", 7),
            ("name===a", 4),
            ("name ~a", 5),
            ("name==/a/", 6),
            ("name==\"a", 8),
            ("name==\"\\q\"", 9),
            ("name==\"\\777\"", 11),
            ("name==\"\\xff\"", 12),
            ("name==\"\\ud800\"", 13),
            ("name~=(", 7),
            ("labels.==x", 7),
            (".name", 0),
        ] {
            let error = Filter::parse_all(&[filter.to_owned()]).expect_err(filter);
            assert_eq!(error.at, at, "{error}");
            assert!(error.to_string().contains(&format!("{filter:?}")), "{error}");
        }
    }

    /// A string as Go's `%q` would write it, near enough.
    fn quote(text: &str) -> String {
        format!(
            "\"{}\"",
            text.replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n")
        )
    }

    proptest::proptest! {
        #[test]
        fn what_is_asked_for_by_its_label_is_found(name: String, value: String, other: String) {
            let mut info = info();
            info.labels.insert(name.clone(), value.clone());
            let asked = format!("labels.{}=={}", quote(&name), quote(&value));
            let filter = Filter::parse_all(&[asked]).unwrap();
            assert!(filter.matches(&info));
            info.labels.insert(name, other.clone());
            assert_eq!(filter.matches(&info), other == value);
        }

        #[test]
        fn nothing_makes_it_fall_over(text in "[a-z.,=!~\"\\\\/|( \u{e9}]{0,20}") {
            let _ = Filter::parse_all(&[text]).map(|filter| filter.matches(&info()));
        }

        #[test]
        fn nor_does_anything_else(text: String) {
            let _ = Filter::parse_all(&[text]).map(|filter| filter.matches(&info()));
        }
    }
}
