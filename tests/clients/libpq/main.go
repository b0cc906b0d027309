// Asks a PostgreSQL server through database/sql and lib/pq, as older releases of Grafana do.
//
// Reads one request a line from stdin, {"sql": "...", "args": [...]} or {"ping": true}, and writes one
// answer a line to stdout: {"columns": [[name, type], ...], "rows": [[...], ...], "error": null}. Times are
// microseconds since the Unix epoch. The connection is the first argument.
package main

import (
	"bufio"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"time"

	_ "github.com/lib/pq"
)

type request struct {
	SQL  string        `json:"sql"`
	Args []interface{} `json:"args"`
	Ping bool          `json:"ping"`
}

type answer struct {
	Columns [][2]string     `json:"columns"`
	Rows    [][]interface{} `json:"rows"`
	Error   *string         `json:"error"`
}

func main() {
	db, err := sql.Open("postgres", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(make([]byte, 1<<20), 1<<20)
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		var asked request
		if err := json.Unmarshal(in.Bytes(), &asked); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		found, err := ask(db, asked)
		if err != nil {
			text := err.Error()
			found.Error = &text
		}
		if err := out.Encode(found); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func ask(db *sql.DB, asked request) (answer, error) {
	found := answer{Columns: [][2]string{}, Rows: [][]interface{}{}}
	if asked.Ping {
		return found, db.Ping()
	}
	// Without arguments lib/pq uses the simple protocol, with some the extended one.
	rows, err := db.Query(asked.SQL, asked.Args...)
	if err != nil {
		return found, err
	}
	defer rows.Close()
	types, err := rows.ColumnTypes()
	if err != nil {
		return found, err
	}
	for _, column := range types {
		found.Columns = append(found.Columns, [2]string{column.Name(), column.DatabaseTypeName()})
	}
	for rows.Next() {
		values := make([]interface{}, len(types))
		places := make([]interface{}, len(types))
		for place := range values {
			places[place] = &values[place]
		}
		if err := rows.Scan(places...); err != nil {
			return found, err
		}
		for place, value := range values {
			switch value := value.(type) {
			case time.Time:
				values[place] = value.UnixNano() / 1000
			case []byte:
				values[place] = string(value)
			}
		}
		found.Rows = append(found.Rows, values)
	}
	return found, rows.Err()
}
