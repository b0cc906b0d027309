//! What Grafana puts into a query before it is sent: variables, then the macros of its PostgreSQL data
//! source. Dashboards are tested with it.

use std::collections::BTreeMap;

/// What a reader looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// First instant, in RFC 3339 with `Z`, as Grafana writes it.
    pub from: String,
    /// Last instant.
    pub until: String,
    /// The same two, in seconds since the Unix epoch.
    pub epoch_s: (i64, i64),
    /// Time between two points of a graph.
    pub interval_ms: u64,
    /// Chosen values of each variable.
    pub variables: BTreeMap<String, Vec<String>>,
}

/// Why a query cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MacroError {
    /// A macro that the data source does not know, or of which it takes other arguments.
    Unknown(String),
    /// A variable that has no value.
    NoVariable(String),
    /// A duration such as `5m` was expected.
    Interval(String),
}

impl std::fmt::Display for MacroError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown(found) => write!(f, "expanding the macro {found}: it is not known"),
            Self::NoVariable(name) => write!(f, "expanding the variable {name}: it has no value"),
            Self::Interval(found) => {
                write!(f, "expanding a macro: {found:?} is no time such as 5m")
            }
        }
    }
}

impl std::error::Error for MacroError {}

/// The statement that Grafana sends for `sql`.
///
/// # Errors
/// [`MacroError`] with the macro or variable.
pub fn expand(sql: &str, view: &View) -> Result<String, MacroError> {
    let sql = variables(sql, view)?;
    let (from_s, until_s) = view.epoch_s;
    let sql = sql
        .replace("$__interval_ms", &view.interval_ms.to_string())
        .replace("$__interval", &interval(view.interval_ms))
        .replace("$__unixEpochFrom()", &from_s.to_string())
        .replace("$__unixEpochTo()", &until_s.to_string());
    macros(&sql, view)
}

/// Milliseconds as Grafana writes them: `30s`, `1m`, `1h`, `1d`.
fn interval(ms: u64) -> String {
    for (unit_ms, unit) in [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1_000, "s"),
    ] {
        if ms >= unit_ms && ms.is_multiple_of(unit_ms) {
            return format!("{}{unit}", ms / unit_ms);
        }
    }
    format!("{ms}ms")
}

