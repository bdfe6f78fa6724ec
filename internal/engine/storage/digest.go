package storage

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// Digest is what a collection, or the state ("") holds: what it is compared by
// after a copy.
type Digest struct {
	Documents int64
	Sum       [32]byte // over all keys and values, index entries included
}

// Digest reads everything and sums it up, by "database.collection"; databases
// also count by their name alone, with what belongs to no collection. That a
// collection's maintained count is its number of documents is checked.
func (s *Store) Digest(ctx context.Context) (map[string]Digest, error) {
	dbs := s.all()
	defer s.unpin(dbs)
	out := map[string]Digest{}
	var err error
	if out[""], err = digest(s.cfg.State, []byte{prefixName}, []byte{prefixRetry}); err != nil {
		return nil, fmt.Errorf("read the state: %w", err)
	}
	for _, d := range dbs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := s.acquire(d); err != nil {
			return nil, err
		}
		err := d.digest(out)
		if err != nil {
			return nil, fmt.Errorf("read database %s: %w", d.id, err)
		}
	}
	return out, nil
}

func (d *database) digest(out map[string]Digest) error {
	r := d.snapshot()
	defer r.Close()
	var err error
	if out[d.name], err = digest(r.snap, []byte{metaVersion[0]}, []byte{prefixColl}, []byte{prefixCount}); err != nil {
		return err
	}
	for name, c := range r.schema.byName {
		g, err := digest(r.snap, dataPrefix(c.number))
		if err != nil {
			return err
		}
		n, err := readCount(r.snap, c.number)
		if err != nil {
			return err
		}
		docs := docPrefix(c.number)
		if err := each(r.snap, docs, func(_, _ []byte) error { g.Documents++; return nil }); err != nil {
			return err
		}
		if n != g.Documents {
			return fmt.Errorf("a collection counts %d documents and holds %d", n, g.Documents)
		}
		out[d.name+"."+name] = g
	}
	return nil
}

func digest(r pebble.Reader, prefixes ...[]byte) (Digest, error) {
	h := sha256.New()
	for _, p := range prefixes {
		err := each(r, p, func(k, v []byte) error {
			var n [16]byte
			binary.BigEndian.PutUint64(n[:], uint64(len(k)))
			binary.BigEndian.PutUint64(n[8:], uint64(len(v)))
			_, _ = h.Write(n[:])
			_, _ = h.Write(k)
			_, _ = h.Write(v)
			return nil
		})
		if err != nil {
			return Digest{}, err
		}
	}
	return Digest{Sum: [32]byte(h.Sum(nil))}, nil
}

// CompareDigests tells whether two stores hold the same. Names are not in the
// error, only how many collections differ.
func CompareDigests(a, b map[string]Digest) error {
	if !slices.Equal(slices.Sorted(maps.Keys(a)), slices.Sorted(maps.Keys(b))) {
		return errors.New("the copy has other collections than the source")
	}
	differ := 0
	for k := range a {
		if a[k] != b[k] {
			differ++
		}
	}
	if differ > 0 {
		return fmt.Errorf("%d of %d collections differ between source and copy", differ, len(a))
	}
	return nil
}
