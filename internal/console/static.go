package console

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed static
var files embed.FS

// asset is one static file under a name that changes with its content.
type asset struct {
	name string
	body []byte
}

// assets are the static files by their short name ("console.css") and by the served one.
type assets struct{ byShort, byName map[string]asset }

func loadAssets() assets {
	out := assets{byShort: map[string]asset{}, byName: map[string]asset{}}
	entries, err := fs.ReadDir(files, "static")
	for _, e := range entries {
		var b []byte
		if b, err = files.ReadFile("static/" + e.Name()); err != nil {
			break
		}
		sum := sha256.Sum256(b)
		ext := path.Ext(e.Name())
		a := asset{name: strings.TrimSuffix(e.Name(), ext) + "-" + hex.EncodeToString(sum[:6]) + ext, body: b}
		out.byShort[e.Name()], out.byName[a.name] = a, a
	}
	if err != nil {
		panic("console: embedded files cannot be read: " + err.Error()) // the program was built wrongly
	}
	return out
}

func (a assets) path(short string) string { return "/static/" + a.byShort[short].name }

func (a assets) serve(w http.ResponseWriter, r *http.Request) bool {
	f, ok := a.byName[r.PathValue("name")]
	if !ok {
		return false
	}
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	http.ServeContent(w, r, f.name, time.Time{}, bytes.NewReader(f.body))
	return true
}
