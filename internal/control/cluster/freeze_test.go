package cluster_test

import (
	"strings"
	"testing"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
	"github.com/keywright/keywright/internal/testkit/controltest"
)

func frozen(t *testing.T, w *controltest.World, host keys.HostID) string {
	t.Helper()
	var h store.Host
	w.Must(w.Store.View(t.Context(), func(tx *store.Tx) (err error) {
		h, err = tx.Host(host)
		return err
	}))
	return h.Frozen
}

// A host that remembers less than it once told of was rolled back, whichever way that
// shows: it is frozen before it gets anything.
func TestAHostThatWentBackIsFrozen(t *testing.T) {
	for name, goBack := range map[string]func(*controltest.World, *controltest.Agent) error{
		"it asks and remembers less": func(w *controltest.World, a *controltest.Agent) error {
			return w.Cluster.Known(w.T.Context(), a.Host, 1)
		},
		"its report has an older revision": func(w *controltest.World, a *controltest.Agent) error {
			st := a.Status()
			st.Revision, st.AuditSeq = 1, 50
			w.Must(w.Cluster.Status(w.T.Context(), a.Host, st))
			return w.Cluster.Known(w.T.Context(), a.Host, 1)
		},
		"its audit chain is shorter": func(w *controltest.World, a *controltest.Agent) error {
			st := a.Status()
			st.AuditSeq = 3
			w.Must(w.Cluster.Status(w.T.Context(), a.Host, st))
			_, err := w.Cluster.Desired(w.T.Context(), a.Host, 0)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := controltest.New(t)
			p := w.Project("p")
			a := controltest.NewAgent(w.Host("h"))
			for _, c := range []string{"a", "b"} {
				_, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, c, settings("NONE"))
				w.Must(err)
				step(t, w, a)
			}
			st := a.Status()
			st.AuditSeq = 40
			w.Must(w.Cluster.Status(t.Context(), a.Host, st))
			w.Must(w.Cluster.Known(t.Context(), a.Host, a.Revision))
			w.Must(w.Cluster.Known(t.Context(), a.Host, 0))
			if err := goBack(w, a); apierr.Code(err) != "HOST_FROZEN" || !strings.Contains(frozen(t, w, a.Host), "older copy of its directory") {
				t.Errorf("%v, frozen: %q", err, frozen(t, w, a.Host))
			}
			_, err := w.Cluster.Unfreeze(t.Context(), w.Owner, "h", "h")
			w.Must(err)
			high := a.Revision
			step(t, w, a)
			if a.Revision <= high {
				t.Errorf("revision %d after %d", a.Revision, high)
			}
		})
	}
}

// A host that lost its disk and enrols again remembers nothing, and that is right.
func TestAHostThatEnrolsAgainIsNotFrozen(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	a := controltest.NewAgent(w.Host("h"))
	_, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, "c", settings("NONE"))
	w.Must(err)
	step(t, w, a)
	w.Must(w.Cluster.Known(t.Context(), w.Host("h"), 0))
	w.Must(w.Cluster.Status(t.Context(), a.Host, agentlink.Status{}))
	if why := frozen(t, w, a.Host); why != "" {
		t.Errorf("frozen: %s", why)
	}
}

func TestUnfreezingIsConfirmedRecordedAndTheOwners(t *testing.T) {
	w := controltest.New(t)
	host := w.Host("h")
	reader := w.Key([]tenant.Role{tenant.OrgReadOnly}, "")
	try := func(p tenant.Principal, named, confirm, code string) {
		t.Helper()
		if _, err := w.Cluster.Unfreeze(t.Context(), p, named, confirm); apierr.Code(err) != code {
			t.Errorf("%s/%s: %v, want %s", named, confirm, err, code)
		}
	}
	try(w.Owner, "h", "h", "HOST_NOT_FROZEN")
	w.Must(w.Cluster.Status(t.Context(), host, agentlink.Status{Revision: 70}))
	try(w.Owner, "none", "none", "HOST_NOT_FOUND")
	try(w.Owner, "h", "", "CONFIRMATION_REQUIRED")
	try(w.Owner, "h", "H", "CONFIRMATION_REQUIRED")
	try(w.Owner, string(host), string(host), "CONFIRMATION_REQUIRED")
	try(reader, "h", "h", "USER_UNAUTHORIZED")
	if frozen(t, w, host) == "" {
		t.Fatal("a refused call has unfrozen the host")
	}
	h, err := w.Cluster.Unfreeze(t.Context(), w.Owner, string(host), "h")
	if err != nil || h.Frozen != "" || h.Revision != 71 {
		t.Errorf("%+v, %v", h, err)
	}
	if e := ofType(t, w, "HOST_UNFROZEN"); len(e) != 1 || e[0].Data["revision"] != "71" || e[0].Host != string(host) || !strings.Contains(e[0].Actor, "ownerkey") {
		t.Errorf("recorded %+v", e)
	}
}

// The store has forgotten that a cluster was encrypted. Its wish is not put above the
// files: they would be written anew in clear and their keys destroyed.
func TestUnfreezingTakesOverWhatTheHostHas(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	w.Enable(p.ID)
	a := controltest.NewAgent(w.Host("h"))
	c, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, "c", settings("NONE"))
	w.Must(err)
	step(t, w, a)
	st := a.Status()
	st.Revision = 90
	st.Nodes[0].Encrypted, st.Nodes[0].Generation = true, 4
	w.Must(w.Cluster.Status(t.Context(), a.Host, st))
	_, err = w.Cluster.Unfreeze(t.Context(), w.Owner, "h", "h")
	w.Must(err)
	d, err := w.Cluster.Desired(t.Context(), a.Host, 0)
	w.Must(err)
	if n := d.Nodes[0]; !n.Encrypted || n.Generation != 4 || d.Revision <= 90 {
		t.Errorf("the host is told %+v", n)
	}
	if v := get(t, w, p.ID, c.Name); v.Settings.EncryptionProvider != "AWS" || v.Nodes[0].Generation != 4 {
		t.Errorf("the cluster is %+v", v)
	}
}
