package cryptofs

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
)

const (
	keyringPrefix = "keyring."
	keyringTemp   = ".tmp"
)

func (k *Keyring) path(gen uint64) string {
	return k.fs.PathJoin(k.dir, keyringPrefix+strconv.FormatUint(gen, 10))
}

// replace makes the next generation durable and current: temporary file, sync,
// rename, directory sync, read back and decrypt. It fails as a whole, except that
// after the rename both generations may exist; then the keyring goes no further.
// leftover says that the new generation is in force but an older file is not gone.
func (k *Keyring) replace(mk MasterKey, sets map[DatabaseID]*Keyset) (leftover, err error) {
	if k.state != nil {
		return nil, k.state
	}
	gen := k.generation + 1
	b, err := sealKeyring(k.node, gen, mk, sets)
	if err != nil {
		return nil, err
	}
	path := k.path(gen)
	if err := writeSynced(k.fs, path+keyringTemp, b); err != nil {
		_ = k.fs.Remove(path + keyringTemp) // only tidiness: it is overwritten and never read
		return nil, err
	}
	opened, err := k.install(path, mk)
	if err != nil {
		k.state = ErrKeyringUncertain
		return nil, err
	}
	// The handles in use stay; what was read back proves the file.
	if err := sameKeysets(opened, sets); err != nil {
		k.state = ErrKeyringUncertain
		return nil, fmt.Errorf("%s reads back: %w", path, err)
	}
	k.generation, k.master = gen, mk
	if sets != nil {
		k.sets = sets
	}
	return k.removeOthers(), nil
}

// sameKeysets compares what was read back with what was to be written: databases,
// primary keys, and every key.
func sameKeysets(got, want map[DatabaseID]*Keyset) error {
	if len(got) != len(want) {
		return fmt.Errorf("%d keysets instead of %d", len(got), len(want))
	}
	for db, w := range want {
		g, ok := got[db]
		if !ok {
			return fmt.Errorf("no keyset of database %s", db)
		}
		w.mu.RLock()
		same := g.primary == w.primary && maps.EqualFunc(g.keys, w.keys, secret.Bytes.Equal)
		w.mu.RUnlock()
		if !same {
			return fmt.Errorf("other keys of database %s", db)
		}
	}
	return nil
}

func (k *Keyring) install(path string, mk MasterKey) (map[DatabaseID]*Keyset, error) {
	if err := k.fs.Rename(path+keyringTemp, path); err != nil {
		return nil, err
	}
	if err := syncDirectory(k.fs, k.dir); err != nil {
		return nil, err
	}
	kf, err := readKeyring(k.fs, path)
	if err != nil {
		return nil, err
	}
	if kf.master != mk.ID {
		return nil, refuse(path, 24, nil, "master key %s, found %s", mk.ID, kf.master)
	}
	return kf.unseal(path, k.node, mk.Key)
}

// removeOthers removes every keyring file but the current one.
func (k *Keyring) removeOthers() error {
	names, err := k.fs.List(k.dir)
	if err != nil {
		return err
	}
	removed := false
	for _, name := range names {
		gen, ok := keyringGeneration(strings.TrimSuffix(name, keyringTemp))
		if !ok || gen == k.generation && !strings.HasSuffix(name, keyringTemp) {
			continue
		}
		if err := k.fs.Remove(k.fs.PathJoin(k.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		removed = true
	}
	if !removed {
		return nil
	}
	return syncDirectory(k.fs, k.dir)
}

func writeSynced(fs vfs.FS, path string, b []byte) error {
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	// A vfs.File may change what it is given to write.
	if _, err = f.Write(slices.Clone(b)); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDirectory(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// keyringGeneration reads the number in a keyring's name, in the one form in
// which it is written.
func keyringGeneration(name string) (uint64, bool) {
	digits, ok := strings.CutPrefix(name, keyringPrefix)
	if !ok {
		return 0, false
	}
	gen, ok := parseNumber(digits)
	return gen, ok && gen > 0 && strconv.FormatUint(gen, 10) == digits
}

// keyringGenerations lists the generations in dir, newest first.
func keyringGenerations(fs vfs.FS, dir string) ([]uint64, error) {
	names, err := fs.List(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var gens []uint64
	for _, name := range names {
		if gen, ok := keyringGeneration(name); ok {
			gens = append(gens, gen)
		}
	}
	slices.Sort(gens)
	slices.Reverse(gens)
	return gens, nil
}

// KeyringExists tells whether dir holds a keyring of any generation. A directory
// that does not exist holds none.
func KeyringExists(fs vfs.FS, dir string) (bool, error) {
	gens, err := keyringGenerations(fs, dir)
	if err != nil {
		return false, fmt.Errorf("look for a keyring in %s: %w", dir, err)
	}
	return len(gens) > 0, nil
}

func readKeyring(fs vfs.FS, path string) (*keyringFile, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxKeyring+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(b) > maxKeyring {
		return nil, refuse(path, maxKeyring, nil, "a keyring of at most %d bytes", maxKeyring)
	}
	kf, err := parseKeyring(path, b)
	if err != nil {
		return nil, err
	}
	if gen, ok := keyringGeneration(fs.PathBase(path)); ok && gen != kf.generation {
		return nil, refuse(path, 16, nil, "generation %d as the name says, found %d", gen, kf.generation)
	}
	return kf, nil
}

// OpenKeyring opens the newest generation that opens. It asks fetch for the
// master key that a generation names; the key stays the caller's to wipe. Only a
// generation that is damaged or does not authenticate makes it try the one before
// (the caller's ConfirmGeneration then decides whether that may be); when fetch
// or the disk fails, so does OpenKeyring.
func OpenKeyring(fs vfs.FS, dir string, node string, fetch func(id keys.KeyID) (secret.Bytes, error)) (*Keyring, error) {
	if err := checkNode(node); err != nil {
		return nil, fmt.Errorf("open keyring: %w", err)
	}
	gens, err := keyringGenerations(fs, dir)
	if err != nil {
		return nil, fmt.Errorf("open keyring in %s: %w", dir, err)
	}
	if len(gens) == 0 {
		return nil, fmt.Errorf("open keyring: %s holds none: %w", dir, os.ErrNotExist)
	}
	var refused error
	for _, gen := range gens {
		k := &Keyring{fs: fs, dir: dir, node: node, generation: gen}
		err := k.load(fetch)
		if err == nil {
			return k, nil
		}
		refused = errors.Join(refused, err)
		var damage *FileError
		if !errors.As(err, &damage) || errors.Is(err, ErrNewerFormat) {
			break
		}
	}
	return nil, fmt.Errorf("open keyring: %w", refused)
}

func (k *Keyring) load(fetch func(id keys.KeyID) (secret.Bytes, error)) error {
	path := k.path(k.generation)
	kf, err := readKeyring(k.fs, path)
	if err != nil {
		return err
	}
	key, err := fetch(kf.master)
	if err != nil {
		return fmt.Errorf("fetch master key %s, which %s names: %w", kf.master, path, err)
	}
	if k.sets, err = kf.unseal(path, k.node, key); err != nil {
		return err
	}
	k.master = MasterKey{ID: kf.master, Key: key.Clone()}
	return nil
}

// InspectKeyring reads the clear part of a keyring file without a key: what it
// claims, not what is proven.
func InspectKeyring(fs vfs.FS, path string) (gen uint64, master keys.KeyID, records int, err error) {
	kf, err := readKeyring(fs, path)
	if err != nil {
		return 0, "", 0, fmt.Errorf("inspect keyring: %w", err)
	}
	return kf.generation, kf.master, len(kf.records), nil
}
