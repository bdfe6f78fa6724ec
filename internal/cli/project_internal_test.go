package cli

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/keywright/keywright/internal/client"
	"github.com/keywright/keywright/internal/secret"
)

// A project is named by id or by name; a name may look like an id.
func TestProjectsAreFoundByIDOrName(t *testing.T) {
	const id, lookalike = "5f0000000000000000000001", "5f0000000000000000000002"
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.EscapedPath() {
		case "/api/atlas/v2/groups/" + id, "/api/atlas/v2/groups/byName/a%20b%2Fc", "/api/atlas/v2/groups/byName/" + lookalike:
			_, _ = w.Write([]byte(`{"id":"` + id + `","name":"a b/c"}`))
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer srv.Close()
	cl := client.New(srv.URL, "pub", secret.FromString("key"))
	var f apiFlags
	for _, named := range []string{id, "a b/c", lookalike} {
		if p, err := f.project(t.Context(), cl, named); err != nil || p.ID != id {
			t.Errorf("%s: %+v, %v", named, p, err)
		}
	}
	if _, err := f.project(t.Context(), cl, "none"); !isStatus(err, http.StatusNotFound) {
		t.Errorf("none: %v", err)
	}
}
