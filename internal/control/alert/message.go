package alert

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// The ways of telling that exist here.
const (
	Log     = "LOG"
	Email   = "EMAIL"
	Group   = "GROUP"
	Org     = "ORG"
	Webhook = "WEBHOOK"
)

// The states of a delivery.
const (
	pending = store.DeliveryPending
	sent    = "SENT"
	failed  = "FAILED"
	skipped = "SKIPPED"
)

// The bounds of the queue: pending deliveries of one project, and of all.
const (
	maxPendingProject = 500
	maxPending        = 20_000
)

// Payload is the body of a message: what a webhook gets, and what mail and log are
// written from. FORMATS.md describes it.
type Payload struct {
	Version int `json:"version"`
	// ID is the delivery's; a repeated attempt has the same.
	ID      string       `json:"id"`
	Message string       `json:"message"`
	Created time.Time    `json:"created"`
	Project PayloadGroup `json:"project"`
	Alert   PayloadAlert `json:"alert"`
}

// PayloadGroup names the project of a message.
type PayloadGroup struct {
	ID   keys.ProjectID `json:"id"`
	Name string         `json:"name"`
}

// PayloadAlert is the alert of a message.
type PayloadAlert struct {
	ID       string     `json:"id"`
	Config   string     `json:"alertConfigId"`
	Kind     string     `json:"eventTypeName"`
	Status   string     `json:"status"`
	Summary  string     `json:"summary"`
	Remedy   string     `json:"remedy"`
	Since    time.Time  `json:"since"`
	Resolved *time.Time `json:"resolved,omitempty"`
	Target   string     `json:"target,omitempty"`
	Hostname string     `json:"hostname,omitempty"`
	Cluster  string     `json:"clusterName,omitempty"`
}

// transition is the event of an alert's step.
func transition(pr store.Project, m message) audit.Event {
	kind, text := "ALERT_OPENED", m.alert.Summary
	switch m.kind {
	case Ended:
		kind, text = "ALERT_CLOSED", "It is over: "+m.alert.Summary
	case Withdrawn:
		kind, text = "ALERT_CANCELLED", "Nobody wants to be told any more: "+m.alert.Summary
	}
	return eventOf(tenant.System(), kind, pr, m.alert, text)
}

func eventOf(p tenant.Principal, kind string, pr store.Project, a store.Alert, text string) audit.Event {
	e := tenant.Event(p, kind, pr, "%s", text)
	e.Host, e.Cluster = string(a.Host), string(a.Cluster)
	e.Data["alertId"], e.Data["alertConfigId"], e.Data["eventTypeName"], e.Data["since"] = a.ID, a.Config, a.Kind, a.Since.Format(time.RFC3339)
	if a.ClusterName != "" {
		e.Data["clusterName"] = a.ClusterName
	}
	if a.Target != "" {
		e.Data["target"] = a.Target
	}
	if kind == "ALERT_OPENED" {
		e.Data["remedy"] = a.Remedy
	}
	return e
}

// deliveries makes the deliveries of a message: one, or one for each person.
func (s *Service) deliveries(pr store.Project, c store.AlertConfig, m message, now time.Time) ([]store.AlertDelivery, error) {
	n := store.AlertNotification{Type: Log}
	for _, have := range c.Notifications {
		if m.notifier != "" && m.notifier == have.ID {
			n = have
		}
	}
	targets, why := s.targets(n)
	out := make([]store.AlertDelivery, 0, len(targets))
	for _, target := range targets {
		d := store.AlertDelivery{
			ID: keys.NewID(now), Project: pr.ID, Alert: m.alert.ID, Config: c.ID, Notifier: m.notifier, Type: n.Type, Target: target,
			Message: m.kind, Created: now, Due: now, State: pending,
		}
		b, err := json.Marshal(payload(pr, m, d))
		if err != nil {
			return nil, fmt.Errorf("encode message: %w", err)
		}
		if d.Body = string(b); why != "" {
			d.State, d.Tries = skipped, []store.DeliveryAttempt{{At: now, Error: why}}
		}
		out = append(out, d)
	}
	return out, nil
}

func payload(pr store.Project, m message, d store.AlertDelivery) Payload {
	a := m.alert
	p := Payload{Version: 1, ID: d.ID, Message: m.kind, Created: d.Created, Project: PayloadGroup{pr.ID, pr.Name}, Alert: PayloadAlert{
		ID: a.ID, Config: a.Config, Kind: a.Kind, Status: a.Status, Summary: a.Summary, Remedy: a.Remedy,
		Since: a.Since, Target: a.Target, Hostname: a.Hostname, Cluster: a.ClusterName,
	}}
	if !a.Resolved.IsZero() {
		p.Alert.Resolved = &a.Resolved
	}
	return p
}

// targets is whom a notification reaches, and why it reaches nobody, if so.
func (s *Service) targets(n store.AlertNotification) (out []string, why string) {
	switch n.Type {
	case Webhook:
		return []string{n.Shown}, ""
	case Email:
		out = []string{n.Address}
	case Group, Org:
		if out = s.cfg.Recipients; len(out) == 0 {
			return []string{"people by role"}, "nobody is known by role: the operator has named no addresses (--alert-email)"
		}
		if !n.Email {
			return []string{"people by role"}, "the notification has emailEnabled false, and mail is the only way to people here"
		}
	default:
		return []string{"log"}, ""
	}
	if s.cfg.Mail == nil {
		why = errNoMail.Error()
	}
	return out, why
}

// masked hides the addresses of the operator's people.
func masked(d store.AlertDelivery) store.AlertDelivery {
	if _, domain, ok := strings.Cut(d.Target, "@"); ok && (d.Type == Group || d.Type == Org) {
		d.Target = "***@" + domain
	}
	return d
}

// enqueue puts a message into the queue. What can never be sent, or finds the queue
// full, is recorded as such at once.
func (s *Service) enqueue(tx *store.Tx, pr store.Project, c store.AlertConfig, m message) error {
	made, err := s.deliveries(pr, c, m, tx.Now())
	if err != nil {
		return err
	}
	mine, err := tx.CountPending(pr.ID)
	if err != nil {
		return err
	}
	all, err := tx.CountPending("")
	if err != nil {
		return err
	}
	for i, d := range made {
		if d.State == pending && (mine+i >= maxPendingProject || all+i >= maxPending) {
			d.State, d.Tries = failed, []store.DeliveryAttempt{{At: d.Created, Error: "the queue is full"}}
		}
		if err := tx.PutDelivery(d); err != nil {
			return err
		}
	}
	return tx.PruneDeliveries(pr.ID, kept)
}
