package store

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/keywright/keywright/internal/durable"
	"github.com/keywright/keywright/internal/secret"
)

// keyFileMagic starts DATA/deployment.key; the version byte and a Tink keyset in
// its binary form follow.
const (
	keyFileMagic   = "KWDEPKEY"
	keyFileVersion = 1
	// sealVersion starts every sealed value.
	sealVersion = 1
	checkName   = "deployment_key_check"
	checkText   = "keywright deployment key check"
)

// Sealer encrypts the secrets of the store with the deployment key. A sealed value
// names its place (table, row, column) as associated data and opens nowhere else.
type Sealer struct{ aead tink.AEAD }

// Place is where a sealed value lies.
type Place struct{ Table, Row, Column string }

func (p Place) bytes() []byte {
	b := append([]byte("keywright/store"), sealVersion)
	for _, s := range []string{p.Table, p.Row, p.Column} {
		b = fmt.Appendf(b, "%d:", len(s))
		b = append(b, s...)
	}
	return b
}

// Seal encrypts for one place. The result is text.
func (s *Sealer) Seal(at Place, v secret.Bytes) (string, error) {
	c, err := s.aead.Encrypt(v.Reveal(), at.bytes())
	if err != nil {
		return "", fmt.Errorf("seal %s.%s: %w", at.Table, at.Column, err)
	}
	return base64.StdEncoding.EncodeToString(append([]byte{sealVersion}, c...)), nil
}

// Unseal decrypts what Seal made for the same place.
func (s *Sealer) Unseal(at Place, sealed string) (secret.Bytes, error) {
	b, err := base64.StdEncoding.DecodeString(sealed)
	if err != nil || len(b) == 0 {
		return secret.Bytes{}, fmt.Errorf("unseal %s.%s: not a sealed value", at.Table, at.Column)
	}
	if b[0] != sealVersion {
		return secret.Bytes{}, fmt.Errorf("unseal %s.%s: version %d is not known", at.Table, at.Column, b[0])
	}
	v, err := s.aead.Decrypt(b[1:], at.bytes())
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("unseal %s.%s: %w", at.Table, at.Column, err)
	}
	return secret.New(v), nil
}

// openSealer loads the deployment key, or makes it for a store that has never
// sealed anything. A store that has sealed something never gets a new key.
func openSealer(ctx context.Context, s *Store, path string) (*Sealer, error) {
	var check string
	err := s.View(ctx, func(tx *Tx) (err error) {
		check, err = tx.meta(checkName)
		return err
	})
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	handle, err := readKeyFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if check != "" {
			return nil, fmt.Errorf("%w: %s is missing; put it back from your backup, a new key would make every stored secret unreadable", ErrDeploymentKey, path)
		}
		handle, err = makeKeyFile(path)
	}
	if err != nil {
		return nil, err
	}
	a, err := aead.New(handle)
	if err != nil {
		return nil, fmt.Errorf("open deployment key: %w", err)
	}
	sealer := &Sealer{aead: a}
	at := Place{Table: "meta", Row: checkName, Column: "value"}
	if check == "" {
		sealed, err := sealer.Seal(at, secret.FromString(checkText))
		if err != nil {
			return nil, err
		}
		return sealer, s.Tx(ctx, func(tx *Tx) error { return tx.setMeta(checkName, sealed) })
	}
	if v, err := sealer.Unseal(at, check); err != nil || string(v.Reveal()) != checkText {
		return nil, fmt.Errorf("%w: %s is another key than the one that sealed the store's secrets; put the right one back", ErrDeploymentKey, path)
	}
	return sealer, nil
}

func readKeyFile(path string) (*keyset.Handle, error) {
	b, err := os.ReadFile(path) //nolint:gosec // our own data directory
	if err != nil {
		return nil, fmt.Errorf("read deployment key: %w", err)
	}
	defer clear(b)
	if len(b) <= len(keyFileMagic) || string(b[:len(keyFileMagic)]) != keyFileMagic {
		return nil, fmt.Errorf("read deployment key: %s is not a deployment key", path)
	}
	if v := b[len(keyFileMagic)]; v != keyFileVersion {
		return nil, fmt.Errorf("read deployment key: %w (key file version %d)", ErrNewer, v)
	}
	h, err := insecurecleartextkeyset.Read(keyset.NewBinaryReader(bytes.NewReader(b[len(keyFileMagic)+1:])))
	if err != nil {
		return nil, fmt.Errorf("read deployment key: %s is damaged", path)
	}
	return h, nil
}

func makeKeyFile(path string) (*keyset.Handle, error) {
	h, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("make deployment key: %w", err)
	}
	var buf bytes.Buffer
	buf.WriteString(keyFileMagic)
	buf.WriteByte(keyFileVersion)
	if err := insecurecleartextkeyset.Write(h, keyset.NewBinaryWriter(&buf)); err != nil {
		return nil, fmt.Errorf("make deployment key: %w", err)
	}
	defer clear(buf.Bytes())
	return h, durable.WriteFile(path, buf.Bytes(), 0o600)
}
