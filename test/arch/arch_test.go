// Package arch tests the shape of the house: which room may know which.
package arch

import (
	"bytes"
	"encoding/json"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/keywright/keywright/"

// floors lists the rooms from the top of the house to the ground. A room knows
// the floors below it, never those above.
var floors = [][]string{
	{"cli"},
	{"up", "testkit", "doctor"},
	{"server", "api", "console", "control", "store"},
	{"agent", "kmip"},
	{"engine"},
	{
		"custody", "kms", "envelope", "keys", "secret", "pki", "agentlink", "audit", "awslocal", "client",
		"durable", "health", "telemetry", "config", "apierr", "bundle", "policydoc",
	},
}

// neighbours says what a room may know on its own floor. Rooms inside one room
// (control/cmk and control/access) are neighbours of each other too.
var neighbours = map[string][]string{
	"server":              {"control", "store"},
	"api":                 {"control/tenant", "control/access", "control/cmk", "control/cluster", "control/rotation", "control/escrow", "control/alert", "control/network", "control/inventory", "control/maintenance", "store"},
	"console":             {"control/tenant", "control/access", "control/cmk", "control/cluster", "store"},
	"control/tenant":      {"store"},
	"control/access":      {"store", "control/tenant", "policydoc"},
	"control/cmk":         {"store", "control/tenant", "control/access"},
	"control/cluster":     {"store", "control/tenant", "control/cmk"},
	"control/network":     {"store", "control/tenant", "policydoc"},
	"control/rotation":    {"store", "control/tenant", "control/maintenance"},
	"control/maintenance": {"store", "control/tenant"},
	"control/escrow":      {"store", "control/tenant"},
	"control/inventory":   {"store", "control/tenant"},
	"control/alert":       {"store", "control/tenant"},
	"control/controltest": {"store", "control/tenant", "control/access", "control/cmk", "control/cluster", "control/network"},
	"agent":               {"agent/driver", "agent/wraps", "kmip"},
	"agent/wraps":         {"kmip"},
	"engine":              {"engine/wire", "engine/auth", "engine/command", "engine/storage", "engine/replication", "engine/cryptofs", "engine/keysource", "engine/mongoerr", "engine/index"},
	"engine/command":      {"engine/wire", "engine/auth", "engine/storage", "engine/replication", "engine/index", "engine/query", "engine/update", "engine/aggregate", "engine/mongoerr"},
	"engine/wire":         {"engine/mongoerr"},
	"engine/auth":         {"engine/mongoerr", "engine/wire"},
	"engine/replication":  {"engine/storage", "engine/index", "engine/cryptofs", "engine/mongoerr"},
	"engine/storage":      {"engine/replication/entry", "engine/index", "engine/cryptofs", "engine/mongoerr"},
	"engine/query":        {"engine/index", "engine/mongoerr"},
	"engine/update":       {"engine/query", "engine/index", "engine/mongoerr"},
	"engine/aggregate":    {"engine/query", "engine/index", "engine/mongoerr"},
	"engine/index":        {"engine/mongoerr"},
	"custody":             {"kms", "keys"},
	"kms":                 {"keys", "secret"},
	"kms/awskms":          {"kms", "keys", "secret"},
	"kms/kmstest":         {"kms", "keys", "secret"},
	"envelope":            {"kms", "keys", "secret"},
	"pki":                 {"keys", "secret", "durable"},
	"audit":               {"durable"},
	"awslocal":            {"durable"},
	"agentlink":           {"custody", "keys", "kms"},
	"bundle":              {"agentlink", "envelope", "pki"},
	"client":              {"secret"},
	"telemetry":           {"kms", "secret"},
	"policydoc":           {"kms", "keys"},
}

// always may be known by everybody above and beside the ground floor's leaves.
var always = []string{"keys", "secret"}

type pkg struct {
	ImportPath string
	Imports    []string
	Dir        string
	GoFiles    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Dir,GoFiles", module+"...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func room(importPath string) (string, bool) { return strings.CutPrefix(importPath, module+"internal/") }

func floorOf(t *testing.T, room string) int {
	t.Helper()
	top, _, _ := strings.Cut(room, "/")
	for i, f := range floors {
		if slices.Contains(f, top) {
			return i
		}
	}
	t.Errorf("internal/%s is on no floor: name its floor in the table of this test", room)
	return -1
}

func TestRoomsKnowOnlyTheFloorsBelowThem(t *testing.T) {
	for _, p := range packages(t) {
		from, ok := room(p.ImportPath)
		if !ok {
			continue
		}
		floor := floorOf(t, from)
		for _, imp := range p.Imports {
			to, ok := room(imp)
			if !ok || floor < 0 {
				continue
			}
			other := floorOf(t, to)
			switch {
			case other > floor:
			case other < floor:
				t.Errorf("internal/%s knows internal/%s, which is above it", from, to)
			case !allowedBeside(from, to):
				t.Errorf("internal/%s knows its neighbour internal/%s, which the table does not name", from, to)
			}
		}
	}
}

func allowedBeside(from, to string) bool {
	if slices.Contains(always, to) || strings.HasPrefix(to, from+"/") {
		return true
	}
	for _, n := range neighbours[from] {
		if to == n || strings.HasPrefix(to, n+"/") {
			return true
		}
	}
	// A room inside a room may know what its own room holds below it.
	parent := filepath.Dir(from)
	for _, n := range neighbours[parent] {
		if parent != "." && parent != "engine" && parent != "control" && to == n {
			return true
		}
	}
	return false
}

// The local AWS and the code that calls AWS meet over signed HTTP only: shared
// code would hide a shared mistake.
func TestLocalAWSSharesNoCodeWithItsCaller(t *testing.T) {
	for _, p := range packages(t) {
		from, _ := room(p.ImportPath)
		for _, imp := range p.Imports {
			to, _ := room(imp)
			if strings.HasPrefix(from, "awslocal") && strings.HasPrefix(to, "kms") || strings.HasPrefix(from, "kms") && strings.HasPrefix(to, "awslocal") {
				t.Errorf("%s imports %s", from, to)
			}
		}
	}
}

// The engine knows nothing of any control plane or agent: it could run alone.
func TestEngineStandsAlone(t *testing.T) {
	for _, p := range packages(t) {
		from, _ := room(p.ImportPath)
		if !strings.HasPrefix(from, "engine") {
			continue
		}
		for _, imp := range p.Imports {
			if to, ok := room(imp); ok && !strings.HasPrefix(to, "engine") && !slices.Contains(always, to) {
				t.Errorf("internal/%s imports internal/%s", from, to)
			}
		}
	}
}

func TestEveryPackageExplainsItself(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) == 0 {
			continue
		}
		found := 0
		for _, f := range p.GoFiles {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if file.Doc != nil {
				found++
			}
		}
		if found != 1 {
			t.Errorf("%s has %d package comments, one is expected", p.ImportPath, found)
		}
	}
}

// Each direct dependency has a line that says why it is there.
func TestEveryDependencyIsExplained(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../DEPENDENCIES.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(mod), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 || strings.Contains(line, "// indirect") || !strings.Contains(f[0], ".") {
			continue
		}
		if !strings.Contains(string(text), "`"+f[0]+"`") {
			t.Errorf("DEPENDENCIES.md does not say why %s is used", f[0])
		}
	}
}
