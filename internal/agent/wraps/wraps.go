package wraps

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keywright/keywright/internal/durable"
	"github.com/keywright/keywright/internal/envelope"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kmip"
)

// Format is the version of the file of a record with several wraps. One with a single
// wrap is written as format 1, which programs before this one read too.
const Format = 2

// Record is one key of one node.
type Record struct {
	Format  int            `json:"format"`
	Key     keys.KeyID     `json:"key"`
	Node    keys.NodeID    `json:"node"`
	Project keys.ProjectID `json:"project"`
	Cluster keys.ClusterID `json:"cluster"`
	Purpose keys.Purpose   `json:"purpose"`
	State   keys.State     `json:"state"`
	// Revision grows with each change of the record.
	Revision uint64 `json:"revision"`
	// Generation is the CMK configuration that wrapped it.
	Generation uint64    `json:"generation"`
	Created    time.Time `json:"created"`
	// Activated is when the key became Active; zero if it never was.
	Activated time.Time `json:"activated,omitzero"`
	// Meta describes the KMIP object, so that Get returns what was registered.
	Meta kmip.Meta `json:"meta"`
	// Wrapped is envelope.Wrapped in its binary form; empty once destroyed.
	Wrapped []byte `json:"wrapped,omitempty"`
	// Others are wraps of the same key that other configurations made: for a candidate,
	// or kept for a rollback. Oldest generation first.
	Others []Wrap `json:"others,omitempty"`
	// Escrowed is the newest revision that the control plane has confirmed.
	Escrowed uint64 `json:"escrowed"`
}

// Context is the encryption context of the record, rebuilt from its owner: the
// caller passes the authenticated identity, and the record must agree with it.
func (r Record) Context(d keys.DeploymentID) keys.Context {
	return keys.Context{Deployment: d, Project: r.Project, Cluster: r.Cluster, Node: r.Node, Purpose: r.Purpose, Key: r.Key}
}

// Unwrapped decodes the first wrapped form.
func (r Record) Unwrapped() (envelope.Wrapped, error) {
	var w envelope.Wrapped
	err := w.UnmarshalBinary(r.Wrapped)
	return w, err
}

// encryptDecrypt is KMIP's usage mask of a key that encrypts and decrypts.
const encryptDecrypt = 0x4 | 0x8

// Restore puts back a record as the control plane kept it, with its revision. What is
// here already stays if it is as new, and a key that can be read is never replaced by
// the record of a destroyed one: destroying is another order's business. restored
// tells whether anything was written.
func (s *Store) Restore(r Record) (restored bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have, ok := s.records[r.Key]; ok {
		if have.Node != r.Node {
			return false, fmt.Errorf("restore wrapped key %s: it is here as another node's", r.Key)
		}
		if have.Revision >= r.Revision || have.State.Readable() && !r.State.Readable() {
			return false, nil
		}
	}
	if !keys.ValidID(string(r.Node)) || !r.Key.Valid() {
		return false, fmt.Errorf("restore wrapped key: %q of node %q is no identifier of a key", r.Key, r.Node)
	}
	r.Format = r.format()
	if err := check(r, s.path(r)); err != nil {
		return false, err
	}
	return true, s.write(r)
}

// Store is the directory of a host's records. It is safe for concurrent use.
type Store struct {
	dir     string
	mu      sync.Mutex
	records map[keys.KeyID]Record
	// synced are the nodes' directories whose names are known to be durable.
	synced map[keys.NodeID]bool
}

// Open reads all records below dir, which is made if it is missing (mode 0700).
// A record that cannot be read is an error: a key must not look unknown because
// its file is damaged.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make key directory: %w", err)
	}
	if err := durable.SyncDir(filepath.Dir(dir)); err != nil {
		return nil, fmt.Errorf("make key directory: %w", err)
	}
	s := &Store{dir: dir, records: map[keys.KeyID]Record{}, synced: map[keys.NodeID]bool{}}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".json") || strings.HasPrefix(d.Name(), ".") {
			return err
		}
		var r Record
		if err := durable.ReadJSON(path, &r); err != nil {
			return err
		}
		if err := check(r, path); err != nil {
			return err
		}
		s.records[r.Key] = r
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read wrapped keys: %w", err)
	}
	return s, nil
}

// check refuses a record that is not whole, or does not lie where it belongs.
func check(r Record, path string) error {
	switch {
	case r.Format < 1 || r.Format > Format:
		return fmt.Errorf("key record %s has format %d, this program reads 1 to %d", path, r.Format, Format)
	case string(r.Key)+".json" != filepath.Base(path) || !r.Key.Valid():
		return fmt.Errorf("key record %s is damaged or misplaced: it is of key %q", path, r.Key)
	case string(r.Node) != filepath.Base(filepath.Dir(path)):
		return fmt.Errorf("key record %s is damaged or misplaced: it is of node %q", path, r.Node)
	case r.Revision == 0 || r.State == "":
		return fmt.Errorf("key record %s is damaged: it has no revision or no state", path)
	case !r.State.Readable():
		return nil
	}
	for _, w := range r.Wraps() {
		if _, err := w.Open(); err != nil {
			return fmt.Errorf("key record %s is damaged: %w", path, err)
		}
	}
	return nil
}

