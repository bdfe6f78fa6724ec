package cryptofs

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// FuzzFileHeader: a header that is accepted encodes to what was read, and a
// refusal is always a FileError.
func FuzzFileHeader(f *testing.F) {
	for _, k := range []Kind{KindWAL, KindTable, KindMarker, KindOther} {
		h := FileHeader{Version: 1, Layout: k.layout(), Kind: k, KeyID: 7, Database: NewDatabaseID(), Number: 5}
		b := h.encode()
		f.Add(b[:])
		f.Add(b[:63])
	}
	f.Add([]byte(fileMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHeader("f", b)
		if err != nil {
			if !errors.Is(err, pebble.ErrCorruption) {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		if got := h.encode(); !bytes.Equal(got[:], b[:headerSize]) {
			t.Fatalf("%x encodes to %x", b[:headerSize], got)
		}
	})
}

// FuzzFrames: whatever stands behind the header of a log, what is read are whole
// leading payloads of what was written, and reading ends.
func FuzzFrames(f *testing.F) {
	mem := vfs.NewMem()
	fs := newTestFS(f, mem)
	w, err := fs.Create("000004.log", vfs.WriteCategoryUnspecified)
	must(f, err)
	var plain []byte
	borders := map[int]bool{0: true}
	for i := range 4 {
		payload := bytes.Repeat([]byte{byte(i + 1)}, 200*i)
		_, err := w.Write(bytes.Clone(payload))
		must(f, err)
		plain = append(plain, payload...)
		borders[len(plain)] = true
	}
	must(f, w.Close())
	stored := readBase(f, mem, "000004.log")
	tail := stored[framesStart:]
	f.Add(tail)
	f.Add(tail[:len(tail)-5])
	f.Add(append(bytes.Clone(tail), make([]byte, 600)...))
	f.Add(append(bytes.Clone(tail), tail...))
	f.Add(tail[52:])
	f.Fuzz(func(t *testing.T, b []byte) {
		mem := vfs.NewMem()
		writeBase(t, mem, "000004.log", append(bytes.Clone(stored[:framesStart]), b...))
		fs, err := New(mem, fs.opts)
		must(t, err)
		r, err := fs.Open("000004.log")
		must(t, err)
		got, err := io.ReadAll(r)
		if err != nil && !errors.Is(err, pebble.ErrCorruption) {
			t.Fatalf("refused with %v", err)
		}
		if !bytes.HasPrefix(plain, got) || !borders[len(got)] {
			t.Fatalf("read %d bytes that were never written so", len(got))
		}
		must(t, r.Close())
	})
}

// FuzzFrameHeader: an accepted frame header encodes to what was read.
func FuzzFrameHeader(f *testing.F) {
	var b [frameHeaderSize]byte
	h := frameHeader{length: 11, index: 3, pins: pins{durable: 2, lowest: 9, peer: 1, peerDurable: 4}}
	h.encode(b[:])
	f.Add(b[:])
	f.Add(b[:20])
	f.Fuzz(func(t *testing.T, b []byte) {
		h, ok := parseFrameHeader(b)
		if !ok {
			return
		}
		var got [frameHeaderSize]byte
		h.encode(got[:])
		if !bytes.Equal(got[:], b[:frameHeaderSize]) || h.length > maxFramePayload {
			t.Fatalf("%x encodes to %x", b[:frameHeaderSize], got)
		}
	})
}

// FuzzKeyring: parsing never panics, is bounded, and refuses as corruption.
func FuzzKeyring(f *testing.F) {
	mem := vfs.NewMem()
	mk := newMaster()
	k, err := CreateKeyring(mem, "k", testNode, mk)
	must(f, err)
	f.Add(readBase(f, mem, "k/keyring.1"))
	_, err = k.Add(NewDatabaseID())
	must(f, err)
	b := readBase(f, mem, "k/keyring.2")
	f.Add(b)
	f.Add(b[:len(b)-1])
	f.Fuzz(func(t *testing.T, b []byte) {
		kf, err := parseKeyring("k/keyring.2", b)
		if err != nil {
			if !errors.Is(err, pebble.ErrCorruption) {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		size := keyringHeader + keyringTrailer
		for _, r := range kf.records {
			size += recordHeader + len(r.sealed)
		}
		if size != len(b) {
			t.Fatalf("%d bytes parse to %d", len(b), size)
		}
		if _, err := kf.unseal("k/keyring.2", testNode, mk.Key); err != nil && !errors.Is(err, pebble.ErrCorruption) {
			t.Fatalf("refused with %v", err)
		}
	})
}

// FuzzName: every name gets one kind, and a name that is written by Pebble gets
// the number in it.
func FuzzName(f *testing.F) {
	for _, s := range []string{"000005.sst", "MANIFEST-1", "temporary.000003.dbtmp", "marker.a.000001.b", "LOCK", "marker.x", "000012-001.log"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := parseName(s)
		if err != nil {
			return
		}
		again, err := parseName(n.canonical)
		if err != nil || again != n || !n.kind.valid() || len(n.canonical) > maxName {
			t.Fatalf("%q is %+v, then %+v (%v)", s, n, again, err)
		}
	})
}
