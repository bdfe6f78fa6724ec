package cryptofs

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
)

const testNode = "65a0f0c2e4b0a1b2c3d4e5f6"

func newMaster() MasterKey { return MasterKey{ID: keys.NewKeyID(), Key: secret.Random(32)} }

// fetcher answers with the keys that it knows.
func fetcher(known ...MasterKey) func(keys.KeyID) (secret.Bytes, error) {
	return func(id keys.KeyID) (secret.Bytes, error) {
		for _, mk := range known {
			if mk.ID == id {
				return mk.Key, nil
			}
		}
		return secret.Bytes{}, fmt.Errorf("key %s is not known", id)
	}
}

func sameKeys(a, b *Keyset) bool {
	if a.primary != b.primary || len(a.keys) != len(b.keys) {
		return false
	}
	for id, k := range a.keys {
		if !k.Equal(b.keys[id]) {
			return false
		}
	}
	return true
}

func TestKeyringLife(t *testing.T) {
	mem := vfs.NewMem()
	mk := newMaster()
	if ok, err := KeyringExists(mem, "keys"); ok || err != nil {
		t.Fatal(ok, err)
	}
	k, err := CreateKeyring(mem, "keys", testNode, mk)
	must(t, err)
	if ok, err := KeyringExists(mem, "keys"); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if _, err := CreateKeyring(mem, "keys", testNode, mk); err == nil {
		t.Error("a keyring was created over another")
	}
	a, b := NewDatabaseID(), NewDatabaseID()
	ka, err := k.Add(a)
	must(t, err)
	kb, err := k.Add(b)
	must(t, err)
	if _, err := k.Add(a); err == nil {
		t.Error("a database got a second keyset")
	}
	if k.Generation() != 3 || k.MasterKeyID() != mk.ID || len(k.Databases()) != 2 {
		t.Errorf("generation %d, %d databases", k.Generation(), len(k.Databases()))
	}
	gen, id, records, err := InspectKeyring(mem, "keys/keyring.3")
	if gen != 3 || id != mk.ID || records != 2 || err != nil {
		t.Errorf("inspection: %d %s %d %v", gen, id, records, err)
	}
	mk2 := newMaster()
	must(t, k.Rewrap(mk2))
	must(t, k.Rewrap(mk2)) // repeated
	if err := k.Rewrap(MasterKey{ID: mk2.ID, Key: secret.Random(32)}); err == nil {
		t.Error("another key under the same identifier was taken")
	}
	must(t, k.Remove(b))
	must(t, k.Remove(b))
	k.Close()
	k.Close()
	if _, err := k.Add(b); !errors.Is(err, ErrKeyringClosed) {
		t.Errorf("Add after Close: %v", err)
	}
	if mk.Key.Equal(secret.New(make([]byte, 32))) || mk2.Key.Equal(secret.New(make([]byte, 32))) {
		t.Error("the caller's master key was wiped")
	}
	k, err = OpenKeyring(mem, "keys", testNode, fetcher(mk2))
	must(t, err)
	got, ok := k.Keyset(a)
	if !ok || !sameKeys(got, ka) || sameKeys(got, kb) {
		t.Error("the keyset is not the one that was made")
	}
	if _, ok := k.Keyset(b); ok {
		t.Error("a removed keyset is there")
	}
	names, err := mem.List("keys")
	must(t, err)
	if len(names) != 1 || k.Generation() != 5 {
		t.Errorf("generation %d, files %v", k.Generation(), names)
	}
	must(t, k.ConfirmGeneration(5))
	must(t, k.ConfirmGeneration(4))
	for _, recorded := range []uint64{3, 6} {
		if err := k.ConfirmGeneration(recorded); err == nil || !strings.Contains(err.Error(), fmt.Sprint(recorded)) || !strings.Contains(err.Error(), "found 5") {
			t.Errorf("catalogue names %d: %v", recorded, err)
		}
	}
}

