package secret_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/keywright/keywright/internal/secret"
)

func TestNoPrintedFormShowsTheContent(t *testing.T) {
	const plain = "correct horse"
	s := secret.FromString(plain)
	holder := struct{ Key secret.Bytes }{s}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("made", "key", s, "holder", holder)
	for _, out := range []string{
		fmt.Sprint(s), fmt.Sprintf("%v %+v %#v %s %q %x %d", s, s, s, s, s, s, s),
		fmt.Sprintf("%v %+v %#v", holder, holder, holder), fmt.Sprintf("%v", &holder), log.String(),
	} {
		if strings.Contains(out, plain) || strings.Contains(out, fmt.Sprintf("%x", plain)) || strings.Contains(out, "99 111 114") {
			t.Errorf("printed form shows the secret: %s", out)
		}
	}
	if _, err := json.Marshal(holder); err == nil {
		t.Error("a structure with a secret could be marshalled")
	}
}

func TestEqualAndWipe(t *testing.T) {
	a := secret.FromString("k1")
	b := a.Clone()
	if !a.Equal(b) || a.Equal(secret.FromString("k2")) || a.Equal(secret.FromString("k")) {
		t.Fatal("Equal is wrong")
	}
	copied := a
	a.Wipe()
	if !bytes.Equal(copied.Reveal(), []byte{0, 0}) {
		t.Error("a copy still holds the wiped secret")
	}
	if string(b.Reveal()) != "k1" {
		t.Error("a clone was wiped with its original")
	}
}

func TestRandomTextIsFreshAndLong(t *testing.T) {
	a, b := secret.RandomText(24), secret.RandomText(24)
	if a.Equal(b) || a.Len() != 32 {
		t.Fatalf("got lengths %d and %d", a.Len(), b.Len())
	}
}
