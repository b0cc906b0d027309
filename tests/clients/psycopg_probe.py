"""Asks a PostgreSQL server through psycopg 3, over the simple protocol.

Requests and answers are those of libpq/main.go; the connection is the first argument.
"""

import datetime
import decimal
import json
import sys

import psycopg

# The types that Grafana reads as they are; anything else becomes a text there, or an error.
NAMES = {
    16: "BOOL", 17: "BYTEA", 20: "INT8", 21: "INT2", 23: "INT4", 25: "TEXT", 700: "FLOAT4", 701: "FLOAT8",
    1043: "VARCHAR", 1082: "DATE", 1114: "TIMESTAMP", 1184: "TIMESTAMPTZ", 1700: "NUMERIC",
}
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def plain(value):
    if isinstance(value, datetime.datetime):
        value = value if value.tzinfo else value.replace(tzinfo=datetime.timezone.utc)
        return (value - EPOCH) // datetime.timedelta(microseconds=1)
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, bytes):
        return value.decode()
    return value


def ask(connection, asked):
    found = {"columns": [], "rows": [], "error": None}
    if asked.get("ping"):
        asked = {"sql": ";"}
    args = asked.get("args")
    if args:
        # The driver's own placeholders, sent as parameters of the extended protocol.
        cursor, sql = connection.cursor(), asked["sql"].replace("%", "%%")
        for place in range(len(args), 0, -1):
            sql = sql.replace(f"${place}", "%s")
        cursor.execute(sql, args)
    else:
        cursor = psycopg.ClientCursor(connection)
        cursor.execute(asked["sql"])
    for column in cursor.description or []:
        found["columns"].append([column.name, NAMES.get(column.type_code, f"oid {column.type_code}")])
    if cursor.description:
        found["rows"] = [[plain(value) for value in row] for row in cursor.fetchall()]
    return found


def main():
    connection = psycopg.connect(sys.argv[1], autocommit=True)
    for line in sys.stdin:
        try:
            found = ask(connection, json.loads(line))
        except psycopg.Error as error:
            found = {"columns": [], "rows": [], "error": f"{error.sqlstate}: {error}"}
        print(json.dumps(found), flush=True)


main()
