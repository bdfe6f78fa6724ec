package store

import (
	"encoding/json"
	"time"

	"github.com/keywright/keywright/internal/keys"
)

// Org is an organization.
type Org struct {
	ID      keys.OrgID `json:"id"`
	Name    string     `json:"name"`
	Created time.Time  `json:"created"`
}

// Tag is a pair that people put on a project, cluster or user.
type Tag struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Project is a project ("group" in the API).
type Project struct {
	ID            keys.ProjectID  `json:"id"`
	Org           keys.OrgID      `json:"org"`
	Name          string          `json:"name"`
	Created       time.Time       `json:"created"`
	Tags          []Tag           `json:"tags,omitempty"`
	DefaultAlerts bool            `json:"defaultAlerts"`
	ManagedSlowMs bool            `json:"managedSlowMs"`
	Settings      map[string]bool `json:"settings,omitempty"`
	// Maintenance is the project's maintenance window; nil if it has none.
	Maintenance *MaintenanceWindow `json:"maintenance,omitempty"`
	// Clusters counts the project's clusters; it is computed, not stored.
	Clusters int `json:"-"`
}

// MaintenanceWindow is when work on a project's clusters may begin that nobody asked for.
type MaintenanceWindow struct {
	Day       int             `json:"day"`  // 1 is Sunday
	Hour      int             `json:"hour"` // 0 to 23
	Protected *ProtectedHours `json:"protected,omitempty"`
	// AutoDefer puts every maintenance off by one week, once.
	AutoDefer bool `json:"autoDefer,omitempty"`
	// Deferrals counts since the last maintenance; no opening that begins before
	// DeferredUntil comes.
	Deferrals     int       `json:"deferrals,omitempty"`
	DeferredUntil time.Time `json:"deferredUntil,omitzero"`
	// StartASAP is when somebody asked that maintenance begin at once.
	StartASAP time.Time `json:"startAsap,omitzero"`
}

// ProtectedHours are hours of each day in which no maintenance begins, from Start up to
// End, over midnight where End is the smaller one.
type ProtectedHours struct {
	Start int `json:"start"`
	End   int `json:"end"`
}

// APIKey is a programmatic key of an organization. Its private key is kept as the
// sealed digest HA1 and is no part of the record.
type APIKey struct {
	ID          string     `json:"id"`
	Org         keys.OrgID `json:"org"`
	PublicKey   string     `json:"publicKey"`
	Description string     `json:"description"`
	OrgRoles    []string   `json:"orgRoles"`
	Created     time.Time  `json:"created"`
	// ProjectRoles are kept in a table of their own.
	ProjectRoles map[keys.ProjectID][]string `json:"-"`
}

// DatabaseRole is one role of a database user.
type DatabaseRole struct {
	Role       string `json:"role"`
	Database   string `json:"database"`
	Collection string `json:"collection,omitempty"`
}

// Scope limits a database user to one resource.
type Scope struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// DatabaseUser is a user of the databases of a project. The password is sealed and
// no part of the record.
type DatabaseUser struct {
	Project     keys.ProjectID `json:"project"`
	Database    string         `json:"database"`
	Username    string         `json:"username"`
	Roles       []DatabaseRole `json:"roles"`
	Scopes      []Scope        `json:"scopes,omitempty"`
	Labels      []Tag          `json:"labels,omitempty"`
	Description string         `json:"description,omitempty"`
	DeleteAfter time.Time      `json:"deleteAfter,omitzero"`
	Created     time.Time      `json:"created"`
	// Revision grows with every change, so that agents see one without comparing passwords.
	Revision uint64 `json:"revision"`
}

// AccessEntry is one entry of a project's IP access list. Entry is its identity:
// the CIDR block in canonical form, or the name of a security group.
type AccessEntry struct {
	Project       keys.ProjectID `json:"project"`
	Entry         string         `json:"entry"`
	IPAddress     string         `json:"ipAddress,omitempty"`
	CIDR          string         `json:"cidr,omitempty"`
	SecurityGroup string         `json:"securityGroup,omitempty"`
	Comment       string         `json:"comment,omitempty"`
	DeleteAfter   time.Time      `json:"deleteAfter,omitzero"`
	Created       time.Time      `json:"created"`
}

// AccessRole is the registration of a customer's IAM role in a project.
type AccessRole struct {
	ID         keys.RoleID    `json:"id"`
	Project    keys.ProjectID `json:"project"`
	ExternalID string         `json:"externalId"`
	// PlatformARN is the principal that was handed out for the trust policy.
	PlatformARN string    `json:"platformArn"`
	Created     time.Time `json:"created"`
	// Authorized is zero until the role was proven.
	Authorized time.Time `json:"authorized,omitzero"`
	// Proven is when the trust policy was last tried, Doubt the code of the refusal
	// that this gave; empty if all was well.
	Proven time.Time `json:"proven,omitzero"`
	Doubt  string    `json:"doubt,omitempty"`
	ARN    string    `json:"arn,omitempty"`
}

