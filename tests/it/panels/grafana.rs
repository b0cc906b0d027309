//! What Grafana itself asks a PostgreSQL data source: is it alive, what is it, what is in it.

use super::Server;
use super::client::Driver;
use crate::seed::Story;

/// That a schema is on the search path, which Grafana reads with a series over an array.
const ON_PATH: &str = "quote_ident(table_schema) IN (
  SELECT CASE WHEN trim(s[i]) = '\"$user\"' THEN user ELSE trim(s[i]) END
  FROM generate_series(
      array_lower(string_to_array(current_setting('search_path'),','),1),
      array_upper(string_to_array(current_setting('search_path'),','),1)) as i,
    string_to_array(current_setting('search_path'),',') s)";

/// The columns of a table as the query builder lists them.
fn columns(table: &str) -> String {
    format!(
        "SELECT quote_ident(column_name) AS \"column\", data_type AS \"type\" FROM information_schema.columns
WHERE CASE WHEN array_length(parse_ident('{table}'),1) = 2
    THEN quote_ident(table_schema) = (parse_ident('{table}'))[1] AND quote_ident(table_name) = (parse_ident('{table}'))[2]
    ELSE quote_ident(table_name) = '{table}' AND {ON_PATH} END"
    )
}

fn tables() -> String {
    format!(
        "SELECT CASE WHEN {ON_PATH} THEN quote_ident(table_name)
  ELSE quote_ident(table_schema) || '.' || quote_ident(table_name) END AS \"table\"
FROM information_schema.tables WHERE quote_ident(table_schema) NOT IN ('information_schema', 'pg_catalog')
ORDER BY CASE WHEN {ON_PATH} THEN 0 ELSE 1 END, 1"
    )
}

#[test]
fn what_grafana_asks_by_itself_is_answered() {
    let story = Story::told();
    let server = Server::start(&story);
    for mut driver in Driver::all(server.port, story.password()) {
        let name = driver.name;
        driver
            .ping()
            .unwrap_or_else(|error| panic!("{name}: ping: {error}"));
        for empty in [";", "-- ping", ""] {
            let answer = driver.ask(empty);
            let answer = answer.unwrap_or_else(|error| panic!("{name}: {empty:?}: {error}"));
            assert!(answer.rows.is_empty(), "{name}: {empty:?}");
        }
        let mut ask = |sql: &str| {
            driver
                .ask(sql)
                .unwrap_or_else(|error| panic!("{name}: {error}\n{sql}"))
        };
        let version = ask("SELECT current_setting('server_version_num')::int/100 as version");
        assert!(
            version.rows[0][0].as_i64().unwrap() >= 1500,
            "{name}: {version:?}"
        );
        assert_eq!(version.columns[0].0, "version");
        let timescale = ask("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'");
        assert!(
            timescale.rows.is_empty(),
            "{name}: the macros would become time_bucket"
        );

        let listed = ask(&tables());
        let listed = listed.texts(0);
        for table in ["calls", "denials", "rollup_1m", "sla"] {
            assert!(
                listed.contains(&table),
                "{name}: {table} is not in {listed:?}"
            );
        }
        for table in ["calls", "public.calls"] {
            let columns = ask(&columns(table));
            let types: Vec<(&str, &str)> =
                columns.texts(0).into_iter().zip(columns.texts(1)).collect();
            for column in [
                ("start_time", "timestamp with time zone"),
                ("operation", "text"),
                ("client_duration_ns", "bigint"),
                ("matched", "boolean"),
            ] {
                assert!(
                    types.contains(&column),
                    "{name}: {table}: {column:?} is not in {types:?}"
                );
            }
        }
        let schemas = ask(
            "SELECT schema_name AS \"name\" FROM information_schema.schemata
WHERE schema_name NOT IN ('information_schema', 'pg_catalog', 'pg_toast') ORDER BY schema_name",
        );
        assert_eq!(schemas.texts(0), ["public", "raw"], "{name}");
        let of_schema = ask(
            "SELECT quote_ident(table_name) AS \"table\" FROM information_schema.tables
WHERE quote_ident(table_schema) = 'public' ORDER BY 1",
        );
        assert!(of_schema.texts(0).contains(&"calls"), "{name}");
        newest_releases(&mut driver);
        with_nanoseconds(&mut driver, &story);
    }
}

/// The schema browser of the newest releases asks with parameters.
fn newest_releases(driver: &mut Driver) {
    let name = driver.name;
    let mut ask = |sql: &str, args: &[&str]| {
        driver
            .ask_with(sql, args)
            .unwrap_or_else(|error| panic!("{name}: {error}\n{sql}"))
    };
    let tables = ask(
        "SELECT table_name FROM information_schema.tables
WHERE table_schema = $1 AND table_type IN ('BASE TABLE', 'VIEW') ORDER BY table_name",
        &["public"],
    );
    assert!(tables.texts(0).contains(&"calls"), "{name}: {tables:?}");
    let columns = ask(
        "SELECT column_name, data_type, udt_name, numeric_precision, numeric_scale FROM information_schema.columns
WHERE table_schema = $1 AND table_name = $2 ORDER BY ordinal_position",
        &["public", "calls"],
    );
    let names = columns.texts(2);
    assert!(
        names.contains(&"timestamptz") && names.contains(&"int8"),
        "{name}: {columns:?}"
    );
    let schemas = ask(
        "SELECT schema_name FROM information_schema.schemata WHERE schema_name NOT LIKE $1 ORDER BY schema_name",
        &["pg_%"],
    );
    assert!(schemas.texts(0).contains(&"public"), "{name}: {schemas:?}");
    let distinct = driver.ask(
        "SELECT 'source' AS name, \"source\"::text AS value FROM (SELECT DISTINCT \"source\" FROM calls LIMIT 100) a
UNION ALL SELECT 'status', \"status\"::text FROM (SELECT DISTINCT \"status\" FROM calls LIMIT 100) b",
    );
    let distinct = distinct.unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(
        distinct.texts(1).contains(&"web") && distinct.texts(1).contains(&"500"),
        "{distinct:?}"
    );
}

/// Alert rules give up to nine digits of a second, panels three.
fn with_nanoseconds(driver: &mut Driver, story: &Story) {
    let name = driver.name;
    let from = story.from.to_string();
    let second = from.split(['.', 'Z']).next().unwrap();
    for digits in ["", ".0", ".000", ".000000", ".000000000"] {
        let sql = format!(
            "SELECT count(*) AS n FROM denials WHERE start_time BETWEEN '{second}{digits}Z' AND '2100-01-01T00:00:00.123456789Z'"
        );
        let answer = driver.ask(&sql);
        let answer = answer.unwrap_or_else(|error| panic!("{name}: {error}\n{sql}"));
        assert_eq!(answer.rows[0][0].as_i64(), Some(5), "{name}: {digits:?}");
    }
    let failed = driver.ask("SELECT nothing_here FROM calls");
    assert!(failed.unwrap_err().contains("nothing_here"));
    assert!(
        driver.ask("SELECT 1 AS one").is_ok(),
        "{name}: the connection lives on"
    );
}
