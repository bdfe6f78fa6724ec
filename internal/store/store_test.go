package store_test

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/store"
)

func open(t *testing.T, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func tx(t *testing.T, s *store.Store, fn func(*store.Tx) error) {
	t.Helper()
	if err := s.Tx(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

var (
	orgID     = keys.OrgID(strings.Repeat("a", 24))
	projectID = keys.ProjectID(strings.Repeat("b", 24))
	clusterID = keys.ClusterID(strings.Repeat("c", 24))
	hostID    = keys.HostID(strings.Repeat("d", 24))
	nodeID    = keys.NodeID(strings.Repeat("e", 24))
)

// seed makes one of everything that others refer to.
func seed(t *testing.T, s *store.Store) {
	t.Helper()
	tx(t, s, func(x *store.Tx) error {
		return errors.Join(
			x.PutOrg(store.Org{ID: orgID, Name: "o"}),
			x.AddProject(store.Project{ID: projectID, Org: orgID, Name: "p"}),
			x.PutHost(store.Host{ID: hostID, Hostname: "h"}),
			x.AddCluster(store.Cluster{ID: clusterID, Project: projectID, Name: "c"}),
			x.PutNode(store.Node{ID: nodeID, Cluster: clusterID, Project: projectID, Host: hostID, Generation: 1}),
		)
	})
}

func TestAFailedTransactionChangesNothing(t *testing.T) {
	s := open(t, t.TempDir())
	seed(t, s)
	boom := errors.New("boom")
	err := s.Tx(t.Context(), func(x *store.Tx) error {
		if err := errors.Join(x.AddProject(store.Project{ID: "x", Org: orgID, Name: "x"}), x.Append(audit.Event{Type: "X"})); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
	tx(t, s, func(x *store.Tx) error {
		if _, err := x.Project("x"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("project of a failed transaction: %v", err)
		}
		if _, n, _ := x.Events(store.EventFilter{}); n != 0 {
			t.Errorf("%d events of a failed transaction", n)
		}
		return nil
	})
}

func TestAViewCannotChangeAnything(t *testing.T) {
	s := open(t, t.TempDir())
	if err := s.View(t.Context(), func(x *store.Tx) error { return x.PutOrg(store.Org{ID: orgID}) }); err == nil {
		t.Fatal("a view wrote")
	}
}

func TestIdentitiesNamesAndReferencesAreKept(t *testing.T) {
	s := open(t, t.TempDir())
	seed(t, s)
	for name, c := range map[string]struct {
		do   func(*store.Tx) error
		want error
	}{
		"project name twice": {func(x *store.Tx) error {
			return x.AddProject(store.Project{ID: "x", Org: orgID, Name: "p"})
		}, store.ErrDuplicate},
		"cluster name twice": {func(x *store.Tx) error {
			return x.AddCluster(store.Cluster{ID: "x", Project: projectID, Name: "c"})
		}, store.ErrDuplicate},
		"cluster of no project": {func(x *store.Tx) error {
			return x.AddCluster(store.Cluster{ID: "x", Project: "x", Name: "y"})
		}, store.ErrReferenced},
		"project with clusters": {func(x *store.Tx) error { return x.DeleteProject(projectID) }, store.ErrReferenced},
		"missing project":       {func(x *store.Tx) error { return x.UpdateProject(store.Project{ID: "x"}) }, store.ErrNotFound},
		"role in use": {func(x *store.Tx) error {
			if err := errors.Join(x.PutRole(store.AccessRole{ID: "r", Project: projectID}),
				x.PutKeyConfig(store.KeyConfig{Project: projectID, Role: "r", Enabled: true})); err != nil {
				return err
			}
			return x.DeleteRole(projectID, "r")
		}, store.ErrReferenced},
		"role of another project": {func(x *store.Tx) error { _, err := x.Role("x", "r"); return err }, store.ErrNotFound},
		"revision back": {func(x *store.Tx) error {
			return errors.Join(x.PutRevision(hostID, 7, "a"), x.PutRevision(hostID, 6, "b"))
		}, store.ErrNotFound},
	} {
		if err := s.Tx(t.Context(), c.do); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSecretsLieSealedAndOpenInTheirPlaceOnly(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	seed(t, s)
	const pw, ha1 = "correct-horse-battery", "0123456789abcdef-ha1"
	u := store.DatabaseUser{Project: projectID, Database: "admin", Username: "u"}
	v := store.DatabaseUser{Project: projectID, Database: "admin", Username: "v"}
	tx(t, s, func(x *store.Tx) error {
		return errors.Join(x.AddUser(u, secret.FromString(pw)), x.AddUser(v, secret.FromString("another-password")),
			x.AddAPIKey(store.APIKey{ID: "k", Org: orgID, PublicKey: "pub"}, secret.FromString(ha1)),
			x.AddAuthority("link", []byte("cert"), secret.FromString("ca-private-key")))
	})
	tx(t, s, func(x *store.Tx) error {
		got, err := x.Password(u)
		if err != nil || string(got.Reveal()) != pw {
			t.Errorf("password %v", err)
		}
		_, h, err := x.APIKeyByPublic("pub")
		if err != nil || string(h.Reveal()) != ha1 {
			t.Errorf("HA1 %v", err)
		}
		_, k, err := x.Authority("link")
		if err != nil || string(k.Reveal()) != "ca-private-key" {
			t.Errorf("authority key %v", err)
		}
		return nil
	})
	// A password moved to another user's row does not open there.
	raw(t, s, dir, func(db *sql.DB) {
		if _, err := db.Exec(`UPDATE database_users SET password = (SELECT password FROM database_users WHERE username = 'v') WHERE username = 'u'`); err != nil {
			t.Fatal(err)
		}
	})
	s = open(t, dir)
	tx(t, s, func(x *store.Tx) error {
		if _, err := x.Password(u); err == nil {
			t.Error("a password opened in another row")
		}
		return nil
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, sec := range []string{pw, ha1, "ca-private-key", "another-password"} {
			if bytes.Contains(b, []byte(sec)) {
				t.Errorf("%s holds a secret in clear", f)
			}
		}
		if st, _ := os.Stat(f); st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", f, st.Mode())
		}
	}
}

// raw closes the store and works on its file behind its back.
func raw(t *testing.T, s *store.Store, dir string, fn func(*sql.DB)) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", filepath.Join(dir, "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	fn(db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAStoreWithoutItsKeyDoesNotOpen(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir)
	deployment := first.Deployment()
	key := filepath.Join(dir, "deployment.key")
	reopen := func() error {
		s, err := store.Open(t.Context(), store.Config{Dir: dir})
		if err == nil {
			if s.Deployment() != deployment {
				t.Errorf("deployment %s became %s", deployment, s.Deployment())
			}
			err = s.Close()
		}
		return err
	}
	if err := reopen(); !errors.Is(err, store.ErrInUse) {
		t.Fatalf("a second process: %v", err)
	}
	s2 := filepath.Join(t.TempDir(), "other")
	other := open(t, s2)
	_ = other.Close()
	_ = first.Close()
	good, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	foreign, _ := os.ReadFile(filepath.Join(s2, "deployment.key"))
	for name, content := range map[string][]byte{"missing": nil, "foreign": foreign, "damaged": good[:len(good)-1], "empty": {}} {
		_ = os.Remove(key)
		if content != nil {
			if err := os.WriteFile(key, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := reopen(); err == nil {
			t.Errorf("%s key: the store opened", name)
		} else if _, e := os.Stat(key); name == "missing" && e == nil {
			t.Errorf("a new key was made: %v", err)
		} else if (name == "missing" || name == "foreign") && !errors.Is(err, store.ErrDeploymentKey) {
			t.Errorf("%s key: %v", name, err)
		}
	}
	newer := bytes.Clone(good)
	newer[8]++
	if err := os.WriteFile(key, newer, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := reopen(); !errors.Is(err, store.ErrNewer) {
		t.Errorf("newer key file: %v", err)
	}
	if err := os.WriteFile(key, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := reopen(); err != nil {
		t.Fatal(err)
	}
}

func TestNewerFormatsAreRefused(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	raw(t, s, dir, func(db *sql.DB) {
		if _, err := db.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, 1)`); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := store.Open(t.Context(), store.Config{Dir: dir}); !errors.Is(err, store.ErrNewer) {
		t.Errorf("newer schema: %v", err)
	}
	dir = t.TempDir()
	_ = open(t, dir).Close()
	if err := os.WriteFile(filepath.Join(dir, "format"), fmt.Appendf(nil, "keywright server data directory, format %d\n", store.FormatVersion+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(t.Context(), store.Config{Dir: dir}); !errors.Is(err, store.ErrNewer) {
		t.Errorf("newer directory: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "format"), []byte("somebody else's\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(t.Context(), store.Config{Dir: dir}); err == nil {
		t.Error("another program's directory was opened")
	}
}

func TestTheAuditChainFindsEveryChangedRow(t *testing.T) {
	for name, damage := range map[string]string{
		"message": `UPDATE events SET doc = replace(doc, 'Second', 'Another') WHERE seq = 2`,
		"type":    `UPDATE events SET type = 'X' WHERE seq = 2`,
		"project": `UPDATE events SET project_id = 'X' WHERE seq = 2`,
		"time":    `UPDATE events SET at = at + 1 WHERE seq = 2`,
		"dropped": `DELETE FROM events WHERE seq = 2`,
		"cut":     `DELETE FROM events WHERE seq = 3`,
	} {
		dir := t.TempDir()
		s := open(t, dir)
		for _, m := range []string{"First", "Second", "Third"} {
			tx(t, s, func(x *store.Tx) error {
				return x.Append(audit.Event{Type: "T", Project: string(projectID), Message: m, Data: map[string]string{"k": "v"}})
			})
		}
		head, err := s.VerifyAudit(t.Context(), audit.Head{})
		if err != nil || head.Seq != 3 {
			t.Fatalf("intact chain: %v %v", head, err)
		}
		raw(t, s, dir, func(db *sql.DB) {
			if _, err := db.Exec(damage); err != nil {
				t.Fatal(err)
			}
		})
		if _, err := open(t, dir).VerifyAudit(t.Context(), head); !errors.Is(err, audit.ErrBroken) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEventsComeNewestFirstAndFiltered(t *testing.T) {
	s := open(t, t.TempDir())
	var middle time.Time
	for i, e := range []audit.Event{
		{Type: "A", Org: string(orgID)}, {Type: "A", Org: string(orgID), Project: string(projectID)},
		{Type: "B", Org: string(orgID), Project: string(projectID), Cluster: string(clusterID)}, {Type: "C", Project: "other"},
	} {
		e.Time = time.Date(2026, 1, 1, 0, i, 0, 0, time.UTC)
		if i == 1 {
			middle = e.Time
		}
		tx(t, s, func(x *store.Tx) error { return x.Append(e) })
	}
	for name, c := range map[string]struct {
		f    store.EventFilter
		want string
	}{
		"all": {store.EventFilter{}, "CBAA"}, "project": {store.EventFilter{Project: projectID}, "BA"},
		"org": {store.EventFilter{Org: orgID, OwnOnly: true}, "A"}, "type": {store.EventFilter{Types: []string{"A", "C"}}, "CAA"},
		"cluster": {store.EventFilter{Clusters: []keys.ClusterID{clusterID}}, "B"}, "since": {store.EventFilter{Since: middle}, "CBA"},
		"until": {store.EventFilter{Until: middle}, "AA"}, "page": {store.EventFilter{Offset: 1, Limit: 2}, "BA"},
	} {
		tx(t, s, func(x *store.Tx) error {
			events, total, err := x.Events(c.f)
			got := ""
			for _, e := range events {
				got += e.Type
			}
			if err != nil || got != c.want || (name == "page" && total != 4) {
				t.Errorf("%s: %q of %d, %v", name, got, total, err)
			}
			return nil
		})
	}
}

func TestEscrowIsNeverOverwrittenByOlder(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	seed(t, s)
	w := store.EscrowedWrap{Key: "kw-1", Generation: 1, Revision: 2, Node: nodeID, Host: hostID, Project: projectID, Cluster: clusterID, State: keys.StatePreActive, Wrapped: []byte("two")}
	put := func(change func(*store.EscrowedWrap)) error {
		x := w
		change(&x)
		return s.Tx(t.Context(), func(tx *store.Tx) error { return tx.PutEscrow(x) })
	}
	for _, c := range []struct {
		name   string
		change func(*store.EscrowedWrap)
		want   error
	}{
		{"first", func(*store.EscrowedWrap) {}, nil},
		{"the same again", func(*store.EscrowedWrap) {}, nil},
		{"older", func(x *store.EscrowedWrap) { x.Revision = 1 }, store.ErrOlder},
		{"other bytes under the same revision", func(x *store.EscrowedWrap) { x.Wrapped = []byte("x") }, store.ErrOlder},
		{"another node's", func(x *store.EscrowedWrap) { x.Node, x.Revision = "f", 9 }, store.ErrForeign},
		{"newer", func(x *store.EscrowedWrap) { x.Revision, x.State, x.Wrapped = 3, keys.StateActive, []byte("three") }, nil},
		{"next CMK beside it", func(x *store.EscrowedWrap) { x.Generation, x.Revision = 2, 3 }, nil},
		{"older under another CMK", func(x *store.EscrowedWrap) { x.Generation, x.Revision = 3, 2 }, store.ErrOlder},
	} {
		if err := put(c.change); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	_ = s.Close()
	s = open(t, dir)
	tx(t, s, func(x *store.Tx) error {
		all, err := x.EscrowOfHost(hostID)
		if err != nil || len(all) != 2 || string(all[0].Wrapped) != "three" || all[0].State != keys.StateActive {
			t.Errorf("escrow after a restart: %+v %v", all, err)
		}
		return nil
	})
}

func TestConcurrentTransactionsQueueUp(t *testing.T) {
	s := open(t, t.TempDir())
	seed(t, s)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			err := s.Tx(t.Context(), func(x *store.Tx) error {
				c, err := x.KeyConfig(projectID)
				if err != nil {
					return err
				}
				c.Generation++
				return errors.Join(x.PutKeyConfig(c), x.Append(audit.Event{Type: "T"}))
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	tx(t, s, func(x *store.Tx) error {
		if c, _ := x.KeyConfig(projectID); c.Generation != 20 {
			t.Errorf("generation %d after 20 changes", c.Generation)
		}
		return nil
	})
	if h, err := s.VerifyAudit(t.Context(), audit.Head{}); err != nil || h.Seq != 20 {
		t.Errorf("chain %v %v", h, err)
	}
}

func TestChangedTellsOfCommitsOnly(t *testing.T) {
	s := open(t, t.TempDir())
	c := s.Changed()
	_ = s.Tx(t.Context(), func(x *store.Tx) error { _ = x.PutOrg(store.Org{ID: orgID}); return errors.New("no") })
	_ = s.View(t.Context(), func(*store.Tx) error { return nil })
	select {
	case <-c:
		t.Fatal("told of nothing")
	default:
	}
	tx(t, s, func(x *store.Tx) error { return x.PutOrg(store.Org{ID: orgID}) })
	select {
	case <-c:
	default:
		t.Fatal("not told of a commit")
	}
}

// schemaOne gives the statements that make a new store one of schema 1, with its meta.
func schemaOne(t *testing.T, db *sql.DB) []string {
	t.Helper()
	rows, err := db.Query(`SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'goose%' AND name NOT LIKE 'sqlite%' AND name <> 'meta'`)
	if err != nil {
		t.Fatal(err)
	}
	out := []string{`PRAGMA foreign_keys = OFF`, `ALTER TABLE meta RENAME TO kept`}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		out = append(out, `DROP TABLE `+name)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile("migrations/00001_init.sql")
	if err != nil {
		t.Fatal(err)
	}
	up, _, _ := strings.Cut(strings.TrimPrefix(string(first), "-- +goose Up"), "-- +goose Down")
	return append(out, up, `INSERT INTO meta SELECT name, value FROM kept`, `DROP TABLE kept`, `DELETE FROM goose_db_version WHERE version_id > 1`)
}

// What schema 1 holds is read after the migration: a token of that time is the
// platform's.
func TestASchemaOfBeforeIsMigrated(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	raw(t, s, dir, func(db *sql.DB) {
		for _, q := range append(schemaOne(t, db), `INSERT INTO enrolment_tokens (hash, hostname, expires, used) VALUES ('old', 'h', 9000000000000000, 0)`) {
			if _, err := db.Exec(q); err != nil {
				t.Fatalf("%s: %v", q, err)
			}
		}
	})
	s = open(t, dir)
	tx(t, s, func(x *store.Tx) error {
		if org, err := x.UseToken("old", "h"); err != nil || org != "" {
			t.Errorf("a token of before: %q, %v", org, err)
		}
		if err := x.AddToken(store.EnrolmentToken{Hash: "new", Org: orgID, Hostname: "h", Expires: x.Now().Add(time.Hour)}); err != nil {
			return err
		}
		if org, err := x.UseToken("new", "h"); err != nil || org != orgID {
			t.Errorf("a new token: %q, %v", org, err)
		}
		return nil
	})
}