// KeyConfig is a project's customer key management.
type KeyConfig struct {
	Project keys.ProjectID `json:"project"`
	Enabled bool           `json:"enabled"`
	Role    keys.RoleID    `json:"role,omitempty"`
	// AccessKeyID is set, and Role is not, while the project uses an access key of an IAM
	// user. Its secret lies sealed in a table of its own and is no part of the record.
	AccessKeyID string `json:"accessKeyId,omitempty"`
	// MigratedFromCredentials: the project had, or has, an access key. SwitchedToRole: it
	// was switched to a role afterwards, which is for ever.
	MigratedFromCredentials bool `json:"migratedFromCredentials,omitempty"`
	SwitchedToRole          bool `json:"switchedToRole,omitempty"`
	// KeyID is the key as the customer typed it; KeyARN what DescribeKey resolved it to.
	KeyID  string `json:"keyId,omitempty"`
	KeyARN string `json:"keyArn,omitempty"`
	// Region is in Atlas's form (US_EAST_1).
	Region            string `json:"region,omitempty"`
	PrivateNetworking bool   `json:"privateNetworking"`
	SearchNodes       bool   `json:"searchNodes"`
	// Mode is what a confirmed revocation does: STOP (also if empty), GRACE or ALERT.
	// Grace and UnreachableLimit are its durations in nanoseconds; 0 if there is none.
	Mode             string        `json:"mode,omitempty"`
	Grace            time.Duration `json:"grace,omitempty"`
	UnreachableLimit time.Duration `json:"unreachableLimit,omitempty"`
	// Generation grows with every committed change, also with switching off.
	Generation  uint64 `json:"generation"`
	Probe       []byte `json:"probe,omitempty"`
	ProbeSHA256 []byte `json:"probeSha256,omitempty"`
	// Validate grows each time that every validator is asked to run now.
	Validate uint64    `json:"validate"`
	Updated  time.Time `json:"updated"`
	// KeySince is when KeyARN last became another one; zero in older records.
	KeySince time.Time `json:"keySince,omitzero"`
}

// Verdict is what the control plane last recorded about a project's key: the one
// from which events are derived.
type Verdict struct {
	Project keys.ProjectID `json:"project"`
	Kind    string         `json:"kind"`
	Reason  string         `json:"reason,omitempty"`
	Remedy  string         `json:"remedy,omitempty"`
	// Detail is what the service said, for the project's owner.
	Detail    string    `json:"detail,omitempty"`
	NoticedBy string    `json:"noticedBy"`
	Since     time.Time `json:"since"`
}

// CustodyReport is the newest custody state of one validator for a project. The
// validator is a host's id, or "" for the control plane itself.
type CustodyReport struct {
	Project    keys.ProjectID  `json:"project"`
	Validator  string          `json:"validator"`
	Generation uint64          `json:"generation"`
	Validate   uint64          `json:"validate"`
	State      json.RawMessage `json:"state"`
	Reported   time.Time       `json:"reported"`
}

// Host is a machine with an enrolled agent.
type Host struct {
	ID keys.HostID `json:"id"`
	// Org is the organization that enrolled the host; only its clusters are put there.
	// "" is the platform: the host serves every organization.
	Org      keys.OrgID `json:"org,omitempty"`
	Hostname string     `json:"hostname"`
	Enrolled time.Time  `json:"enrolled"`
	// Certificates are the fingerprints of link certificates, newest last.
	Certificates []string `json:"certificates"`
	KMIPAddress  string   `json:"kmipAddress,omitempty"`
	Egress       []string `json:"egress,omitempty"`
	// Enacted is the revision that the agent last reported as enacted.
	Enacted  uint64    `json:"enacted"`
	LastSeen time.Time `json:"lastSeen,omitzero"`
	// Frozen says why no changes go to this host; empty when they do.
	Frozen string `json:"frozen,omitempty"`
	// Reported is the highest revision that the host has ever told of.
	Reported  uint64 `json:"reported,omitempty"`
	AuditSeq  uint64 `json:"auditSeq"`
	AuditHead string `json:"auditHead,omitempty"`
	// Alarms are those that the host reported last.
	Alarms []string `json:"alarms,omitempty"`
	// AuditDoubt says how the host's audit chain differs from what was known of it, until
	// the host enrols again; empty if it does not.
	AuditDoubt string `json:"auditDoubt,omitempty"`
	// CertificateEnds is when the host's certificates end, by their names.
	CertificateEnds map[string]time.Time `json:"certificateEnds,omitempty"`
	// Told are the control plane's own findings about the host that last and that an
	// event has told of.
	Told []string `json:"told,omitempty"`
	// Holdings are the customer keys that wraps on the host's disk are under, as it said
	// last; nil while it has not said.
	Holdings []KeyHolding `json:"holdings"`
	// Revision and Digest are columns: the newest desired state that was handed out.
	Revision uint64 `json:"-"`
	Digest   string `json:"-"`
}

// KeyHolding counts the wraps on a host's disk that are under one customer key; the key
// is "" for wraps that the host cannot read.
type KeyHolding struct {
	KeyARN     string `json:"keyArn"`
	Wraps      int    `json:"wraps"`
	Unescrowed int    `json:"unescrowed,omitempty"`
}

// EnrolmentToken lets one agent enrol once.
type EnrolmentToken struct {
	Hash string
	// Org is the organization that the host will belong to; "" is the platform.
	Org      keys.OrgID
	Hostname string
	Expires  time.Time
	Used     bool
}

// EscrowedWrap is a wrapped key that the control plane keeps for a host.
type EscrowedWrap struct {
	Key        keys.KeyID     `json:"key"`
	Generation uint64         `json:"generation"`
	Node       keys.NodeID    `json:"node"`
	Host       keys.HostID    `json:"host"`
	Project    keys.ProjectID `json:"project"`
	Cluster    keys.ClusterID `json:"cluster"`
	State      keys.State     `json:"state"`
	Purpose    keys.Purpose   `json:"purpose"`
	Wrapped    []byte         `json:"wrapped"`
	Created    time.Time      `json:"created"`
	// Revision orders the states of one wrap: an older one never replaces a newer.
	Revision uint64 `json:"revision"`
	// Activated is when the key became Active, Meta the agent's description of it.
	Activated time.Time       `json:"activated,omitzero"`
	Meta      json.RawMessage `json:"meta,omitempty"`
}
