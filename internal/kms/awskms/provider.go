package awskms

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	awskmssdk "github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/keywright/keywright/internal/kms"
)

// The durations of sessions and calls.
const (
	// freshDuration is the shortest session that STS makes: a validation run throws
	// it away.
	freshDuration = 900 * time.Second
	// cachedDuration is allowed by every role, and by role chaining.
	cachedDuration = time.Hour
	// expiryWindow is how long before its end a cached session is replaced.
	expiryWindow = 5 * time.Minute
	// callTimeout bounds every call whose context has no earlier deadline.
	callTimeout = 10 * time.Second
	// maxAttempts is how often the SDK tries one call.
	maxAttempts = 2
)

// Config configures a Provider.
type Config struct {
	// AWS is the SDK's configuration with the platform's own credentials. Nil takes
	// the SDK's default chain: environment, shared files, web identity, container,
	// instance; endpoints too.
	AWS *aws.Config
	// Region is used where a Target names none.
	Region string
	// CanaryRoleARN, if set, is a role in the platform's account that trusts its
	// principals through the account line only. When a customer's role is refused and
	// the canary is refused too, the platform is at fault and not the customer.
	CanaryRoleARN string
	// SessionName appears in the customer's CloudTrail; "keywright" if empty.
	SessionName string
	// KMSEndpoints and STSEndpoints replace the service's own addresses where a Target
	// names none.
	KMSEndpoints, STSEndpoints kms.Endpoints
	// FIPS asks for the FIPS endpoints of every Region that has no address of its own
	// here or in the Target. New fails if the SDK's configuration sets endpoints too.
	FIPS bool
	// SourceAddress, if valid, is the local address that KMS and STS are called from, for
	// a machine with several.
	SourceAddress netip.Addr
	// Logger may be nil.
	Logger *slog.Logger
}

// Provider implements kms.Provider over AWS.
type Provider struct {
	aws    aws.Config
	canary string
	name   string
	log    *slog.Logger
	shared *http.Client
	// sources knows from where calls are made.
	sources *sources
	scrubs  scrubber
	// kmsAt and stsAt replace the services' own addresses.
	kmsAt, stsAt kms.Endpoints
	fips         bool

	mu       sync.Mutex
	sessions map[place]*session
}

// place is what tells cached sessions apart. The secret of an access key is compared
// when a session is looked up.
type place struct {
	role, external, accessKey, key, region, kms, sts string
	fips                                             bool
}

func placeOf(t kms.Target) place {
	return place{t.RoleARN, t.ExternalID, t.AccessKey.ID, t.KeyID, t.Region, t.KMSEndpoint, t.STSEndpoint, t.FIPS}
}

var _ kms.Provider = (*Provider)(nil)

// New makes a provider and logs once which endpoints it talks to. It calls no one but
// what the SDK's default chain needs to read its configuration.
func New(ctx context.Context, cfg Config) (*Provider, error) {
	p := &Provider{
		canary: cfg.CanaryRoleARN, name: cfg.SessionName, log: cfg.Logger, sessions: map[place]*session{},
		kmsAt: cfg.KMSEndpoints, stsAt: cfg.STSEndpoints, fips: cfg.FIPS,
	}
	p.sources = &sources{bound: cfg.SourceAddress, seen: map[way]used{}}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if p.name == "" {
		p.name = "keywright"
	}
	if cfg.AWS != nil {
		p.aws = cfg.AWS.Copy()
	} else {
		loaded, err := config.LoadDefaultConfig(ctx)
		if err != nil {
			return nil, fmt.Errorf("load AWS configuration: %w", err)
		}
		p.aws = loaded
	}
	if cfg.Region != "" {
		p.aws.Region = cfg.Region
	}
	if p.aws.Region == "" {
		p.aws.Region = "us-east-1"
	}
	if _, cached := p.aws.Credentials.(*aws.CredentialsCache); p.aws.Credentials != nil && !cached {
		p.aws.Credentials = aws.NewCredentialsCache(p.aws.Credentials)
	}
	p.shared = p.ownClient()
	p.scrubs.forget = p.shared.CloseIdleConnections
	ep := p.Endpoints(kms.Target{})
	if ep.KMS == "" || ep.STS == "" {
		return nil, fmt.Errorf("find the endpoints of AWS in %s: there are none (FIPS endpoints cannot be combined with AWS_ENDPOINT_URL; name them by Region instead)", p.aws.Region)
	}
	p.log.InfoContext(ctx, "aws endpoints in use", "kms_endpoint", ep.KMS, "sts_endpoint", ep.STS, "aws_region", p.aws.Region, "fips", p.fips)
	return p, nil
}

