//! `--format` of lists, where docker's users write Go templates: of those, plain fields (`{{.ID}}`) and the text between
//! them, a line for each thing listed.

use std::io::{self, Write};
use std::str::FromStr;

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

/// What a line is made of, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(String),
}

/// A field's name, and its text for one of the things listed.
pub(crate) type Field<T> = (&'static str, Box<dyn Fn(&T) -> String>);

const FORMS: &str = "write table, json or fields such as {{.ID}}";

impl FromStr for ListFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<ListFormat, String> {
        match text {
            "table" => Ok(ListFormat::Table),
            "json" => Ok(ListFormat::Json),
            text if text.starts_with("table ") => {
                Err(format!("a table has its own columns; {FORMS} without it"))
            }
            text if !text.contains("{{") => Err(FORMS.to_owned()),
            text => template(text).map(ListFormat::Template),
        }
    }
}

fn template(text: &str) -> Result<Template, String> {
    // As docker has it: shells make writing the characters themselves a nuisance.
    let text = text.replace("\\t", "\t").replace("\\n", "\n");
    let mut parts = Vec::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once("{{") {
        let (inside, after) = after.split_once("}}").ok_or("a {{ is not closed")?;
        let field = inside
            .trim()
            .strip_prefix('.')
            .filter(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        let field = field.ok_or_else(|| {
            format!("{{{{{inside}}}}} is no plain field, and of templates only those are known; json has everything")
        })?;
        parts.extend([Part::Text(before.to_owned()), Part::Field(field.to_owned())]);
        rest = after;
    }
    parts.push(Part::Text(rest.to_owned()));
    Ok(Template(parts))
}

impl Template {
    /// The lines of `things`.
    ///
    /// # Errors
    /// A field that is not among `fields`.
    pub(crate) fn lines<T>(&self, fields: &[Field<T>], things: &[T]) -> Result<Vec<String>, Failure> {
        let known = |name: &str| {
            fields
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, text)| text)
        };
        for part in &self.0 {
            if let Part::Field(name) = part
                && known(name).is_none()
            {
                let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
                return Err(
                    Failure::user(format!("--format: there is no field {name:?} here"))
                        .hint(format!("there are {}; json has everything", names.join(", "))),
                );
            }
        }
        let line = |thing: &T| {
            let text = |part: &Part| match part {
                Part::Text(text) => text.clone(),
                Part::Field(name) => known(name).map(|text| text(thing)).unwrap_or_default(),
            };
            self.0.iter().map(text).collect()
        };
        Ok(things.iter().map(line).collect())
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
        let fields: [Field<i32>; 2] = [
            ("ID", Box::new(|n| n.to_string())),
            ("Half", Box::new(|n| (n / 2).to_string())),
        ];
        template
            .lines(&fields, &[4, 6])
            .map_err(|failure| failure.to_string())
    }

    #[test]
    fn fields_and_the_text_between() {
        assert_eq!(lines("{{.ID}}").unwrap(), ["4", "6"]);
        assert_eq!(
            lines(r"a {{ .ID }}:{{.Half}}\t{").unwrap(),
            ["a 4:2\t{", "a 6:3\t{"]
        );
        assert_eq!(lines("table").unwrap(), [""; 0]);
        for (wrong, says) in [
            ("{{.Name}}", "no field \"Name\""),
            ("{{json .}}", "{{json .}} is no plain field"),
            ("{{.ID | upper}}", "no plain field"),
            ("{{.ID", "not closed"),
            ("yaml", "table, json or fields"),
            ("table {{.ID}}", "its own columns"),
            ("", "table, json"),
        ] {
            let error = lines(wrong).unwrap_err();
            assert!(error.contains(says), "{wrong}: {error}");
        }
    }
}