func TestKeyringIsStoredAsDescribed(t *testing.T) {
	mem := vfs.NewMem()
	mk := newMaster()
	k, err := CreateKeyring(mem, "k", testNode, mk)
	must(t, err)
	var dbs []DatabaseID
	for range 3 {
		dbs = append(dbs, NewDatabaseID())
		_, err := k.Add(dbs[len(dbs)-1])
		must(t, err)
	}
	b := readBase(t, mem, "k/keyring.4")
	if string(b[:8]) != "KWKR\r\n\x1a\n" || b[8] != 1 || binary.BigEndian.Uint32(b[12:]) != 3 || binary.BigEndian.Uint64(b[16:]) != 4 {
		t.Fatalf("header %x", b[:64])
	}
	if want := append([]byte(mk.ID), make([]byte, 40-len(mk.ID))...); !bytes.Equal(b[24:64], want) {
		t.Errorf("identifier %q", b[24:64])
	}
	block, err := aes.NewCipher(mk.Key.Reveal())
	must(t, err)
	gcm, err := cipher.NewGCM(block)
	must(t, err)
	open := func(sealed []byte, aad string) []byte {
		pt, err := gcm.Open(nil, sealed[:12], sealed[12:], []byte(aad))
		if err != nil {
			t.Fatal(err)
		}
		return pt
	}
	open(b[len(b)-28:], "keywright/keyring/v1|node="+testNode+string(b[:len(b)-28]))
	at := 64
	for range 3 {
		db := DatabaseID(b[at : at+16])
		n := int(binary.BigEndian.Uint32(b[at+16:]))
		sealed := b[at+20 : at+20+n]
		// EncryptedKeyset: field 2, bytes; the length is one varint of two bytes.
		if sealed[0] != 0x12 || n < 3 {
			t.Fatalf("record %x", sealed)
		}
		size, width := binary.Uvarint(sealed[1:])
		pt := open(sealed[1+width:1+width+int(size)], fmt.Sprintf("keywright/keyset/v1|node=%s|db=%x|gen=4", testNode, db[:]))
		ks, ok := k.Keyset(db)
		if !ok || !bytes.Contains(pt, ks.keys[ks.primary].Reveal()) || !bytes.Contains(pt, []byte("AesGcmHkdfStreamingKey")) {
			t.Errorf("keyset of %s", db)
		}
		if bytes.Contains(b, ks.keys[ks.primary].Reveal()) || bytes.Contains(b, mk.Key.Reveal()) {
			t.Error("a key stands in clear")
		}
		at += 20 + n
	}
	if at != len(b)-28 {
		t.Errorf("records end at %d of %d", at, len(b))
	}
}

func TestKeyringRefusesWhatIsNotItsOwn(t *testing.T) {
	mem := vfs.NewMem()
	mk := newMaster()
	k, err := CreateKeyring(mem, "k", testNode, mk)
	must(t, err)
	db, db2 := NewDatabaseID(), NewDatabaseID()
	_, err = k.Add(db)
	must(t, err)
	older := readBase(t, mem, "k/keyring.2")
	_, err = k.Add(db2)
	must(t, err)
	path := "k/keyring.3"
	open := func(node string, mk MasterKey) error {
		k, err := OpenKeyring(mem, "k", node, fetcher(mk))
		if err == nil {
			k.Close()
		}
		return err
	}
	must(t, open(testNode, mk))
	if err := open(testNode, MasterKey{ID: mk.ID, Key: secret.Random(32)}); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("wrong master key: %v", err)
	}
	if err := open(testNode, newMaster()); err == nil || !strings.Contains(err.Error(), string(mk.ID)) {
		t.Errorf("unknown master key: %v", err)
	}
	if err := open("another-node", mk); !errors.Is(err, pebble.ErrCorruption) {
		t.Errorf("another node: %v", err)
	}
	whole := readBase(t, mem, path)
	put := func(b []byte) { writeBase(t, mem, path, b) }
	refused := func(what string) {
		t.Helper()
		if err := open(testNode, mk); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range whole {
		b := bytes.Clone(whole)
		b[i] ^= 1
		put(b)
		if err := open(testNode, mk); err == nil {
			t.Errorf("a bit flipped at %d", i)
		}
	}
	for _, n := range []int{0, 10, 64, 91, 92, len(whole) - 28, len(whole) - 1} {
		put(whole[:n])
		refused(fmt.Sprintf("cut at %d", n))
	}
	put(append(bytes.Clone(whole), 0))
	refused("a byte appended")
	// A record taken out, with the count corrected.
	n := recordHeader + int(binary.BigEndian.Uint32(whole[80:]))
	b := append(bytes.Clone(whole[:64]), whole[64+n:]...)
	binary.BigEndian.PutUint32(b[12:], 1)
	put(b)
	refused("a record taken out")
	// The generation before under the new name, and with the new number.
	put(older)
	refused("an older generation under a newer name")
	b = bytes.Clone(older)
	binary.BigEndian.PutUint64(b[16:], 3)
	put(b)
	refused("an older generation with a newer number")
	b = bytes.Clone(whole)
	b[8] = 2
	put(b)
	if err := open(testNode, mk); !errors.Is(err, ErrNewerFormat) {
		t.Errorf("newer version: %v", err)
	}
	put(whole)
	must(t, open(testNode, mk))
}

