package sigv4

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

const (
	algorithm = "AWS4-HMAC-SHA256"
	terminal  = "aws4_request"
	timeForm  = "20060102T150405Z"

	// MaxSkew is how far a request's time may be off, either way.
	MaxSkew = 15 * time.Minute
	// TokenHeader carries the session token of temporary credentials.
	TokenHeader = "X-Amz-Security-Token" //nolint:gosec // the name of a header
	// maxHeader bounds the Authorization header; real ones have about 400 bytes.
	maxHeader = 4096
	// maxSigned bounds the number of signed headers.
	maxSigned = 64
)

// Problem is what is wrong with a request's signature.
type Problem byte

// The problems, each of which has an error name of its own in AWS.
const (
	// Missing: there is no Authorization header.
	Missing Problem = iota + 1
	// Incomplete: the header cannot be parsed or a needed header is not signed.
	Incomplete
	// Mismatch: the signature differs, or scope and date do not fit.
	Mismatch
	// Skewed: the request's time is more than MaxSkew away from the server's.
	Skewed
)

// Error says what is wrong. Its text is fit for the client.
type Error struct {
	Problem Problem
	Text    string
}

// Error implements error.
func (e *Error) Error() string { return e.Text }

func failure(p Problem, format string, args ...any) error {
	return &Error{Problem: p, Text: fmt.Sprintf(format, args...)}
}

// Authorization is a parsed Authorization header.
type Authorization struct {
	AccessKeyID   string
	Date          string // YYYYMMDD
	Region        string
	Service       string
	SignedHeaders []string // lower case, sorted

	signature []byte
}

// ParseAuthorization parses the value of an Authorization header. Errors are
// *Error with Missing or Incomplete.
func ParseAuthorization(header string) (Authorization, error) {
	var a Authorization
	if header == "" {
		return a, failure(Missing, "Missing Authentication Token")
	}
	if len(header) > maxHeader {
		return a, failure(Incomplete, "Authorization header is longer than %d bytes", maxHeader)
	}
	rest, ok := strings.CutPrefix(header, algorithm+" ")
	if !ok {
		return a, failure(Incomplete, "Authorization header must begin with %s", algorithm)
	}
	parts := map[string]string{}
	for field := range strings.SplitSeq(rest, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(field), "=")
		if !ok || value == "" {
			return a, failure(Incomplete, "Authorization header has a part that is not name=value")
		}
		if _, twice := parts[name]; twice {
			return a, failure(Incomplete, "Authorization header has %q twice", name)
		}
		parts[name] = value
	}
	for _, name := range []string{"Credential", "SignedHeaders", "Signature"} {
		if parts[name] == "" {
			return a, failure(Incomplete, "Authorization header requires '%s' parameter.", name)
		}
	}
	if len(parts) != 3 {
		return a, failure(Incomplete, "Authorization header has an unknown parameter")
	}
	if err := a.fill(parts["Credential"], parts["SignedHeaders"], parts["Signature"]); err != nil {
		return Authorization{}, err
	}
	return a, nil
}

func (a *Authorization) fill(credential, signed, signature string) error {
	scope := strings.Split(credential, "/")
	if len(scope) != 5 || scope[4] != terminal || slices.Contains(scope, "") {
		return failure(Incomplete, "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/%s", terminal)
	}
	if _, err := time.Parse("20060102", scope[1]); err != nil {
		return failure(Incomplete, "Date in Credential scope must be YYYYMMDD")
	}
	a.AccessKeyID, a.Date, a.Region, a.Service = scope[0], scope[1], scope[2], scope[3]
	a.SignedHeaders = strings.Split(signed, ";")
	if len(a.SignedHeaders) > maxSigned || slices.Contains(a.SignedHeaders, "") ||
		signed != strings.ToLower(signed) || !sort.StringsAreSorted(a.SignedHeaders) ||
		len(slices.Compact(slices.Clone(a.SignedHeaders))) != len(a.SignedHeaders) {
		return failure(Incomplete, "SignedHeaders must be distinct lower-case names in order, separated by ';'")
	}
	raw, err := hex.DecodeString(signature)
	if err != nil || len(raw) != sha256.Size {
		return failure(Incomplete, "Signature must be %d hexadecimal digits", 2*sha256.Size)
	}
	a.signature = raw
	return nil
}

// Verify checks time, signed headers and signature of r, whose body has been
// read. Secret is the secret access key. Errors are *Error.
func Verify(r *http.Request, body []byte, a Authorization, secret []byte, now time.Time) error {
	if err := a.checkHeaders(r); err != nil {
		return err
	}
	at, err := a.checkTime(r, now)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	hash := hex.EncodeToString(sum[:])
	if sent := r.Header.Get("X-Amz-Content-Sha256"); sent != "" && sent != hash {
		if strings.HasPrefix(sent, "STREAMING-") || sent == "UNSIGNED-PAYLOAD" {
			return failure(Mismatch, "The payload hash %s is not supported by this service", sent)
		}
		return failure(Mismatch, "The provided 'x-amz-content-sha256' header does not match what was computed.")
	}
	canonical, err := a.canonicalRequest(r, hash)
	if err != nil {
		return err
	}
	sum = sha256.Sum256([]byte(canonical))
	scope := strings.Join([]string{a.Date, a.Region, a.Service, terminal}, "/")
	text := strings.Join([]string{algorithm, at, scope, hex.EncodeToString(sum[:])}, "\n")
	if !hmac.Equal(mac(signingKey(secret, a), text), a.signature) {
		return failure(Mismatch, "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details.")
	}
	return nil
}

