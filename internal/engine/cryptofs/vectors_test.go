package cryptofs

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/tink-crypto/tink-go/v2/aead/subtle"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/streamingaead"
)

// The test vectors of the format description (FORMATS.md). They were made by
// another implementation; never regenerate them with this one.
const (
	vectorSealed = "129c01e72802ce65d49079b2696d6291be3db21721b3f335145a323f17cdef89985db1042fcd8464e9ecb93b99fe0d6a964beeef7b2571a65d961d602b588a2c8d77e1859fb1c5e6d2c85192c33eed9286a93f00ad74411a76a95ccfd986aa3efc18b7fe191c6548ee84b93ab8a9416ae7073657f8b844028c110aa5ac2fe9ae145530c91374e03b540f63fbe72769ab6f27cee907bfd2a70ed379998c3841"
	vectorFrames = "4b4600000000000b00000000000000000000000000000002000000010000000982fd925fd964a6aaea70429572de699d0b80b653daddd21d246f9017dbf828" +
		"4b46000000000000000000010000000100000000000000040000000100000009e55a5d01009d6a828cc0e2a267588960c03d996a" +
		"4b46000000000005000000020000000200000000000000040000000100000009848e5a3e9780da54a51fb7a460eb3af2bee7100d10498348e9"
)

func vectorKeyset(t testing.TB) *Keyset {
	t.Helper()
	sealed, err := hex.DecodeString(vectorSealed)
	must(t, err)
	master, err := subtle.NewAESGCM(bytes.Repeat([]byte{0x42}, 32))
	must(t, err)
	h, err := keyset.ReadWithAssociatedData(keyset.NewBinaryReader(bytes.NewReader(sealed)), master, []byte("keywright/keyset/v1"))
	must(t, err)
	ks, err := newKeyset(h)
	must(t, err)
	return ks
}

func vectorDatabase() DatabaseID {
	var db DatabaseID
	for i := range db {
		db[i] = byte(0xd0 + i)
	}
	return db
}

// vectorFS writes with the salt that starts at first and the vectors' prefix.
func vectorFS(t testing.TB, base vfs.FS, first byte) *FS {
	t.Helper()
	fs, err := New(base, Options{Database: vectorDatabase(), Keyset: vectorKeyset(t)})
	must(t, err)
	var random []byte
	for i := range 32 {
		random = append(random, first+byte(i))
	}
	fs.random = bytes.NewReader(append(random, 1, 2, 3, 4, 5, 6, 7))
	return fs
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func readBase(t testing.TB, fs vfs.FS, name string) []byte {
	t.Helper()
	f, err := fs.Open(name)
	must(t, err)
	b, err := io.ReadAll(f)
	must(t, err)
	must(t, f.Close())
	return b
}

func writeBase(t testing.TB, fs vfs.FS, name string, b []byte) {
	t.Helper()
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	must(t, err)
	_, err = f.Write(bytes.Clone(b))
	must(t, err)
	must(t, f.Sync())
	must(t, f.Close())
}

func TestVectorKeyset(t *testing.T) {
	ks := vectorKeyset(t)
	var want []byte
	for i := range 32 {
		want = append(want, byte(i))
	}
	if ks.Primary() != 0x01020304 || !bytes.Equal(ks.keys[ks.Primary()].Reveal(), want) {
		t.Fatalf("primary key %08x or its bytes are wrong", ks.Primary())
	}
}

var segmentVectors = []struct {
	name   string
	salt   byte
	plain  []byte
	size   int
	tail   string // bytes from 104 on, in hexadecimal
	sha256 string
}{
	{"marker.manifest.000001.MANIFEST-000001", 0x10, nil, 120, "af6259944be05927f18e0c294521e8e4", ""},
	{
		"OPTIONS-000003", 0x20, []byte("[Version]\n  pebble_version=0.1\n"), 151,
		"e9bb18b2c7526ef4b384bdaf305ba04483f98c39140dc89b585d416944fb36a124cdb4211b069fb4b23001e131d862", "",
	},
	{"000005.sst", 0x30, pattern(10000), 14184, "", "46efd527745e850833366b052393b5e9059873a04695e4e907adf1eb3811eb46"},
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i % 251)
	}
	return b
}

