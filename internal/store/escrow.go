package store

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/keywright/keywright/internal/keys"
)

// ErrOlder means that an escrowed wrap is newer than the one that was sent.
var ErrOlder = errors.New("a newer wrap of this key is in escrow")

// ErrForeign means that the key belongs to another node.
var ErrForeign = errors.New("this key belongs to another node")

// PutEscrow adds a wrap, or replaces an older revision of the same wrap. The same
// wrap again is no error. It never overwrites a newer one (ErrOlder; the revision is
// the key's, so a newer one of any generation counts), another node's (ErrForeign), or
// a ciphertext within the same revision (ErrOlder).
func (t *Tx) PutEscrow(w EscrowedWrap) error {
	others, err := t.EscrowOfKey(w.Key)
	if err != nil {
		return err
	}
	for _, o := range others {
		if o.Node != w.Node || o.Host != w.Host || o.Project != w.Project || o.Cluster != w.Cluster {
			return fmt.Errorf("escrow %s: %w", w.Key, ErrForeign)
		}
		if o.Generation != w.Generation {
			// All wraps of a key are sent with each of its revisions.
			if o.Revision > w.Revision {
				return fmt.Errorf("escrow %s: %w (revision %d, sent %d)", w.Key, ErrOlder, o.Revision, w.Revision)
			}
			continue
		}
		switch {
		case o.Revision == w.Revision && o.State == w.State && bytes.Equal(o.Wrapped, w.Wrapped):
			return nil
		case o.Revision >= w.Revision:
			return fmt.Errorf("escrow %s: %w (revision %d, sent %d)", w.Key, ErrOlder, o.Revision, w.Revision)
		}
	}
	d, err := encode(w)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO escrow (key_id, generation, node_id, host_id, created, doc) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (key_id, generation) DO UPDATE SET doc = excluded.doc`,
		string(w.Key), int64(w.Generation), string(w.Node), string(w.Host), w.Created.UnixMicro(), d) //nolint:gosec // counts changes
	return err
}

// MarkDestroyed records that a host has destroyed a key on an order. With erase the
// ciphertext goes too; without, it stays until the node's tombstone is carried out.
// changed tells that something of this was news. A key that is not in escrow is no
// error; another host's is (ErrForeign).
func (t *Tx) MarkDestroyed(h keys.HostID, key keys.KeyID, revision uint64, erase bool) (changed bool, err error) {
	all, err := t.EscrowOfKey(key)
	if err != nil {
		return false, err
	}
	for _, w := range all {
		if w.Host != h {
			return false, fmt.Errorf("destroy %s: %w", key, ErrForeign)
		}
		if w.State == keys.StateDestroyed && (len(w.Wrapped) == 0 || !erase) {
			continue
		}
		changed = true
		w.State, w.Revision = keys.StateDestroyed, max(w.Revision, revision)
		if erase {
			w.Wrapped = nil
		}
		d, err := encode(w)
		if err != nil {
			return false, err
		}
		if err := t.must(`UPDATE escrow SET doc = ? WHERE key_id = ? AND generation = ?`, d, string(key), int64(w.Generation)); err != nil { //nolint:gosec // counts changes
			return false, err
		}
	}
	return changed, nil
}

// EscrowOfKey lists the wraps of a key, one for each generation.
func (t *Tx) EscrowOfKey(key keys.KeyID) ([]EscrowedWrap, error) {
	return docs[EscrowedWrap](t, `SELECT doc FROM escrow WHERE key_id = ? ORDER BY generation`, string(key))
}

// CountKeys counts the keys of a node that are in escrow.
func (t *Tx) CountKeys(n keys.NodeID) (count int, err error) {
	err = t.row(`SELECT COUNT(DISTINCT key_id) FROM escrow WHERE node_id = ?`, []any{string(n)}, &count)
	return count, err
}

// EscrowOfHost lists the wraps of a host, oldest first.
func (t *Tx) EscrowOfHost(h keys.HostID) ([]EscrowedWrap, error) {
	return docs[EscrowedWrap](t, `SELECT doc FROM escrow WHERE host_id = ? ORDER BY created, key_id, generation`, string(h))
}

// Escrow lists the wraps of all hosts, oldest first.
func (t *Tx) Escrow() ([]EscrowedWrap, error) {
	return docs[EscrowedWrap](t, `SELECT doc FROM escrow ORDER BY created, key_id, generation`)
}

// EscrowOfNode lists the wraps of a node, oldest first.
func (t *Tx) EscrowOfNode(n keys.NodeID) ([]EscrowedWrap, error) {
	return docs[EscrowedWrap](t, `SELECT doc FROM escrow WHERE node_id = ? ORDER BY created, key_id, generation`, string(n))
}

// DestroyEscrow removes the wraps of a node whose tombstone was carried out, and
// tells how many there were. Nothing else removes a wrap.
func (t *Tx) DestroyEscrow(n keys.NodeID) (int, error) {
	rows, err := t.exec(`DELETE FROM escrow WHERE node_id = ?`, string(n))
	return int(rows), err
}

// EscrowOfProject lists the wraps of a project's nodes that were not destroyed, oldest
// first.
func (t *Tx) EscrowOfProject(p keys.ProjectID) ([]EscrowedWrap, error) {
	all, err := docs[EscrowedWrap](t, `SELECT e.doc FROM escrow e JOIN nodes n ON n.id = e.node_id WHERE n.project_id = ? ORDER BY e.created, e.key_id`, string(p))
	return slices.DeleteFunc(all, func(w EscrowedWrap) bool { return w.State == keys.StateDestroyed }), err
}