func (s *Store) path(r Record) string {
	return filepath.Join(s.dir, string(r.Node), string(r.Key)+".json")
}

// ErrConflict means that the record changed since it was read.
var ErrConflict = errors.New("key record was changed by somebody else")

// Put stores a record durably: a new one with revision 0, or a change of the
// record whose revision it carries. It gives the record with its new revision. What
// the control plane has confirmed meanwhile is kept.
func (s *Store) Put(r Record) (Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, exists := s.records[r.Key]
	if exists != (r.Revision > 0) || exists && old.Revision != r.Revision {
		return Record{}, ErrConflict
	}
	if !keys.ValidID(string(r.Node)) || !r.Key.Valid() {
		return Record{}, fmt.Errorf("store wrapped key: %q of node %q is no identifier of a key", r.Key, r.Node)
	}
	r.Format, r.Escrowed = r.format(), max(r.Escrowed, old.Escrowed)
	r.Revision++
	return r, s.write(r)
}

// Change stores what fn makes of a record as it is at that moment; fn says with false
// that nothing is to be stored. It gives the record as it is then.
func (s *Store) Change(key keys.KeyID, fn func(Record) (Record, bool)) (Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.records[key]
	if !ok {
		return Record{}, fmt.Errorf("change wrapped key %s: it is not here", key)
	}
	r, changed := fn(old)
	if !changed {
		return old, nil
	}
	r.Format, r.Revision, r.Escrowed = r.format(), old.Revision+1, old.Escrowed
	return r, s.write(r)
}

// MarkEscrowed notes that the control plane has the record's revision.
func (s *Store) MarkEscrowed(key keys.KeyID, revision uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.records[key]
	if !ok || r.Escrowed >= revision {
		return nil
	}
	r.Escrowed = revision
	return s.write(r)
}

func (s *Store) write(r Record) error {
	if !s.synced[r.Node] {
		// Made by this process or an earlier one: its name has to be durable too.
		err := os.MkdirAll(filepath.Dir(s.path(r)), 0o700)
		if err == nil {
			err = durable.SyncDir(s.dir)
		}
		if err != nil {
			return fmt.Errorf("make key directory: %w", err)
		}
		s.synced[r.Node] = true
	}
	if err := durable.WriteJSON(s.path(r), r, 0o600); err != nil {
		return fmt.Errorf("store wrapped key: %w", err)
	}
	s.records[r.Key] = r
	return nil
}

// Get finds a record.
func (s *Store) Get(key keys.KeyID) (Record, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.records[key]
	return r, ok
}

// OfNode lists a node's records, oldest first.
func (s *Store) OfNode(node keys.NodeID) []Record {
	return s.list(func(r Record) bool { return r.Node == node })
}

// OfProject lists the records of a project's nodes, oldest first.
func (s *Store) OfProject(project keys.ProjectID) []Record {
	return s.list(func(r Record) bool { return r.Project == project })
}

// Unescrowed lists what the control plane has not confirmed yet, oldest first.
func (s *Store) Unescrowed() []Record {
	return s.list(func(r Record) bool { return r.Escrowed < r.Revision })
}

func (s *Store) list(keep func(Record) bool) []Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Record
	for _, r := range s.records {
		if keep(r) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b Record) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(string(a.Key), string(b.Key))
	})
	return out
}

// DestroyKey drops the ciphertext of one key, like Destroy.
func (s *Store) DestroyKey(key keys.KeyID) error {
	r, ok := s.Get(key)
	if !ok || !r.State.Readable() {
		return nil
	}
	r = r.destroyed()
	if _, err := s.Put(r); err != nil {
		return fmt.Errorf("destroy wrapped key: %w", err)
	}
	return nil
}

// Destroy drops the ciphertexts of a node's keys but those in keep, and records
// them as destroyed. It is called on an explicit, recorded order only
// (key-plane rules 2.4 and 2.5).
func (s *Store) Destroy(node keys.NodeID, keep ...keys.KeyID) ([]Record, error) {
	var out []Record
	for _, r := range s.OfNode(node) {
		if slices.Contains(keep, r.Key) || !r.State.Readable() {
			continue
		}
		r = r.destroyed()
		r, err := s.Put(r)
		if err != nil {
			return out, fmt.Errorf("destroy wrapped key: %w", err)
		}
		out = append(out, r)
	}
	return out, nil
}