func TestVectorsOfSegments(t *testing.T) {
	for _, v := range segmentVectors {
		t.Run(v.name, func(t *testing.T) {
			mem := vfs.NewMem()
			fs := vectorFS(t, mem, v.salt)
			f, err := fs.Create(v.name, vfs.WriteCategoryUnspecified)
			must(t, err)
			_, err = f.Write(v.plain)
			must(t, err)
			must(t, f.Close())
			stored := readBase(t, mem, v.name)
			if len(stored) != v.size {
				t.Errorf("%d bytes are stored, want %d", len(stored), v.size)
			}
			if v.tail != "" && hex.EncodeToString(stored[104:]) != v.tail {
				t.Errorf("stored %x", stored[104:])
			}
			if v.sha256 != "" && fmt.Sprintf("%x", sha256.Sum256(stored)) != v.sha256 {
				t.Errorf("stored file has sha256 %x", sha256.Sum256(stored))
			}
			if got := readBase(t, fs, v.name); !bytes.Equal(got, v.plain) {
				t.Errorf("read back %d bytes", len(got))
			}
			if got := tinkDecrypt(t, fs, v.name, stored); !bytes.Equal(got, v.plain) {
				t.Errorf("Tink reads %d bytes", len(got))
			}
		})
	}
}

// tinkDecrypt reads a file of segments with Tink's own streaming AEAD.
func tinkDecrypt(t *testing.T, fs *FS, name string, stored []byte) []byte {
	t.Helper()
	a, err := streamingaead.New(fs.opts.Keyset.handle)
	must(t, err)
	n, err := parseName(name)
	must(t, err)
	info := append([]byte("keywright/file/v1"), stored[:64]...)
	info = append(info, byte(len(n.canonical)>>8), byte(len(n.canonical)))
	info = append(info, n.canonical...)
	r, err := a.NewDecryptingReader(bytes.NewReader(stored[streamStart(n.kind.layout()):]), info)
	must(t, err)
	got, err := io.ReadAll(r)
	must(t, err)
	return got
}

func TestVectorOfFrames(t *testing.T) {
	mem := vfs.NewMem()
	fs := vectorFS(t, mem, 0x40)
	base, err := mem.Create("000004.log", vfs.WriteCategoryUnspecified)
	must(t, err)
	n, err := parseName("000004.log")
	must(t, err)
	f, err := fs.newWriter(base, "000004.log", n, FileHeader{PreviousLog: 2, LowestLog: 2, PreviousDurable: 7})
	must(t, err)
	w := f.(*frameWriter)
	must(t, w.frame([]byte("first frame"), pins{durable: 0, lowest: 2, peer: 1, peerDurable: 9}))
	must(t, w.frame(nil, pins{durable: 1, lowest: 4, peer: 1, peerDurable: 9}))
	must(t, w.frame([]byte("third"), pins{durable: 2, lowest: 4, peer: 1, peerDurable: 9}))
	must(t, w.Close())
	stored := readBase(t, mem, "000004.log")
	if got := hex.EncodeToString(stored[104:]); got != vectorFrames {
		t.Errorf("frames\n%s, want\n%s", got, vectorFrames)
	}
	if got := fmt.Sprintf("%x", sha256.Sum256(stored)); len(stored) != 276 || got != "cd41d6b72d17c287a1b1019de97ad9f036e3d1677c19d2b5086c731702765e70" {
		t.Errorf("%d bytes with sha256 %s", len(stored), got)
	}
	if got := readBase(t, fs, "000004.log"); string(got) != "first framethird" {
		t.Errorf("read back %q", got)
	}
	h, err := InspectFile(mem, "000004.log")
	must(t, err)
	if h.PreviousLog != 2 || h.LowestLog != 2 || h.PreviousDurable != 7 || h.KeyID != 0x01020304 || h.Database != vectorDatabase() {
		t.Errorf("header %+v", h)
	}
}
