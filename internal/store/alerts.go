package store

import (
	"errors"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
)

// Raise records a finding. The same finding again changes its words; Since stays what
// it was the first time, unless the one that is recorded has ended by itself.
func (t *Tx) Raise(f Finding) error {
	old, err := doc[Finding](t, `SELECT doc FROM findings WHERE project_id = ? AND kind = ? AND target = ?`, string(f.Project), f.Kind, f.Target)
	switch {
	case err != nil && !errors.Is(err, ErrNotFound):
		return err
	case err == nil && (old.Until.IsZero() || old.Until.After(t.Now())):
		f.Since = old.Since
	case f.Since.IsZero():
		f.Since = t.Now()
	}
	if err == nil && f == old {
		return nil
	}
	d, err := encode(f)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO findings (project_id, kind, target, doc) VALUES (?, ?, ?, ?)
		ON CONFLICT (project_id, kind, target) DO UPDATE SET doc = excluded.doc`, string(f.Project), f.Kind, f.Target, d)
	return err
}

// Clear ends a finding; one that is not there is no error.
func (t *Tx) Clear(p keys.ProjectID, kind, target string) error {
	if _, err := doc[Finding](t, `SELECT doc FROM findings WHERE project_id = ? AND kind = ? AND target = ?`, string(p), kind, target); err != nil {
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		return err
	}
	_, err := t.exec(`DELETE FROM findings WHERE project_id = ? AND kind = ? AND target = ?`, string(p), kind, target)
	return err
}

// Findings lists a project's findings; those of all projects with "".
func (t *Tx) Findings(p keys.ProjectID) ([]Finding, error) {
	return ofProject[Finding](t, `SELECT doc FROM findings`, p, `ORDER BY project_id, kind, target`)
}

// ofProject reads documents of one project, or of all with "".
func ofProject[T any](t *Tx, query string, p keys.ProjectID, order string) ([]T, error) {
	if p == "" {
		return docs[T](t, query+` `+order)
	}
	return docs[T](t, query+` WHERE project_id = ? `+order, string(p))
}

// PutAlertConfig adds or replaces a configuration.
func (t *Tx) PutAlertConfig(c AlertConfig) error {
	d, err := encode(c)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO alert_configs (id, project_id, doc) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET doc = excluded.doc`,
		c.ID, string(c.Project), d)
	return err
}

// AlertConfig gives a configuration of a project, or ErrNotFound.
func (t *Tx) AlertConfig(p keys.ProjectID, id string) (AlertConfig, error) {
	return doc[AlertConfig](t, `SELECT doc FROM alert_configs WHERE project_id = ? AND id = ?`, string(p), id)
}

// AlertConfigs lists a project's configurations, oldest first; all with "".
func (t *Tx) AlertConfigs(p keys.ProjectID) ([]AlertConfig, error) {
	return ofProject[AlertConfig](t, `SELECT doc FROM alert_configs`, p, `ORDER BY id`)
}

// DeleteAlertConfig removes a configuration with its secrets, or gives ErrNotFound.
func (t *Tx) DeleteAlertConfig(p keys.ProjectID, id string) error {
	return t.must(`DELETE FROM alert_configs WHERE project_id = ? AND id = ?`, string(p), id)
}

// DefaultMade records that a project was given its default configuration of a kind,
// and tells whether that is news.
func (t *Tx) DefaultMade(p keys.ProjectID, kind string) (bool, error) {
	n, err := t.exec(`INSERT INTO alert_defaults (project_id, kind) VALUES (?, ?) ON CONFLICT (project_id, kind) DO NOTHING`, string(p), kind)
	return n > 0, err
}

// DefaultsMade gives the kinds of which projects were given default configurations.
func (t *Tx) DefaultsMade(p keys.ProjectID) (map[keys.ProjectID]map[string]bool, error) {
	out := map[keys.ProjectID]map[string]bool{}
	query, args := `SELECT project_id, kind FROM alert_defaults`, []any(nil)
	if p != "" {
		query, args = query+` WHERE project_id = ?`, []any{string(p)}
	}
	err := t.each(query, args, func(scan func(...any) error) error {
		var id, kind string
		if err := scan(&id, &kind); err != nil {
			return err
		}
		m := out[keys.ProjectID(id)]
		if m == nil {
			m = map[string]bool{}
			out[keys.ProjectID(id)] = m
		}
		m[kind] = true
		return nil
	})
	return out, err
}

func hookPlace(config, notifier, column string) Place {
	return Place{Table: "alert_secrets", Row: config + "/" + notifier, Column: column}
}

