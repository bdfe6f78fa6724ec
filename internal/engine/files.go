package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keywright/keywright/internal/engine/cryptofs"
	"github.com/keywright/keywright/internal/engine/keysource"
	"github.com/keywright/keywright/internal/engine/replication"
	"github.com/keywright/keywright/internal/engine/storage"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
)

// opened is a data directory's files, opened with the master key if they need one.
type opened struct {
	files   storage.Files
	keyring *cryptofs.Keyring // nil without encryption
	source  *keysource.Client
}

func (o *opened) close() {
	if o.keyring != nil {
		o.keyring.Close()
	}
}

// openFiles opens the keyring of dir, or makes one with a new master key at the
// first start, but never one for data that exist: their keyring is lost then, and
// a new one would only hide that. Without encryption there is nothing to open.
func openFiles(ctx context.Context, dir string, node keys.NodeID, e Encryption, log *slog.Logger) (*opened, error) {
	fresh, err := checkManifest(dir, e.Enabled)
	if err != nil {
		return nil, err
	}
	if !e.Enabled {
		return &opened{files: storage.Plain(vfs.Default)}, nil
	}
	source, err := e.source()
	if err != nil {
		return nil, exit(ExitBadOptions, err)
	}
	exists, err := cryptofs.KeyringExists(vfs.Default, dir)
	if err != nil {
		return nil, exit(ExitUnrecoverable, err)
	}
	o := &opened{source: source}
	switch {
	case exists:
		o.keyring, err = openKeyring(ctx, dir, node, e, source)
	case fresh:
		o.keyring, err = createKeyring(ctx, dir, node, e, source)
	default:
		err = exit(ExitUnrecoverable, fmt.Errorf("%s holds encrypted data but no keyring: put the file keyring.NUMBER back", dir))
	}
	if err != nil {
		return nil, err
	}
	log.Info("keyring opened", "master_key", o.keyring.MasterKeyID(), "generation", o.keyring.Generation(), "keysets", len(o.keyring.Databases()))
	o.files = storage.Encrypted(o.keyring, vfs.Default)
	return o, nil
}

// checkManifest looks whether the directory is a node's already, and fits.
func checkManifest(dir string, encrypted bool) (fresh bool, err error) {
	m, err := replication.ReadManifest(vfs.Default, dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return true, nil
	case err != nil && strings.Contains(err.Error(), "newer program"):
		return false, exit(ExitNeedsUpgrade, err)
	case err != nil:
		return false, exit(ExitUnrecoverable, err)
	case m.Encrypted != encrypted:
		return false, exit(ExitBadOptions, fmt.Errorf("%s was made with encryption=%t, the node is started with encryption=%t: start it as it was, or rewrite it",
			dir, m.Encrypted, encrypted))
	}
	return false, nil
}

func openKeyring(ctx context.Context, dir string, node keys.NodeID, e Encryption, source *keysource.Client) (*cryptofs.Keyring, error) {
	var refused error
	var fetched []secret.Bytes // the keyring keeps its own copy
	defer func() {
		for _, key := range fetched {
			key.Wipe()
		}
	}()
	k, err := cryptofs.OpenKeyring(vfs.Default, dir, string(node), func(id keys.KeyID) (secret.Bytes, error) {
		if e.KeyIdentifier != "" && e.KeyIdentifier != id && !e.RotateMasterKey {
			refused = fmt.Errorf("--kmipKeyIdentifier names %s, the data were written under %s: leave the option out", e.KeyIdentifier, id)
			return secret.Bytes{}, refused
		}
		key, err := source.Get(ctx, id)
		if err != nil {
			refused = fmt.Errorf("get master key %s: %w", id, err)
			return secret.Bytes{}, refused
		}
		lockMemory(key.Reveal())
		fetched = append(fetched, key)
		return key, nil
	})
	switch {
	case refused != nil:
		return nil, exit(ExitKey, refused)
	case err != nil:
		return nil, exit(ExitUnrecoverable, err)
	}
	return k, nil
}

func createKeyring(ctx context.Context, dir string, node keys.NodeID, e Encryption, source *keysource.Client) (*cryptofs.Keyring, error) {
	mk, err := newMasterKey(ctx, e.KeyIdentifier, source)
	if err != nil {
		return nil, exit(ExitKey, err)
	}
	defer mk.Key.Wipe()
	k, err := cryptofs.CreateKeyring(vfs.Default, dir, string(node), mk)
	return k, exit(ExitUnrecoverable, err)
}

// newMasterKey gets a given key, or has a new one made.
func newMasterKey(ctx context.Context, id keys.KeyID, source *keysource.Client) (cryptofs.MasterKey, error) {
	var err error
	if id == "" {
		if id, err = source.Create(ctx); err != nil {
			return cryptofs.MasterKey{}, fmt.Errorf("create master key: %w", err)
		}
	}
	key, err := source.Get(ctx, id)
	if err != nil {
		return cryptofs.MasterKey{}, fmt.Errorf("get master key %s: %w", id, err)
	}
	lockMemory(key.Reveal())
	return cryptofs.MasterKey{ID: id, Key: key}, nil
}

// errKeyInactive ends a running node.
var errKeyInactive = errors.New("the master key is not active any more")

// watchKey looks at the key's state every period, as mongod does, until ctx ends.
// It gives an error when the key is not active any more; a server that cannot be asked says
// nothing about the key.
func watchKey(ctx context.Context, o *opened, period time.Duration, log *slog.Logger) error {
	if o.keyring == nil || period <= 0 {
		<-ctx.Done()
		return nil
	}
	t := time.NewTicker(period)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		id := o.keyring.MasterKeyID()
		state, err := o.source.State(ctx, id)
		switch {
		case errors.Is(err, keysource.ErrNotFound) && o.keyring.MasterKeyID() == id:
			return exit(ExitKey, fmt.Errorf("%w: %s does not exist", errKeyInactive, id))
		case err != nil:
			if ctx.Err() == nil {
				log.Warn("state of the master key could not be asked for", "error", err)
			}
		case state != keys.StateActive && o.keyring.MasterKeyID() != id:
			// It was replaced while the answer was under way.
		case state != keys.StateActive:
			return exit(ExitKey, fmt.Errorf("%w: %s is %s", errKeyInactive, id, state))
		}
	}
}
