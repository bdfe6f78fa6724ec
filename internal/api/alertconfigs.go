package api

import (
	"encoding/json"
	"math"
	"net/http"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/alert"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/store"
)

type alertConfigBody struct {
	ID            string             `json:"id"`
	GroupID       keys.ProjectID     `json:"groupId"`
	Type          string             `json:"eventTypeName"`
	Enabled       bool               `json:"enabled"`
	Created       string             `json:"created"`
	Updated       string             `json:"updated"`
	Threshold     *thresholdBody     `json:"threshold,omitempty"`
	Matchers      []matcherBody      `json:"matchers"`
	Notifications []notificationBody `json:"notifications"`
	Severity      string             `json:"severityOverride,omitempty"`
	Links         []link             `json:"links"`
}

type thresholdBody struct {
	Operator  string `json:"operator"`
	Threshold int    `json:"threshold"`
	Units     string `json:"units"`
}

type matcherBody struct {
	Field    string `json:"fieldName"`
	Operator string `json:"operator"`
	Value    string `json:"value"`
}

// notificationBody is a way of telling. A webhook's secret is never shown, its URL up to
// the host only.
type notificationBody struct {
	Type       string    `json:"typeName"`
	Delay      int       `json:"delayMin"`
	Interval   int       `json:"intervalMin"`
	NotifierID string    `json:"notifierId"`
	Address    string    `json:"emailAddress,omitempty"`
	Roles      *[]string `json:"roles,omitempty"`
	Email      *bool     `json:"emailEnabled,omitempty"`
	SMS        *bool     `json:"smsEnabled,omitempty"`
	URL        string    `json:"webhookUrl,omitempty"`
}

func (c *call) alertConfigBody(a store.AlertConfig) alertConfigBody {
	b := alertConfigBody{
		ID: a.ID, GroupID: a.Project, Type: a.Kind, Enabled: a.Enabled, Created: stamp(a.Created), Updated: stamp(a.Updated), Severity: a.Severity,
		Matchers: []matcherBody{}, Notifications: []notificationBody{}, Links: c.self("groups", string(a.Project), "alertConfigs", a.ID),
	}
	if t := a.Threshold; t != nil {
		b.Threshold = &thresholdBody{Operator: t.Operator, Threshold: t.Value, Units: t.Units}
	}
	for _, m := range a.Matchers {
		b.Matchers = append(b.Matchers, matcherBody(m))
	}
	for _, n := range a.Notifications {
		out := notificationBody{Type: n.Type, Delay: n.Delay, Interval: n.Interval, NotifierID: n.ID, Address: n.Address, URL: n.Shown}
		if n.Type == alert.Group || n.Type == alert.Org {
			roles := n.Roles
			if roles == nil {
				roles = []string{}
			}
			out.Roles, out.Email, out.SMS = &roles, &n.Email, &n.SMS
		}
		b.Notifications = append(b.Notifications, out)
	}
	return b
}

// alertConfigRequest is a configuration in a request. What is json.RawMessage below is
// read-only, or refused by name where Keywright has nothing of the kind.
type alertConfigRequest struct {
	Type          string                `json:"eventTypeName"`
	Enabled       *bool                 `json:"enabled"`
	Threshold     *thresholdRequest     `json:"threshold"`
	Metric        json.RawMessage       `json:"metricThreshold"`
	Matchers      []matcherBody         `json:"matchers"`
	Notifications []notificationRequest `json:"notifications"`
	Severity      string                `json:"severityOverride"`
	ID            json.RawMessage       `json:"id"`
	GroupID       json.RawMessage       `json:"groupId"`
	Created       json.RawMessage       `json:"created"`
	Updated       json.RawMessage       `json:"updated"`
	Links         json.RawMessage       `json:"links"`
}

type thresholdRequest struct {
	Operator  string  `json:"operator"`
	Threshold float64 `json:"threshold"`
	Units     string  `json:"units"`
}

