package policy

import (
	"encoding/base64"
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Context holds the condition keys of a request. Names are lower case (see
// Set); a key without values is absent.
type Context map[string][]string

// Set puts a key; its name is taken without regard to case.
func (c Context) Set(key string, values ...string) {
	c[strings.ToLower(key)] = values
}

// Add adds one value to a key.
func (c Context) Add(key, value string) {
	key = strings.ToLower(key)
	c[key] = append(c[key], value)
}

func (c Context) lookup(key string) ([]string, bool) {
	v := c[strings.ToLower(key)]
	return v, len(v) > 0
}

// holds tells whether the condition is met. ok is false if a variable in it is
// unknown: the statement then does not match, whatever its effect.
func (c *Condition) holds(ctx Context, variables bool) (met, ok bool) {
	values, present := ctx.lookup(c.Key)
	if c.base == "null" {
		for _, v := range c.Values {
			if strings.EqualFold(v, "true") != present {
				return true, true
			}
		}
		return false, true
	}
	if !present {
		switch {
		case c.ifExists:
			return true, true
		case c.set == "any":
			return false, true
		case c.set == "all":
			return true, true
		}
		return c.negated, true
	}
	for _, v := range values {
		m, known := c.matches(v, ctx, variables)
		if !known {
			return false, false
		}
		m = m != c.negated
		if c.set == "any" && m {
			return true, true
		}
		if c.set != "any" && !m {
			return false, true
		}
	}
	return c.set != "any", true
}

// matches tells whether one value of the request equals one of the policy's.
func (c *Condition) matches(value string, ctx Context, variables bool) (match, ok bool) {
	for _, want := range c.Values {
		m, known := compare(c.base, value, want, ctx, variables)
		if !known {
			return false, false
		}
		if m {
			return true, true
		}
	}
	return false, true
}

func compare(op, value, want string, ctx Context, variables bool) (match, ok bool) {
	switch {
	case strings.HasPrefix(op, "string") || op == "arnlike":
		p, known := pattern(want, op == "stringlike" || op == "arnlike", variables, ctx)
		if !known {
			return false, false
		}
		return compareText(op, value, p), true
	case strings.HasPrefix(op, "numeric"):
		a, errA := strconv.ParseFloat(value, 64)
		b, errB := strconv.ParseFloat(want, 64)
		return errA == nil && errB == nil && ordered(strings.TrimPrefix(op, "numeric"), cmpFloat(a, b)), true
	case strings.HasPrefix(op, "date"):
		a, errA := parseDate(value)
		b, errB := parseDate(want)
		return errA == nil && errB == nil && ordered(strings.TrimPrefix(op, "date"), a.Compare(b)), true
	case op == "bool":
		return strings.EqualFold(value, want), true
	case op == "binaryequals":
		return value == want, true
	case op == "ipaddress":
		a, errA := netip.ParseAddr(value)
		b, errB := parsePrefix(want)
		return errA == nil && errB == nil && b.Contains(a.Unmap()), true
	}
	return false, true
}

func compareText(op, value string, p []token) bool {
	switch op {
	case "arnlike":
		return globARN(p, value)
	case "stringequalsignorecase":
		var b strings.Builder
		for _, t := range p {
			b.WriteByte(t.lit)
		}
		return strings.EqualFold(b.String(), value)
	}
	return glob(p, value)
}

func cmpFloat(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func ordered(relation string, c int) bool {
	switch relation {
	case "equals":
		return c == 0
	case "lessthan":
		return c < 0
	case "lessthanequals":
		return c <= 0
	case "greaterthan":
		return c > 0
	case "greaterthanequals":
		return c >= 0
	}
	return false
}

func parseDate(s string) (time.Time, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && len(s) > 4 {
		return time.Unix(n, 0), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05", "2006-01-02", "2006-01", "2006"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, errors.New("a date is ISO 8601 or seconds since 1970")
}

func parsePrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return netip.Prefix{}, err
		}
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return a.Prefix(a.BitLen())
}

// checkOperand refuses a policy's value that its operator could never match.
func checkOperand(op, text string) error {
	var err error
	switch {
	case strings.HasPrefix(op, "numeric"):
		_, err = strconv.ParseFloat(text, 64)
	case strings.HasPrefix(op, "date"):
		_, err = parseDate(text)
	case op == "bool" || op == "null":
		if !strings.EqualFold(text, "true") && !strings.EqualFold(text, "false") {
			err = errors.New("a value is true or false")
		}
	case op == "binaryequals":
		_, err = base64.StdEncoding.DecodeString(text)
	case op == "ipaddress":
		_, err = parsePrefix(text)
	}
	return err
}
