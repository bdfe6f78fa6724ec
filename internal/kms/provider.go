package kms

import (
	"context"
	"strconv"
	"time"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
)

// The service's own limits.
const (
	// MaxPlaintext is the largest plaintext of Encrypt, in bytes.
	MaxPlaintext = 4096
	// MaxCiphertext is the largest ciphertext of Decrypt, in bytes.
	MaxCiphertext = 6144
)

// AccessKey is an access key of an IAM user in the customer's account. Only projects
// that were migrated with one are reached this way.
type AccessKey struct {
	// ID is no secret. The zero AccessKey has none.
	ID     string
	Secret secret.Bytes
}

// IsZero tells whether there is no access key.
func (k AccessKey) IsZero() bool { return k.ID == "" }

// Target names a customer's key and the role that leads to it.
type Target struct {
	RoleARN    string
	ExternalID string
	// AccessKey, if set, is used instead of the role; no role is assumed then, so there
	// is no session policy either.
	AccessKey AccessKey
	// KeyID is the key as the customer typed it: an id (then it is looked up in the
	// role's account) or an ARN. Empty when there is no key yet.
	KeyID  string
	Region string
	// KMSEndpoint and STSEndpoint replace the service's own endpoints; empty means
	// what the environment or the Region say.
	KMSEndpoint string
	STSEndpoint string
	// FIPS asks for the service's FIPS endpoints where no other is set.
	FIPS bool
}

// Equal tells whether two targets are the same way to the same key.
func (t Target) Equal(o Target) bool {
	same := t.AccessKey.Secret.Equal(o.AccessKey.Secret)
	return same && t.place() == o.place()
}

// place is what is comparable of a target: all but the secret.
func (t Target) place() [8]string {
	return [...]string{t.RoleARN, t.ExternalID, t.AccessKey.ID, t.KeyID, t.Region, t.KMSEndpoint, t.STSEndpoint, strconv.FormatBool(t.FIPS)}
}

// Name is how the key is called by its name in the target's Region: as the customer
// typed it, but for a multi-Region key that was named by the ARN of another Region. Its
// replica has the same ARN with the Region changed.
func (t Target) Name() string {
	if a, err := keys.ParseARN(t.KeyID); err == nil && a.Region != t.Region && keys.MultiRegion(a) && t.Region != "" {
		a.Region = t.Region
		return a.String()
	}
	return t.KeyID
}

// KeyARN is the ARN of the target's key: that of Name if it is one, else the ARN that
// the id has in the role's account. Empty without a key, and for an id that
// is reached with an access key: only AWS knows whose that is.
func (t Target) KeyARN() string {
	if t.KeyID == "" {
		return ""
	}
	if a, err := keys.ParseARN(t.Name()); err == nil {
		return a.String()
	}
	role, err := keys.ParseRoleARN(t.RoleARN)
	if err != nil {
		return ""
	}
	return keys.ARN{Partition: role.Partition, Service: "kms", Region: t.Region, Account: role.Account, Resource: "key/" + t.KeyID}.String()
}

// KeyInfo is what DescribeKey tells about a key, in the service's own words.
type KeyInfo struct {
	ARN         string
	KeyID       string
	Account     string
	Region      string
	State       string
	Spec        string
	Usage       string
	Manager     string
	Origin      string
	MultiRegion bool
	// DeletionDate is set while the key is pending deletion.
	DeletionDate time.Time
}

// Provider opens sessions on customers' keys. All errors are *Failure. It is safe
// for concurrent use.
type Provider interface {
	// Assume makes a fresh AssumeRole over a new connection, with a session policy
	// that allows the three actions on the target's key only (nothing when there is
	// no key). With an access key it makes a new connection only. The caller closes the
	// session.
	Assume(ctx context.Context, t Target) (Session, error)
	// Session gives a cached session for traffic. Closing it is harmless. It is no
	// evidence that the role can still be assumed.
	Session(ctx context.Context, t Target) (Session, error)
	// Forget drops the cached sessions of the target's role.
	Forget(t Target)
	// TryAssume makes one AssumeRole with a session policy that denies everything, to
	// test a trust policy; externalID nil sends none. It is nil if the role could be
	// assumed.
	TryAssume(ctx context.Context, roleARN string, externalID *string, region string) error
	// CallerIdentity tells who the platform is at the service.
	CallerIdentity(ctx context.Context) (account, arn string, err error)
}

// Session uses one key as the assumed role. All errors are *Failure. It is safe for
// concurrent use.
type Session interface {
	// Describe works in every state of the key.
	Describe(ctx context.Context) (KeyInfo, error)
	// Encrypt takes 1 to MaxPlaintext bytes. keyARN is the key that did it, as the
	// service answers, whatever form the target had.
	Encrypt(ctx context.Context, plaintext secret.Bytes, ectx map[string]string) (ciphertext []byte, keyARN string, err error)
	// Decrypt always names the key, so that a ciphertext of another key is refused
	// (CiphertextMismatch) instead of opened.
	Decrypt(ctx context.Context, ciphertext []byte, ectx map[string]string) (secret.Bytes, error)
	// Close ends the session's connections; credentials end by themselves.
	Close() error
}
