package api

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/secret"
)

// oneKey knows the API key pub with the private key "private".
type oneKey struct{}

func (oneKey) Credential(_ context.Context, public string) (tenant.Principal, secret.Bytes, bool, error) {
	if public != "pub" {
		return tenant.Principal{}, secret.Bytes{}, false, nil
	}
	return tenant.Principal{PublicKey: public}, tenant.HA1(public, secret.FromString("private")), true, nil
}

// digestClock is a clock that tests move.
type digestClock struct{ t time.Time }

func (c *digestClock) now() time.Time { return c.t }

func newTestAuthenticator() (*authenticator, *digestClock) {
	c := &digestClock{time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)}
	return newAuthenticator(oneKey{}, c.now), c
}

// answer answers a nonce as Atlas's clients do.
func answer(user, private, nonce, cnonce, method, uri string) *http.Request {
	r := httptest.NewRequest(method, uri, nil)
	ha1 := string(tenant.HA1(user, secret.FromString(private)).Reveal())
	response := hash(ha1, nonce, "00000001", cnonce, "auth", hash(method, r.RequestURI))
	r.Header.Set("Authorization", fmt.Sprintf(
		`Digest username="%s", realm="%s", nonce="%s", uri="%s", response="%s", algorithm="MD5", cnonce="%s", qop=auth, nc=00000001`,
		user, tenant.Realm, nonce, r.RequestURI, response, cnonce))
	return r
}

func result(t *testing.T, a *authenticator, r *http.Request) authResult {
	t.Helper()
	_, res, err := a.check(r)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// The clients' parser knows these parameters, in quotes or not, separated by comma
// and space, and fails on anything else.
var challengeForm = regexp.MustCompile(`^Digest realm="MMS Public API", domain="", nonce="[A-Za-z0-9_-]+", algorithm=MD5, qop="auth", stale=(true|false)$`)

func TestTheChallengeIsInTheOneFormThatClientsTake(t *testing.T) {
	a, _ := newTestAuthenticator()
	for _, stale := range []bool{true, false} {
		c := a.challenge(stale)
		if !challengeForm.MatchString(c) || strings.Contains(c, "stale=true") != stale {
			t.Errorf("challenge %q", c)
		}
	}
	if first, second := a.challenge(false), a.challenge(false); first == second {
		t.Error("two challenges with the same nonce")
	}
}

func TestAnswersAreChecked(t *testing.T) {
	a, clock := newTestAuthenticator()
	other, _ := newTestAuthenticator()
	const uri = "/api/atlas/v2/groups/g/accessList/198.51.100.0%2F24?pretty=true"
	edit := func(old, now string) *http.Request {
		r := answer("pub", "private", a.nonce(), "0123456789abcdef", http.MethodGet, uri)
		r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), old, now, 1))
		return r
	}
	moved := func(to string) *http.Request {
		r := answer("pub", "private", a.nonce(), "c", http.MethodGet, uri)
		r.RequestURI = to
		return r
	}
	expired := answer("pub", "private", a.nonce(), "c", http.MethodGet, uri)
	clock.t = clock.t.Add(nonceLife + time.Nanosecond)
	last := answer("pub", "private", a.nonce(), "c", http.MethodGet, uri)
	clock.t = clock.t.Add(nonceLife)
	for name, c := range map[string]struct {
		r    *http.Request
		want authResult
	}{
		"right":                   {answer("pub", "private", a.nonce(), "c", http.MethodGet, uri), authOK},
		"at the end of its life":  {last, authOK},
		"after its end":           {expired, authStale},
		"wrong secret":            {answer("pub", "privat", a.nonce(), "c", http.MethodGet, uri), authWrong},
		"unknown key":             {answer("nobody", "private", a.nonce(), "c", http.MethodGet, uri), authWrong},
		"another process's nonce": {answer("pub", "private", other.nonce(), "c", http.MethodGet, uri), authStale},
		"nonce of nobody":         {answer("pub", "wrong", "AAAA", "c", http.MethodGet, uri), authWrong},
		"decoded path":            {moved(strings.Replace(uri, "%2F", "/", 1)), authWrong},
		"another query":           {moved(strings.Replace(uri, "true", "false", 1)), authWrong},
		"no query":                {moved(strings.Split(uri, "?")[0]), authWrong},
		"quoted qop and no space": {edit("qop=auth, ", `qop="auth",`), authOK},
		"no qop":                  {edit("qop=auth, ", ""), authWrong},
		"auth-int":                {edit("qop=auth", "qop=auth-int"), authWrong},
		"another realm":           {edit("MMS Public API", "MMS"), authWrong},
		"another algorithm":       {edit("MD5", "SHA-256"), authWrong},
		"no algorithm":            {edit(`algorithm="MD5", `, ""), authOK},
		"another nc":              {edit("00000001", "00000002"), authWrong},
		"short nc":                {edit("00000001", "1"), authWrong},
		"no cnonce":               {edit(`cnonce="0123456789abcdef", `, ""), authWrong},
		"a parameter twice":       {edit("qop=auth, ", "qop=auth, qop=auth, "), authWrong},
		"a quote that stays open": {edit(`nc=00000001`, `nc="00000001`), authWrong},
		"no credentials":          {httptest.NewRequest(http.MethodGet, uri, nil), authMissing},
		"credentials of Basic":    {edit("Digest ", "Basic "), authMissing},
		"upper case hex is as good": {func() *http.Request {
			r := answer("pub", "private", a.nonce(), "c", http.MethodGet, uri)
			h := r.Header.Get("Authorization")
			i := strings.Index(h, `response="`) + len(`response="`)
			r.Header.Set("Authorization", h[:i]+strings.ToUpper(h[i:i+32])+h[i+32:])
			return r
		}(), authOK},
	} {
		if got := result(t, a, c.r); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
	// A request that says POST with an answer for GET.
	r := answer("pub", "private", a.nonce(), "c", http.MethodGet, uri)
	r.Method = http.MethodPost
	if got := result(t, a, r); got != authWrong {
		t.Errorf("another method: %d", got)
	}
}

