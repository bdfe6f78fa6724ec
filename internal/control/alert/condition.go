package alert

import (
	"slices"
	"time"

	"github.com/keywright/keywright/internal/store"
)

// The kinds of conditions, as eventTypeName of Atlas's API. The first four are Atlas's
// own, the others are ours.
const (
	KeyInvalid       = "AWS_ENCRYPTION_KEY_INVALID"
	KeyNeedsRotation = "AWS_ENCRYPTION_KEY_NEEDS_ROTATION"
	ConfigInvalid    = "ENCRYPTION_AT_REST_CONFIG_NO_LONGER_VALID"
	NetworkDenied    = "ENCRYPTION_AT_REST_KMS_NETWORK_ACCESS_DENIED"

	MasterKeyOld        = "MASTER_KEY_NEEDS_ROTATION"
	RotationStuck       = "MASTER_KEY_ROTATION_FAILING"
	ValidationLate      = "ENCRYPTION_AT_REST_VALIDATION_LATE"
	ValidationAlarm     = "ENCRYPTION_AT_REST_VALIDATION_ALARM"
	RoleInDoubt         = "CLOUD_PROVIDER_ACCESS_AWS_IAM_ROLE_IN_DOUBT"
	AddressesChanged    = "KMS_CALLER_ADDRESSES_CHANGED"
	HostSilent          = "HOST_SILENT"
	HostAlarm           = "HOST_ALARM"
	HostFrozen          = "HOST_FROZEN"
	AuditMismatch       = "HOST_AUDIT_HEAD_MISMATCH"
	CertificateExpiring = "CERTIFICATE_EXPIRING"
)

// Words of thresholds and matchers, as Atlas spells them.
const (
	GreaterThan = "GREATER_THAN"
	LessThan    = "LESS_THAN"
	Days        = "DAYS"
	Hours       = "HOURS"
	Minutes     = "MINUTES"

	FieldHostname = "HOSTNAME"
	FieldCluster  = "CLUSTER_NAME"
)

// Condition is something that a project may want to be told of.
type Condition struct {
	// Kind is the eventTypeName; What says in a few words what it is.
	Kind, What string
	// Default: each new project has a configuration of it. WithKey: a project gets one
	// when its key management is switched on for the first time.
	Default, WithKey bool
	// Limit is the threshold that counts where a configuration names none; nil if the
	// condition has no threshold.
	Limit *store.AlertThreshold
	// Fields are what matchers of a configuration may name.
	Fields []string
	// Find gives what is found now; limit is the threshold as a duration. It is pure. A
	// finding's Since may be zero: then it is the moment of noticing. Nil for a condition
	// that other rooms raise (store.Tx.Raise), which counts for those with Find too.
	Find func(f Facts, limit time.Duration) []store.Finding
}

func limit(operator string, value int, units string) *store.AlertThreshold {
	return &store.AlertThreshold{Operator: operator, Value: value, Units: units}
}

// Conditions lists all that there are. Each call gives a copy of its own.
func Conditions() []Condition {
	host := []string{FieldHostname}
	return []Condition{
		{Kind: KeyInvalid, What: "the customer key cannot be used", Default: true, Find: keyInvalid},
		{Kind: ConfigInvalid, What: "the configuration of encryption at rest is no longer valid", Find: keyInvalid},
		{Kind: NetworkDenied, What: "a host is denied access to the key service, or cannot reach it", Default: true, Fields: host, Find: networkDenied},
		{Kind: KeyNeedsRotation, What: "days since the customer key was set or replaced", WithKey: true, Limit: limit(GreaterThan, 90, Days), Find: keyNeedsRotation},
		{Kind: MasterKeyOld, What: "days since a node's master key was made", Default: true, Limit: limit(GreaterThan, 97, Days), Fields: []string{FieldCluster}, Find: masterKeyOld},
		{Kind: RotationStuck, What: "a node cannot rotate its master key", Default: true, Fields: []string{FieldCluster}, Find: rotationStuck},
		{Kind: ValidationLate, What: "a linked host has not validated the key in time", Default: true, Fields: host, Find: validationLate},
		{Kind: ValidationAlarm, What: "validation of the key needs a person", Default: true, Fields: host, Find: validationAlarm},
		{Kind: RoleInDoubt, What: "a role's trust policy does not hold what its proof demands", Default: true, Find: roleInDoubt},
		{Kind: AddressesChanged, What: "the addresses from which AWS is called have changed", Default: true},
		{Kind: HostSilent, What: "minutes since a host was last heard of", Default: true, Limit: limit(GreaterThan, 5, Minutes), Fields: host, Find: hostSilent},
		{Kind: HostAlarm, What: "a host raises an alarm", Default: true, Fields: host, Find: hostAlarm},
		{Kind: HostFrozen, What: "a host is frozen", Default: true, Fields: host, Find: hostFrozen},
		{Kind: AuditMismatch, What: "a host's audit chain is not the one that was known", Default: true, Fields: host, Find: auditMismatch},
		{Kind: CertificateExpiring, What: "days until a certificate ends", Default: true, Limit: limit(LessThan, 14, Days), Fields: host, Find: certificateExpiring},
	}
}

// Find gives the condition of a kind.
func conditionOf(kind string) (Condition, bool) {
	all := Conditions()
	i := slices.IndexFunc(all, func(c Condition) bool { return c.Kind == kind })
	if i < 0 {
		return Condition{}, false
	}
	return all[i], true
}

// findings are everything of the condition that is true by the facts: what Find gives,
// and what other rooms have raised.
func (c Condition) findings(f Facts, t *store.AlertThreshold) []store.Finding {
	var out []store.Finding
	if c.Find != nil {
		if t == nil {
			t = c.Limit
		}
		out = c.Find(f, span(t))
	}
	for _, r := range f.Raised {
		if r.Kind == c.Kind && (r.Until.IsZero() || r.Until.After(f.Now)) {
			out = append(out, r)
		}
	}
	return out
}

// span is a threshold as a duration; 0 without one.
func span(t *store.AlertThreshold) time.Duration {
	if t == nil {
		return 0
	}
	unit := time.Minute
	switch t.Units {
	case Days:
		unit = 24 * time.Hour
	case Hours:
		unit = time.Hour
	}
	return time.Duration(t.Value) * unit
}
