package wraps

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/envelope"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kmip"
)

// Wrap is one wrapped form of a key.
type Wrap struct {
	// Generation is the CMK configuration that made it.
	Generation uint64 `json:"generation"`
	// Since is the record's revision with which it came.
	Since   uint64 `json:"since,omitempty"`
	Wrapped []byte `json:"wrapped"`
}

// Open decodes the wrapped form.
func (w Wrap) Open() (envelope.Wrapped, error) {
	var e envelope.Wrapped
	err := e.UnmarshalBinary(w.Wrapped)
	return e, err
}

// Wraps lists all wrapped forms of the key; none once it is destroyed.
func (r Record) Wraps() []Wrap {
	if len(r.Wrapped) == 0 && len(r.Others) == 0 {
		if r.State.Readable() {
			return []Wrap{{Generation: r.Generation}} // damaged: its decoding says so
		}
		return nil
	}
	return append([]Wrap{{Generation: r.Generation, Wrapped: r.Wrapped}}, r.Others...)
}

// Under gives the newest wrap that the CMK made, or a replica of it.
func (r Record) Under(keyARN string) (out Wrap, ok bool) {
	for _, w := range r.Wraps() {
		e, err := w.Open()
		if err == nil && keys.SameKey(e.KeyARN, keyARN) && (!ok || w.Generation >= out.Generation) {
			out, ok = w, true
		}
	}
	return out, ok
}

// Confirmed tells whether the control plane has the wrap in escrow.
func (r Record) Confirmed(w Wrap) bool { return r.Escrowed > 0 && r.Escrowed >= w.Since }

// With is the record with another wrap, which has to be stored.
func (r Record) With(generation uint64, wrapped []byte) Record {
	r.Others = append(slices.Clone(r.Others), Wrap{Generation: generation, Since: r.Revision + 1, Wrapped: wrapped})
	return r
}

// Without is the record without the wraps that go matches, which has to be stored;
// dropped tells whether there were any. One wrap under the CMK keep always stays:
// without one nothing is dropped.
func (r Record) Without(keep string, gone func(keyARN string, generation uint64) bool) (out Record, dropped bool) {
	var rest []Wrap
	for _, w := range r.Wraps() {
		e, err := w.Open()
		if err == nil && !keys.SameKey(e.KeyARN, keep) && gone(e.KeyARN, w.Generation) {
			dropped = true
			continue
		}
		rest = append(rest, w)
	}
	if _, ok := r.Under(keep); !ok || !dropped || len(rest) == 0 {
		return r, false
	}
	r.Generation, r.Wrapped, r.Others = rest[0].Generation, rest[0].Wrapped, nil
	if len(rest) > 1 {
		r.Others = rest[1:]
	}
	return r, true
}

func (r Record) destroyed() Record {
	r.State, r.Wrapped, r.Others = keys.StateDestroyed, nil, nil
	return r
}

func (r Record) format() int {
	if len(r.Others) > 0 {
		return Format
	}
	return 1
}

// Escrow is the record as the control plane keeps it: one entry for each wrap.
func (r Record) Escrow() []agentlink.EscrowedWrap {
	meta, err := json.Marshal(r.Meta)
	if err != nil {
		meta = nil // of strings and numbers only: it cannot fail
	}
	entry := func(w Wrap) agentlink.EscrowedWrap {
		return agentlink.EscrowedWrap{
			Node: r.Node, Project: r.Project, Cluster: r.Cluster, Key: r.Key, Purpose: r.Purpose, State: r.State,
			Generation: w.Generation, Revision: r.Revision, Wrapped: w.Wrapped, Created: r.Created, Activated: r.Activated, Meta: meta,
		}
	}
	all := r.Wraps()
	if len(all) == 0 {
		return []agentlink.EscrowedWrap{entry(Wrap{Generation: r.Generation})}
	}
	out := make([]agentlink.EscrowedWrap, len(all))
	for i, w := range all {
		out[i] = entry(w)
	}
	return out
}

// FromEscrow is the record of a key from the wraps of it that the control plane kept.
// One that was escrowed without a description is a master key that the agent made
// itself. One that its host called destroyed without an order is in escrow with its
// ciphertext: it becomes Active again, as a change that escrow has yet to hear of.
func FromEscrow(all ...agentlink.EscrowedWrap) (Record, error) {
	if len(all) == 0 {
		return Record{}, errors.New("a key without wraps")
	}
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b agentlink.EscrowedWrap) int { return cmp.Compare(a.Generation, b.Generation) })
	w := slices.MaxFunc(all, func(a, b agentlink.EscrowedWrap) int { return cmp.Compare(a.Revision, b.Revision) })
	r := Record{
		Key: w.Key, Node: w.Node, Project: w.Project, Cluster: w.Cluster, Purpose: w.Purpose, State: w.State,
		Revision: w.Revision, Generation: w.Generation, Created: w.Created, Activated: w.Activated, Escrowed: w.Revision,
	}
	for _, x := range all {
		if x.Key != r.Key || x.Node != r.Node || x.Project != r.Project || x.Cluster != r.Cluster || x.Purpose != r.Purpose {
			return r, fmt.Errorf("the wraps of key %s do not belong together", r.Key)
		}
		switch {
		case len(x.Wrapped) == 0:
		case len(r.Wrapped) == 0:
			r.Generation, r.Wrapped = x.Generation, x.Wrapped
		default:
			r.Others = append(r.Others, Wrap{Generation: x.Generation, Wrapped: x.Wrapped})
		}
	}
	if !r.State.Readable() && len(r.Wrapped) > 0 {
		r.State, r.Revision = keys.StateActive, w.Revision+1
	}
	r.Format = r.format()
	switch {
	case !r.State.Readable():
	case len(w.Meta) > 0:
		if err := json.Unmarshal(w.Meta, &r.Meta); err != nil {
			return r, fmt.Errorf("description of key %s: %w", w.Key, err)
		}
	case w.Purpose == keys.PurposeMasterKey:
		r.Meta = kmip.Meta{Type: kmip.TypeSymmetricKey, Format: kmip.FormatRaw, Algorithm: "AES", Length: 256, UsageMask: encryptDecrypt}
	default:
		return r, fmt.Errorf("key %s was escrowed without the description that its kind needs", w.Key)
	}
	return r, nil
}
