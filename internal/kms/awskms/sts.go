package awskms

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awskmssdk "github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
)

// denyAll is the session policy of a session that is not to be used.
const denyAll = `{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}`

// sessionPolicy narrows a session to the target's key and the three actions.
func sessionPolicy(t kms.Target) (string, *kms.Failure) {
	if t.KeyID == "" {
		return denyAll, nil
	}
	arn := t.KeyARN()
	// A wildcard or a variable would widen the policy, and no key has one in its name.
	if arn == "" || keys.IsAlias(t.KeyID) || strings.ContainsAny(arn, "*?$ \t\r\n") {
		return "", &kms.Failure{
			Outcome: kms.Unreachable, Reason: kms.KeyARNInvalid, Operation: kms.OpDescribeKey,
			Message: "the key is not named by an id or by the ARN of a key", Remedy: kms.RemedyFor(kms.KeyARNInvalid, ""),
		}
	}
	type statement struct {
		Effect   string
		Action   []string
		Resource any
	}
	// Both names of a multi-Region key that is used in another Region than it was named
	// in: what one of them wrapped the other opens.
	var resource any = arn
	if named, err := keys.ParseARN(t.KeyID); err == nil && named.String() != arn {
		resource = []string{arn, named.String()}
	}
	b, err := json.Marshal(struct {
		Version   string
		Statement []statement
	}{"2012-10-17", []statement{{"Allow", []string{"kms:DescribeKey", "kms:Encrypt", "kms:Decrypt"}, resource}}})
	if err != nil {
		return "", kms.AsFailure(err)
	}
	return string(b), nil
}

// assume makes one AssumeRole with the platform's own credentials, and asks the canary
// when the answer is a refusal that could be anybody's fault.
func (p *Provider) assume(ctx context.Context, client *http.Client, t kms.Target, externalID *string, policy string, d time.Duration) (aws.Credentials, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := p.ownCredentials(ctx, kms.OpAssumeRole); err != nil {
		return aws.Credentials{}, err
	}
	c, f := p.assumeOnce(ctx, client, t, externalID, policy, d)
	if f == nil {
		return c, nil
	}
	if f.Reason == kms.RoleNotAssumable && p.canary != "" {
		if _, cf := p.assumeOnce(ctx, client, kms.Target{RoleARN: p.canary, Region: t.Region, STSEndpoint: t.STSEndpoint, FIPS: t.FIPS}, nil, denyAll, freshDuration); cf != nil {
			p.log.ErrorContext(ctx, "the canary role cannot be assumed: the platform's own permission is broken", "role_arn", p.canary, "error", cf)
			g := *f
			g.Outcome, g.Reason, g.Remedy = kms.Unreachable, kms.PlatformPermissions, kms.RemedyFor(kms.PlatformPermissions, "")
			g.MissingPermission = ""
			f = &g
		}
	}
	return aws.Credentials{}, p.failed(ctx, f)
}

func (p *Provider) assumeOnce(ctx context.Context, client *http.Client, t kms.Target, externalID *string, policy string, d time.Duration) (aws.Credentials, *kms.Failure) {
	out, err := p.stsClient(t, client).AssumeRole(ctx, &sts.AssumeRoleInput{
		RoleArn: &t.RoleARN, RoleSessionName: &p.name, ExternalId: externalID,
		DurationSeconds: aws.Int32(int32(d / time.Second)), Policy: &policy, //nolint:gosec // at most 3600
	})
	if err != nil {
		return aws.Credentials{}, classify(err, kms.OpAssumeRole)
	}
	c := out.Credentials
	if c == nil || aws.ToString(c.AccessKeyId) == "" || aws.ToString(c.SecretAccessKey) == "" || aws.ToString(c.SessionToken) == "" || c.Expiration == nil {
		return aws.Credentials{}, empty(kms.OpAssumeRole)
	}
	return aws.Credentials{
		AccessKeyID: *c.AccessKeyId, SecretAccessKey: *c.SecretAccessKey, SessionToken: *c.SessionToken,
		CanExpire: true, Expires: *c.Expiration, Source: "keywright",
	}, nil
}

// ownCredentials makes sure that the platform has credentials, so that their absence
// is never mistaken for something else.
func (p *Provider) ownCredentials(ctx context.Context, op kms.Operation) error {
	err := errors.New("no credentials provider is configured")
	if p.aws.Credentials != nil {
		if _, err = p.aws.Credentials.Retrieve(ctx); err == nil {
			return nil
		}
	}
	reason := kms.PlatformCredentials
	if ctx.Err() != nil {
		reason = kms.AsFailure(ctx.Err()).Reason
	}
	p.log.ErrorContext(ctx, "the platform's own aws credentials could not be loaded", "error", err)
	return &kms.Failure{Outcome: kms.Unreachable, Reason: reason, Operation: op, Message: "the platform's own AWS credentials could not be loaded", Remedy: kms.RemedyFor(reason, ""), Err: err}
}

func (p *Provider) stsClient(t kms.Target, client *http.Client) *sts.Client {
	return sts.NewFromConfig(p.aws, func(o *sts.Options) {
		o.Region, o.HTTPClient, o.Retryer = p.region(t), client, newRetryer()
		if u := cmp.Or(t.STSEndpoint, p.stsAt.For(o.Region)); u != "" {
			o.BaseEndpoint, o.EndpointOptions.UseFIPSEndpoint = &u, aws.FIPSEndpointStateDisabled
		} else if p.fips || t.FIPS {
			o.EndpointOptions.UseFIPSEndpoint = aws.FIPSEndpointStateEnabled
		}
	})
}

func (p *Provider) kmsClient(t kms.Target, client *http.Client, creds aws.CredentialsProvider) *awskmssdk.Client {
	return awskmssdk.NewFromConfig(p.aws, func(o *awskmssdk.Options) {
		o.Region, o.HTTPClient, o.Retryer, o.Credentials = p.region(t), client, newRetryer(), creds
		if u := cmp.Or(t.KMSEndpoint, p.kmsAt.For(o.Region)); u != "" {
			o.BaseEndpoint, o.EndpointOptions.UseFIPSEndpoint = &u, aws.FIPSEndpointStateDisabled
		} else if p.fips || t.FIPS {
			o.EndpointOptions.UseFIPSEndpoint = aws.FIPSEndpointStateEnabled
		}
	})
}

// pause is the middle of the wait before the second attempt, which is random around it.
const pause = 400 * time.Millisecond

// newRetryer tries twice, with a short pause: a run has ten seconds in all.
func newRetryer() aws.Retryer {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts = maxAttempts
		o.Backoff = retry.BackoffDelayerFunc(func(int, error) (time.Duration, error) {
			return pause/4 + rand.N(pause), nil //nolint:gosec // spreads load, nothing secret
		})
	})
}