// PutHook seals where a webhook is and what signs its messages; the secret may be empty.
func (t *Tx) PutHook(config, notifier string, url, hmac secret.Bytes) error {
	u, err := t.s.sealer.Seal(hookPlace(config, notifier, "url"), url)
	if err != nil {
		return err
	}
	k, err := t.s.sealer.Seal(hookPlace(config, notifier, "secret"), hmac)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO alert_secrets (config_id, notifier_id, url, secret) VALUES (?, ?, ?, ?)
		ON CONFLICT (config_id, notifier_id) DO UPDATE SET url = excluded.url, secret = excluded.secret`, config, notifier, u, k)
	return err
}

// Hook opens what PutHook has sealed, or gives ErrNotFound.
func (t *Tx) Hook(config, notifier string) (url, hmac secret.Bytes, err error) {
	var u, k string
	if err := t.row(`SELECT url, secret FROM alert_secrets WHERE config_id = ? AND notifier_id = ?`, []any{config, notifier}, &u, &k); err != nil {
		return url, hmac, err
	}
	if url, err = t.s.sealer.Unseal(hookPlace(config, notifier, "url"), u); err != nil {
		return url, hmac, err
	}
	hmac, err = t.s.sealer.Unseal(hookPlace(config, notifier, "secret"), k)
	return url, hmac, err
}

// DeleteHook forgets a webhook; one that is not there is no error.
func (t *Tx) DeleteHook(config, notifier string) error {
	_, err := t.exec(`DELETE FROM alert_secrets WHERE config_id = ? AND notifier_id = ?`, config, notifier)
	return err
}

// PutAlert adds or replaces an alert.
func (t *Tx) PutAlert(a Alert) error {
	d, err := encode(a)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO alerts (id, project_id, config_id, status, doc) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET status = excluded.status, doc = excluded.doc`, a.ID, string(a.Project), a.Config, a.Status, d)
	return err
}

// Alert gives an alert of a project, or ErrNotFound.
func (t *Tx) Alert(p keys.ProjectID, id string) (Alert, error) {
	return doc[Alert](t, `SELECT doc FROM alerts WHERE project_id = ? AND id = ?`, string(p), id)
}

// AlertFilter selects alerts. Empty fields select everything.
type AlertFilter struct {
	Project  keys.ProjectID
	Config   string
	Statuses []string
	Offset   int
	// Limit 0 is no limit.
	Limit int
}

// Alerts lists alerts, newest first, and tells how many the filter selects in all.
func (t *Tx) Alerts(f AlertFilter) (out []Alert, total int, err error) {
	cond, args := []string{"1 = 1"}, []any(nil)
	if f.Project != "" {
		cond, args = append(cond, "project_id = ?"), append(args, string(f.Project))
	}
	if f.Config != "" {
		cond, args = append(cond, "config_id = ?"), append(args, f.Config)
	}
	if len(f.Statuses) > 0 {
		cond = append(cond, "status IN (?"+strings.Repeat(", ?", len(f.Statuses)-1)+")")
		for _, s := range f.Statuses {
			args = append(args, s)
		}
	}
	where := strings.Join(cond, " AND ")
	if err := t.row(`SELECT COUNT(*) FROM alerts WHERE `+where, args, &total); err != nil {
		return nil, 0, err
	}
	query := `SELECT doc FROM alerts WHERE ` + where + ` ORDER BY id DESC`
	if f.Limit > 0 {
		query, args = query+` LIMIT ? OFFSET ?`, append(args, f.Limit, max(f.Offset, 0))
	}
	out, err = docs[Alert](t, query, args...)
	return out, total, err
}

// PruneAlerts removes the ended alerts of a project beyond the newest so many.
func (t *Tx) PruneAlerts(p keys.ProjectID, keep int) error {
	_, err := t.exec(`DELETE FROM alerts WHERE project_id = ? AND status IN ('CLOSED', 'CANCELLED') AND id NOT IN
		(SELECT id FROM alerts WHERE project_id = ? AND status IN ('CLOSED', 'CANCELLED') ORDER BY id DESC LIMIT ?)`, string(p), string(p), keep)
	return err
}

