//! Just enough of Rust's syntax to look at code without being misled by what comments and strings say.

/// `text` with everything in comments, strings and characters blanked. Line numbers and columns stay as they are.
pub(crate) fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => find(&chars, at, |rest| rest[0] == '\n'),
            '/' if chars.get(at + 1) == Some(&'*') => end_of_comment(&chars, at),
            '"' => end_of_string(&chars, at),
            '\'' => end_of_char(&chars, at),
            'r' if starts_word(&chars, at) => end_of_raw_string(&chars, at),
            _ => at,
        };
        if end == at {
            code.push(chars[at]);
            at += 1;
            continue;
        }
        code.extend(
            chars[at..end]
                .iter()
                .map(|char| if *char == '\n' { '\n' } else { ' ' }),
        );
        at = end;
    }
    code
}

/// The first place from `at` on where `is_end` holds, or the end of the text.
fn find(chars: &[char], at: usize, is_end: impl Fn(&[char]) -> bool) -> usize {
    (at..chars.len())
        .find(|at| is_end(&chars[*at..]))
        .unwrap_or(chars.len())
}

/// Block comments nest.
fn end_of_comment(chars: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// `start` itself for a lifetime.
fn end_of_char(chars: &[char], start: usize) -> usize {
    if chars.get(start + 1) == Some(&'\\') {
        return (find(chars, start + 3, |rest| rest[0] == '\'') + 1).min(chars.len());
    }
    if chars.get(start + 2) == Some(&'\'') {
        return start + 3;
    }
    start
}

/// `start` itself for anything but `r"..."` and `r#"..."#`.
fn end_of_raw_string(chars: &[char], start: usize) -> usize {
    let quote = find(chars, start + 1, |rest| rest[0] != '#');
    if chars.get(quote) != Some(&'"') {
        return start;
    }
    let mut close = vec!['#'; quote - start];
    close[0] = '"';
    (find(chars, quote + 1, |rest| rest.starts_with(&close)) + close.len()).min(chars.len())
}

fn starts_word(chars: &[char], at: usize) -> bool {
    // `br"..."` and `cr"..."`: the letter before is part of the literal.
    let before = match at.checked_sub(1).map(|before| chars[before]) {
        Some('b' | 'c') => at.checked_sub(2).map(|before| chars[before]),
        before => before,
    };
    !before.is_some_and(is_word)
}

fn is_word(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

/// The offsets at which `word` stands in `code` as a whole word.
pub(crate) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| {
            let before = code[..*at].chars().next_back();
            let after = code[at + word.len()..].chars().next();
            !before.is_some_and(is_word) && !after.is_some_and(is_word)
        })
}

/// What stands between `open`, the first character of `code` apart from spaces, and the bracket that closes it.
pub(crate) fn inside(code: &str, open: char, close: char) -> Option<&str> {
    let code = code.trim_start();
    let mut depth = 0;
    for (at, char) in code.char_indices() {
        if char == open {
            depth += 1;
        } else if char == close {
            depth -= 1;
        }
        if depth == 0 {
            return code[..at].strip_prefix(open);
        }
    }
    None
}

/// The number of the line that `offset` is in.
pub(crate) fn line_of(code: &str, offset: usize) -> usize {
    code[..offset].matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_nothing_else() {
        for (text, code) in [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c */ d */ e", "a                   e"),
            (r#"f("a\"b", c)"#, "f(      , c)"),
            (r##"r#"a"b"# + x"##, "         + x"),
            (r#"br"a" + for"#, "b     + for"),
            ("'a' + b", "    + b"),
            (r"'\'' + '\u{1F600}' + b", "     +             + b"),
            ("fn f<'a>(a: &'a str)", "fn f<'a>(a: &'a str)"),
            ("r#type", "r#type"),
        ] {
            assert_eq!(code_of(text), code, "{text}");
        }
    }

    #[test]
    fn a_text_that_ends_early_is_no_reason_to_panic() {
        for text in ["/* a", "\"a", "\"a\\", "'", "'\\", "r#\"a\"", "r#", "/"] {
            assert_eq!(
                code_of(text).chars().count(),
                text.chars().count(),
                "{text}"
            );
        }
    }

    #[test]
    fn words_are_whole() {
        let code = "unsafe_code unsafe { un_unsafe }";
        assert_eq!(words(code, "unsafe").collect::<Vec<_>>(), [12]);
    }

    #[test]
    fn brackets_are_balanced() {
        assert_eq!(inside(" (a(b)c) d)", '(', ')'), Some("a(b)c"));
        assert_eq!(inside("a(b)", '(', ')'), None);
        assert_eq!(inside("(a", '(', ')'), None);
    }
}
