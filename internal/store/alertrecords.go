package store

import (
	"time"

	"github.com/keywright/keywright/internal/keys"
)

// Finding is a condition of a project that one of the control plane's rooms has found
// and that an alert may tell of. It is told by its project, kind and target.
type Finding struct {
	Project keys.ProjectID `json:"project"`
	// Kind is one of package alert's kinds, Target what it is about (a host's id, an
	// address), "" for the project itself.
	Kind   string `json:"kind"`
	Target string `json:"target,omitempty"`
	// Summary says what happened, Remedy what to do. They hold no secret.
	Summary string `json:"summary"`
	Remedy  string `json:"remedy"`
	// Since is when it began.
	Since time.Time `json:"since"`
	// Until is when it ends by itself; zero: when it is cleared.
	Until time.Time `json:"until,omitzero"`
	// Host, Hostname, Cluster and ClusterName are set where they fit.
	Host        keys.HostID    `json:"host,omitempty"`
	Hostname    string         `json:"hostname,omitempty"`
	Cluster     keys.ClusterID `json:"cluster,omitempty"`
	ClusterName string         `json:"clusterName,omitempty"`
}

// AlertConfig is what a project wants to be told of, and how.
type AlertConfig struct {
	ID      string         `json:"id"`
	Project keys.ProjectID `json:"project"`
	Kind    string         `json:"kind"`
	Enabled bool           `json:"enabled"`
	Created time.Time      `json:"created"`
	Updated time.Time      `json:"updated"`
	// Threshold is nil for a kind that has none.
	Threshold     *AlertThreshold     `json:"threshold,omitempty"`
	Matchers      []AlertMatcher      `json:"matchers,omitempty"`
	Notifications []AlertNotification `json:"notifications"`
	Severity      string              `json:"severity,omitempty"`
}

// AlertThreshold is a limit in Atlas's words: GREATER_THAN or LESS_THAN so many DAYS,
// HOURS or MINUTES.
type AlertThreshold struct {
	Operator string `json:"operator"`
	Value    int    `json:"value"`
	Units    string `json:"units"`
}

// AlertMatcher limits a configuration to some targets.
type AlertMatcher struct {
	Field    string `json:"field"`
	Operator string `json:"operator"`
	Value    string `json:"value"`
}

// AlertNotification is one way of telling. URL and secret of a webhook are sealed and
// no part of the record.
type AlertNotification struct {
	ID   string `json:"id"`
	Type string `json:"type"`
	// Delay is how long a condition lasts before it is told, Interval the time between
	// repetitions, in minutes; 0: never again.
	Delay    int      `json:"delay"`
	Interval int      `json:"interval,omitempty"`
	Address  string   `json:"address,omitempty"`
	Roles    []string `json:"roles,omitempty"`
	Email    bool     `json:"email,omitempty"`
	SMS      bool     `json:"sms,omitempty"`
	// Shown is the webhook's URL without what may be secret in it.
	Shown string `json:"shown,omitempty"`
}

// Alert is a condition that a configuration tells of, from its begin to its end.
type Alert struct {
	ID      string         `json:"id"`
	Config  string         `json:"config"`
	Project keys.ProjectID `json:"project"`
	Org     keys.OrgID     `json:"org"`
	Kind    string         `json:"kind"`
	Target  string         `json:"target,omitempty"`
	// Status is OPEN, TRACKING, CLOSED or CANCELLED.
	Status  string    `json:"status"`
	Summary string    `json:"summary"`
	Remedy  string    `json:"remedy"`
	Since   time.Time `json:"since"`
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
	// Opened is zero while tracking, Resolved is zero until the end.
	Opened       time.Time      `json:"opened,omitzero"`
	Resolved     time.Time      `json:"resolved,omitzero"`
	LastNotified time.Time      `json:"lastNotified,omitzero"`
	Host         keys.HostID    `json:"host,omitempty"`
	Hostname     string         `json:"hostname,omitempty"`
	Cluster      keys.ClusterID `json:"cluster,omitempty"`
	ClusterName  string         `json:"clusterName,omitempty"`
	// AcknowledgedUntil is zero while nobody has acknowledged it.
	AcknowledgedUntil time.Time `json:"acknowledgedUntil,omitzero"`
	AcknowledgedBy    string    `json:"acknowledgedBy,omitempty"`
	Comment           string    `json:"comment,omitempty"`
	// Told is when each notification (by its id) was last put into the queue.
	Told map[string]time.Time `json:"told,omitempty"`
}

// AlertDelivery is one message on its way. Its id is the same in every attempt.
type AlertDelivery struct {
	ID      string         `json:"id"`
	Project keys.ProjectID `json:"project"`
	Alert   string         `json:"alert,omitempty"`
	Config  string         `json:"config"`
	// Notifier is the notification of the configuration; "" is the log.
	Notifier string `json:"notifier,omitempty"`
	Type     string `json:"type"`
	// Target shows where it goes, without secrets.
	Target string `json:"target"`
	// Message is one of opened, repeated, closed, cancelled, test.
	Message string    `json:"message"`
	Created time.Time `json:"created"`
	Due     time.Time `json:"due"`
	// State is PENDING, SENT, FAILED or SKIPPED.
	State    string            `json:"state"`
	Attempts int               `json:"attempts,omitempty"`
	Tries    []DeliveryAttempt `json:"tries,omitempty"`
	// Body is what is sent, as JSON.
	Body string `json:"body"`
}

// DeliveryAttempt is one attempt at a delivery.
type DeliveryAttempt struct {
	At time.Time `json:"at"`
	// Status is the HTTP status of a webhook's answer; 0 without one.
	Status int    `json:"status,omitempty"`
	Error  string `json:"error,omitempty"`
}

// HostHead is the end of a host's audit chain as the host signed it.
type HostHead struct {
	Host keys.HostID `json:"host"`
	Seq  uint64      `json:"seq"`
	Hash string      `json:"hash"`
	// Heard is when the control plane first heard of it.
	Heard time.Time `json:"heard"`
	// Signature is the host's (see package audit), Certificate the PEM of the link
	// certificate that it was made with. Both are empty of agents that do not sign.
	Signature   []byte    `json:"signature,omitempty"`
	Signed      time.Time `json:"signed,omitzero"`
	Certificate string    `json:"certificate,omitempty"`
}
