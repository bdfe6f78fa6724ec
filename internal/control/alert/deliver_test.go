package alert_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/control/alert"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/store"
)

// clock is a clock that tests move.
type clock struct {
	mu  sync.Mutex
	off time.Duration
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return time.Now().Add(c.off) }

func (c *clock) add(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.off += d }

// post is a mailer that can fail.
type post struct {
	mu   sync.Mutex
	fail error
	got  []alert.Mail
}

func (p *post) Send(_ context.Context, m alert.Mail) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fail != nil {
		return p.fail
	}
	p.got = append(p.got, m)
	return nil
}

type rig struct {
	t       *testing.T
	dir     string
	clock   *clock
	mail    *post
	st      *store.Store
	alerts  *alert.Service
	project keys.ProjectID
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) open() {
	r.t.Helper()
	var err error
	r.st, err = store.Open(r.t.Context(), store.Config{Dir: r.dir, Now: r.clock.now})
	r.must(err)
	r.alerts, err = alert.New(alert.Config{Store: r.st, Mail: r.mail, Recipients: []string{"ops@example.com"}, LocalHooks: true})
	r.must(err)
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), clock: &clock{}, mail: &post{}}
	r.open()
	t.Cleanup(func() { _ = r.st.Close() })
	tenants := tenant.New(r.st)
	r.must(tenants.Bootstrap(t.Context(), tenant.Init{OrgName: "Acme", PublicKey: "k", PrivateKey: secret.FromString("a-private-key-of-the-owner")}))
	orgs, err := tenants.Orgs(t.Context(), tenant.System())
	r.must(err)
	p, err := tenants.CreateProject(t.Context(), tenant.System(), tenant.NewProject{Org: orgs[0].ID, Name: "p"})
	r.must(err)
	r.project = p.ID
	return r
}

func (r *rig) raise() {
	r.t.Helper()
	r.must(r.st.Tx(r.t.Context(), func(tx *store.Tx) error {
		return tx.Raise(store.Finding{Project: r.project, Kind: alert.KeyInvalid, Summary: "The key is gone.", Remedy: "Bring it back."})
	}))
	r.must(r.alerts.Reconcile(r.t.Context()))
}

func (r *rig) pump() {
	r.t.Helper()
	for {
		n, _, err := r.alerts.DeliverDue(r.t.Context())
		r.must(err)
		if n == 0 {
			return
		}
	}
}

func (r *rig) deliveries(kind string) (out []store.AlertDelivery) {
	r.t.Helper()
	all, _, err := r.alerts.Deliveries(r.t.Context(), tenant.System(), r.project, 500, 0)
	r.must(err)
	for _, d := range all {
		if d.Type == kind {
			out = append(out, d)
		}
	}
	return out
}

// What was queued before a crash is sent after it, is tried again until it works, and is
// recorded.
func TestNoNotificationIsLost(t *testing.T) {
	r := newRig(t)
	r.raise()
	r.must(r.st.Close()) // killed before anything was sent
	r.mail.fail = errors.New("greylisted")
	r.open()
	r.pump()
	d := r.deliveries(alert.Group)
	if len(d) != 1 || d[0].State != "PENDING" || d[0].Attempts != 1 || d[0].Tries[0].Error != "greylisted" || d[0].Target != "***@example.com" {
		t.Fatalf("%+v", d)
	}
	r.pump()
	if d = r.deliveries(alert.Group); d[0].Attempts != 1 {
		t.Error("tried again without a pause")
	}
	r.mail.fail = nil
	r.clock.add(time.Minute)
	r.pump()
	if d = r.deliveries(alert.Group); d[0].State != "SENT" || len(r.mail.got) != 1 || r.mail.got[0].ID != d[0].ID {
		t.Fatalf("%+v %+v", d, r.mail.got)
	}
	if m := r.mail.got[0]; !strings.Contains(m.Text, "The key is gone.") || !strings.Contains(m.Text, "Bring it back.") || m.To != "ops@example.com" {
		t.Errorf("%+v", m)
	}
	if logged := r.deliveries(alert.Log); len(logged) != 1 || logged[0].State != "SENT" {
		t.Errorf("%+v", logged)
	}
}

func TestWhatNeverWorksFailsInTheEnd(t *testing.T) {
	r := newRig(t)
	r.mail.fail = errors.New("no")
	r.raise()
	for range 30 {
		r.pump()
		r.clock.add(5 * time.Hour)
	}
	d := r.deliveries(alert.Group)
	if len(d) != 1 || d[0].State != "FAILED" || len(d[0].Tries) > 10 {
		t.Fatalf("%+v", d)
	}
}

// A redirect is an answer, not a way.
func TestRedirectsOfWebhooksAreNotFollowed(t *testing.T) {
	r := newRig(t)
	hits := 0
	var mu sync.Mutex
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		mu.Lock()
		hits++
		mu.Unlock()
		http.Redirect(w, q, "/elsewhere", http.StatusTemporaryRedirect)
	}))
	t.Cleanup(hook.Close)
	on := true
	c, err := r.alerts.Create(t.Context(), tenant.System(), r.project, alert.Wish{Kind: alert.KeyInvalid, Enabled: &on, Notifications: []alert.NotificationWish{{Type: alert.Webhook, URL: secret.FromString(hook.URL + "/x")}}})
	r.must(err)
	got, err := r.alerts.TestConfig(t.Context(), tenant.System(), r.project, c.ID)
	r.must(err)
	if got[1].State != "FAILED" || got[1].Tries[0].Status != 307 || hits != 1 {
		t.Errorf("%+v, %d hits", got[1], hits)
	}
}

// A mail server that speaks just enough SMTP.
func TestMailIsSentOverSMTP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	said := make(chan []string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		var lines []string
		_, _ = fmt.Fprint(c, "220 here\r\n")
		data := false
		for s := bufio.NewScanner(c); s.Scan(); {
			line := s.Text()
			lines = append(lines, line)
			switch {
			case data && line == ".":
				data = false
				_, _ = fmt.Fprint(c, "250 taken\r\n")
			case data:
			case strings.HasPrefix(line, "DATA"):
				data = true
				_, _ = fmt.Fprint(c, "354 go on\r\n")
			case strings.HasPrefix(line, "QUIT"):
				_, _ = fmt.Fprint(c, "221 bye\r\n")
				said <- lines
				return
			default:
				_, _ = fmt.Fprint(c, "250 fine\r\n")
			}
		}
	}()
	s := &alert.SMTP{Address: l.Addr().String(), Security: alert.Plain, From: "keywright@example.com"}
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	if err := s.Send(t.Context(), alert.Mail{ID: "65a0", To: "ops@example.com", Subject: "a\r\nBcc: x@example.com", Text: "text", Date: time.Now()}); err != nil {
		t.Fatal(err)
	}
	text := strings.Join(<-said, "\n")
	for _, want := range []string{"MAIL FROM:<keywright@example.com>", "RCPT TO:<ops@example.com>", "Message-ID: <65a0@example.com>", "dGV4dA=="} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "\nBcc:") {
		t.Error("a subject has added a header")
	}
	for name, bad := range map[string]*alert.SMTP{
		"plain elsewhere": {Address: "mail.example.com:25", Security: alert.Plain, From: "a@example.com"},
		"no port":         {Address: "mail.example.com", Security: alert.TLS, From: "a@example.com"},
		"no sender":       {Address: "mail.example.com:25", Security: alert.TLS},
		"no security":     {Address: "mail.example.com:25", Security: "maybe", From: "a@example.com"},
	} {
		if bad.Check() == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
