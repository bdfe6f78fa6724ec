package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/keys"
)

// Append puts an event at the end of the audit chain, in this transaction: it
// happens if and only if the change does. ID, Time and Actor are filled in where
// they are empty ("system").
func (t *Tx) Append(e audit.Event) error {
	if e.Time.IsZero() {
		e.Time = t.Now()
	}
	if e.ID == "" {
		e.ID = keys.NewID(e.Time)
	}
	if e.Actor == "" {
		e.Actor = "system"
	}
	head, err := t.AuditHead()
	if err != nil {
		return err
	}
	e = audit.Chain(head, e)
	d, err := encode(e)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO events (seq, id, at, type, org_id, project_id, cluster_id, doc) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		int64(e.Seq), e.ID, e.Time.UnixMicro(), e.Type, e.Org, e.Project, e.Cluster, d) //nolint:gosec // counts events
	return err
}

// AuditHead is the end of the chain, zero while there is no event.
func (t *Tx) AuditHead() (audit.Head, error) {
	e, err := doc[audit.Event](t, `SELECT doc FROM events ORDER BY seq DESC LIMIT 1`)
	if errors.Is(err, ErrNotFound) {
		return audit.Head{}, nil
	}
	return e.Head(), err
}

// EventFilter selects events. Empty fields select everything.
type EventFilter struct {
	Org     keys.OrgID
	Project keys.ProjectID
	// OwnOnly leaves out the events of projects when Org is given alone.
	OwnOnly  bool
	Clusters []keys.ClusterID
	Types    []string
	// Since and Until are inclusive.
	Since, Until time.Time
	Offset       int
	// Limit 0 means 100; at most 500 come at once.
	Limit int
}

func (f EventFilter) where() (string, []any) {
	cond, args := []string{"1 = 1"}, []any(nil)
	add := func(c string, a ...any) { cond, args = append(cond, c), append(args, a...) }
	if f.Org != "" {
		add("org_id = ?", string(f.Org))
	}
	if f.Project != "" {
		add("project_id = ?", string(f.Project))
	} else if f.OwnOnly {
		add("project_id = ?", "")
	}
	in := func(column string, values []string) {
		a := make([]any, len(values))
		for i, v := range values {
			a[i] = v
		}
		add(column+" IN (?"+strings.Repeat(", ?", len(values)-1)+")", a...)
	}
	if len(f.Types) > 0 {
		in("type", f.Types)
	}
	if len(f.Clusters) > 0 {
		ids := make([]string, len(f.Clusters))
		for i, c := range f.Clusters {
			ids[i] = string(c)
		}
		in("cluster_id", ids)
	}
	if !f.Since.IsZero() {
		add("at >= ?", f.Since.UnixMicro())
	}
	if !f.Until.IsZero() {
		add("at <= ?", f.Until.UnixMicro())
	}
	return strings.Join(cond, " AND "), args
}

// Events lists events, newest first, and tells how many the filter selects in all.
func (t *Tx) Events(f EventFilter) (events []audit.Event, total int, err error) {
	where, args := f.where()
	if err := t.row(`SELECT COUNT(*) FROM events WHERE `+where, args, &total); err != nil {
		return nil, 0, err
	}
	if f.Limit <= 0 {
		f.Limit = 100
	}
	args = append(args, min(f.Limit, 500), max(f.Offset, 0))
	events, err = docs[audit.Event](t, `SELECT doc FROM events WHERE `+where+` ORDER BY seq DESC LIMIT ? OFFSET ?`, args...)
	return events, total, err
}

// Event gives an event or ErrNotFound.
func (t *Tx) Event(id string) (audit.Event, error) {
	return doc[audit.Event](t, `SELECT doc FROM events WHERE id = ?`, id)
}

// VerifyAudit checks the whole chain, and that what events are found by is what
// they say. If kept is not zero it must lie on the chain. The error is of class
// audit.ErrBroken when something was changed.
func (s *Store) VerifyAudit(ctx context.Context, kept audit.Head) (audit.Head, error) {
	var v audit.Verifier
	var at audit.Hash
	err := s.View(ctx, func(tx *Tx) error {
		return tx.each(`SELECT seq, id, at, type, org_id, project_id, cluster_id, doc FROM events ORDER BY seq`, nil,
			func(scan func(...any) error) error {
				var seq, us int64
				var id, kind, org, project, cluster, text string
				if err := scan(&seq, &id, &us, &kind, &org, &project, &cluster, &text); err != nil {
					return fmt.Errorf("read events: %w", err)
				}
				e, err := decode[audit.Event](text)
				if err != nil {
					return fmt.Errorf("%w: event %d is unreadable", audit.ErrBroken, seq)
				}
				if int64(e.Seq) != seq || e.ID != id || e.Time.UnixMicro() != us || e.Type != kind || //nolint:gosec // counts events
					e.Org != org || e.Project != project || e.Cluster != cluster {
					return fmt.Errorf("%w: event %d is filed under other values than it has", audit.ErrBroken, seq)
				}
				if e.Seq == kept.Seq {
					at = e.Hash
				}
				return v.Check(e)
			})
	})
	if err != nil {
		return v.Head(), err
	}
	return v.Head(), audit.Covers(kept, at, v.Head().Seq)
}
