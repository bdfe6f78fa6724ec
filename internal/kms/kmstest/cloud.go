package kmstest

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/secret"
)

// The names of a Cloud.
const (
	Region          = "us-east-1"
	PlatformAccount = "111111111111"
	CustomerAccount = "222222222222"
)

// Cloud is a key management service in memory. It implements kms.Provider. It is safe
// for concurrent use.
type Cloud struct {
	mu    sync.Mutex
	keys  map[string]*cloudKey
	roles map[string]*cloudRole
	users map[string]*cloudUser // by access key id
	down  *kms.Failure
	calls []Call
	next  int
}

// Call is one call that reached the Cloud.
type Call struct {
	Operation kms.Operation
	KeyARN    string
	Context   map[string]string
}

type cloudKey struct {
	info kms.KeyInfo
	aead cipher.AEAD
}

type cloudRole struct {
	externalID string
	anyone     bool // can be assumed without the external id
	denied     map[kms.Operation]bool
}

type cloudUser struct {
	secret   secret.Bytes
	inactive bool
	denied   map[kms.Operation]bool
}

var _ kms.Provider = (*Cloud)(nil)

// NewCloud makes a Cloud without keys and roles.
func NewCloud() *Cloud {
	return &Cloud{keys: map[string]*cloudKey{}, roles: map[string]*cloudRole{}, users: map[string]*cloudUser{}}
}

// Project makes a key and a role that leads to it, and gives the target.
func (c *Cloud) Project() kms.Target {
	key := c.CreateKey()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	role := fmt.Sprintf("arn:aws:iam::%s:role/keywright-%d", CustomerAccount, c.next)
	external := fmt.Sprintf("external-%d", c.next)
	c.roles[role] = &cloudRole{externalID: external, denied: map[kms.Operation]bool{}}
	return kms.Target{RoleARN: role, ExternalID: external, KeyID: key, Region: Region}
}

// User makes an access key of a user in the customer's account who may use a key.
func (c *Cloud) User(keyARN string) kms.Target {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	k := kms.AccessKey{ID: fmt.Sprintf("AKIACLOUD%011d", c.next), Secret: secret.RandomText(30)}
	c.users[k.ID] = &cloudUser{secret: k.Secret.Clone(), denied: map[kms.Operation]bool{}}
	return kms.Target{AccessKey: k, KeyID: keyARN, Region: Region}
}

// Deactivate takes an access key away, or gives it back.
func (c *Cloud) Deactivate(accessKeyID string, inactive bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.users[accessKeyID].inactive = inactive
}

// DenyUser takes operations on keys away from the user of an access key, or gives them
// back.
func (c *Cloud) DenyUser(accessKeyID string, denied bool, ops ...kms.Operation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, op := range ops {
		c.users[accessKeyID].denied[op] = denied
	}
}

// CreateKey makes a usable key in the customer's account and gives its ARN.
func (c *Cloud) CreateKey() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	material := make([]byte, 32)
	_, _ = rand.Read(material)
	block, err := aes.NewCipher(material)
	if err != nil {
		panic(err) // 32 bytes always fit
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // AES always fits
	}
	id := fmt.Sprintf("00000000-0000-4000-8000-%012d", c.next)
	arn := keys.ARN{Partition: "aws", Service: "kms", Region: Region, Account: CustomerAccount, Resource: "key/" + id}.String()
	c.keys[arn] = &cloudKey{aead: aead, info: kms.KeyInfo{
		ARN: arn, KeyID: id, Account: CustomerAccount, Region: Region, State: "Enabled",
		Spec: "SYMMETRIC_DEFAULT", Usage: "ENCRYPT_DECRYPT", Manager: "CUSTOMER", Origin: "AWS_KMS",
	}}
	return arn
}

// Replicate makes a multi-Region key of a key, with a replica in another Region, and
// gives the ARNs of both. The key must not be in use yet: its id changes.
func (c *Cloud) Replicate(keyARN, region string) (primary, replica string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.keys[keyARN]
	delete(c.keys, keyARN)
	copyIn := func(in string) string {
		m := *k
		m.info.MultiRegion, m.info.Region, m.info.KeyID = true, in, "mrk-"+k.info.KeyID
		m.info.ARN = keys.ARN{Partition: "aws", Service: "kms", Region: in, Account: CustomerAccount, Resource: "key/" + m.info.KeyID}.String()
		c.keys[m.info.ARN] = &m
		return m.info.ARN
	}
	return copyIn(Region), copyIn(region)
}

