package console

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/control/cmk"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/store"
)

// Each verdict with its chip and banner, as people see it.
func TestVerdictsAsPeopleSeeThem(t *testing.T) {
	at := time.Date(2026, 11, 24, 14, 31, 48, 0, time.UTC)
	var out strings.Builder
	for _, c := range []struct {
		kind   custody.Verdict
		reason kms.Reason
	}{
		{custody.Valid, ""}, {custody.Suspect, kms.KeyDisabled}, {custody.Invalid, kms.KeyDisabled}, {custody.Invalid, kms.KeyPendingDeletion},
		{custody.Invalid, kms.RoleNotAssumable}, {custody.Invalid, kms.KeyAccessDenied}, {custody.Invalid, kms.KeyNotFound}, {custody.Invalid, kms.KeyMaterialMissing},
		{custody.Grace, kms.KeyDisabled}, {custody.Alert, kms.KeyDisabled}, {custody.NAD, kms.KeyAccessDenied}, {custody.Unreachable, kms.Timeout},
		{custody.Unreachable, kms.Throttled}, {custody.Unreachable, kms.PlatformPermissions}, {custody.Unknown, ""},
	} {
		v := cmk.View{KeyConfig: store.KeyConfig{Enabled: true, KeyARN: "arn:aws:kms:eu-west-2:444455556666:key/8b1f6f0e-2c44-4d7a-9a31-5f0e7c92d1ab", Region: "EU_WEST_2"}}
		v.Verdict = store.Verdict{Kind: string(c.kind), Reason: string(c.reason), Remedy: "Do <this>.", Since: at}
		v.Validators = []cmk.Validator{{State: custody.State{Verdict: c.kind, LastSuccess: at.Add(-12 * time.Second), NextWall: at.Add(15 * time.Minute), DeadlineWall: at.Add(4 * time.Hour)}}}
		p := present(v, at)
		if p.Key != "8b1f6f0e-…-5f0e7c92d1ab" {
			t.Error(p.Key)
		}
		if kind := c.kind; kind == custody.Unreachable && regexp.MustCompile(`(?i)revoked|invalid|failed`).MatchString(p.Word+p.Title+p.Text) {
			t.Errorf("no answer is told as a refusal: %+v", p)
		}
		_, _ = fmt.Fprintf(&out, "\n<!-- %s %s -->\n", c.kind, c.reason)
		_ = chipPart(p.chip).Render(t.Context(), &out)
		out.WriteByte('\n')
		_ = banner(p.Tone, p.Title, p.Text, p.Remedy).Render(t.Context(), &out)
		out.WriteByte('\n')
		_ = custodyCard(p).Render(t.Context(), &out)
	}
	path := filepath.Join("testdata", "verdicts.html")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(out.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || out.String() != string(want) {
		t.Errorf("%v: verdicts changed:\n%s", err, out.String())
	}
}

func TestEveryIconIsDrawn(t *testing.T) {
	for _, name := range []string{"grid", "database", "lock", "list", "key", "person", "check", "octagon", "square", "cloud-off", "unknown", "dashed", "play", "arrows", "clock", "pause", "bell", "link", "chevrons", "menu", "info", "triangle"} {
		if len(iconPaths(name)) == 0 {
			t.Error(name)
		}
	}
}

var token = regexp.MustCompile(`--([a-z0-9-]+): light-dark\((#[0-9A-F]{6}), (#[0-9A-F]{6})\)`)

// luminance is WCAG's relative luminance.
func luminance(hex string) float64 {
	n, _ := strconv.ParseUint(hex[1:], 16, 32)
	l := 0.0
	for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
		c := float64(n>>(16-8*i)&255) / 255
		if c <= 0.03928 {
			c /= 12.92
		} else {
			c = math.Pow((c+0.055)/1.055, 2.4)
		}
		l += weight * c
	}
	return l
}

func contrast(a, b string) float64 {
	x, y := luminance(a), luminance(b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

// The colours of the stylesheet reach WCAG 2.2 AA: 4.5 for text, 3 for marks and edges.
func TestContrastOfTheTokens(t *testing.T) {
	css, err := files.ReadFile("static/console.css")
	if err != nil {
		t.Fatal(err)
	}
	if len(css) >= 25_000 {
		t.Errorf("the stylesheet has %d bytes", len(css))
	}
	colours := map[string][2]string{"white": {"#FFFFFF", "#FFFFFF"}}
	for _, m := range token.FindAllStringSubmatch(string(css), -1) {
		colours[m[1]] = [2]string{m[2], m[3]}
	}
	pairs := map[string]float64{
		"ok ok-tint": 4.5, "warn warn-tint": 4.5, "danger danger-tint": 4.5, "danger surface": 4.5, "accent surface": 4.5, "accent accent-tint": 4.5, "accent canvas": 4.5,
		"on-ink ink": 4.5, "white danger-solid": 4.5, "line-strong surface": 3, "line-strong canvas": 3, "focus surface": 3, "focus canvas": 3,
		"ok-mark surface": 3, "warn-mark surface": 3, "warn-mark warn-tint": 3, "danger-mark surface": 3, "danger-mark danger-tint": 3,
	}
	for _, text := range []string{"ink", "ink-2", "ink-3"} {
		for _, ground := range []string{"canvas", "surface", "raised", "sunken", "accent-tint", "ok-tint", "warn-tint", "danger-tint"} {
			pairs[text+" "+ground] = 4.5
		}
	}
	for pair, least := range pairs {
		a, b, _ := strings.Cut(pair, " ")
		for i, mode := range []string{"light", "dark"} {
			if colours[a][i] == "" || colours[b][i] == "" {
				t.Fatalf("%s is not in the stylesheet", pair)
			}
			if c := contrast(colours[a][i], colours[b][i]); c < least {
				t.Errorf("%s, %s: %.2f, %.1f is needed", pair, mode, c, least)
			}
		}
	}
}

func TestSpans(t *testing.T) {
	for d, want := range map[time.Duration]string{-time.Second: "0 s", 48 * time.Second: "48 s", 14*time.Minute + 48*time.Second: "14 min 48 s", 3*time.Hour + time.Minute: "3 h 1 min", 71 * 24 * time.Hour: "71 days"} {
		if got := span(d); got != want {
			t.Errorf("%v: %q", d, got)
		}
	}
}

func FuzzLocalPath(f *testing.F) {
	for _, s := range []string{"/", "//x", `/\x`, "/a?b=c", "http://x/", "%", "/%2f%2fx"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got := localPath(s); !strings.HasPrefix(got, "/") || strings.HasPrefix(got, "//") || strings.ContainsAny(got, "\\\r\n") {
			t.Errorf("%q leads to %q", s, got)
		}
	})
}