// An answer works once, whatever is forgotten meanwhile; and what is remembered
// stays bounded. The clock stands still, creeps, jumps and goes back.
func TestNoAnswerWorksTwice(t *testing.T) {
	for name, step := range map[string]time.Duration{
		"standing": 0, "creeping": time.Nanosecond, "fast": 20 * time.Second, "jumping": nonceLife, "leaping": 3 * nonceLife,
	} {
		t.Run(name, func(t *testing.T) {
			a, clock := newTestAuthenticator()
			a.half = 8
			var sent []*http.Request
			accepted := 0
			for i := range 200 {
				clock.t = clock.t.Add(step)
				r := answer("pub", "private", a.nonce(), fmt.Sprint(i), http.MethodGet, "/x")
				switch result(t, a, r) {
				case authOK:
					accepted++
				case authStale: // forgotten early: a new challenge is due
				default:
					t.Fatal("a right answer is refused as wrong")
				}
				sent = append(sent, r)
				for j, old := range sent[max(0, len(sent)-60):] {
					if got := result(t, a, old); got != authStale {
						t.Fatalf("answer %d was taken again after %d: %d", j, i, got)
					}
				}
				if n := len(a.current) + len(a.previous); n > 2*a.half {
					t.Fatalf("%d answers are remembered", n)
				}
			}
			if step > 0 && accepted != 200 {
				t.Errorf("%d of 200 first answers were accepted", accepted)
			}
			// A wall clock that goes back makes no expired nonce young again.
			clock.t = clock.t.Add(-time.Second)
			for i, old := range sent {
				if got := result(t, a, old); got != authStale {
					t.Fatalf("answer %d was taken again after the clock went back: %d", i, got)
				}
			}
		})
	}
}

// A nonce whose answers were forgotten must not be answered anew with another
// cnonce's replay; one that is still remembered may.
func TestNoncesOfForgottenAnswersAreClosed(t *testing.T) {
	a, clock := newTestAuthenticator()
	a.half = 2
	early := a.nonce()
	for i := range 7 {
		clock.t = clock.t.Add(time.Millisecond)
		if got := result(t, a, answer("pub", "private", a.nonce(), fmt.Sprint(i), http.MethodGet, "/x")); got != authOK {
			t.Fatal(got)
		}
	}
	if got := result(t, a, answer("pub", "private", early, "late", http.MethodGet, "/x")); got != authStale {
		t.Errorf("a nonce from before what is remembered: %d", got)
	}
}

func TestFailuresAreBoundedByAddress(t *testing.T) {
	clock := &digestClock{time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)}
	f := newFailures(clock.now)
	for range maxFailures {
		if f.wait("192.0.2.1") != 0 {
			t.Fatal("refused too early")
		}
		f.add("192.0.2.1")
	}
	if w := f.wait("192.0.2.1"); w != failureWindow {
		t.Errorf("waits %s", w)
	}
	if f.wait("::ffff:192.0.2.1") == 0 || f.wait("192.0.2.2") != 0 {
		t.Error("one address counts, in both spellings")
	}
	f.count[source("2001:db8::1")] = maxFailures
	if f.wait("2001:db8::ffff") == 0 || f.wait("2001:db8:0:1::1") != 0 {
		t.Error("hosts of one /64 are one")
	}
	for i := range maxAddresses + 10 {
		f.add(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255))
	}
	if len(f.count) != maxAddresses {
		t.Errorf("%d addresses are remembered", len(f.count))
	}
	clock.t = clock.t.Add(failureWindow)
	if f.wait("192.0.2.1") != 0 {
		t.Error("refused after the window")
	}
	f.add("192.0.2.1")
	if len(f.count) != 1 {
		t.Error("the old window is still remembered")
	}
}

func FuzzParseDigest(f *testing.F) {
	for _, s := range []string{
		`username="pub", realm="MMS Public API", nonce="abc", uri="/x?y=%2F", response="00", algorithm="MD5", cnonce="0", qop=auth, nc=00000001`,
		`a="\"\\", b=c,d = e`, `=`, `a`, `a="`, `a=b,a=b`, `a="b"c=d`, ",,,", `a="\`, strings.Repeat("a=b,", 3000),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out, ok := parseDigest(s)
		if !ok && out != nil {
			t.Error("refused with a result")
		}
		for name := range out {
			if name == "" || name != strings.ToLower(name) {
				t.Errorf("name %q", name)
			}
		}
	})
}