/// `$name`, `${name}` and `${name:sqlstring}`.
fn variables(sql: &str, view: &View) -> Result<String, MacroError> {
    let mut out = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let (written, tail) = match after.strip_prefix('{') {
            Some(inside) => inside
                .split_once('}')
                .ok_or_else(|| MacroError::NoVariable(inside.to_owned()))?,
            None => {
                let is_end = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
                after.split_at(after.find(is_end).unwrap_or(after.len()))
            }
        };
        if written.starts_with("__") {
            // A macro; it comes later.
            out.push('$');
            rest = after;
            continue;
        }
        let (name, format) = written.split_once(':').unwrap_or((written, ""));
        let values = view
            .variables
            .get(name)
            .ok_or_else(|| MacroError::NoVariable(name.to_owned()))?;
        let doubled = |value: &String| value.replace('\'', "''");
        let quoted = |value: &String| format!("'{}'", doubled(value));
        match (format, values.as_slice()) {
            ("", [one]) => out.push_str(&doubled(one)),
            ("" | "sqlstring", many) => {
                out.push_str(&many.iter().map(quoted).collect::<Vec<_>>().join(","));
            }
            _ => return Err(MacroError::Unknown(format!("${{{written}}}"))),
        }
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

/// `$__name(arguments)`; arguments hold no closing parenthesis, as Grafana reads them.
fn macros(sql: &str, view: &View) -> Result<String, MacroError> {
    let mut out = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some((before, after)) = rest.split_once("$__") {
        out.push_str(before);
        let unknown = || MacroError::Unknown(after.chars().take(40).collect());
        let (name, tail) = after.split_once('(').ok_or_else(unknown)?;
        let (arguments, tail) = tail.split_once(')').ok_or_else(unknown)?;
        let arguments: Vec<&str> = arguments.split(',').map(str::trim).collect();
        out.push_str(&one(name, &arguments, view)?);
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

fn one(name: &str, arguments: &[&str], view: &View) -> Result<String, MacroError> {
    let View { from, until, .. } = view;
    let (from_s, until_s) = view.epoch_s;
    Ok(match (name, arguments) {
        ("time", [column]) => format!("{column} AS \"time\""),
        ("timeEpoch", [column]) => format!("extract(epoch from {column}) as \"time\""),
        ("timeFilter", [column]) => format!("{column} BETWEEN '{from}' AND '{until}'"),
        ("timeFrom", [""]) => format!("'{from}'"),
        ("timeTo", [""]) => format!("'{until}'"),
        // A third argument tells Grafana how to fill holes; it is no matter of the statement.
        ("timeGroup", [column, step] | [column, step, _]) => time_group(column, step)?,
        ("timeGroupAlias", [column, step] | [column, step, _]) => {
            format!("{} AS \"time\"", time_group(column, step)?)
        }
        ("unixEpochFilter", [column]) => {
            format!("{column} >= {from_s} AND {column} <= {until_s}")
        }
        ("unixEpochGroup", [column, step] | [column, step, _]) => epoch_group(column, step)?,
        ("unixEpochGroupAlias", [column, step] | [column, step, _]) => {
            format!("{} AS \"time\"", epoch_group(column, step)?)
        }
        _ => {
            let arguments = arguments.join(", ");
            return Err(MacroError::Unknown(format!("$__{name}({arguments})")));
        }
    })
}

fn time_group(column: &str, step: &str) -> Result<String, MacroError> {
    let step_s = seconds(step)?;
    Ok(format!(
        "floor(extract(epoch from {column})/{step_s})*{step_s}"
    ))
}

fn epoch_group(column: &str, step: &str) -> Result<String, MacroError> {
    let step_s = seconds(step)?;
    Ok(format!("floor(({column})/{step_s})*{step_s}"))
}

/// Seconds of `'5m'` or `5m`.
fn seconds(text: &str) -> Result<String, MacroError> {
    let wrong = || MacroError::Interval(text.to_owned());
    let text = text.trim_matches('\'');
    let digits = text.chars().take_while(char::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit_s = match unit {
        // Grafana takes 500ms too; no panel over minutes asks for it.
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return Err(wrong()),
    };
    let step_s = number.checked_mul(unit_s).filter(|step_s| *step_s > 0);
    Ok(step_s.ok_or_else(wrong)?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        let values = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
        View {
            from: "2026-01-02T03:04:05.678Z".to_owned(),
            until: "2026-01-02T04:04:05.678Z".to_owned(),
            epoch_s: (1_767_323_045, 1_767_326_645),
            interval_ms: 60_000,
            variables: BTreeMap::from([
                ("service".to_owned(), values(&["cart", "o'brien"])),
                ("window".to_owned(), values(&["7 days"])),
            ]),
        }
    }

    #[test]
    fn each_macro_becomes_what_grafana_makes_of_it() {
        for (sql, expected) in [
            ("$__time(a)", "a AS \"time\""),
            ("$__timeEpoch(a)", "extract(epoch from a) as \"time\""),
            (
                "$__timeFilter(start_time)",
                "start_time BETWEEN '2026-01-02T03:04:05.678Z' AND '2026-01-02T04:04:05.678Z'",
            ),
            (
                "f($__timeFrom(), $__timeTo())",
                "f('2026-01-02T03:04:05.678Z', '2026-01-02T04:04:05.678Z')",
            ),
            (
                "$__timeGroup(a,'5m')",
                "floor(extract(epoch from a)/300)*300",
            ),
            (
                "$__timeGroup(a, 1h, NULL)",
                "floor(extract(epoch from a)/3600)*3600",
            ),
            (
                "$__timeGroupAlias(a, $__interval), b",
                "floor(extract(epoch from a)/60)*60 AS \"time\", b",
            ),
            (
                "$__unixEpochFilter(a)",
                "a >= 1767323045 AND a <= 1767326645",
            ),
            (
                "$__unixEpochFrom() + $__unixEpochTo()",
                "1767323045 + 1767326645",
            ),
            ("$__unixEpochGroup(a,'1d')", "floor((a)/86400)*86400"),
            (
                "$__unixEpochGroupAlias(a,2s,0)",
                "floor((a)/2)*2 AS \"time\"",
            ),
            ("$__interval $__interval_ms", "1m 60000"),
            ("IN (${service:sqlstring})", "IN ('cart','o''brien')"),
            ("IN ($service)", "IN ('cart','o''brien')"),
            (
                "'$window' '${window}' ${window:sqlstring}",
                "'7 days' '7 days' '7 days'",
            ),
        ] {
            assert_eq!(expand(sql, &view()).as_deref(), Ok(expected), "{sql}");
        }
    }

    #[test]
    fn intervals_are_written_in_their_largest_whole_unit() {
        for (ms, expected) in [
            (30_000, "30s"),
            (60_000, "1m"),
            (90_000, "90s"),
            (3_600_000, "1h"),
            (86_400_000, "1d"),
            (500, "500ms"),
        ] {
            assert_eq!(interval(ms), expected);
        }
    }

    #[test]
    fn what_grafana_would_not_know_is_refused() {
        for sql in [
            "$__timeFilter(a, b)",
            "$__nope(a)",
            "$__timeFilter",
            "$other",
            "${service:csv}",
        ] {
            assert!(expand(sql, &view()).is_err(), "{sql}");
        }
        assert_eq!(
            expand("$__timeGroup(a, 5 minutes)", &view()),
            Err(MacroError::Interval("5 minutes".to_owned()))
        );
    }
}
