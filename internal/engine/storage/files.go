package storage

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keywright/keywright/internal/engine/cryptofs"
)

type plain struct{ base vfs.FS }

// Plain gives every database the base file system as it is.
func Plain(base vfs.FS) Files { return plain{base: base} }

func (p plain) Create(DatabaseID) (vfs.FS, error) { return p.base, nil }
func (p plain) Open(DatabaseID) (vfs.FS, error)   { return p.base, nil }
func (p plain) Remove(DatabaseID) error           { return nil }
func (p plain) Base() vfs.FS                      { return p.base }
func (p plain) Encrypted() bool                   { return false }

type encrypted struct {
	keyring *cryptofs.Keyring
	base    vfs.FS
}

// Encrypted gives every database a file system that encrypts with the database's
// own keyset from the node's keyring.
func Encrypted(keyring *cryptofs.Keyring, base vfs.FS) Files {
	return encrypted{keyring: keyring, base: base}
}

func (e encrypted) Create(id DatabaseID) (vfs.FS, error) {
	if ks, ok := e.keyring.Keyset(id); ok {
		return cryptofs.New(e.base, cryptofs.Options{Database: id, Keyset: ks})
	}
	ks, err := e.keyring.Add(id)
	if err != nil {
		return nil, fmt.Errorf("add keyset of database %s: %w", id, err)
	}
	return cryptofs.New(e.base, cryptofs.Options{Database: id, Keyset: ks})
}

func (e encrypted) Open(id DatabaseID) (vfs.FS, error) {
	ks, ok := e.keyring.Keyset(id)
	if !ok {
		return nil, fmt.Errorf("the keyring holds no keyset of database %s", id)
	}
	return cryptofs.New(e.base, cryptofs.Options{Database: id, Keyset: ks})
}

func (e encrypted) Remove(id DatabaseID) error {
	if _, ok := e.keyring.Keyset(id); !ok {
		return nil
	}
	if err := e.keyring.Remove(id); err != nil {
		return fmt.Errorf("remove keyset of database %s: %w", id, err)
	}
	return nil
}

func (e encrypted) Base() vfs.FS                  { return e.base }
func (e encrypted) Encrypted() bool               { return true }
func (e encrypted) generation() uint64            { return e.keyring.Generation() }
func (e encrypted) confirm(recorded uint64) error { return e.keyring.ConfirmGeneration(recorded) }

func (e encrypted) databases() []DatabaseID { return e.keyring.Databases() }

func (e encrypted) rotate(ids []DatabaseID) error { return e.keyring.RotateKeysets(ids) }

func (e encrypted) drop(unused map[DatabaseID][]uint32) error { return e.keyring.DropKeys(unused) }

func (e encrypted) keysetOf(id DatabaseID) (*cryptofs.Keyset, bool) { return e.keyring.Keyset(id) }
