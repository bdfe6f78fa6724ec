package cryptofs

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/tink-crypto/tink-go/v2/insecuresecretdataaccess"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/streamingaead"
	"github.com/tink-crypto/tink-go/v2/streamingaead/aesgcmhkdf"

	"github.com/keywright/keywright/internal/secret"
)

const (
	dataKeySize = 32
	fileKeySize = 32
	segmentSize = 1 << segmentLog
	infoLabel   = "keywright/file/v1"
)

// Keyset holds the data keys of one database by Tink key id, one of them
// primary: new files use it, old files name theirs. Its keys change with the
// Keyring that it came from, for every FS that uses it at once. It prints as
// "[redacted]", cannot be serialized except sealed in a Keyring, and is safe for
// concurrent use.
type Keyset struct {
	mu      sync.RWMutex
	handle  *keyset.Handle
	primary uint32
	keys    map[uint32]secret.Bytes
	open    map[*openFile]struct{} // files that are being written

	seenMu sync.Mutex
	seen   map[string]seenFile // headers of files that do not change any more
}

// NewKeyset makes a keyset with one fresh key that lives in memory only: for
// files that need not outlive the process. Keyring.Add makes the lasting ones.
func NewKeyset() (*Keyset, error) {
	h, err := keyset.NewHandle(streamingaead.AES256GCMHKDF4KBKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("make a keyset: %w", err)
	}
	return newKeyset(h)
}

// newKeyset takes the data keys out of a Tink keyset and refuses keys of any
// other type than AES256-GCM-HKDF-SHA256 with 4-KiB segments.
func newKeyset(h *keyset.Handle) (*Keyset, error) {
	ks := &Keyset{handle: h, keys: make(map[uint32]secret.Bytes, h.Len())}
	p, err := h.Primary()
	if err != nil {
		return nil, fmt.Errorf("read a keyset: %w", err)
	}
	ks.primary = p.KeyID()
	for i := range h.Len() {
		e, err := h.Entry(i)
		if err != nil {
			return nil, fmt.Errorf("read a keyset: %w", err)
		}
		if e.KeyStatus() != keyset.Enabled {
			continue
		}
		raw, err := rawKey(e)
		if err != nil {
			return nil, err
		}
		if _, twice := ks.keys[e.KeyID()]; twice {
			return nil, fmt.Errorf("read a keyset: key id %08x stands in it twice", e.KeyID())
		}
		ks.keys[e.KeyID()] = raw
	}
	if _, ok := ks.keys[ks.primary]; !ok {
		return nil, errors.New("read a keyset: the primary key is not enabled")
	}
	return ks, nil
}

func rawKey(e *keyset.Entry) (secret.Bytes, error) {
	k, ok := e.Key().(*aesgcmhkdf.Key)
	if !ok {
		return secret.Bytes{}, fmt.Errorf("read a keyset: key %08x is not of type AesGcmHkdfStreamingKey", e.KeyID())
	}
	p, ok := k.Parameters().(*aesgcmhkdf.Parameters)
	if !ok || p.KeySizeInBytes() != dataKeySize || p.DerivedKeySizeInBytes() != fileKeySize ||
		p.HKDFHashType() != aesgcmhkdf.SHA256 || p.SegmentSizeInBytes() != segmentSize {
		return secret.Bytes{}, fmt.Errorf("read a keyset: key %08x has other parameters than AES256-GCM-HKDF-SHA256 with 4-KiB segments", e.KeyID())
	}
	return secret.New(k.KeyBytes().Data(insecuresecretdataaccess.Token{})), nil
}

// Primary is the id of the key that new files are written under.
func (k *Keyset) Primary() uint32 {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.primary
}

// aead derives the key of one file and makes its cipher. header is the clear
// header, stream the 40 bytes before the first message.
func (k *Keyset) aead(keyID uint32, header, stream []byte, name string) (cipher.AEAD, error) {
	k.mu.RLock()
	dataKey, ok := k.keys[keyID]
	k.mu.RUnlock()
	if !ok {
		return nil, ErrUnknownKey
	}
	info := make([]byte, 0, len(infoLabel)+headerSize+2+len(name))
	info = append(info, infoLabel...)
	info = append(info, header[:headerSize]...)
	info = binary.BigEndian.AppendUint16(info, uint16(len(name))) //nolint:gosec // parseName bounds names
	info = append(info, name...)
	fileKey, err := hkdf.Key(sha256.New, dataKey.Reveal(), stream[1:1+saltSize], string(info), fileKeySize)
	if err != nil {
		return nil, fmt.Errorf("derive a file key: %w", err)
	}
	defer clear(fileKey)
	block, err := aes.NewCipher(fileKey)
	if err != nil {
		return nil, fmt.Errorf("make a file cipher: %w", err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("make a file cipher: %w", err)
	}
	return gcm, nil
}

// String implements fmt.Stringer.
func (*Keyset) String() string { return secret.Redacted }

// GoString implements fmt.GoStringer.
func (*Keyset) GoString() string { return secret.Redacted }

// Format implements fmt.Formatter, so that no verb shows the content.
func (*Keyset) Format(w fmt.State, _ rune) { _, _ = io.WriteString(w, secret.Redacted) }

// LogValue implements slog.LogValuer.
func (*Keyset) LogValue() slog.Value { return slog.StringValue(secret.Redacted) }

// MarshalJSON always fails.
func (*Keyset) MarshalJSON() ([]byte, error) { return nil, secret.ErrNotSerializable }

// MarshalText always fails.
func (*Keyset) MarshalText() ([]byte, error) { return nil, secret.ErrNotSerializable }

// MarshalBinary always fails.
func (*Keyset) MarshalBinary() ([]byte, error) { return nil, secret.ErrNotSerializable }
