package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// dialect is all that differs between databases. There is one so far, SQLite; a
// second one brings its own placeholders and errors here and nowhere else.
type dialect struct {
	goose goose.Dialect
	// bind turns "?" into the database's placeholders.
	bind func(query string) string
	// duplicate tells whether an error is a broken uniqueness.
	duplicate func(error) bool
	// referenced tells whether an error is a broken reference.
	referenced func(error) bool
}

var sqliteDialect = dialect{
	goose: goose.DialectSQLite3,
	bind:  func(q string) string { return q },
	duplicate: func(err error) bool {
		code := sqliteCode(err)
		return code == sqlite3.SQLITE_CONSTRAINT_UNIQUE || code == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY
	},
	referenced: func(err error) bool { return sqliteCode(err) == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY },
}

func sqliteCode(err error) int {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code()
	}
	return 0
}

// openSQLite opens the database file twice: one connection for changes, so that
// they queue up here instead of failing there, and a few for reading.
func openSQLite(ctx context.Context, path string) (write, read *sql.DB, err error) {
	open := func(conns int, extra url.Values) (*sql.DB, error) {
		q := url.Values{"_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)", "secure_delete(1)"}}
		for k, v := range extra {
			q[k] = append(q[k], v...)
		}
		db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Opaque: url.PathEscape(path), RawQuery: q.Encode()}).String())
		if err != nil {
			return nil, fmt.Errorf("open database: %w", err)
		}
		db.SetMaxOpenConns(conns)
		db.SetMaxIdleConns(conns)
		if err := db.PingContext(ctx); err != nil {
			_ = db.Close()
			return nil, fmt.Errorf("open database: %w", err)
		}
		return db, nil
	}
	if write, err = open(1, url.Values{"_txlock": {"immediate"}}); err != nil {
		return nil, nil, err
	}
	if read, err = open(4, url.Values{"_pragma": {"query_only(1)"}}); err != nil {
		_ = write.Close()
		return nil, nil, err
	}
	return write, read, nil
}
