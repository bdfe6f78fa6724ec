package awskms

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awskmssdk "github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/secret"
)

// session implements kms.Session. It renews its credentials by its own AssumeRole
// before they end, and once when KMS refuses them. With an access key there is nothing
// to renew.
type session struct {
	p        *Provider
	t        kms.Target
	client   *http.Client
	kms      *awskmssdk.Client
	duration time.Duration
	fresh    bool

	// turn is held by the one who assumes the role; a channel, so that waiting for it
	// ends with the context.
	turn chan struct{}

	mu     sync.Mutex
	creds  aws.Credentials
	until  time.Time
	usedAt time.Time
}

var _ kms.Session = (*session)(nil)

func (p *Provider) newSession(t kms.Target, client *http.Client, d time.Duration) *session {
	t.AccessKey.Secret = t.AccessKey.Secret.Clone() // the session lives longer than the call
	s := &session{p: p, t: t, client: client, duration: d, turn: make(chan struct{}, 1), usedAt: time.Now()}
	s.kms = p.kmsClient(t, client, aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.creds, nil
	}))
	return s
}

// ready tells whether the credentials last; they end early, each a little different.
func (s *session) ready() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.usedAt = time.Now()
	return s.creds.AccessKeyID != "" && time.Now().Before(s.until)
}

func (s *session) unused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.usedAt) > cachedDuration
}

func (s *session) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.creds, s.until = aws.Credentials{}, time.Time{}
}

// dropIf drops the credentials that a refused call used, unless they were renewed since.
func (s *session) dropIf(used string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.creds.AccessKeyID == used {
		s.creds, s.until = aws.Credentials{}, time.Time{}
	}
}

func (s *session) accessKey() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.creds.AccessKeyID
}