// SetState changes a key's state: Enabled, Disabled, PendingDeletion, ...
func (c *Cloud) SetState(keyARN, state string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.keys[keyARN]
	k.info.State, k.info.DeletionDate = state, time.Time{}
	if state == "PendingDeletion" {
		k.info.DeletionDate = time.Now().Add(7 * 24 * time.Hour)
	}
}

// SetSpec makes a key one of another spec and usage.
func (c *Cloud) SetSpec(keyARN, spec, usage string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys[keyARN].info.Spec, c.keys[keyARN].info.Usage = spec, usage
}

// DeleteKey makes a key not exist.
func (c *Cloud) DeleteKey(keyARN string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.keys, keyARN)
}

// Deny takes operations on keys away from a role, or gives them back; OpAssumeRole is
// the trust.
func (c *Cloud) Deny(roleARN string, denied bool, ops ...kms.Operation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, op := range ops {
		c.roles[roleARN].denied[op] = denied
	}
}

// TrustAnyone lets a role be assumed with any external id, or none.
func (c *Cloud) TrustAnyone(roleARN string, anyone bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.roles[roleARN].anyone = anyone
}

// Down makes every call Unreachable with the reason; "" ends it.
func (c *Cloud) Down(r kms.Reason) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = nil
	if r != "" {
		c.down = failure(kms.Unreachable, r, "")
	}
}

// Calls gives what was called so far.
func (c *Cloud) Calls() []Call {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Call(nil), c.calls...)
}

func failure(o kms.Outcome, r kms.Reason, op kms.Operation) *kms.Failure {
	f := &kms.Failure{Outcome: o, Reason: r, Operation: op, Remedy: kms.RemedyFor(r, op), Err: errors.New("test cloud says so")}
	if r == kms.KeyAccessDenied || r == kms.RoleNotAssumable {
		f.MissingPermission = op.Permission()
	}
	return f
}

// enter begins a call. c.mu is held.
func (c *Cloud) enter(ctx context.Context, call Call) error {
	if err := ctx.Err(); err != nil {
		return kms.AsFailure(err)
	}
	c.calls = append(c.calls, call)
	if c.down != nil {
		f := *c.down
		f.Operation = call.Operation
		return &f
	}
	return nil
}

func (c *Cloud) assume(ctx context.Context, roleARN string, externalID *string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.enter(ctx, Call{Operation: kms.OpAssumeRole}); err != nil {
		return err
	}
	if _, err := keys.ParseRoleARN(roleARN); err != nil {
		return failure(kms.Revoked, kms.RoleARNInvalid, kms.OpAssumeRole)
	}
	r := c.roles[roleARN]
	if r == nil || r.denied[kms.OpAssumeRole] || !r.anyone && (externalID == nil || *externalID != r.externalID) {
		return failure(kms.Revoked, kms.RoleNotAssumable, kms.OpAssumeRole)
	}
	return nil
}

// Assume implements kms.Provider.
func (c *Cloud) Assume(ctx context.Context, t kms.Target) (kms.Session, error) {
	if !t.AccessKey.IsZero() {
		return &cloudSession{c: c, t: t}, nil
	}
	external := &t.ExternalID
	if t.ExternalID == "" {
		external = nil
	}
	if err := c.assume(ctx, t.RoleARN, external); err != nil {
		return nil, err
	}
	return &cloudSession{c: c, t: t}, nil
}

// Session implements kms.Provider. There is no cache, but like one it does not ask
// whether the role can still be assumed.
func (c *Cloud) Session(ctx context.Context, t kms.Target) (kms.Session, error) {
	c.mu.Lock()
	known := c.roles[t.RoleARN] != nil && c.roles[t.RoleARN].externalID == t.ExternalID
	c.mu.Unlock()
	if known {
		return &cloudSession{c: c, t: t}, nil
	}
	return c.Assume(ctx, t)
}

// Forget implements kms.Provider.
func (c *Cloud) Forget(kms.Target) {}

// TryAssume implements kms.Provider.
func (c *Cloud) TryAssume(ctx context.Context, roleARN string, externalID *string, _ string) error {
	return c.assume(ctx, roleARN, externalID)
}

// CallerIdentity implements kms.Provider.
func (c *Cloud) CallerIdentity(ctx context.Context) (account, arn string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.enter(ctx, Call{Operation: kms.OpGetCallerIdentity}); err != nil {
		return "", "", err
	}
	return PlatformAccount, "arn:aws:iam::" + PlatformAccount + ":user/keywright", nil
}

