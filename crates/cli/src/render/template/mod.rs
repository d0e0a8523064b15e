//! `--format`, where docker's users write Go templates: a stated part of their language (docs/flags.md), and nothing of
//! the rest is passed over. `parse` makes parts of a text, `eval` shows a value by them.

mod eval;
mod parse;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::str::FromStr;

use serde::Serialize;
use serde_json::{Map, Value, json};

use self::parse::{Expr, Node, Root};
use super::plain;
use super::style::Style;
use super::table::Table;
use crate::failure::Failure;

/// `--format` of a command that lists things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListFormat {
    /// Aligned columns, for reading.
    Table,
    /// JSON, for programs.
    Json,
    /// A line of the caller's own making.
    Template(Template),
}

/// `--format` of a command that shows everything of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ValueFormat {
    /// JSON, for programs.
    Json,
    /// Text of the caller's own making.
    Template(Template),
}

/// What a line is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    nodes: Vec<Node>,
    /// The lines are aligned at their tabs, beneath a line of names.
    table: bool,
}

/// A field's name, and its text for one of the things listed.
pub(crate) type Field<T> = (&'static str, Box<dyn Fn(&T) -> String>);

/// A field `Label` that is all labels, for `.Label "name"`.
pub(crate) type Labels<T> = fn(&T) -> &BTreeMap<String, String>;

const FORMS: &str = "write table, json or fields such as {{.ID}}";

impl FromStr for ListFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<ListFormat, String> {
        match text {
            "table" => Ok(ListFormat::Table),
            "json" => Ok(ListFormat::Json),
            text if !text.contains("{{") => Err(FORMS.to_owned()),
            text => template(text).map(ListFormat::Template),
        }
    }
}

impl FromStr for ValueFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<ValueFormat, String> {
        match text {
            "json" => Ok(ValueFormat::Json),
            text if !text.contains("{{") => Err("write json or fields such as {{.State.Status}}".to_owned()),
            text => template(text).map(ValueFormat::Template),
        }
    }
}

