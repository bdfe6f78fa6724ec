package cryptofs

import (
	"fmt"
	"strconv"
	"strings"
)

// Kind says what a file is for Pebble. The numbers are part of the format.
type Kind uint8

// The kinds of files.
const (
	KindWAL      Kind = 1
	KindManifest Kind = 2
	KindTable    Kind = 3
	KindBlob     Kind = 4
	KindOptions  Kind = 5
	KindMarker   Kind = 6
	KindOther    Kind = 7
)

var kindNames = [...]string{"", "wal", "manifest", "table", "blob", "options", "marker", "other"}

// String names the kind.
func (k Kind) String() string {
	if k.valid() {
		return kindNames[k]
	}
	return "kind " + strconv.Itoa(int(k))
}

func (k Kind) valid() bool { return k >= KindWAL && k <= KindOther }

// Layout says how the content of a file is arranged. The numbers are part of the
// format.
type Layout uint8

// The layouts.
const (
	// LayoutAligned is segments from offset 4096 on, so that each is one page.
	LayoutAligned Layout = 1
	// LayoutFrames is one message for each write, from offset 64 on.
	LayoutFrames Layout = 2
	// LayoutCompact is segments from offset 64 on.
	LayoutCompact Layout = 3
)

func (l Layout) valid() bool { return l >= LayoutAligned && l <= LayoutCompact }

// layout is the one layout in which files of a kind are written and accepted.
func (k Kind) layout() Layout {
	switch k {
	case KindWAL, KindManifest:
		return LayoutFrames
	case KindOptions, KindMarker:
		return LayoutCompact
	default:
		return LayoutAligned
	}
}

// lockName is the one file that holds nothing and is not encrypted.
const lockName = "LOCK"

// maxName bounds a base name; its length is stored in 16 bits.
const maxName = 1024

// fileName is what a base name says about a file.
type fileName struct {
	canonical string // the name that the content is bound to
	kind      Kind
	number    uint64
}

// parseName classifies a base name. A temporary of Pebble counts as the OPTIONS
// file that it is renamed to; every other name counts as itself.
func parseName(base string) (fileName, error) {
	n := fileName{canonical: base, kind: KindOther}
	if base == "" || len(base) > maxName || base == lockName || base == "." || base == ".." {
		return n, fmt.Errorf("%q is not a name for an encrypted file", base)
	}
	if digits, ok := cutBoth(base, "temporary.", ".dbtmp"); ok {
		if num, ok := parseNumber(digits); ok {
			return fileName{canonical: "OPTIONS-" + digits, kind: KindOptions, number: num}, nil
		}
	}
	for _, p := range []struct {
		prefix, suffix string
		kind           Kind
	}{
		{"MANIFEST-", "", KindManifest},
		{"OPTIONS-", "", KindOptions},
		{"", ".sst", KindTable},
		{"", ".blob", KindBlob},
		{"", ".log", KindWAL},
	} {
		digits, ok := cutBoth(base, p.prefix, p.suffix)
		if !ok {
			continue
		}
		if num, ok := parseNumber(digits); ok {
			n.kind, n.number = p.kind, num
			return n, nil
		}
		if p.kind == KindWAL && failoverLog(digits) {
			return n, fmt.Errorf("%q is a log of a failover directory, which is not supported", base)
		}
	}
	if rest, ok := strings.CutPrefix(base, "marker."); ok {
		parts := strings.SplitN(rest, ".", 3)
		if len(parts) == 3 {
			if num, ok := parseNumber(parts[1]); ok {
				n.kind, n.number = KindMarker, num
			}
		}
	}
	return n, nil
}

func cutBoth(s, prefix, suffix string) (string, bool) {
	s, ok := strings.CutPrefix(s, prefix)
	if !ok {
		return "", false
	}
	return strings.CutSuffix(s, suffix)
}

// parseNumber accepts decimal digits only, as Pebble writes them.
func parseNumber(s string) (uint64, bool) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil
}

// failoverLog tells whether s is NUMBER-INDEX.
func failoverLog(s string) bool {
	a, b, ok := strings.Cut(s, "-")
	if !ok {
		return false
	}
	_, okA := parseNumber(a)
	_, okB := parseNumber(b)
	return okA && okB
}
