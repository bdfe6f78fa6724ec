package cli_test

import (
	"database/sql"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/control/escrow"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/durable"
	"github.com/keywright/keywright/internal/pki"
	"github.com/keywright/keywright/internal/store"
	"github.com/keywright/keywright/internal/testkit/controltest"
)

// Whoever has the whole store can write another history with a chain that is in order:
// only a head that was kept elsewhere finds it.
func TestARewrittenHistoryIsFoundByAKeptHead(t *testing.T) {
	w := controltest.New(t)
	w.Project("One")
	w.Project("Two")
	certificate, private, err := pki.NewAuthority(pki.KindLink, w.Store.Deployment(), time.Now())
	w.Must(err)
	link, err := pki.LoadAuthority(pki.KindLink, certificate, private)
	w.Must(err)
	heads, err := escrow.New(w.Store, link).Heads(t.Context(), tenant.System(), w.Org)
	w.Must(err)
	kept, ca := filepath.Join(t.TempDir(), "head.json"), filepath.Join(t.TempDir(), "ca.pem")
	w.Must(durable.WriteJSON(kept, heads, 0o600))
	w.Must(durable.WriteFile(ca, certificate, 0o600))
	w.Close()
	verify := func(args ...string) (int, string) {
		code, _, errs := run(append([]string{"audit", "verify", "--data-dir", w.Dir}, args...)...)
		return code, errs
	}
	if code, errs := verify("--head", kept, "--ca-file", ca); code != 0 {
		t.Fatal(errs)
	}
	rewrite(t, filepath.Join(w.Dir, "store.db"))
	if code, errs := verify(); code != 0 {
		t.Errorf("the rewritten chain is not in order: %s", errs)
	}
	if code, errs := verify("--head", kept); code != 1 || !strings.Contains(errs, "kept head") {
		t.Errorf("the rewritten history was not found: %d %s", code, errs)
	}
	// A head that was forged too is found by its signature.
	heads.Heads[0].Seq, heads.Heads[0].Hash = 1, audit.Hash{1}
	w.Must(durable.WriteJSON(kept, heads, 0o600))
	if code, errs := verify("--head", kept); code != 1 || !strings.Contains(errs, "signature") {
		t.Errorf("a forged head: %d %s", code, errs)
	}
	other, _, err := pki.NewAuthority(pki.KindLink, "another", time.Now())
	w.Must(err)
	w.Must(durable.WriteFile(ca, other, 0o600))
	fresh, err := escrow.New(reopened(w), link).Heads(t.Context(), tenant.System(), w.Org)
	w.Must(err)
	w.Close()
	w.Must(durable.WriteJSON(kept, fresh, 0o600))
	if code, errs := verify("--head", kept, "--ca-file", ca); code != 1 || !strings.Contains(errs, "not who may") {
		t.Errorf("a head under another authority: %d %s", code, errs)
	}
}

// rewrite drops an event from the history and computes the chain anew.
func rewrite(t *testing.T, path string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	rows, err := db.Query(`SELECT doc FROM events ORDER BY seq`)
	if err != nil {
		t.Fatal(err)
	}
	var all []audit.Event
	for rows.Next() {
		var text string
		var e audit.Event
		if err := rows.Scan(&text); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`DELETE FROM events`); err != nil {
		t.Fatal(err)
	}
	var head audit.Head
	for i, e := range all {
		if i == 1 {
			e.Message = "Nothing of interest happened."
		}
		e = audit.Chain(head, e)
		head = e.Head()
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.Exec(`INSERT INTO events (seq, id, at, type, org_id, project_id, cluster_id, doc) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
			int64(e.Seq), e.ID, e.Time.UnixMicro(), e.Type, e.Org, e.Project, e.Cluster, string(b)); err != nil {
			t.Fatal(err)
		}
	}
}

func reopened(w *controltest.World) *store.Store { w.Reopen(); return w.Store }