fn template(text: &str) -> Result<Template, String> {
    let (text, table) = match text.strip_prefix("table ") {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    // As docker has it: shells make writing the characters themselves a nuisance.
    let text = outside(text, |text| text.replace("\\t", "\t").replace("\\n", "\n"));
    let nodes = parse::parse(&text)?;
    Ok(Template { nodes, table })
}

/// Changes what stands outside of actions.
fn outside(text: &str, change: impl Fn(&str) -> String) -> String {
    let (mut changed, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("{{") {
        changed += &change(before);
        let Some((inside, after)) = after.split_once("}}") else {
            return changed + "{{" + after;
        };
        changed += "{{";
        changed += inside;
        changed += "}}";
        rest = after;
    }
    changed + &change(rest)
}

impl Template {
    /// The text of one thing.
    ///
    /// # Errors
    /// It lacks a field, or has another kind of value there.
    pub(crate) fn text(&self, thing: &impl Serialize) -> Result<String, Failure> {
        let value = serde_json::to_value(thing).unwrap_or_default();
        eval::text(&self.nodes, &value, plain::by_reader()).map_err(|error| wrong(&error))
    }

    /// The lines of `things`; `id` is what the column of ids is called.
    ///
    /// # Errors
    /// A field that is not among `fields`, or something that cannot be done with one.
    pub(crate) fn lines<T>(
        &self,
        fields: &[Field<T>],
        labels: Option<Labels<T>>,
        id: &str,
        things: &[T],
    ) -> Result<Vec<String>, Failure> {
        let label = labels.map(|_| "Label");
        let names: Vec<&str> = fields.iter().map(|(name, _)| *name).chain(label).collect();
        if let Some(name) = self.named().into_iter().find(|name| !names.contains(name)) {
            return Err(wrong(&format!("there is no field {name:?} here"))
                .hint(format!("there are {}; json has everything", names.join(", "))));
        }
        let show = match self.table {
            true => plain::plain,
            false => plain::by_reader(),
        };
        let line = |thing: &T| {
            let told = fields
                .iter()
                .map(|(name, text)| ((*name).to_owned(), text(thing).into()));
            let mut value: Map<String, Value> = told.collect();
            let whole = self.shows_whole();
            if let Some(labels) = labels.filter(|_| !whole) {
                value.insert("Label".to_owned(), json!(labels(thing)));
            }
            eval::text(&self.nodes, &Value::Object(value), show).map_err(|error| wrong(&error))
        };
        let lines: Vec<String> = things.iter().map(line).collect::<Result<_, _>>()?;
        match self.table {
            true => self.aligned(&names, id, &lines),
            false => Ok(lines),
        }
    }

    /// Whether it shows a field, by itself or with all others.
    pub(crate) fn mentions(&self, name: &str) -> bool {
        self.shows_whole() || self.named().contains(&name)
    }

    fn named(&self) -> Vec<&str> {
        let mut names = Vec::new();
        named(&self.nodes, &mut names);
        names
    }

    /// Whether `{{json .}}` or the like shows all fields, of which docker's `Label` is none.
    fn shows_whole(&self) -> bool {
        fn whole(expr: &Expr) -> bool {
            match expr {
                Expr::Path(Root::Dot | Root::Whole, fields) => fields.is_empty(),
                Expr::Call(_, arguments) => arguments.iter().any(whole),
                _ => false,
            }
        }
        self.nodes
            .iter()
            .any(|node| matches!(node, Node::Print(expr) if whole(expr)))
    }

    fn aligned(&self, names: &[&str], id: &str, lines: &[String]) -> Result<Vec<String>, Failure> {
        let heads: Map<String, Value> = names
            .iter()
            .map(|name| {
                (
                    (*name).to_owned(),
                    if *name == "ID" {
                        id.into()
                    } else {
                        head(name).into()
                    },
                )
            })
            .collect();
        let heads =
            eval::text(&self.nodes, &Value::Object(heads), plain::raw).map_err(|error| wrong(&error))?;
        let heads: Vec<&str> = heads.split('\t').collect();
        let mut table = Table::new(&heads);
        for line in lines {
            let mut cells: Vec<String> = line.split('\t').map(str::to_owned).collect();
            cells.resize(heads.len(), String::new());
            table.row_as_it_is(cells);
        }
        let mut text = Vec::new();
        // Into memory nothing fails.
        let _ = table.write(&mut text, Style::PLAIN);
        Ok(String::from_utf8_lossy(&text)
            .lines()
            .map(str::to_owned)
            .collect())
    }
}

fn wrong(error: &str) -> Failure {
    Failure::user(format!("--format: {error}"))
}

/// What a field's column is called: docker's words.
fn head(name: &str) -> String {
    match name {
        "CPUPerc" => "CPU %".to_owned(),
        "MemUsage" => "MEM USAGE / LIMIT".to_owned(),
        "MemPerc" => "MEM %".to_owned(),
        "NetIO" => "NET I/O".to_owned(),
        "BlockIO" => "BLOCK I/O".to_owned(),
        "PIDs" => "PIDS".to_owned(),
        "CreatedSince" | "RunningFor" => "CREATED".to_owned(),
        name => {
            let mut head = String::new();
            for c in name.chars() {
                if c.is_uppercase() && head.ends_with(char::is_lowercase) {
                    head.push(' ');
                }
                head.push(c);
            }
            head.to_uppercase()
        }
    }
}

/// The fields of the things themselves that are named.
fn named<'n>(nodes: &'n [Node], names: &mut Vec<&'n str>) {
    for node in nodes {
        match node {
            Node::Text(_) => {}
            Node::Print(expr) => named_in(expr, names),
            Node::If(expr, then, otherwise) => {
                named_in(expr, names);
                named(then, names);
                named(otherwise, names);
            }
            // A dot means something else within.
            Node::With(expr, _, otherwise) | Node::Range(_, expr, _, otherwise) => {
                named_in(expr, names);
                named(otherwise, names);
            }
        }
    }
}

fn named_in<'n>(expr: &'n Expr, names: &mut Vec<&'n str>) {
    match expr {
        Expr::Path(Root::Dot | Root::Whole, fields) => names.extend(fields.first().map(String::as_str)),
        Expr::Call(_, arguments) => arguments.iter().for_each(|argument| named_in(argument, names)),
        Expr::Fields(of, _) => named_in(of, names),
        Expr::Lookup(of, key) => {
            named_in(of, names);
            named_in(key, names);
        }
        _ => {}
    }
}

