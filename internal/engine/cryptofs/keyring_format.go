package cryptofs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/tink-crypto/tink-go/v2/aead/subtle"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
)

const (
	keyringMagic      = "KWKR\r\n\x1a\n"
	keyringVersion    = 1
	keyringHeader     = 64
	keyringIDSize     = 40
	keyringTrailer    = 12 + tagSize
	recordHeader      = 16 + 4
	masterKeySize     = 32
	maxKeyringRecords = 1 << 16
	maxSealedKeyset   = 64 << 10
	// maxKeyring bounds a keyring file that is read.
	maxKeyring = 64 << 20
)

// keyringFile is a keyring file whose form was checked. Nothing in it is proven
// until verify.
type keyringFile struct {
	generation uint64
	master     keys.KeyID
	records    []keyringRecord
	signed     []byte // all bytes before the trailer
	trailer    []byte
}

type keyringRecord struct {
	db     DatabaseID
	sealed []byte
}

// parseKeyring checks the form of a keyring file.
func parseKeyring(path string, b []byte) (*keyringFile, error) {
	if len(b) < keyringHeader+keyringTrailer {
		return nil, refuse(path, int64(len(b)), nil, "a keyring of at least %d bytes", keyringHeader+keyringTrailer)
	}
	if !bytes.Equal(b[:8], []byte(keyringMagic)) {
		return nil, refuse(path, 0, nil, "the magic of a keyring")
	}
	if b[8] > keyringVersion {
		return nil, refuse(path, 8, ErrNewerFormat, "keyring version %d, found %d", keyringVersion, b[8])
	}
	if b[8] != keyringVersion {
		return nil, refuse(path, 8, nil, "keyring version %d, found %d", keyringVersion, b[8])
	}
	if !zeros(b[9:12]) {
		return nil, refuse(path, 9, nil, "zeros")
	}
	kf := &keyringFile{generation: binary.BigEndian.Uint64(b[16:]), trailer: b[len(b)-keyringTrailer:]}
	kf.signed = b[:len(b)-keyringTrailer]
	if kf.generation == 0 {
		return nil, refuse(path, 16, nil, "a generation from 1 on")
	}
	id := b[24 : 24+keyringIDSize]
	if end := bytes.IndexByte(id, 0); end >= 0 {
		if !zeros(id[end:]) {
			return nil, refuse(path, int64(24+end), nil, "a key identifier padded with zeros")
		}
		id = id[:end]
	}
	kf.master = keys.KeyID(id)
	if err := checkMasterID(kf.master); err != nil {
		return nil, refuse(path, 24, err, "the identifier of a master key")
	}
	return kf, kf.parseRecords(path, binary.BigEndian.Uint32(b[12:]))
}

func (kf *keyringFile) parseRecords(path string, count uint32) error {
	if count > maxKeyringRecords {
		return refuse(path, 12, nil, "at most %d records, found %d", maxKeyringRecords, count)
	}
	seen := map[DatabaseID]bool{}
	rest := kf.signed[keyringHeader:]
	at := func() int64 { return int64(len(kf.signed) - len(rest)) }
	for i := range count {
		if len(rest) < recordHeader {
			return refuse(path, at(), nil, "record %d of %d", i+1, count)
		}
		r := keyringRecord{db: DatabaseID(rest[:16])}
		n := binary.BigEndian.Uint32(rest[16:])
		if n > maxSealedKeyset || int64(n) > int64(len(rest)-recordHeader) {
			return refuse(path, at()+16, nil, "a sealed keyset that fits, found length %d", n)
		}
		if seen[r.db] {
			return refuse(path, at(), nil, "each database once, found %s again", r.db)
		}
		seen[r.db] = true
		r.sealed = rest[recordHeader : recordHeader+n]
		rest = rest[recordHeader+n:]
		kf.records = append(kf.records, r)
	}
	if len(rest) != 0 {
		return refuse(path, at(), nil, "the end of %d records", count)
	}
	return nil
}

func checkMasterID(id keys.KeyID) error {
	if id == "" || len(id) > keyringIDSize || strings.IndexFunc(string(id), func(r rune) bool { return r < '!' || r > '~' }) >= 0 {
		return fmt.Errorf("%q is not a key identifier of 1 to %d printable bytes", string(id), keyringIDSize)
	}
	return nil
}

