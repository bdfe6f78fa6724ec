package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Tx is a transaction. It belongs to one goroutine and ends with the function that
// it was given to. Methods that change something fail in a View.
type Tx struct {
	s   *Store
	ctx context.Context //nolint:containedctx // a transaction is a part of one call
	tx  *sql.Tx
	// dirty tells that something was changed.
	dirty bool
}

// Tx runs fn in a transaction for changes; such transactions run one after the
// other. If fn returns nil the changes are durable when Tx returns, otherwise none
// of them happened and the error is fn's. Keep slow work (calls to AWS) outside.
func (s *Store) Tx(ctx context.Context, fn func(*Tx) error) error {
	return s.run(ctx, s.write, fn)
}

// View runs fn in a transaction that reads one consistent state.
func (s *Store) View(ctx context.Context, fn func(*Tx) error) error {
	return s.run(ctx, s.read, fn)
}

func (s *Store) run(ctx context.Context, db *sql.DB, fn func(*Tx) error) error {
	if db == nil {
		return ErrClosed
	}
	raw, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	defer func() { _ = raw.Rollback() }()
	tx := &Tx{s: s, ctx: ctx, tx: raw}
	if err := fn(tx); err != nil {
		return err
	}
	if err := raw.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if tx.dirty {
		s.announce()
	}
	return nil
}

// Now is the store's clock, cut to microseconds, in UTC.
func (t *Tx) Now() time.Time { return t.s.Now() }

// Context is the context of the transaction.
func (t *Tx) Context() context.Context { return t.ctx }

// exec runs a change and gives the number of rows that it touched.
func (t *Tx) exec(query string, args ...any) (int64, error) {
	r, err := t.tx.ExecContext(t.ctx, t.s.dialect.bind(query), args...)
	switch {
	case err == nil:
	case t.s.dialect.duplicate(err):
		return 0, fmt.Errorf("%w: %w", ErrDuplicate, err)
	case t.s.dialect.referenced(err):
		return 0, fmt.Errorf("%w: %w", ErrReferenced, err)
	default:
		return 0, fmt.Errorf("write record: %w", err)
	}
	t.dirty = true
	n, err := r.RowsAffected()
	if err != nil {
		return 0, fmt.Errorf("write record: %w", err)
	}
	return n, nil
}

// must is exec for a row that has to be there: ErrNotFound if it is not.
func (t *Tx) must(query string, args ...any) error {
	n, err := t.exec(query, args...)
	if err == nil && n == 0 {
		return ErrNotFound
	}
	return err
}

// row reads one row.
func (t *Tx) row(query string, args []any, into ...any) error {
	err := t.tx.QueryRowContext(t.ctx, t.s.dialect.bind(query), args...).Scan(into...)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("read record: %w", err)
	}
	return nil
}

// each reads rows; scan is called for each with the row's Scan.
func (t *Tx) each(query string, args []any, scan func(scan func(...any) error) error) error {
	rows, err := t.tx.QueryContext(t.ctx, t.s.dialect.bind(query), args...)
	if err != nil {
		return fmt.Errorf("read records: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := scan(rows.Scan); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read records: %w", err)
	}
	return nil
}

// docs reads rows of one document column.
func docs[T any](t *Tx, query string, args ...any) ([]T, error) {
	var out []T
	err := t.each(query, args, func(scan func(...any) error) error {
		var text string
		if err := scan(&text); err != nil {
			return fmt.Errorf("read records: %w", err)
		}
		v, err := decode[T](text)
		out = append(out, v)
		return err
	})
	return out, err
}

// doc reads one row of one document column.
func doc[T any](t *Tx, query string, args ...any) (T, error) {
	var text string
	if err := t.row(query, args, &text); err != nil {
		var zero T
		return zero, err
	}
	return decode[T](text)
}

func decode[T any](text string) (T, error) {
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return v, fmt.Errorf("decode record: %w", err)
	}
	return v, nil
}

func encode(v any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("encode record: %w", err)
	}
	return string(b), nil
}

func (t *Tx) meta(name string) (string, error) {
	var v string
	err := t.row(`SELECT value FROM meta WHERE name = ?`, []any{name}, &v)
	return v, err
}

func (t *Tx) setMeta(name, value string) error {
	_, err := t.exec(`INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value)
	return err
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