/// Writes lines.
pub(crate) fn write(out: &mut dyn Write, lines: &[String]) -> io::Result<()> {
    lines.iter().try_for_each(|line| writeln!(out, "{line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Result<Vec<String>, String> {
        let ListFormat::Template(template) = text.parse::<ListFormat>()? else {
            return Ok(Vec::new());
        };
        let fields: [Field<BTreeMap<String, String>>; 2] = [
            ("ID", Box::new(|it| it["id"].clone())),
            ("HalfOf", Box::new(|it| it["half"].clone())),
        ];
        let thing = |id: &str, half: &str| {
            BTreeMap::from([
                ("id".to_owned(), id.to_owned()),
                ("half".to_owned(), half.to_owned()),
            ])
        };
        template
            .lines(
                &fields,
                Some(|it| it),
                "THING ID",
                &[thing("4", "2"), thing("16", "8")],
            )
            .map_err(|failure| failure.to_string())
    }

    #[test]
    fn fields_and_the_text_between() {
        assert_eq!(lines("{{.ID}}").unwrap(), ["4", "16"]);
        assert_eq!(
            lines(r"a {{ .ID }}:{{.HalfOf}}\t{").unwrap(),
            ["a 4:2\t{", "a 16:8\t{"]
        );
        assert_eq!(lines("table").unwrap(), [""; 0]);
        assert_eq!(lines("{{json .}}").unwrap()[0], r#"{"HalfOf":"2","ID":"4"}"#);
        assert_eq!(lines(r#"{{.Label "half"}}{{.Label "x"}}"#).unwrap(), ["2", "8"]);
        for (wrong, says) in [
            ("{{.Name}}", "no field \"Name\""),
            ("{{if .Name}}{{end}}", "no field \"Name\""),
            ("{{.ID", "not closed"),
            ("yaml", "table, json or fields"),
            ("", "table, json"),
            ("{{printf \"%s\" .ID}}", "no function \"printf\"; there are json"),
            ("{{template \"x\"}}", "{{template}} is not known"),
            ("{{range .ID}}", "{{end}} is missing"),
            ("{{end}}", "ends nothing"),
            ("{{range .ID}}x{{end}}", "nothing to range over"),
            ("{{.ID 1}}", ".ID takes no argument"),
            ("{{join .ID}}", "join takes 2"),
            ("{{ID}}", "no function \"ID\""),
        ] {
            let error = lines(wrong).unwrap_err();
            assert!(error.contains(says), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_table_of_ones_own() {
        assert_eq!(
            lines(r"table {{.ID}}\t{{.HalfOf}}").unwrap(),
            ["THING ID   HALF OF", "4          2", "16         8"]
        );
    }

    #[test]
    fn go_s_language_as_far_as_it_is_stated() {
        let thing = json!({
            "Name": "web", "Pid": 7, "Up": true, "None": null,
            "Config": { "Env": ["A=1", "B=2"], "Labels": { "b": "2", "a": "1" } },
            "Mounts": [{ "Source": "/x" }, { "Source": "/y" }],
        });
        for (text, shown) in [
            ("{{.Name}} {{.Pid}} {{.Up}}", "web 7 true"),
            ("{{.name}}{{.NAME}}", "webweb"),
            ("{{json .Config.Env}}", r#"["A=1","B=2"]"#),
            ("{{.Config.Env}} {{.Config.Labels}}", "[A=1 B=2] map[a:1 b:2]"),
            (r#"{{join .Config.Env ", "}}"#, "A=1, B=2"),
            (r#"{{index .Config.Labels "a"}}{{index .Config.Labels "z"}}"#, "1"),
            ("{{(index .Mounts 1).Source}}", "/y"),
            (
                "{{range .Mounts}}{{.Source}} of {{$.Name}};{{end}}",
                "/x of web;/y of web;",
            ),
            (
                "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}} {{end}}",
                "a=1 b=2 ",
            ),
            (
                "{{range $n := .Config.Env}}{{$n}}{{println}}{{end}}",
                "A=1\nB=2\n",
            ),
            ("{{range .None}}x{{else}}none{{end}}", "none"),
            ("{{if .None}}a{{else if eq .Pid 7}}b{{else}}c{{end}}", "b"),
            ("{{if and .Up (not .None)}}yes{{end}}", "yes"),
            ("{{with .Config}}{{len .Env}}{{end}}", "2"),
            ("{{.Name | upper | lower | title}}", "Web"),
            ("{{.None}} {{.None.Deeper}}", "<no value> <no value>"),
            ("a {{- /* nothing */ -}} b", "ab"),
            (r#"{{println "a" 1}}{{print `b` "\""}}"#, "a 1\nb\""),
            ("{{if gt .Pid 3}}big{{end}}{{if lt .Pid 3}}small{{end}}", "big"),
            (r#"{{index (split .Name "e") 1}}"#, "b"),
            (r#"{{"}}"}}"#, "}}"),
        ] {
            let ValueFormat::Template(template) = text.parse().unwrap() else {
                panic!("{text}");
            };
            assert_eq!(template.text(&thing).unwrap(), shown, "{text}");
        }
        for (text, says) in [
            ("{{.Nosuch}}", "no field \"Nosuch\""),
            ("{{.Name.X}}", "web has no field \"X\""),
            ("{{index .Mounts 2}}", "no number 2"),
            ("{{$x}}", "no variable $x"),
            ("{{gt .Name 1}}", "cannot be compared"),
        ] {
            let ValueFormat::Template(template) = text.parse().unwrap() else {
                panic!("{text}");
            };
            let error = template.text(&thing).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
