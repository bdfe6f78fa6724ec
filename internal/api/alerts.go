package api

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/alert"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// alertBody is an alert as Atlas shows it, with what happened and what to do beside.
type alertBody struct {
	ID                string         `json:"id"`
	GroupID           keys.ProjectID `json:"groupId"`
	OrgID             keys.OrgID     `json:"orgId"`
	ConfigID          string         `json:"alertConfigId"`
	Type              string         `json:"eventTypeName"`
	Status            string         `json:"status"`
	Created           string         `json:"created"`
	Updated           string         `json:"updated"`
	Resolved          *string        `json:"resolved,omitempty"`
	LastNotified      *string        `json:"lastNotified,omitempty"`
	AcknowledgedUntil *string        `json:"acknowledgedUntil,omitempty"`
	Comment           string         `json:"acknowledgementComment,omitempty"`
	AcknowledgedBy    string         `json:"acknowledgingUsername,omitempty"`
	ClusterName       string         `json:"clusterName,omitempty"`
	HostID            keys.HostID    `json:"hostId,omitempty"`
	Hostname          string         `json:"hostname,omitempty"`
	Target            string         `json:"target,omitempty"`
	Since             string         `json:"since"`
	Summary           string         `json:"summary"`
	Remedy            string         `json:"remedy"`
	Links             []link         `json:"links"`
}

func (c *call) alertBody(a store.Alert) alertBody {
	return alertBody{
		ID: a.ID, GroupID: a.Project, OrgID: a.Org, ConfigID: a.Config, Type: a.Kind, Status: a.Status, Created: stamp(a.Created), Updated: stamp(a.Updated),
		Resolved: stampOrNull(a.Resolved), LastNotified: stampOrNull(a.LastNotified), AcknowledgedUntil: stampOrNull(a.AcknowledgedUntil), Comment: a.Comment,
		AcknowledgedBy: a.AcknowledgedBy, ClusterName: a.ClusterName, HostID: a.Host, Hostname: a.Hostname, Target: a.Target, Since: stamp(a.Since),
		Summary: a.Summary, Remedy: a.Remedy, Links: c.self("groups", string(a.Project), "alerts", a.ID),
	}
}

// alertPage lists the alerts of a configuration, or of all.
func (c *call) alertPage(f store.AlertFilter) (int, any, error) {
	p, err := c.page()
	if err != nil {
		return 0, nil, err
	}
	f.Offset, f.Limit = (p.number-1)*p.size, p.size
	all, total, err := c.cfg.Alert.Alerts(c.ctx(), c.who, c.project(), f)
	if err != nil {
		return 0, nil, err
	}
	out := []alertBody{}
	for _, a := range all {
		out = append(out, c.alertBody(a))
	}
	return http.StatusOK, envelope(c, p, out, total), nil
}

func listAlerts(c *call) (int, any, error) {
	return c.alertPage(store.AlertFilter{Statuses: splitList(c.queries("status"))})
}

func listConfigAlerts(c *call) (int, any, error) {
	return c.alertPage(store.AlertFilter{Config: c.vars["alertConfigId"], Statuses: []string{alert.Open, alert.Tracking}})
}

func getAlert(c *call) (int, any, error) {
	a, err := c.cfg.Alert.Alert(c.ctx(), c.who, c.project(), c.vars["alertId"])
	return http.StatusOK, c.alertBody(a), err
}

// listAlertConfigsOfAlert gives the configuration that an alert is of, if it is still
// there.
func listAlertConfigsOfAlert(c *call) (int, any, error) {
	a, err := c.cfg.Alert.Alert(c.ctx(), c.who, c.project(), c.vars["alertId"])
	if err != nil {
		return 0, nil, err
	}
	out := []alertConfigBody{}
	switch cfg, err := c.cfg.Alert.Get(c.ctx(), c.who, c.project(), a.Config); {
	case err == nil:
		out = append(out, c.alertConfigBody(cfg))
	case apierr.Code(err) != "ALERT_CONFIG_NOT_FOUND":
		return 0, nil, err
	}
	return paged(c, out)
}