type cloudSession struct {
	c *Cloud
	t kms.Target
}

// key finds the session's key for op. c.mu is held.
func (s *cloudSession) key(ctx context.Context, op kms.Operation, ectx map[string]string) (*cloudKey, error) {
	arn := s.t.KeyARN()
	if arn == "" { // an id that is reached with an access key
		arn = keys.ARN{Partition: "aws", Service: "kms", Region: s.t.Region, Account: CustomerAccount, Resource: "key/" + s.t.KeyID}.String()
	}
	if err := s.c.enter(ctx, Call{Operation: op, KeyARN: arn, Context: ectx}); err != nil {
		return nil, err
	}
	denied, err := s.rights(op)
	if err != nil {
		return nil, err
	}
	if keys.IsAlias(s.t.KeyID) || s.t.KeyID == "" {
		return nil, failure(kms.Unreachable, kms.KeyARNInvalid, op)
	}
	k := s.c.keys[arn]
	if k == nil || s.t.Region != k.info.Region {
		return nil, failure(kms.Revoked, kms.KeyNotFound, op)
	}
	if denied[op] {
		return nil, failure(kms.Revoked, kms.KeyAccessDenied, op)
	}
	if op == kms.OpDescribeKey {
		return k, nil
	}
	if f := k.info.Usable(); f != nil {
		g := *f
		g.Operation = op
		return nil, &g
	}
	return k, nil
}

// rights gives what the session's role or user may not do. c.mu is held.
func (s *cloudSession) rights(op kms.Operation) (map[kms.Operation]bool, error) {
	k := s.t.AccessKey
	if k.IsZero() {
		return s.c.roles[s.t.RoleARN].denied, nil
	}
	u := s.c.users[k.ID]
	switch {
	case u == nil || u.inactive:
		return nil, failure(kms.Revoked, kms.AccessKeyInvalid, op)
	case !u.secret.Equal(k.Secret):
		return nil, failure(kms.Unreachable, kms.AccessKeySecretWrong, op)
	}
	return u.denied, nil
}

// aad binds a ciphertext to its key and context.
func (k *cloudKey) aad(ectx map[string]string) []byte {
	b, err := json.Marshal(ectx) // maps are written in the order of their keys
	if err != nil {
		panic(err) // strings always marshal
	}
	name := k.info.ARN
	if k.info.MultiRegion { // replicas share their material
		name = k.info.KeyID
	}
	return append([]byte(name+"\n"), b...)
}

func (s *cloudSession) Describe(ctx context.Context) (kms.KeyInfo, error) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	k, err := s.key(ctx, kms.OpDescribeKey, nil)
	if err != nil {
		return kms.KeyInfo{}, err
	}
	return k.info, nil
}

func (s *cloudSession) Encrypt(ctx context.Context, plaintext secret.Bytes, ectx map[string]string) ([]byte, string, error) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	k, err := s.key(ctx, kms.OpEncrypt, ectx)
	if err != nil {
		return nil, "", err
	}
	if plaintext.Len() == 0 || plaintext.Len() > kms.MaxPlaintext {
		return nil, "", failure(kms.Unreachable, kms.KeyARNInvalid, kms.OpEncrypt)
	}
	nonce := make([]byte, k.aead.NonceSize())
	_, _ = rand.Read(nonce)
	return k.aead.Seal(nonce, nonce, plaintext.Reveal(), k.aad(ectx)), k.info.ARN, nil
}

func (s *cloudSession) Decrypt(ctx context.Context, ciphertext []byte, ectx map[string]string) (secret.Bytes, error) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	k, err := s.key(ctx, kms.OpDecrypt, ectx)
	if err != nil {
		return secret.Bytes{}, err
	}
	n := k.aead.NonceSize()
	if len(ciphertext) < n {
		return secret.Bytes{}, failure(kms.Unreachable, kms.CiphertextMismatch, kms.OpDecrypt)
	}
	plain, err := k.aead.Open(nil, ciphertext[:n], ciphertext[n:], k.aad(ectx))
	if err != nil {
		return secret.Bytes{}, failure(kms.Unreachable, kms.CiphertextMismatch, kms.OpDecrypt)
	}
	return secret.New(plain), nil
}

func (s *cloudSession) Close() error { return nil }
