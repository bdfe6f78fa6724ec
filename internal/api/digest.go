package api

import (
	"context"
	"crypto/hmac"
	"crypto/md5" //nolint:gosec // RFC 7616 digest as Atlas's clients speak it
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/secret"
)

const (
	// nonceLife is how long a challenge may be answered.
	nonceLife = 5 * time.Minute
	// maxAnswers bounds what is remembered of answered challenges. When half of it
	// fills up faster than nonces expire, the oldest nonces expire early.
	maxAnswers = 1 << 16
)

// credentials finds the digest secret of an API key.
type credentials interface {
	Credential(ctx context.Context, public string) (p tenant.Principal, ha1 secret.Bytes, found bool, err error)
}

// authenticator checks digest authentication (RFC 7616, MD5, qop=auth), in the
// form that Atlas's clients demand. Challenges carry their own proof, so that
// nothing is kept for the many that are never answered; an answer works once.
// Times are distances from its own start, which a change of the wall clock cannot
// move: a nonce that has expired stays so.
type authenticator struct {
	creds credentials
	key   [32]byte
	now   func() time.Time
	start time.Time

	mu sync.Mutex
	// current are the answers since the time `since`, previous those of the period
	// before. Answers of earlier periods are forgotten; their nonces were made at or
	// before `closed`, and such nonces are refused.
	current, previous map[[32]byte]struct{}
	since, closed     time.Duration
	half              int
}

func newAuthenticator(c credentials, now func() time.Time) *authenticator {
	a := &authenticator{creds: c, now: now, start: now(), current: map[[32]byte]struct{}{}, closed: -1, half: maxAnswers / 2}
	_, _ = rand.Read(a.key[:])
	return a
}

func (a *authenticator) clock() time.Duration { return a.now().Sub(a.start) }

// challenge is the value of WWW-Authenticate. Parameters are separated by comma
// and space, and there are no others: the clients' parsers take nothing else.
func (a *authenticator) challenge(stale bool) string {
	s := "false"
	if stale {
		s = "true"
	}
	return `Digest realm="` + tenant.Realm + `", domain="", nonce="` + a.nonce() + `", algorithm=MD5, qop="auth", stale=` + s
}

// nonce is the time, 16 random bytes, and a tag over both.
func (a *authenticator) nonce() string {
	b := make([]byte, 24, 24+sha256.Size)
	binary.BigEndian.PutUint64(b, uint64(a.clock())) //nolint:gosec // only read back by ours
	_, _ = rand.Read(b[8:])
	return base64.RawURLEncoding.EncodeToString(append(b, a.tag(b)...))
}

func (a *authenticator) tag(b []byte) []byte {
	m := hmac.New(sha256.New, a.key[:])
	_, _ = m.Write(b)
	return m.Sum(nil)[:16]
}

// ours checks a nonce: ok if we made it, fresh if it may still be answered.
func (a *authenticator) ours(nonce string) (made time.Duration, ok, fresh bool) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(nonce)
	if err != nil || len(b) != 40 || !hmac.Equal(b[24:], a.tag(b[:24])) {
		return 0, false, false
	}
	made = time.Duration(binary.BigEndian.Uint64(b)) //nolint:gosec // our own number
	age := a.clock() - made
	return made, true, age >= 0 && age <= nonceLife
}

// verdict of an attempt to authenticate.
type authResult int

const (
	authMissing authResult = iota
	authStale
	authWrong
	authOK
)

// check authenticates a request. Unknown keys and wrong secrets take the same way.
func (a *authenticator) check(r *http.Request) (tenant.Principal, authResult, error) {
	header := r.Header.Get("Authorization")
	kind, rest, _ := strings.Cut(header, " ")
	if !strings.EqualFold(kind, "Digest") {
		return tenant.Principal{}, authMissing, nil
	}
	f, ok := parseDigest(rest)
	if !ok || f["qop"] != "auth" || f["realm"] != tenant.Realm || f["uri"] != r.RequestURI ||
		(f["algorithm"] != "" && !strings.EqualFold(f["algorithm"], "MD5")) || f["cnonce"] == "" || len(f["nc"]) != 8 {
		return tenant.Principal{}, authWrong, nil
	}
	p, ha1, found, err := a.creds.Credential(r.Context(), f["username"])
	if err != nil {
		return tenant.Principal{}, authWrong, err
	}
	if !found {
		ha1 = secret.FromString(hash(f["username"], f["nonce"])) // of no use to anybody
	}
	defer ha1.Wipe()
	want := hash(string(ha1.Reveal()), f["nonce"], f["nc"], f["cnonce"], "auth", hash(r.Method, f["uri"]))
	right := subtle.ConstantTimeCompare([]byte(want), []byte(strings.ToLower(f["response"]))) == 1
	made, ours, fresh := a.ours(f["nonce"])
	switch {
	case !found || !right:
		return tenant.Principal{}, authWrong, nil
	case !ours || !fresh || !a.first(made, f["nonce"], f["nc"], f["cnonce"]):
		// The secret is right and only the challenge is not: of an earlier start of
		// this process, expired, or answered already.
		return tenant.Principal{}, authStale, nil
	}
	return p, authOK, nil
}

// first tells whether this answer to a nonce that was made at the given time is
// seen for the first time.
func (a *authenticator) first(made time.Duration, parts ...string) bool {
	id := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	a.mu.Lock()
	defer a.mu.Unlock()
	_, inCurrent := a.current[id]
	_, inPrevious := a.previous[id]
	if made <= a.closed || inCurrent || inPrevious {
		return false
	}
	if now := a.clock(); len(a.current) >= a.half || now-a.since > nonceLife {
		// The previous period falls out of memory. Its last answer came before the
		// current one began, so none of its nonces was made after that.
		a.closed = a.since
		a.previous, a.current, a.since = a.current, map[[32]byte]struct{}{}, now
	}
	a.current[id] = struct{}{}
	return true
}

func hash(parts ...string) string {
	h := md5.Sum([]byte(strings.Join(parts, ":"))) //nolint:gosec // see above
	return hex.EncodeToString(h[:])
}

// parseDigest reads the parameters of an Authorization header: name=value or
// name="value", separated by commas. Each name may occur once.
func parseDigest(s string) (map[string]string, bool) {
	out := map[string]string{}
	if len(s) > 8<<10 {
		return nil, false
	}
	for s = strings.TrimSpace(s); s != ""; {
		name, rest, ok := strings.Cut(s, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		if !ok || name == "" {
			return nil, false
		}
		var value string
		if strings.HasPrefix(rest, `"`) {
			value, rest, ok = quoted(rest[1:])
			if !ok {
				return nil, false
			}
		} else {
			value, rest, _ = cutComma(rest)
			value = strings.TrimSpace(value)
		}
		if _, double := out[name]; double {
			return nil, false
		}
		out[name] = value
		s = strings.TrimLeft(rest, ", \t")
	}
	return out, true
}

// quoted reads up to the closing quote; a backslash escapes one character.
func quoted(s string) (value, rest string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			if i++; i == len(s) {
				return "", "", false
			}
			b.WriteByte(s[i])
		case '"':
			return b.String(), s[i+1:], true
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", false
}

func cutComma(s string) (before, after string, found bool) { return strings.Cut(s, ",") }
