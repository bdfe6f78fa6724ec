package store_test

import (
	"bytes"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/store"
)

// The secret of an access key lies sealed, opens for its own access key only, and is
// destroyed with the configuration that names it.
func TestSecretsOfAccessKeysAreSealedAndDestroyed(t *testing.T) {
	const id, clear = "AKIALEGACY0000000000", "the-secret-of-an-access-key"
	dir := t.TempDir()
	s := open(t, dir)
	seed(t, s)
	c := store.KeyConfig{Project: projectID, Enabled: true, AccessKeyID: id, Generation: 1}
	tx(t, s, func(x *store.Tx) error {
		return errors.Join(x.PutKeyConfig(c), x.PutAccessKeySecret(projectID, id, secret.FromString(clear)))
	})
	look := func(id string) (out string, err error) {
		_ = s.View(t.Context(), func(x *store.Tx) error {
			var v secret.Bytes
			v, err = x.AccessKeySecret(projectID, id)
			out = string(v.Reveal())
			return nil
		})
		return out, err
	}
	if v, err := look(id); err != nil || v != clear {
		t.Errorf("%q, %v", v, err)
	}
	if v, err := look("AKIALEGACY0000000001"); err == nil {
		t.Errorf("it opens for another access key: %q", v)
	}
	tx(t, s, func(x *store.Tx) error { c.Generation++; return x.PutKeyConfig(c) }) // a change keeps it
	if v, err := look(id); err != nil || v != clear {
		t.Errorf("after a change: %q, %v", v, err)
	}
	var sealed string
	raw(t, s, dir, func(db *sql.DB) {
		if err := db.QueryRow(`SELECT secret FROM access_key_secrets`).Scan(&sealed); err != nil {
			t.Fatal(err)
		}
	})
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && bytes.Contains(b, []byte(clear)) {
			t.Errorf("the secret is in clear in %s", f)
		}
	}
	s = open(t, dir)
	tx(t, s, func(x *store.Tx) error {
		c.AccessKeyID = ""
		return x.PutKeyConfig(c)
	})
	if v, err := look(id); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("after the switch: %q, %v", v, err)
	}
	raw(t, s, dir, func(db *sql.DB) {
		if _, err := db.Exec(`PRAGMA wal_checkpoint(TRUNCATE)`); err != nil {
			t.Fatal(err)
		}
	})
	if b, err := os.ReadFile(filepath.Join(dir, "store.db")); err != nil || bytes.Contains(b, []byte(sealed)) {
		t.Errorf("the sealed secret is still in the file (%v)", err)
	}
}
