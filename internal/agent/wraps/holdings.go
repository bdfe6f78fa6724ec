package wraps

import (
	"maps"
	"slices"

	"github.com/keywright/keywright/internal/agentlink"
)

// Holdings counts the wraps on disk by the customer key that they are under, in the
// order of the keys; "" stands for wraps that cannot be read. It is never nil.
func (s *Store) Holdings() []agentlink.KeyHolding {
	by := map[string]agentlink.KeyHolding{}
	for _, r := range s.list(func(Record) bool { return true }) {
		for _, w := range r.Wraps() {
			arn := ""
			if e, err := w.Open(); err == nil {
				arn = e.KeyARN
			}
			h := by[arn]
			h.KeyARN = arn
			h.Wraps++
			if !r.Confirmed(w) {
				h.Unescrowed++
			}
			by[arn] = h
		}
	}
	out := make([]agentlink.KeyHolding, 0, len(by))
	for _, arn := range slices.Sorted(maps.Keys(by)) {
		out = append(out, by[arn])
	}
	return out
}