// ackRequest is an acknowledgement. Clients of 2023-01-01 take one back by a time that is
// past, or none; later ones by unacknowledgeAlert.
type ackRequest struct {
	Until         *time.Time      `json:"acknowledgedUntil"`
	Comment       *string         `json:"acknowledgementComment"`
	Unacknowledge *bool           `json:"unacknowledgeAlert"`
	Username      json.RawMessage `json:"acknowledgingUsername"`
	ConfigID      json.RawMessage `json:"alertConfigId"`
	Created       json.RawMessage `json:"created"`
	Type          json.RawMessage `json:"eventTypeName"`
	GroupID       json.RawMessage `json:"groupId"`
	OrgID         json.RawMessage `json:"orgId"`
	ID            json.RawMessage `json:"id"`
	LastNotified  json.RawMessage `json:"lastNotified"`
	Links         json.RawMessage `json:"links"`
	Resolved      json.RawMessage `json:"resolved"`
	Status        json.RawMessage `json:"status"`
	Updated       json.RawMessage `json:"updated"`
}

func acknowledgeAlert(c *call) (int, any, error) {
	var in ackRequest
	if err := decode(c.r, &in); err != nil {
		return 0, nil, err
	}
	undo := in.Unacknowledge != nil && *in.Unacknowledge
	if undo && in.Until != nil && in.Until.After(c.now()) {
		return 0, nil, apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute unacknowledgeAlert specified: with acknowledgedUntil it says two things at once.").With("unacknowledgeAlert")
	}
	if c.version != legacyVersion && !undo && in.Until == nil {
		return 0, nil, missingAttribute("acknowledgedUntil")
	}
	var ack alert.Acknowledgement
	if in.Until != nil && !undo && (c.version != legacyVersion || in.Until.After(c.now())) {
		ack.Until = *in.Until
	}
	if in.Comment != nil {
		ack.Comment = *in.Comment
	}
	a, err := c.cfg.Alert.Acknowledge(c.ctx(), c.who, c.project(), c.vars["alertId"], ack)
	return http.StatusOK, c.alertBody(a), err
}

// deliveryBody is a message on its way, or at its end.
type deliveryBody struct {
	ID         string        `json:"id"`
	AlertID    string        `json:"alertId,omitempty"`
	ConfigID   string        `json:"alertConfigId"`
	NotifierID string        `json:"notifierId,omitempty"`
	Type       string        `json:"typeName"`
	Target     string        `json:"target"`
	Message    string        `json:"message"`
	State      string        `json:"state"`
	Created    string        `json:"created"`
	NextTry    *string       `json:"nextAttemptAt"`
	Attempts   []attemptBody `json:"attempts"`
}

type attemptBody struct {
	At     string `json:"at"`
	Status int    `json:"httpStatus,omitempty"`
	Error  string `json:"error,omitempty"`
}

func deliveryOf(d store.AlertDelivery) deliveryBody {
	out := deliveryBody{
		ID: d.ID, AlertID: d.Alert, ConfigID: d.Config, NotifierID: d.Notifier, Type: d.Type, Target: d.Target, Message: d.Message, State: d.State,
		Created: stamp(d.Created), Attempts: []attemptBody{},
	}
	if d.State == store.DeliveryPending {
		out.NextTry = stampOrNull(d.Due)
	}
	for _, t := range d.Tries {
		out.Attempts = append(out.Attempts, attemptBody{At: stamp(t.At), Status: t.Status, Error: t.Error})
	}
	return out
}

func listDeliveries(c *call) (int, any, error) {
	p, err := c.page()
	if err != nil {
		return 0, nil, err
	}
	all, total, err := c.cfg.Alert.Deliveries(c.ctx(), c.who, c.project(), p.size, (p.number-1)*p.size)
	if err != nil {
		return 0, nil, err
	}
	out := []deliveryBody{}
	for _, d := range all {
		out = append(out, deliveryOf(d))
	}
	return http.StatusOK, envelope(c, p, out, total), nil
}

// testAlertConfig sends a test message and answers with what came of it at each target.
func testAlertConfig(c *call) (int, any, error) {
	all, err := c.cfg.Alert.TestConfig(c.ctx(), c.who, c.project(), c.vars["alertConfigId"])
	if err != nil {
		return 0, nil, err
	}
	out := []deliveryBody{}
	for _, d := range all {
		out = append(out, deliveryOf(d))
	}
	return http.StatusOK, map[string]any{"results": out}, nil
}

// matcherFieldNames lists what matchers may name. Atlas gives them as bare texts.
func matcherFieldNames(*call) (int, any, error) {
	return http.StatusOK, []string{alert.FieldCluster, alert.FieldHostname}, nil
}