// Region is the one that is used where a Target names none.
func (p *Provider) Region() string { return p.aws.Region }

// Close ends idle connections.
func (p *Provider) Close() error {
	p.scrubs.close()
	p.shared.CloseIdleConnections()
	return nil
}

// Endpoints are the addresses of the service.
type Endpoints struct{ KMS, STS string }

// Endpoints tells where the calls for a target go, whoever decided it: the target, the
// environment, or the Region.
func (p *Provider) Endpoints(t kms.Target) Endpoints {
	ctx := context.Background()
	region := p.region(t)
	var out Endpoints
	ko := p.kmsClient(t, p.shared, nil).Options()
	if ep, err := awskmssdk.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, awskmssdk.EndpointParameters{
		Region: &region, Endpoint: ko.BaseEndpoint, UseFIPS: fips(ko.EndpointOptions.UseFIPSEndpoint), UseDualStack: dual(ko.EndpointOptions.UseDualStackEndpoint),
	}); err == nil {
		out.KMS = ep.URI.String()
	}
	so := p.stsClient(t, p.shared).Options()
	if ep, err := sts.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, sts.EndpointParameters{
		Region: &region, Endpoint: so.BaseEndpoint, UseFIPS: fips(so.EndpointOptions.UseFIPSEndpoint), UseDualStack: dual(so.EndpointOptions.UseDualStackEndpoint),
		UseGlobalEndpoint: aws.Bool(false),
	}); err == nil {
		out.STS = ep.URI.String()
	}
	return out
}

func fips(s aws.FIPSEndpointState) *bool { return aws.Bool(s == aws.FIPSEndpointStateEnabled) }

func dual(s aws.DualStackEndpointState) *bool {
	return aws.Bool(s == aws.DualStackEndpointStateEnabled)
}

// Assume implements kms.Provider.
func (p *Provider) Assume(ctx context.Context, t kms.Target) (kms.Session, error) {
	s := p.newSession(t, p.ownClient(), freshDuration)
	s.fresh = true
	if err := s.ensure(ctx); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// Session implements kms.Provider.
func (p *Provider) Session(ctx context.Context, t kms.Target) (kms.Session, error) {
	p.mu.Lock()
	at := placeOf(t)
	s := p.sessions[at]
	if s == nil || !s.t.AccessKey.Secret.Equal(t.AccessKey.Secret) {
		p.sweep()
		s = p.newSession(t, p.shared, cachedDuration)
		p.sessions[at] = s
	}
	p.mu.Unlock()
	if err := s.ensure(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// sweep drops sessions that nobody used for as long as they lived. p.mu is held.
func (p *Provider) sweep() {
	for t, s := range p.sessions {
		if s.unused() {
			delete(p.sessions, t)
		}
	}
}

// Forget implements kms.Provider. Sessions that somebody still holds assume the role
// again at their next call.
func (p *Provider) Forget(t kms.Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, s := range p.sessions {
		if k.role == t.RoleARN && k.accessKey == t.AccessKey.ID {
			s.drop()
			delete(p.sessions, k)
		}
	}
}

// TryAssume implements kms.Provider.
func (p *Provider) TryAssume(ctx context.Context, roleARN string, externalID *string, region string) error {
	client := p.ownClient()
	defer client.CloseIdleConnections()
	t := kms.Target{RoleARN: roleARN, Region: region}
	_, err := p.assume(ctx, client, t, externalID, denyAll, freshDuration)
	return err
}

// CallerIdentity implements kms.Provider.
func (p *Provider) CallerIdentity(ctx context.Context) (account, arn string, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := p.ownCredentials(ctx, kms.OpGetCallerIdentity); err != nil {
		return "", "", err
	}
	out, err := p.stsClient(kms.Target{}, p.shared).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return "", "", p.failed(ctx, classify(err, kms.OpGetCallerIdentity))
	}
	if aws.ToString(out.Account) == "" || aws.ToString(out.Arn) == "" {
		return "", "", p.failed(ctx, empty(kms.OpGetCallerIdentity))
	}
	return *out.Account, *out.Arn, nil
}

func (p *Provider) region(t kms.Target) string {
	if t.Region != "" {
		return t.Region
	}
	return p.aws.Region
}

// failed logs what Keywright does not know, since only the log has it in full.
func (p *Provider) failed(ctx context.Context, f *kms.Failure) error {
	if f.Reason == kms.Unknown || f.Reason == kms.KeyARNInvalid {
		p.log.ErrorContext(ctx, "aws gave an answer that keywright cannot place", "operation", string(f.Operation), "code", f.Code,
			"request_id", f.RequestID, "message", f.Message, "error", f.Err)
	}
	return f
}
