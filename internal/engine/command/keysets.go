package command

import (
	"context"
	"errors"
	"fmt"

	"github.com/keywright/keywright/internal/engine/auth"
	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/storage"
)

// Keysets are the keysets of a node's databases and of its log. It is safe for
// concurrent use.
type Keysets interface {
	// Rotate gives the keyset of a database, or of all and the log's if database is
	// empty, a fresh key for new files. Once begun it does not stop half-way.
	Rotate(database string) error
	// Compact begins to rewrite the files under old keys and to remove these, unless
	// that is under way. Status tells how far it is.
	Compact()
	// Status tells which files are under which keys.
	Status() (KeysetStatus, error)
}

// KeysetStatus is the state of all keysets of a node.
type KeysetStatus struct {
	Keysets []storage.KeysetStatus
	// Compacting tells that a compaction runs, Compactions counts those that ended well
	// since the node's start, Failure is why the newest one did not.
	Compacting  bool
	Compactions uint64
	Failure     string
}

// maxDatabaseName is the longest name of a database, in bytes.
const maxDatabaseName = 63

func (s *Server) keysets() (Keysets, error) {
	if s.cfg.Keysets == nil {
		return nil, mongoerr.Of(mongoerr.IllegalOperation, "this node's files are not encrypted: there are no keysets")
	}
	return s.cfg.Keysets, nil
}

// rotateKeysets has new files of a database, or of all, written under fresh keys.
func rotateKeysets(_ context.Context, s *Server, req *request, _ *auth.User) (*builder, error) {
	p := req.params()
	name := p.str("database")
	if p.err != nil {
		return nil, p.err
	}
	if len(name) > maxDatabaseName {
		return nil, mongoerr.Of(mongoerr.BadValue, "database: a name of at most %d bytes is expected", maxDatabaseName)
	}
	k, err := s.keysets()
	if err != nil {
		return nil, err
	}
	if err := k.Rotate(name); err != nil {
		if errors.Is(err, storage.ErrUnknownDatabase) {
			return nil, mongoerr.Of(mongoerr.NamespaceNotFound, "database: there is no database %q", name)
		}
		s.log.Error("keysets were not rotated", "error", err)
		return nil, mongoerr.New(96, "OperationFailed", "the keysets were not rotated: %s", err)
	}
	return describeKeysets(s, k)
}

// compactKeysets begins to rewrite what is under old keys.
func compactKeysets(_ context.Context, s *Server, _ *request, _ *auth.User) (*builder, error) {
	k, err := s.keysets()
	if err != nil {
		return nil, err
	}
	k.Compact()
	return describeKeysets(s, k)
}

func keysetStatus(_ context.Context, s *Server, _ *request, _ *auth.User) (*builder, error) {
	k, err := s.keysets()
	if err != nil {
		return nil, err
	}
	return describeKeysets(s, k)
}

func describeKeysets(s *Server, k Keysets) (*builder, error) {
	st, err := k.Status()
	if err != nil {
		s.log.Error("keysets cannot be described", "error", err)
		return nil, mongoerr.New(96, "OperationFailed", "the keysets cannot be described: %s", err)
	}
	var newest, all, old int64
	list := newArray()
	for _, set := range st.Keysets {
		n, a := set.Bytes()
		newest, all, old = newest+n, all+a, old+int64(len(set.Keys)-1)
		ids := newArray()
		for _, key := range set.Keys {
			ids.doc(newDoc().str("keyId", fmt.Sprintf("%08x", key.ID)).int64("files", int64(key.Files)).int64("bytes", key.Bytes).
				boolean("newest", key.ID == set.Newest).done())
		}
		list.doc(newDoc().str("id", set.ID.String()).str("database", set.Name).boolean("log", set.Name == "").
			double("share", share(n, a)).array("keys", ids).done())
	}
	return newDoc().array("keysets", list).int64("bytes", all).int64("bytesUnderNewest", newest).double("share", share(newest, all)).int64("oldKeys", old).
		boolean("compacting", st.Compacting).int64("compactions", int64(st.Compactions)).str("failure", st.Failure), nil //nolint:gosec // a count
}

// share is 1 where there is nothing.
func share(part, all int64) float64 {
	if all == 0 {
		return 1
	}
	return float64(part) / float64(all)
}