// checkHeaders requires the headers that bind a request to host, time, session
// and operation to be signed.
func (a Authorization) checkHeaders(r *http.Request) error {
	need := []string{"host", "x-amz-date"}
	for name := range r.Header {
		// A single header that tells the server what to do must be covered.
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "x-amz-") && lower != "x-amz-date" && lower != "x-amz-user-agent" {
			need = append(need, lower)
		}
	}
	sort.Strings(need)
	for _, name := range need {
		if !slices.Contains(a.SignedHeaders, name) {
			return failure(Incomplete, "'%s' must be a 'SignedHeader' in the AWS Authorization.", name)
		}
	}
	return nil
}

func (a Authorization) checkTime(r *http.Request, now time.Time) (string, error) {
	dates := r.Header.Values("X-Amz-Date")
	if len(dates) != 1 {
		return "", failure(Incomplete, "Authorization header requires existence of exactly one 'X-Amz-Date' header.")
	}
	at, err := time.Parse(timeForm, dates[0])
	if err != nil {
		return "", failure(Incomplete, "Date must be in ISO-8601 'basic format'. Got '%s'.", clip(dates[0]))
	}
	if !strings.HasPrefix(dates[0], a.Date) {
		return "", failure(Mismatch, "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '%s' != '%s', from '%s'.", a.Date, dates[0][:8], dates[0])
	}
	server, minutes := now.UTC().Format(timeForm), int(MaxSkew/time.Minute)
	if at.Before(now.Add(-MaxSkew)) {
		return "", failure(Skewed, "Signature expired: %s is now earlier than %s (%s - %d min.)", dates[0], now.UTC().Add(-MaxSkew).Format(timeForm), server, minutes)
	}
	if at.After(now.Add(MaxSkew)) {
		return "", failure(Skewed, "Signature not yet current: %s is still later than %s (%s + %d min.)", dates[0], now.UTC().Add(MaxSkew).Format(timeForm), server, minutes)
	}
	return dates[0], nil
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40]
	}
	return s
}

func (a Authorization) canonicalRequest(r *http.Request, bodyHash string) (string, error) {
	query, err := canonicalQuery(r.URL.RawQuery)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(r.Method + "\n" + canonicalPath(r.URL.EscapedPath()) + "\n" + query + "\n")
	for _, name := range a.SignedHeaders {
		var values []string
		switch name {
		case "host":
			values = []string{r.Host}
		case "content-length":
			values = []string{strconv.FormatInt(r.ContentLength, 10)}
		default:
			values = slices.Clone(r.Header.Values(name))
		}
		if len(values) == 0 {
			return "", failure(Incomplete, "The signed header '%s' is not in the request.", clip(name))
		}
		for i, v := range values {
			values[i] = strings.Join(strings.Fields(v), " ")
		}
		b.WriteString(name + ":" + strings.Join(values, ",") + "\n")
	}
	b.WriteString("\n" + strings.Join(a.SignedHeaders, ";") + "\n" + bodyHash)
	return b.String(), nil
}

// canonicalPath encodes the path once more, as every service but S3 does.
func canonicalPath(escaped string) string {
	if escaped == "" {
		return "/"
	}
	parts := strings.Split(escaped, "/")
	for i, p := range parts {
		parts[i] = encode(p)
	}
	return strings.Join(parts, "/")
}

func canonicalQuery(raw string) (string, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return "", failure(Incomplete, "The query string cannot be parsed.")
	}
	encoded := map[string][]string{}
	for name, list := range values {
		for _, v := range list {
			encoded[encode(name)] = append(encoded[encode(name)], encode(v))
		}
	}
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(encoded)) {
		slices.Sort(encoded[name])
		for _, v := range encoded[name] {
			pairs = append(pairs, name+"="+v)
		}
	}
	return strings.Join(pairs, "&"), nil
}

// encode percent-encodes everything but RFC 3986's unreserved characters.
func encode(s string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(digits[c>>4])
		b.WriteByte(digits[c&15])
	}
	return b.String()
}

func signingKey(secret []byte, a Authorization) []byte {
	key := make([]byte, 0, 4+len(secret))
	key = append(key, "AWS4"...)
	key = append(key, secret...)
	for _, part := range []string{a.Date, a.Region, a.Service, terminal} {
		key = mac(key, part)
	}
	return key
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	_, _ = h.Write([]byte(text)) // a hash never fails
	return h.Sum(nil)
}
