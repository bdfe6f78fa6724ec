package tenant

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/secret"
)

// A hash that an earlier version may have written.
const oldHash = "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$"

func TestPasswordHashes(t *testing.T) {
	pw := secret.FromString("correct horse battery")
	h := hashPassword(pw)
	if !strings.HasPrefix(string(h.Reveal()), "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Error("another format")
	}
	if ok, err := passwordIs(pw, h); !ok || err != nil {
		t.Error(ok, err)
	}
	if ok, err := passwordIs(secret.FromString("another"), h); ok || err != nil {
		t.Error(ok, err)
	}
	if hashPassword(pw).Equal(h) {
		t.Error("two hashes of a password are the same")
	}
	for _, bad := range []string{
		"", "x", oldHash, strings.Replace(string(h.Reveal()), "m=19456", "m=99999999", 1), strings.Replace(string(h.Reveal()), "t=2", "t=99", 1),
		strings.Replace(string(h.Reveal()), "argon2id", "argon2i", 1), strings.Replace(string(h.Reveal()), "v=19", "v=16", 1), strings.Replace(string(h.Reveal()), "p=1", "p=0", 1),
	} {
		if ok, err := passwordIs(pw, secret.FromString(bad)); ok || err == nil {
			t.Errorf("%q: %v %v", bad, ok, err)
		}
	}
}

func TestTheThrottleIsBoundedAndForgets(t *testing.T) {
	var th throttle
	now := time.Now()
	for i := range maxThrottled {
		th.take(now, fmt.Sprint("u", i), fmt.Sprintf("10.%d.%d.%d", i>>16&255, i>>8&255, i&255))
	}
	if len(th.count) > maxThrottled+3 {
		t.Errorf("%d entries", len(th.count))
	}
	again, ok := th.take(now, "somebody", "192.0.2.1")
	if ok || !again.Equal(now.Add(throttleWindow)) {
		t.Error("a full throttle lets attempts through", again)
	}
	if _, ok := th.take(again, "somebody", "192.0.2.1"); !ok {
		t.Error("the window did not end")
	}
	for i := range maxPerAddress {
		th.take(again, fmt.Sprint("x", i), "2001:db8::1")
	}
	if _, ok := th.take(again, "y", "2001:db8::2"); ok {
		t.Error("addresses of one /64 count apart")
	}
}

func FuzzPasswordHash(f *testing.F) {
	f.Add(oldHash + "c29tZWhhc2hzb21laGFzaA")
	f.Fuzz(func(t *testing.T, hash string) {
		if strings.Contains(hash, "m=") && !strings.Contains(hash, "m=64,t=1,") {
			t.Skip("slow")
		}
		if ok, _ := passwordIs(secret.FromString("x"), secret.FromString(hash)); ok {
			t.Error("a made-up hash fits")
		}
	})
}
