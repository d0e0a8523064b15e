//! `WWW-Authenticate`: what a registry wants to see before it answers (RFC 9110, 11.6.1; distribution's token
//! specification).

/// One challenge: a scheme and its parameters, names in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// `bearer`, `basic`, … in lower case.
    pub(crate) scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// A parameter by its name in lower case.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }
}

/// The challenges of one header value; what cannot be understood ends the list.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut out: Vec<Challenge> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = token(rest);
        if word.is_empty() {
            return out;
        }
        let unspaced = after.trim_start_matches([' ', '\t']);
        match unspaced.strip_prefix('=') {
            // A word before "=" is a parameter of the challenge that has begun, any other begins the next.
            Some(value) if !out.is_empty() => {
                let Some((value, after)) = parameter(value.trim_start_matches([' ', '\t'])) else {
                    return out;
                };
                if let Some(last) = out.last_mut() {
                    last.parameters.push((word.to_ascii_lowercase(), value));
                }
                rest = after;
            }
            Some(_) => return out,
            None => {
                out.push(Challenge {
                    scheme: word.to_ascii_lowercase(),
                    parameters: Vec::new(),
                });
                rest = after;
            }
        }
    }
}

/// The schemes that a header `WWW-Authenticate` asks for, in lower case and in its order, each with how many parameters.
pub fn schemes(header: &str) -> Vec<(String, usize)> {
    let challenges = parse(header).into_iter();
    challenges.map(|one| (one.scheme, one.parameters.len())).collect()
}

fn token(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/:".contains(c)));
    text.split_at(end.unwrap_or(text.len()))
}

fn parameter(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = token(text);
        return Some((value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            _ => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn never_panics(header in "[ -~\\t]{0,60}", any in any::<String>()) {
            parse(&header);
            parse(&any);
        }
    }

    #[test]
    fn challenges() {
        let header = r#"Bearer realm="https://auth.example/token?a=b",service="reg, \"x\"" , scope="repository:a/b:pull,push""#;
        let [bearer] = &parse(header)[..] else { panic!() };
        assert_eq!(bearer.scheme, "bearer");
        assert_eq!(bearer.get("realm"), Some("https://auth.example/token?a=b"));
        assert_eq!(bearer.get("service"), Some("reg, \"x\""));
        assert_eq!(bearer.get("scope"), Some("repository:a/b:pull,push"));

        let two = parse(r#"Basic realm="a", BEARER Realm=b , error=invalid_token"#);
        assert_eq!(two.len(), 2);
        assert_eq!(
            (two[0].scheme.as_str(), two[0].get("realm")),
            ("basic", Some("a"))
        );
        assert_eq!(
            (two[1].scheme.as_str(), two[1].get("realm")),
            ("bearer", Some("b"))
        );
        assert_eq!(two[1].get("error"), Some("invalid_token"));

        assert_eq!(parse("Negotiate, Basic").len(), 2);
        for odd in ["", ",,", "=x", "\"", "é"] {
            assert!(parse(odd).is_empty(), "{odd}");
        }
        assert_eq!(parse("Bearer realm=\"unterminated")[0].get("realm"), None);
    }
}