func checkMasterKey(mk MasterKey) error {
	if err := checkMasterID(mk.ID); err != nil {
		return err
	}
	if mk.Key.Len() != masterKeySize {
		return fmt.Errorf("master key %s has %d bytes, %d are needed", mk.ID, mk.Key.Len(), masterKeySize)
	}
	return nil
}

// checkNode refuses an identifier that would make associated data ambiguous.
func checkNode(node string) error {
	if node == "" || len(node) > 256 || strings.ContainsAny(node, "|\x00") {
		return fmt.Errorf("%q is not a node identifier", node)
	}
	return nil
}

func trailerAAD(node string, signed []byte) []byte {
	return slices.Concat([]byte("keywright/keyring/v1|node="+node), signed)
}

func recordAAD(node string, db DatabaseID, gen uint64) []byte {
	return fmt.Appendf(nil, "keywright/keyset/v1|node=%s|db=%s|gen=%d", node, db, gen)
}

// sealKeyring encodes a generation: every keyset sealed anew.
func sealKeyring(node string, gen uint64, mk MasterKey, sets map[DatabaseID]*Keyset) ([]byte, error) {
	if len(sets) > maxKeyringRecords {
		return nil, fmt.Errorf("a keyring holds at most %d keysets", maxKeyringRecords)
	}
	master, err := subtle.NewAESGCM(mk.Key.Reveal())
	if err != nil {
		return nil, fmt.Errorf("make the master cipher: %w", err)
	}
	b := make([]byte, keyringHeader)
	copy(b, keyringMagic)
	b[8] = keyringVersion
	binary.BigEndian.PutUint32(b[12:], uint32(len(sets))) //nolint:gosec // checked above
	binary.BigEndian.PutUint64(b[16:], gen)
	copy(b[24:], mk.ID)
	for _, db := range sortedIDs(sets) {
		var sealed bytes.Buffer
		err := sets[db].handle.WriteWithAssociatedData(keyset.NewBinaryWriter(&sealed), master, recordAAD(node, db, gen))
		if err != nil {
			return nil, fmt.Errorf("seal the keyset of database %s: %w", db, err)
		}
		if sealed.Len() > maxSealedKeyset {
			return nil, fmt.Errorf("seal the keyset of database %s: %d bytes are more than %d", db, sealed.Len(), maxSealedKeyset)
		}
		b = append(b, db[:]...)
		b = binary.BigEndian.AppendUint32(b, uint32(sealed.Len())) //nolint:gosec // checked above
		b = append(b, sealed.Bytes()...)
	}
	trailer, err := master.Encrypt(nil, trailerAAD(node, b))
	if err != nil {
		return nil, fmt.Errorf("seal the keyring: %w", err)
	}
	return append(b, trailer...), nil
}

func sortedIDs(sets map[DatabaseID]*Keyset) []DatabaseID {
	ids := make([]DatabaseID, 0, len(sets))
	for db := range sets {
		ids = append(ids, db)
	}
	slices.SortFunc(ids, func(a, b DatabaseID) int { return bytes.Compare(a[:], b[:]) })
	return ids
}

// unseal proves the whole file under the master key and opens its keysets.
func (kf *keyringFile) unseal(path, node string, master secret.Bytes) (map[DatabaseID]*Keyset, error) {
	if master.Len() != masterKeySize {
		return nil, fmt.Errorf("master key %s has %d bytes, %d are needed", kf.master, master.Len(), masterKeySize)
	}
	cipher, err := subtle.NewAESGCM(master.Reveal())
	if err != nil {
		return nil, fmt.Errorf("make the master cipher: %w", err)
	}
	if _, err := cipher.Decrypt(kf.trailer, trailerAAD(node, kf.signed)); err != nil {
		return nil, refuse(path, int64(len(kf.signed)), nil,
			"the keyring of node %s to authenticate under master key %s (wrong key, another node's keyring, or damage)", node, kf.master)
	}
	sets := make(map[DatabaseID]*Keyset, len(kf.records))
	off := int64(keyringHeader)
	for _, r := range kf.records {
		h, err := keyset.ReadWithAssociatedData(keyset.NewBinaryReader(bytes.NewReader(r.sealed)), cipher, recordAAD(node, r.db, kf.generation))
		if err != nil {
			return nil, refuse(path, off, nil, "the keyset of database %s to authenticate", r.db)
		}
		if sets[r.db], err = newKeyset(h); err != nil {
			return nil, refuse(path, off, err, "a usable keyset of database %s", r.db)
		}
		off += recordHeader + int64(len(r.sealed))
	}
	return sets, nil
}