func TestKeyringFallsBackOnlyFromADamagedGeneration(t *testing.T) {
	mem := vfs.NewMem()
	mk := newMaster()
	k, err := CreateKeyring(mem, "k", testNode, mk)
	must(t, err)
	_, err = k.Add(NewDatabaseID())
	must(t, err)
	two := readBase(t, mem, "k/keyring.2")
	must(t, k.Rewrap(newMaster())) // a master key that cannot be had now
	writeBase(t, mem, "k/keyring.2", two)
	if _, err := OpenKeyring(mem, "k", testNode, fetcher(mk)); err == nil {
		t.Error("an unavailable master key led to the generation before")
	}
	three := readBase(t, mem, "k/keyring.3")
	three[len(three)-1] ^= 1
	three[3] ^= 1
	writeBase(t, mem, "k/keyring.3", three)
	old, err := OpenKeyring(mem, "k", testNode, fetcher(mk))
	must(t, err)
	if old.Generation() != 2 {
		t.Errorf("generation %d", old.Generation())
	}
	if err := old.ConfirmGeneration(3); err == nil {
		t.Error("the catalogue knows a newer generation than was opened")
	}
	// The file that did not open is kept until the catalogue agrees.
	if _, err := mem.Stat("k/keyring.3"); err != nil {
		t.Error(err)
	}
	must(t, old.ConfirmGeneration(2))
	if names, err := mem.List("k"); err != nil || len(names) != 1 {
		t.Error(names, err)
	}
	if _, err := OpenKeyring(mem, "empty", testNode, fetcher(mk)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no keyring: %v", err)
	}
}

func TestKeyringAndKeysetPrintNothing(t *testing.T) {
	mk := newMaster()
	k, err := CreateKeyring(vfs.NewMem(), "k", testNode, mk)
	must(t, err)
	ks, err := k.Add(NewDatabaseID())
	must(t, err)
	raw := ks.keys[ks.primary].Reveal()
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("made", "keyset", ks, "keyring", k, "options", Options{Keyset: ks})
	for _, out := range []string{
		fmt.Sprintf("%v %+v %#v %s %x", ks, ks, ks, ks, ks), fmt.Sprintf("%v %+v %#v", k, k, k),
		fmt.Sprintf("%+v", Options{Keyset: ks}), fmt.Sprintf("%+v", mk), log.String(),
	} {
		for _, secretBytes := range [][]byte{raw, mk.Key.Reveal()} {
			if strings.Contains(out, fmt.Sprintf("%x", secretBytes)) || strings.Contains(out, strings.Trim(fmt.Sprint(secretBytes), "[]")) || strings.Contains(out, string(secretBytes)) { //nolint:staticcheck // the decimal print of the bytes is what is looked for
				t.Errorf("printed: %s", out)
			}
		}
	}
	if _, err := json.Marshal(ks); err == nil {
		t.Error("a keyset was marshalled")
	}
}

func TestConcurrentUseOfAKeyring(t *testing.T) {
	k, err := CreateKeyring(vfs.NewMem(), "k", testNode, newMaster())
	must(t, err)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 5 {
				db := NewDatabaseID()
				if _, err := k.Add(db); err != nil {
					t.Error(err)
				}
				if _, ok := k.Keyset(db); !ok {
					t.Error("an added keyset is not there")
				}
				k.Databases()
			}
		})
	}
	wg.Wait()
	if len(k.Databases()) != 20 || k.Generation() != 21 {
		t.Errorf("%d databases, generation %d", len(k.Databases()), k.Generation())
	}
}

func TestDatabaseIDs(t *testing.T) {
	id := NewDatabaseID()
	got, err := ParseDatabaseID(id.String())
	if err != nil || got != id || len(id.String()) != 32 || NewDatabaseID() == id {
		t.Errorf("%s: %v", id, err)
	}
	for _, bad := range []string{"", "00", strings.ToUpper("a" + id.String()[1:]), id.String() + "00", "zz" + id.String()[2:]} {
		if _, err := ParseDatabaseID(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestMasterKeyIsWipedWhenItIsNotNeededAnyMore(t *testing.T) {
	k, err := CreateKeyring(vfs.NewMem(), "k", testNode, newMaster())
	must(t, err)
	zero := secret.New(make([]byte, 32))
	first := k.master.Key
	must(t, k.Rewrap(newMaster()))
	if !first.Equal(zero) {
		t.Error("the old master key is still in memory after Rewrap")
	}
	second := k.master.Key
	if second.Equal(zero) {
		t.Fatal("the new master key was wiped")
	}
	k.Close()
	if !second.Equal(zero) {
		t.Error("the master key is still in memory after Close")
	}
}
