package arch

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// named is a test as documents name it, `room: TestName`, where room is a package's
// name with as much of its path as tells it apart.
var named = regexp.MustCompile("`([a-z0-9/]+): ((?:Test|Fuzz)\\w+)`")

// TestDocumentsNameTestsThatExist: whoever reads which test shows a promise can run it.
func TestDocumentsNameTestsThatExist(t *testing.T) {
	root := filepath.Join("..", "..")
	tests := map[string][]string{} // by package directory, below internal or test
	if err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		dir := "/" + filepath.ToSlash(filepath.Dir(strings.TrimPrefix(path, root+string(filepath.Separator))))
		for line := range bytes.Lines(b) {
			if name, ok := bytes.CutPrefix(line, []byte("func ")); ok {
				fn, _, _ := strings.Cut(string(name), "(")
				tests[dir] = append(tests[dir], fn)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, doc := range []string{"README.md", "ARCHITECTURE.md", "THREAT-MODEL.md", "FORMATS.md", "docs/FAULTS.md"} {
		b, err := os.ReadFile(filepath.Join(root, doc))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range named.FindAllStringSubmatch(string(b), -1) {
			seen++
			room, name := m[1], m[2]
			found := false
			for dir, fns := range tests {
				found = found || strings.HasSuffix(dir, "/"+room) && slices.Contains(fns, name)
			}
			if !found {
				t.Errorf("%s names `%s: %s`, which does not exist", doc, room, name)
			}
		}
	}
	if seen < 50 {
		t.Errorf("only %d names of tests were found in the documents", seen)
	}
}