// ensure assumes the role unless there are credentials that last.
func (s *session) ensure(ctx context.Context) error {
	if s.ready() {
		return nil
	}
	if !s.t.AccessKey.IsZero() {
		return s.useAccessKey(ctx)
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		f := kms.AsFailure(ctx.Err())
		f.Operation = kms.OpAssumeRole
		return f
	}
	if s.ready() {
		return nil
	}
	policy, f := sessionPolicy(s.t)
	if f != nil {
		return s.p.failed(ctx, f)
	}
	var external *string
	if s.t.ExternalID != "" {
		external = &s.t.ExternalID
	}
	c, err := s.p.assume(ctx, s.client, s.t, external, policy, s.duration)
	if err != nil {
		return err
	}
	window := expiryWindow
	if !s.fresh {
		window += rand.N(expiryWindow / 2) //nolint:gosec // spreads load, nothing secret
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.creds, s.until = c, c.Expires.Add(-window)
	return nil
}

// useAccessKey takes the customer's access key as it is: it lasts until the customer
// takes it back, which KMS tells.
func (s *session) useAccessKey(ctx context.Context) error {
	k := s.t.AccessKey
	if k.Secret.IsEmpty() {
		return s.p.failed(ctx, &kms.Failure{
			Outcome: kms.Unreachable, Reason: kms.AccessKeySecretWrong, Operation: kms.OpDescribeKey,
			Message: "the secret of the access key is not here", Remedy: kms.RemedyFor(kms.AccessKeySecretWrong, ""),
		})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.creds = aws.Credentials{AccessKeyID: k.ID, SecretAccessKey: string(k.Secret.Reveal()), Source: "keywright"}
	s.until = time.Now().Add(cachedDuration)
	return nil
}

// call runs one KMS call, and a second time with a new session if KMS refuses this one
// (aws-kms 4.5, row 12). A refusal of access drops cached credentials too.
func (s *session) call(ctx context.Context, op kms.Operation, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for attempt := 0; ; attempt++ {
		if err := s.ensure(ctx); err != nil {
			return err
		}
		used := s.accessKey()
		err := do(ctx)
		if err == nil {
			return nil
		}
		f := classify(err, op)
		if !s.t.AccessKey.IsZero() {
			return s.p.failed(ctx, withAccessKey(f))
		}
		if f.Reason == kms.SessionRefused || f.Reason == kms.KeyAccessDenied && !s.fresh {
			s.dropIf(used)
		}
		if f.Reason == kms.SessionRefused && attempt == 0 {
			continue
		}
		return s.p.failed(ctx, f)
	}
}

// scrub lets the copies of a plaintext go. A fresh session carries probes only, and
// ends with its connection.
func (s *session) scrub() {
	if !s.fresh {
		s.p.scrubs.used()
	}
}

// name is how calls name the key.
func (s *session) name() *string { return aws.String(s.t.Name()) }

// Describe implements kms.Session.
func (s *session) Describe(ctx context.Context) (kms.KeyInfo, error) {
	var info kms.KeyInfo
	err := s.call(ctx, kms.OpDescribeKey, func(ctx context.Context) error {
		out, err := s.kms.DescribeKey(ctx, &awskmssdk.DescribeKeyInput{KeyId: s.name()})
		if err != nil {
			return err
		}
		m := out.KeyMetadata
		if m == nil || aws.ToString(m.Arn) == "" || m.KeyState == "" {
			return empty(kms.OpDescribeKey)
		}
		info = kms.KeyInfo{
			ARN: *m.Arn, KeyID: aws.ToString(m.KeyId), Account: aws.ToString(m.AWSAccountId), Region: regionOf(*m.Arn, s.p.region(s.t)),
			State: string(m.KeyState), Spec: string(m.KeySpec), Usage: string(m.KeyUsage), Manager: string(m.KeyManager),
			Origin: string(m.Origin), MultiRegion: aws.ToBool(m.MultiRegion), DeletionDate: aws.ToTime(m.DeletionDate),
		}
		return nil
	})
	return info, err
}

// regionOf is the Region in an ARN, which is the key's whatever the client was set to.
func regionOf(arn, otherwise string) string {
	if a, err := keys.ParseARN(arn); err == nil && a.Region != "" {
		return a.Region
	}
	return otherwise
}

// Encrypt implements kms.Session.
func (s *session) Encrypt(ctx context.Context, plaintext secret.Bytes, ectx map[string]string) (ciphertext []byte, keyARN string, err error) {
	defer s.scrub()
	err = s.call(ctx, kms.OpEncrypt, func(ctx context.Context) error {
		out, err := s.kms.Encrypt(ctx, &awskmssdk.EncryptInput{KeyId: s.name(), Plaintext: plaintext.Reveal(), EncryptionContext: ectx})
		if err != nil {
			return err
		}
		if len(out.CiphertextBlob) == 0 || aws.ToString(out.KeyId) == "" {
			return empty(kms.OpEncrypt)
		}
		ciphertext, keyARN = out.CiphertextBlob, *out.KeyId
		return nil
	})
	return ciphertext, keyARN, err
}

// Decrypt implements kms.Session.
func (s *session) Decrypt(ctx context.Context, ciphertext []byte, ectx map[string]string) (plain secret.Bytes, err error) {
	defer s.scrub()
	err = s.call(ctx, kms.OpDecrypt, func(ctx context.Context) error {
		out, err := s.kms.Decrypt(ctx, &awskmssdk.DecryptInput{KeyId: s.name(), CiphertextBlob: ciphertext, EncryptionContext: ectx})
		if err != nil {
			return err
		}
		if len(out.Plaintext) == 0 {
			return empty(kms.OpDecrypt)
		}
		plain = secret.New(out.Plaintext)
		return nil
	})
	return plain, err
}

// Close implements kms.Session.
func (s *session) Close() error {
	if s.fresh {
		s.client.CloseIdleConnections()
		s.drop()
		s.t.AccessKey.Secret.Wipe()
	}
	return nil
}
