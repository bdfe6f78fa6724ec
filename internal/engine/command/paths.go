package command

import (
	"context"
	"strconv"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
)

// valuesAt visits the values at a dotted path, with the elements of arrays on
// the way and at its end one by one.
func valuesAt(v bson.RawValue, path string, visit func(bson.RawValue) error) error {
	if path == "" {
		if v.Type != bson.TypeArray {
			return visit(v)
		}
		for e := range index.Elements(v.Value) {
			if err := visit(e.Value); err != nil {
				return err
			}
		}
		return nil
	}
	head, rest, _ := strings.Cut(path, ".")
	switch v.Type {
	case bson.TypeEmbeddedDocument:
		if inner, ok := index.Lookup(v.Value, head); ok {
			return valuesAt(inner, rest, visit)
		}
	case bson.TypeArray:
		if _, err := strconv.ParseUint(head, 10, 31); err == nil {
			if inner, ok := index.Lookup(v.Value, head); ok {
				return valuesAt(inner, rest, visit)
			}
			return nil
		}
		for e := range index.Elements(v.Value) {
			if e.Value.Type != bson.TypeEmbeddedDocument {
				continue
			}
			if err := valuesAt(e.Value, path, visit); err != nil {
				return err
			}
		}
	}
	return nil
}

// followed is the context of whichever call a pipeline works for at the moment:
// a pipeline outlives the command that started it.
type followed struct{ s *staged }

// Deadline implements context.Context.
func (f followed) Deadline() (time.Time, bool) { return f.s.ctx.Deadline() }

// Done implements context.Context.
func (f followed) Done() <-chan struct{} { return f.s.ctx.Done() }

// Err implements context.Context.
func (f followed) Err() error { return f.s.ctx.Err() }

// Value implements context.Context.
func (f followed) Value(key any) any { return f.s.ctx.Value(key) }

var _ context.Context = followed{}
