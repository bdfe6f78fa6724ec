package policy

import "strings"

// token is one element of a pattern: a literal byte, or a wildcard.
type token struct {
	lit  byte
	wild byte // '*', '?' or 0
}

// pattern makes tokens of text. With wildcards, * and ? are such; what comes
// out of a variable never is. It returns false if a variable is unknown: the
// statement then does not match.
func pattern(text string, wildcards, variables bool, ctx Context) ([]token, bool) {
	out := make([]token, 0, len(text))
	for i := 0; i < len(text); i++ {
		ch := text[i]
		if variables && ch == '$' && i+1 < len(text) && text[i+1] == '{' {
			if end := strings.IndexByte(text[i:], '}'); end > 0 {
				value, ok := variable(text[i+2:i+end], ctx)
				if !ok {
					return nil, false
				}
				for j := range len(value) {
					out = append(out, token{lit: value[j]})
				}
				i += end
				continue
			}
		}
		if wildcards && (ch == '*' || ch == '?') {
			out = append(out, token{wild: ch})
			continue
		}
		out = append(out, token{lit: ch})
	}
	return out, true
}

// variable gives the value of ${name} or ${name, 'default'}.
func variable(name string, ctx Context) (string, bool) {
	switch name {
	case "*", "?", "$":
		return name, true
	}
	key, def, hasDefault := strings.Cut(name, ",")
	if v, ok := ctx.lookup(strings.TrimSpace(key)); ok && len(v) == 1 {
		return v[0], true
	}
	if def = strings.TrimSpace(def); hasDefault && len(def) >= 2 && def[0] == '\'' && def[len(def)-1] == '\'' {
		return def[1 : len(def)-1], true
	}
	return "", false
}

// glob matches s against p in O(len(p)*len(s)) at worst.
func glob(p []token, s string) bool {
	pi, si, star, mark := 0, 0, -1, 0
	for si < len(s) {
		switch {
		case pi < len(p) && p[pi].wild == '*':
			star, mark = pi, si
			pi++
		case pi < len(p) && (p[pi].wild == '?' || (p[pi].wild == 0 && p[pi].lit == s[si])):
			pi++
			si++
		case star >= 0:
			mark++
			pi, si = star+1, mark
		default:
			return false
		}
	}
	for pi < len(p) && p[pi].wild == '*' {
		pi++
	}
	return pi == len(p)
}

// Like matches s against a text in which * stands for any run and ? for one
// character.
func Like(text, s string) bool {
	p, _ := pattern(text, true, false, nil)
	return glob(p, s)
}

// globARN matches the six parts of an ARN one by one; a part's wildcard does
// not run over a colon, except in the last part.
func globARN(p []token, arn string) bool {
	parts := strings.SplitN(arn, ":", 6)
	var pats [][]token
	start := 0
	for i, t := range p {
		if t.wild == 0 && t.lit == ':' && len(pats) < 5 {
			pats = append(pats, p[start:i])
			start = i + 1
		}
	}
	pats = append(pats, p[start:])
	if len(parts) != 6 || len(pats) != 6 {
		return false
	}
	for i := range parts {
		if !glob(pats[i], parts[i]) {
			return false
		}
	}
	return true
}

func matchAction(list []string, action string) bool {
	action = strings.ToLower(action)
	for _, a := range list {
		p, _ := pattern(strings.ToLower(a), true, false, nil)
		if glob(p, action) {
			return true
		}
	}
	return false
}

// matchResource returns false for ok if a variable is unknown.
func matchResource(list []string, resource string, variables bool, ctx Context) (match, ok bool) {
	for _, r := range list {
		p, known := pattern(r, true, variables, ctx)
		if !known {
			return false, false
		}
		if glob(p, resource) {
			match = true
		}
	}
	return match, true
}
