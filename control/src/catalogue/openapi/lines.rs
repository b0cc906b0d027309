//! The line of a place in a document.

/// The line of a place in block YAML or in JSON with a key a line: each key is looked for among the
/// lines that are indented below the one before it. The last one that is found counts; `near` is a
/// text that stands in the line meant and is looked for first.
pub(super) fn line_of(text: &str, place: &[String], near: Option<&str>) -> Option<u64> {
    let numbered = || (1_u64..).zip(text.lines());
    if let Some(near) = near
        && let Some((line, _)) = numbered().find(|(_, line)| line.contains(near))
    {
        return Some(line);
    }
    let mut lines = numbered().filter(|(_, line)| !line.trim().is_empty());
    let mut found: Option<(u64, usize)> = None;
    for key in place {
        let below = |line: &str| found.is_none_or(|(_, above)| indent(line) > above);
        match lines
            .by_ref()
            .take_while(|(_, line)| below(line))
            .find(|(_, line)| is_key(line, key))
        {
            Some((number, line)) => found = Some((number, indent(line))),
            None => break,
        }
    }
    found.map(|(number, _)| number).or(Some(1))
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn is_key(line: &str, key: &str) -> bool {
    let line = line.trim_start().trim_start_matches(['"', '\'']);
    line.strip_prefix(key).is_some_and(|rest| {
        rest.trim_start_matches(['"', '\''])
            .trim_start()
            .starts_with(':')
    })
}
