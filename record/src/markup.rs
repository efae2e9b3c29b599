//! Escapes text for XML and HTML, which share one escape, and for Markdown.

/// Escaped for element content and for quoted attributes. Characters that XML 1.0 forbids (control
/// characters, such as colours in a tool's log) become U+FFFD.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\t' | '\n' | '\r' => escaped.push(character),
            control if control.is_control() => escaped.push('\u{fffd}'),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Text for a cell of a Markdown table: it cannot end the cell early or start HTML.
pub fn cell(text: &str) -> String {
    escape_markdown(text).replace(['\n', '\r'], " ").replace('|', "\\|")
}

/// Text in Markdown that must show literally, in GitHub's dialect too.
pub fn escape_markdown(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_its_element_or_attribute() {
        assert_eq!(escape(r#"<img src='x' onerror="a&b">"#), "&lt;img src=&#39;x&#39; onerror=&quot;a&amp;b&quot;&gt;");
        assert_eq!(escape("\u{1b}[31mred\tß"), "\u{fffd}[31mred\tß");
    }

    #[test]
    fn nothing_leaves_its_cell() {
        assert_eq!(cell("a|b\n<b>&"), "a\\|b &lt;b&gt;&amp;");
    }
}
