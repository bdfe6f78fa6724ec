package wraps

import (
	"maps"
	"slices"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/keys"
)

// All lists all records, oldest first.
func (s *Store) All() []Record { return s.list(func(Record) bool { return true }) }

// Unconfirm notes that the control plane has lost what it had confirmed of a key, so that
// it is sent again.
func (s *Store) Unconfirm(key keys.KeyID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.records[key]
	if !ok || r.Escrowed == 0 {
		return nil
	}
	r.Escrowed = 0
	return s.write(r)
}

// Holdings counts the wraps on disk by the customer key that they are under, in the
// order of the keys; "" stands for wraps that cannot be read. It is never nil.
func (s *Store) Holdings() []agentlink.KeyHolding {
	by := map[string]agentlink.KeyHolding{}
	for _, r := range s.All() {
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
