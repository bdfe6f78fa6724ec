package envelope_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/envelope"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/kms/kmstest"
	"github.com/keywright/keywright/internal/secret"
)

func masterKey(node keys.NodeID) keys.Context {
	return keys.Context{Deployment: "d", Project: "p", Cluster: "c", Node: node, Purpose: keys.PurposeMasterKey, Key: "kw-0123456789abcdef0123456789abcdef"}
}

func open(t *testing.T) (*kmstest.Cloud, kms.Target, kms.Session) {
	t.Helper()
	c := kmstest.NewCloud()
	target := c.Project()
	s, err := c.Assume(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	return c, target, s
}

func TestWrapAndUnwrap(t *testing.T) {
	c, target, s := open(t)
	key := secret.Random(32)
	w, err := envelope.Wrap(t.Context(), s, masterKey("n1"), key)
	if err != nil || w.KeyARN != target.KeyID || w.Version != envelope.Version || time.Since(w.Created) > time.Minute {
		t.Fatalf("%+v, %v", w, err)
	}
	calls := c.Calls()
	last := calls[len(calls)-1]
	if last.Operation != kms.OpDecrypt || last.Context[keys.ContextNode] != "n1" || len(last.Context) != 6 {
		t.Errorf("Wrap did not open what it made: %+v", last)
	}
	back, err := envelope.Unwrap(t.Context(), s, masterKey("n1"), w)
	if err != nil || !back.Equal(key) {
		t.Fatal(err)
	}
}

func TestWrappedKeyBelongsToItsOwner(t *testing.T) {
	_, _, s := open(t)
	w, err := envelope.Wrap(t.Context(), s, masterKey("n1"), secret.Random(32))
	if err != nil {
		t.Fatal(err)
	}
	other := masterKey("n1")
	other.Key = keys.NewKeyID()
	for _, kctx := range []keys.Context{masterKey("n2"), other, keys.ProbeContext("d", "p")} {
		if _, err := envelope.Unwrap(t.Context(), s, kctx, w); !errors.Is(err, &kms.Failure{Reason: kms.CiphertextMismatch}) {
			t.Errorf("opened for %+v: %v", kctx, err)
		}
	}
}

func TestUnwrapSaysWhyItIsRefused(t *testing.T) {
	c, target, s := open(t)
	w, err := envelope.Wrap(t.Context(), s, masterKey("n1"), secret.Random(32))
	if err != nil {
		t.Fatal(err)
	}
	c.SetState(target.KeyID, "Disabled")
	_, err = envelope.Unwrap(t.Context(), s, masterKey("n1"), w)
	if f := kms.AsFailure(err); f.Outcome != kms.Revoked || f.Reason != kms.KeyDisabled {
		t.Errorf("got %v", err)
	}
	if _, err := envelope.Wrap(t.Context(), s, masterKey("n1"), secret.Random(32)); !errors.Is(err, &kms.Failure{Reason: kms.KeyDisabled}) {
		t.Errorf("got %v", err)
	}
}

// faulty encrypts and then cannot open, or opens to something else.
type faulty struct {
	kms.Session
	err error
}

func (f faulty) Decrypt(context.Context, []byte, map[string]string) (secret.Bytes, error) {
	return secret.Random(32), f.err
}

func TestWrapGivesNothingThatDoesNotOpen(t *testing.T) {
	_, _, s := open(t)
	for _, err := range []error{nil, &kms.Failure{Outcome: kms.Unreachable, Reason: kms.Timeout}} {
		w, got := envelope.Wrap(t.Context(), faulty{s, err}, masterKey("n1"), secret.Random(32))
		if got == nil || w.Ciphertext != nil {
			t.Errorf("wrapped %+v although it does not open", w)
		}
	}
}

func TestSizesAreBounded(t *testing.T) {
	_, _, s := open(t)
	for _, n := range []int{0, kms.MaxPlaintext + 1} {
		if _, err := envelope.Wrap(t.Context(), s, masterKey("n"), secret.Random(n)); err == nil {
			t.Errorf("%d bytes were wrapped", n)
		}
	}
	for _, n := range []int{0, kms.MaxCiphertext + 1} {
		w := sample()
		w.Ciphertext = make([]byte, n)
		if _, err := envelope.Unwrap(t.Context(), s, masterKey("n"), w); !errors.Is(err, envelope.ErrDamaged) {
			t.Errorf("a ciphertext of %d bytes: %v", n, err)
		}
		if _, err := w.MarshalBinary(); err == nil {
			t.Errorf("a ciphertext of %d bytes was encoded", n)
		}
	}
}

func sample() envelope.Wrapped {
	return envelope.Wrapped{
		Version: 1, KeyARN: "arn:aws:kms:eu-west-1:111122223333:key/1234abcd", Ciphertext: []byte{1, 2, 3, 0xff},
		Created: time.UnixMilli(1_767_225_600_123).UTC(),
	}
}

// golden is sample in version 1 of the format, with its checksum. It never changes.
const golden = "4b57574b" + "01" + "0000019b76daa87b" +
	"002f" + "61726e3a6177733a6b6d733a65752d776573742d313a3131313132323232333333333a6b65792f3132333461626364" +
	"0004" + "010203ff" +
	"c2dfe81d1887739a33f49bc0cbdf26f4dc4673840f2a1f6063d67b5628c434b8"

func TestFormatIsFixed(t *testing.T) {
	b, err := sample().MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(b); got != golden {
		t.Errorf("format is\n%s, want\n%s", got, golden)
	}
	stored, err := hex.DecodeString(golden)
	if err != nil {
		t.Fatal(err)
	}
	var back envelope.Wrapped
	if err := back.UnmarshalBinary(stored); err != nil || !same(back, sample()) {
		t.Errorf("%+v, %v", back, err)
	}
}

func same(a, b envelope.Wrapped) bool {
	return a.Version == b.Version && a.KeyARN == b.KeyARN && a.Created.Equal(b.Created) && bytes.Equal(a.Ciphertext, b.Ciphertext)
}

func TestJSONIsTheBinaryFormInBase64(t *testing.T) {
	b, err := json.Marshal(map[string]envelope.Wrapped{"w": sample()})
	if err != nil || !strings.HasPrefix(string(b), `{"w":"S1dXSwE`) {
		t.Fatalf("%s, %v", b, err)
	}
	var back map[string]envelope.Wrapped
	if err := json.Unmarshal(b, &back); err != nil || !same(back["w"], sample()) {
		t.Fatalf("%+v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`{"w":"S1dXSwE"}`), &back); !errors.Is(err, envelope.ErrDamaged) {
		t.Errorf("cut short: %v", err)
	}
}

func TestNewerAndDamagedAreRefused(t *testing.T) {
	good, err := sample().MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	var w envelope.Wrapped
	newer := bytes.Clone(good)
	newer[4] = 2
	if err := w.UnmarshalBinary(newer); !errors.Is(err, envelope.ErrNewer) {
		t.Errorf("newer: %v", err)
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x40
		if err := w.UnmarshalBinary(bad); err == nil {
			t.Errorf("a changed byte %d was not noticed", i)
		}
		if err := w.UnmarshalBinary(good[:i]); !errors.Is(err, envelope.ErrDamaged) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
	if err := w.UnmarshalBinary(append(bytes.Clone(good), 0)); !errors.Is(err, envelope.ErrDamaged) {
		t.Error("a byte too many was not noticed")
	}
}

func TestNothingHidesBehindTheCiphertext(t *testing.T) {
	good, err := sample().MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	bad := append(bytes.Clone(good[:len(good)-32]), "more"...)
	sum := sha256.Sum256(bad)
	var w envelope.Wrapped
	if err := w.UnmarshalBinary(append(bad, sum[:]...)); !errors.Is(err, envelope.ErrDamaged) {
		t.Errorf("got %v", err)
	}
}

// FuzzUnmarshal: no input panics or is taken for more than MaxEncoded bytes, and what
// is accepted encodes to the same bytes.
func FuzzUnmarshal(f *testing.F) {
	good, err := sample().MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:20])
	f.Add([]byte("KWWK\x02"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var w envelope.Wrapped
		if w.UnmarshalBinary(b) != nil {
			return
		}
		back, err := w.MarshalBinary()
		if err != nil || !bytes.Equal(b, back) || len(b) > envelope.MaxEncoded {
			t.Errorf("%x decodes to %+v, which encodes to %x (%v)", b, w, back, err)
		}
	})
}
