package cryptofs

import (
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
)

// Reasons for which a keyring refuses.
var (
	// ErrKeyringClosed: the keyring was closed; its keysets stay usable.
	ErrKeyringClosed = errors.New("cryptofs: the keyring is closed")
	// ErrKeyringUncertain: a replacement failed when the new generation may or may
	// not have been durable. Open the keyring again; one of both opens.
	ErrKeyringUncertain = errors.New("cryptofs: an earlier replacement of the keyring failed half-way: open it again")
)

// MasterKey is a node's master key, 32 bytes, and its KMIP identifier.
type MasterKey struct {
	ID  keys.KeyID
	Key secret.Bytes
}

// Keyring holds the keysets of a node's databases, sealed under its master key
// in one file, keyring.GENERATION. Every change writes the next generation as a
// whole, so that after a crash exactly the old or the new one opens. It keeps a
// copy of the master key until Close, is safe for concurrent use, and must not be
// open twice.
type Keyring struct {
	fs   vfs.FS
	dir  string
	node string

	mu         sync.Mutex
	generation uint64
	master     MasterKey
	sets       map[DatabaseID]*Keyset
	state      error // nil, ErrKeyringClosed or ErrKeyringUncertain
}

// CreateKeyring makes generation 1 without keysets, durably. It refuses when dir
// holds a keyring. node is the identifier that the keyring is bound to.
func CreateKeyring(fs vfs.FS, dir string, node string, mk MasterKey) (*Keyring, error) {
	k, err := createKeyring(fs, dir, node, mk)
	if err != nil {
		return nil, fmt.Errorf("create keyring: %w", err)
	}
	return k, nil
}

func createKeyring(fs vfs.FS, dir, node string, mk MasterKey) (*Keyring, error) {
	if err := errors.Join(checkNode(node), checkMasterKey(mk)); err != nil {
		return nil, err
	}
	exists, err := KeyringExists(fs, dir)
	if err != nil {
		return nil, err
	}
	if exists {
		return nil, fmt.Errorf("%s holds a keyring already", dir)
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	k := &Keyring{fs: fs, dir: dir, node: node, master: mk, sets: map[DatabaseID]*Keyset{}}
	if _, err := k.replace(mk, nil); err != nil {
		return nil, err
	}
	k.master.Key = mk.Key.Clone()
	return k, nil
}

// MasterKeyID names the master key that the keyring is sealed under.
func (k *Keyring) MasterKeyID() keys.KeyID {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.master.ID
}

// Generation is the number of the keyring's current file. The caller records it
// in the catalogue after every change, and compares at the next start with
// ConfirmGeneration.
func (k *Keyring) Generation() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.generation
}

// ConfirmGeneration compares the keyring with the generation that the catalogue
// recorded, which can be read only after the keyring was opened: it must be this
// one or the one before. Otherwise somebody put an older keyring back or took the
// newest away, and the node must not go on. When it fits, older files are removed.
func (k *Keyring) ConfirmGeneration(recorded uint64) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.state != nil {
		return k.state
	}
	if recorded != k.generation && recorded+1 != k.generation {
		return refuse(k.path(k.generation), 16, nil, "generation %d or the one after, as the catalogue says, found %d", recorded, k.generation)
	}
	if err := k.removeOthers(); err != nil {
		return fmt.Errorf("remove older keyrings: %w", err)
	}
	return nil
}

// Add makes the keyset of a new database. It is durable before Add returns.
func (k *Keyring) Add(db DatabaseID) (*Keyset, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.sets[db]; ok {
		return nil, fmt.Errorf("add keyset: database %s has one", db)
	}
	ks, err := NewKeyset()
	if err != nil {
		return nil, fmt.Errorf("add keyset: %w", err)
	}
	sets := maps.Clone(k.sets)
	sets[db] = ks
	// A file of the generation before that could not be removed harms nobody here;
	// the next change tries again.
	if _, err := k.replace(k.master, sets); err != nil {
		return nil, fmt.Errorf("add keyset of database %s: %w", db, err)
	}
	return ks, nil
}

// Remove takes a database's keyset out, durably: what is left of the database's
// files cannot be read any more. A database without one is no error. On an error
// the keyset may be gone already; Remove can be repeated.
func (k *Keyring) Remove(db DatabaseID) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.state != nil {
		return fmt.Errorf("remove keyset of database %s: %w", db, k.state)
	}
	if _, ok := k.sets[db]; !ok {
		return k.removeOthers()
	}
	sets := maps.Clone(k.sets)
	delete(sets, db)
	leftover, err := k.replace(k.master, sets)
	if err = errors.Join(err, leftover); err != nil {
		return fmt.Errorf("remove keyset of database %s: %w", db, err)
	}
	return nil
}

// Keyset gives the keyset of a database.
func (k *Keyring) Keyset(db DatabaseID) (*Keyset, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	ks, ok := k.sets[db]
	return ks, ok
}

// Databases lists the databases that have a keyset, in order.
func (k *Keyring) Databases() []DatabaseID {
	k.mu.Lock()
	defer k.mu.Unlock()
	return sortedIDs(k.sets)
}

// Rewrap seals the keyring under another master key: nothing but the keyring is
// rewritten. When it returns nil, the new generation was read back under the new
// key and no file names the old one. Repeating it with the current key is no error.
func (k *Keyring) Rewrap(mk MasterKey) error {
	if err := checkMasterKey(mk); err != nil {
		return fmt.Errorf("rewrap keyring: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.state != nil {
		return fmt.Errorf("rewrap keyring: %w", k.state)
	}
	if mk.ID == k.master.ID {
		if !mk.Key.Equal(k.master.Key) {
			return fmt.Errorf("rewrap keyring: master key %s is another one than it was", mk.ID)
		}
		return k.removeOthers()
	}
	old := k.master
	mk.Key = mk.Key.Clone()
	leftover, err := k.replace(mk, k.sets)
	if err != nil {
		mk.Key.Wipe()
		return fmt.Errorf("rewrap keyring under master key %s: %w", mk.ID, err)
	}
	old.Key.Wipe()
	if leftover != nil {
		return fmt.Errorf("rewrap keyring under master key %s: %w", mk.ID, leftover)
	}
	return nil
}

// Tidy removes every keyring file but the current one, durably.
func (k *Keyring) Tidy() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.state != nil {
		return fmt.Errorf("tidy keyring: %w", k.state)
	}
	return k.removeOthers()
}

// Err tells whether the keyring still takes changes: nil, ErrKeyringClosed, or
// ErrKeyringUncertain after a replacement that failed half-way.
func (k *Keyring) Err() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.state
}

// Close wipes the keyring's copy of the master key. Keysets that were handed out
// stay usable. It may be called more than once.
func (k *Keyring) Close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if errors.Is(k.state, ErrKeyringClosed) {
		return
	}
	k.state = ErrKeyringClosed
	k.master.Key.Wipe()
}

// String implements fmt.Stringer: a keyring prints as a secret does.
func (*Keyring) String() string { return secret.Redacted }

// GoString implements fmt.GoStringer.
func (*Keyring) GoString() string { return secret.Redacted }
