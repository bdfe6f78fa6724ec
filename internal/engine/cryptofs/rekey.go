package cryptofs

import (
	"fmt"
	"maps"
	"slices"

	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/streamingaead"
)

// MaxKeys bounds the keys of one keyset: before more are made, the files have to be
// rewritten and the old keys removed.
const MaxKeys = 32

// openFile is a file that is being written, and the key that it is written under.
type openFile struct {
	path string
	key  uint32
	log  *frameWriter // of a log or manifest
}

// begin notes a new file and chooses its key, as one step: a key that is not primary
// any more and has no file here gets none.
func (k *Keyset) begin(path string) *openFile {
	k.mu.Lock()
	defer k.mu.Unlock()
	o := &openFile{path: path, key: k.primary}
	if k.open == nil {
		k.open = map[*openFile]struct{}{}
	}
	k.open[o] = struct{}{}
	return o
}

func (k *Keyset) watch(o *openFile, w *frameWriter) {
	k.mu.Lock()
	defer k.mu.Unlock()
	o.log = w
}

func (k *Keyset) end(o *openFile) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.open, o)
}

// writing gives the file that is being written at path, nil if there is none.
func (k *Keyset) writing(path string) *openFile {
	k.mu.RLock()
	defer k.mu.RUnlock()
	for o := range k.open {
		if o.path == path {
			return o
		}
	}
	return nil
}

// KeyIDs lists the keyset's keys, sorted.
func (k *Keyset) KeyIDs() []uint32 {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return slices.Sorted(maps.Keys(k.keys))
}

// change makes a changed copy; nothing uses it yet.
func (k *Keyset) change(edit func(*keyset.Manager) error) (*Keyset, error) {
	k.mu.RLock()
	m := keyset.NewManagerFromHandle(k.handle)
	k.mu.RUnlock()
	if err := edit(m); err != nil {
		return nil, err
	}
	h, err := m.Handle()
	if err != nil {
		return nil, err
	}
	return newKeyset(h)
}

// adopt takes the keys of a changed copy over, once they are durable.
func (k *Keyset) adopt(next *Keyset) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.handle, k.primary, k.keys = next.handle, next.primary, next.keys
}

// RotateKeysets gives each database's keyset a fresh primary key beside the others, in
// one new generation. New files use it as soon as it is durable, whoever writes them.
// Repeating it makes one key more.
func (k *Keyring) RotateKeysets(dbs []DatabaseID) error {
	edits := map[DatabaseID]func(*keyset.Manager) error{}
	for _, db := range dbs {
		edits[db] = func(m *keyset.Manager) error {
			id, err := m.Add(streamingaead.AES256GCMHKDF4KBKeyTemplate())
			if err != nil {
				return err
			}
			return m.SetPrimary(id)
		}
	}
	if err := k.edit(edits, func(ks *Keyset) error {
		if n := len(ks.KeyIDs()); n >= MaxKeys {
			return fmt.Errorf("it has %d keys already: rewrite the files under the newest one first", n)
		}
		return nil
	}); err != nil {
		return fmt.Errorf("rotate keysets: %w", err)
	}
	return nil
}

// DropKeys removes keys from keysets, in one new generation: files under them cannot
// be read any more. The caller knows that there are none; a key that is primary, or
// that a file is being written under, is refused. Keys that are gone are no error.
func (k *Keyring) DropKeys(drop map[DatabaseID][]uint32) error {
	edits := map[DatabaseID]func(*keyset.Manager) error{}
	for db, ids := range drop {
		ks, ok := k.Keyset(db)
		if !ok {
			continue
		}
		have := ks.KeyIDs()
		ids = slices.DeleteFunc(slices.Clone(ids), func(id uint32) bool { return !slices.Contains(have, id) })
		if err := ks.unused(ids); err != nil {
			return fmt.Errorf("drop keys of database %s: %w", db, err)
		}
		if len(ids) == 0 {
			continue
		}
		edits[db] = func(m *keyset.Manager) error {
			for _, id := range ids {
				if err := m.Delete(id); err != nil {
					return err
				}
			}
			return nil
		}
	}
	if err := k.edit(edits, func(*Keyset) error { return nil }); err != nil {
		return fmt.Errorf("drop keys: %w", err)
	}
	return nil
}

func (k *Keyset) unused(ids []uint32) error {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if slices.Contains(ids, k.primary) {
		return fmt.Errorf("key %08x is the one that new files use", k.primary)
	}
	for o := range k.open {
		if slices.Contains(ids, o.key) {
			return fmt.Errorf("key %08x is in use by %s, which is being written", o.key, o.path)
		}
	}
	return nil
}

// edit replaces the keyring by one with changed keysets.
func (k *Keyring) edit(edits map[DatabaseID]func(*keyset.Manager) error, check func(*Keyset) error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.state != nil {
		return k.state
	}
	if len(edits) == 0 {
		return k.removeOthers()
	}
	current, sets := k.sets, maps.Clone(k.sets)
	for db, f := range edits {
		ks, ok := current[db]
		if !ok {
			return fmt.Errorf("database %s has no keyset", db)
		}
		if err := check(ks); err != nil {
			return fmt.Errorf("keyset of database %s: %w", db, err)
		}
		next, err := ks.change(f)
		if err != nil {
			return fmt.Errorf("keyset of database %s: %w", db, err)
		}
		sets[db] = next
	}
	leftover, err := k.replace(k.master, sets)
	if err != nil {
		return err
	}
	// The handles in use stay, and take the keys over that are durable now.
	for db := range edits {
		current[db].adopt(sets[db])
	}
	k.sets = current
	if leftover != nil {
		return fmt.Errorf("remove the keyring of the generation before: %w", leftover)
	}
	return nil
}