// PutDelivery adds or replaces a delivery.
func (t *Tx) PutDelivery(d AlertDelivery) error {
	text, err := encode(d)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO alert_deliveries (id, project_id, pending, due, doc) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET pending = excluded.pending, due = excluded.due, doc = excluded.doc`,
		d.ID, string(d.Project), flag(d.State == DeliveryPending), d.Due.UnixMicro(), text)
	return err
}

// DeliveryPending is the state of a delivery that is still tried.
const DeliveryPending = "PENDING"

// DueDeliveries lists pending deliveries that are due, the longest waiting first.
func (t *Tx) DueDeliveries(now time.Time, limit int) ([]AlertDelivery, error) {
	return docs[AlertDelivery](t, `SELECT doc FROM alert_deliveries WHERE pending = 1 AND due <= ? ORDER BY due, id LIMIT ?`, now.UnixMicro(), limit)
}

// NextDelivery is when the next pending delivery is due; zero if there is none.
func (t *Tx) NextDelivery() (time.Time, error) {
	var us int64
	err := t.row(`SELECT COALESCE(MIN(due), 0) FROM alert_deliveries WHERE pending = 1`, nil, &us)
	if err != nil || us == 0 {
		return time.Time{}, err
	}
	return time.UnixMicro(us), nil
}

// CountPending counts the pending deliveries of a project; of all with "".
func (t *Tx) CountPending(p keys.ProjectID) (n int, err error) {
	if p == "" {
		err = t.row(`SELECT COUNT(*) FROM alert_deliveries WHERE pending = 1`, nil, &n)
		return n, err
	}
	err = t.row(`SELECT COUNT(*) FROM alert_deliveries WHERE pending = 1 AND project_id = ?`, []any{string(p)}, &n)
	return n, err
}

// Deliveries lists a project's newest deliveries, newest first.
func (t *Tx) Deliveries(p keys.ProjectID, limit, offset int) ([]AlertDelivery, int, error) {
	var total int
	if err := t.row(`SELECT COUNT(*) FROM alert_deliveries WHERE project_id = ?`, []any{string(p)}, &total); err != nil {
		return nil, 0, err
	}
	out, err := docs[AlertDelivery](t, `SELECT doc FROM alert_deliveries WHERE project_id = ? ORDER BY id DESC LIMIT ? OFFSET ?`, string(p), limit, offset)
	return out, total, err
}

// PruneDeliveries removes the finished deliveries of a project beyond the newest so many.
func (t *Tx) PruneDeliveries(p keys.ProjectID, keep int) error {
	_, err := t.exec(`DELETE FROM alert_deliveries WHERE project_id = ? AND pending = 0 AND id NOT IN
		(SELECT id FROM alert_deliveries WHERE project_id = ? AND pending = 0 ORDER BY id DESC LIMIT ?)`, string(p), string(p), keep)
	return err
}

// AllVerdicts, AllCustody, AllNodes, AllRolesOf and AllStatuses read what alerts are
// derived from, of one project or of all with "".

// AllVerdicts lists recorded verdicts.
func (t *Tx) AllVerdicts(p keys.ProjectID) ([]Verdict, error) {
	return ofProject[Verdict](t, `SELECT doc FROM verdicts`, p, ``)
}

// AllCustody lists the custody states of all validators.
func (t *Tx) AllCustody(p keys.ProjectID) ([]CustodyReport, error) {
	return ofProject[CustodyReport](t, `SELECT doc FROM custody`, p, `ORDER BY project_id, validator`)
}

// AllNodes lists nodes, tombstones included.
func (t *Tx) AllNodes(p keys.ProjectID) ([]Node, error) {
	if p != "" {
		return t.NodesOfProject(p)
	}
	return t.nodes(`1 = 1`)
}

// NodeStatuses lists the last reports about all nodes.
func (t *Tx) NodeStatuses() ([]NodeStatus, error) {
	return docs[NodeStatus](t, `SELECT doc FROM node_status`)
}

// PutHostHead records a head of a host's audit chain.
func (t *Tx) PutHostHead(h HostHead) error {
	d, err := encode(h)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO audit_heads (host_id, seq, doc) VALUES (?, ?, ?) ON CONFLICT (host_id, seq) DO UPDATE SET doc = excluded.doc`,
		string(h.Host), int64(h.Seq), d) //nolint:gosec // counts events
	return err
}

// HostHeads lists the recorded heads of a host, the longest chain first.
func (t *Tx) HostHeads(h keys.HostID) ([]HostHead, error) {
	return docs[HostHead](t, `SELECT doc FROM audit_heads WHERE host_id = ? ORDER BY seq DESC`, string(h))
}

// DropHostHead removes one recorded head.
func (t *Tx) DropHostHead(h keys.HostID, seq uint64) error {
	_, err := t.exec(`DELETE FROM audit_heads WHERE host_id = ? AND seq = ?`, string(h), int64(seq)) //nolint:gosec // counts events
	return err
}

// DropHostHeads removes all recorded heads of a host: it begins a new chain.
func (t *Tx) DropHostHeads(h keys.HostID) error {
	_, err := t.exec(`DELETE FROM audit_heads WHERE host_id = ?`, string(h))
	return err
}

// KeyTimes gives when each key in escrow was made, destroyed ones included.
func (t *Tx) KeyTimes() (map[keys.KeyID]time.Time, error) {
	out := map[keys.KeyID]time.Time{}
	err := t.each(`SELECT key_id, MIN(created) FROM escrow GROUP BY key_id`, nil, func(scan func(...any) error) error {
		var id string
		var us int64
		if err := scan(&id, &us); err != nil {
			return err
		}
		out[keys.KeyID(id)] = time.UnixMicro(us).UTC()
		return nil
	})
	return out, err
}

// WrapState is what wraps in escrow are counted by.
type WrapState struct {
	Purpose keys.Purpose `json:"purpose"`
	State   keys.State   `json:"state"`
}

// WrapStates counts the wraps in escrow by purpose and state.
func (t *Tx) WrapStates() (map[WrapState]int, error) {
	all, err := docs[WrapState](t, `SELECT doc FROM escrow`)
	out := map[WrapState]int{}
	for _, w := range all {
		out[w]++
	}
	return out, err
}