type notificationRequest struct {
	Type        string          `json:"typeName"`
	Delay       int             `json:"delayMin"`
	Interval    *int            `json:"intervalMin"`
	NotifierID  string          `json:"notifierId"`
	Address     string          `json:"emailAddress"`
	Roles       []string        `json:"roles"`
	Email       *bool           `json:"emailEnabled"`
	SMS         *bool           `json:"smsEnabled"`
	URL         string          `json:"webhookUrl"`
	Secret      string          `json:"webhookSecret"`
	Body        json.RawMessage `json:"webhookBodyTemplate"`
	Headers     json.RawMessage `json:"webhookHeadersTemplate"`
	Integration json.RawMessage `json:"integrationId"`
	// Fields of ways of telling that are refused by their typeName.
	Mobile         json.RawMessage `json:"mobileNumber"`
	TeamID         json.RawMessage `json:"teamId"`
	TeamName       json.RawMessage `json:"teamName"`
	Username       json.RawMessage `json:"username"`
	ServiceKey     json.RawMessage `json:"serviceKey"`
	Region         json.RawMessage `json:"region"`
	APIToken       json.RawMessage `json:"apiToken"`
	ChannelName    json.RawMessage `json:"channelName"`
	Teams          json.RawMessage `json:"microsoftTeamsWebhookUrl"`
	DatadogKey     json.RawMessage `json:"datadogApiKey"`
	DatadogRegion  json.RawMessage `json:"datadogRegion"`
	OpsGenieKey    json.RawMessage `json:"opsGenieApiKey"`
	OpsGenieRegion json.RawMessage `json:"opsGenieRegion"`
	VictorOpsKey   json.RawMessage `json:"victorOpsApiKey"`
	VictorOpsRoute json.RawMessage `json:"victorOpsRoutingKey"`
	RoomName       json.RawMessage `json:"roomName"`
	Token          json.RawMessage `json:"notificationToken"`
}

// given tells whether a field was sent with something in it: SDKs send null and "".
func given(m json.RawMessage) bool { return len(m) > 0 && string(m) != "null" && string(m) != `""` }

func notHere(field string) error {
	return apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute %s specified: Keywright does not support it.", field).With(field)
}

func (in alertConfigRequest) wish() (alert.Wish, error) {
	w := alert.Wish{Kind: in.Type, Enabled: in.Enabled, Severity: in.Severity}
	if given(in.Metric) {
		return w, notHere("metricThreshold")
	}
	if t := in.Threshold; t != nil {
		if t.Threshold != math.Trunc(t.Threshold) || math.Abs(t.Threshold) > math.MaxInt32 {
			return w, apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute threshold.threshold specified: a whole number is expected.").With("threshold.threshold")
		}
		w.Threshold = &store.AlertThreshold{Operator: t.Operator, Value: int(t.Threshold), Units: t.Units}
	}
	for _, m := range in.Matchers {
		w.Matchers = append(w.Matchers, store.AlertMatcher(m))
	}
	for _, n := range in.Notifications {
		switch {
		case given(n.Body):
			return w, notHere("webhookBodyTemplate")
		case given(n.Headers):
			return w, notHere("webhookHeadersTemplate")
		case given(n.Integration):
			return w, notHere("integrationId")
		}
		w.Notifications = append(w.Notifications, alert.NotificationWish{
			ID: n.NotifierID, Type: n.Type, Delay: n.Delay, Interval: n.Interval, Address: n.Address, Roles: n.Roles, Email: n.Email,
			SMS: n.SMS != nil && *n.SMS, URL: secret.FromString(n.URL), Secret: secret.FromString(n.Secret),
		})
	}
	return w, nil
}

func readWish(c *call) (alert.Wish, error) {
	var in alertConfigRequest
	if err := decode(c.r, &in); err != nil {
		return alert.Wish{}, err
	}
	return in.wish()
}

func listAlertConfigs(c *call) (int, any, error) {
	all, err := c.cfg.Alert.List(c.ctx(), c.who, c.project())
	if err != nil {
		return 0, nil, err
	}
	return pagedAs(c, all, c.alertConfigBody)
}

func getAlertConfig(c *call) (int, any, error) {
	a, err := c.cfg.Alert.Get(c.ctx(), c.who, c.project(), c.vars["alertConfigId"])
	return http.StatusOK, c.alertConfigBody(a), err
}

func createAlertConfig(c *call) (int, any, error) {
	w, err := readWish(c)
	if err != nil {
		return 0, nil, err
	}
	a, err := c.cfg.Alert.Create(c.ctx(), c.who, c.project(), w)
	return http.StatusCreated, c.alertConfigBody(a), err
}

func replaceAlertConfig(c *call) (int, any, error) {
	w, err := readWish(c)
	if err != nil {
		return 0, nil, err
	}
	a, err := c.cfg.Alert.Replace(c.ctx(), c.who, c.project(), c.vars["alertConfigId"], w)
	return http.StatusOK, c.alertConfigBody(a), err
}

func toggleAlertConfig(c *call) (int, any, error) {
	var in struct {
		Enabled *bool `json:"enabled"`
	}
	if err := decode(c.r, &in); err != nil {
		return 0, nil, err
	}
	if in.Enabled == nil {
		return 0, nil, missingAttribute("enabled")
	}
	a, err := c.cfg.Alert.Toggle(c.ctx(), c.who, c.project(), c.vars["alertConfigId"], *in.Enabled)
	return http.StatusOK, c.alertConfigBody(a), err
}

func deleteAlertConfig(c *call) (int, any, error) {
	return noContent(c.cfg.Alert.Delete(c.ctx(), c.who, c.project(), c.vars["alertConfigId"]))
}
