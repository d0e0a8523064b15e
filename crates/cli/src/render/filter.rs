//! `--filter` of lists: of several with one key any must fit, and all keys must. Labels must all be there.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::failure::Failure;

/// One `--filter`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyValue {
    key: String,
    value: String,
}

impl FromStr for KeyValue {
    type Err = String;

    fn from_str(text: &str) -> Result<KeyValue, String> {
        let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
        Ok(KeyValue {
            key: key.trim().to_owned(),
            value: value.trim().to_owned(),
        })
    }
}

/// All that were given.
#[derive(Debug)]
pub(crate) struct Filters<'a>(&'a [KeyValue]);

impl<'a> Filters<'a> {
    /// Those of a command that knows the keys `known`.
    ///
    /// # Errors
    /// A key that it does not know.
    pub(crate) fn new(given: &'a [KeyValue], known: &[&str]) -> Result<Filters<'a>, Failure> {
        match given.iter().find(|filter| !known.contains(&filter.key.as_str())) {
            None => Ok(Filters(given)),
            Some(filter) => Err(
                Failure::user(format!("--filter: there is no filter {:?} here", filter.key))
                    .hint(format!("there are {}", known.join(", "))),
            ),
        }
    }

    /// The values of a key.
    pub(crate) fn values(&self, key: &str) -> impl Iterator<Item = &'a str> {
        let all = self.0;
        all.iter()
            .filter(move |filter| filter.key == key)
            .map(|filter| filter.value.as_str())
    }

    /// Whether a key is asked for.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.values(key).next().is_some()
    }

    /// Whether one of a key's values fits, or none is asked for.
    pub(crate) fn any(&self, key: &str, fits: impl Fn(&str) -> bool) -> bool {
        !self.has(key) || self.values(key).any(fits)
    }

    /// What a key asks for that is true or false.
    ///
    /// # Errors
    /// It is neither.
    pub(crate) fn truth(&self, key: &str) -> Result<Option<bool>, Failure> {
        let Some(value) = self.values(key).last() else {
            return Ok(None);
        };
        let truth = runtime::options::boolean(value);
        truth
            .map(Some)
            .ok_or_else(|| Failure::user(format!("--filter {key}={value}: it is neither true nor false")))
    }

    /// Whether all labels that are asked for are there, and none of those that are not wanted (`label!`).
    pub(crate) fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = |asked: &str| match asked.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|own| own == value),
            None => labels.contains_key(asked),
        };
        self.values("label").all(has) && !self.values("label!").any(has)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_of_a_key_and_all_labels() {
        let given: Vec<KeyValue> = ["name=a", "name=b", "label=x", "label=y=1", "label!=z", "d=yes"]
            .map(|text| text.parse().unwrap())
            .to_vec();
        let filters = Filters::new(&given, &["name", "label", "label!", "d"]).unwrap();
        assert!(filters.any("name", |name| name == "b") && !filters.any("name", |name| name == "c"));
        assert!(filters.any("other", |_| false));
        let labels = |words: &[(&str, &str)]| {
            let own = |&(key, value): &(&str, &str)| (key.to_owned(), value.to_owned());
            filters.labels(&words.iter().map(own).collect())
        };
        assert!(labels(&[("x", ""), ("y", "1")]));
        assert!(!labels(&[("x", ""), ("y", "2")]));
        assert!(!labels(&[("x", ""), ("y", "1"), ("z", "")]));
        assert!(filters.truth("d").is_err() && filters.truth("e").unwrap().is_none());
        assert!(Filters::new(&given, &["name"]).is_err());
        assert!("name".parse::<KeyValue>().is_err());
    }
}
