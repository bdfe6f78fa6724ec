package awskms_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/keywright/keywright/internal/awslocal"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/kms/awskms"
)

func TestEndpointsOfEveryPartition(t *testing.T) {
	const vpce = "https://vpce-0a1b.kms.eu-west-1.vpce.amazonaws.com"
	plain := awskms.Config{AWS: &aws.Config{}}
	fips := awskms.Config{AWS: &aws.Config{}, FIPS: true}
	named := awskms.Config{AWS: &aws.Config{}, FIPS: true, KMSEndpoints: kms.Endpoints{"eu-west-1": vpce}, STSEndpoints: kms.Endpoints{"": "https://sts.example"}}
	for _, x := range []struct {
		name     string
		cfg      awskms.Config
		t        kms.Target
		kms, sts string
	}{
		{"own", plain, kms.Target{Region: "eu-west-1"}, "https://kms.eu-west-1.amazonaws.com", "https://sts.eu-west-1.amazonaws.com"},
		{"GovCloud", plain, kms.Target{Region: "us-gov-east-1"}, "https://kms.us-gov-east-1.amazonaws.com", "https://sts.us-gov-east-1.amazonaws.com"},
		{"China", plain, kms.Target{Region: "cn-north-1"}, "https://kms.cn-north-1.amazonaws.com.cn", "https://sts.cn-north-1.amazonaws.com.cn"},
		{"FIPS of the provider", fips, kms.Target{Region: "us-west-2"}, "https://kms-fips.us-west-2.amazonaws.com", "https://sts-fips.us-west-2.amazonaws.com"},
		{"FIPS of the target", plain, kms.Target{Region: "us-gov-west-1", FIPS: true}, "https://kms-fips.us-gov-west-1.amazonaws.com", "https://sts.us-gov-west-1.amazonaws.com"},
		{"named", named, kms.Target{Region: "eu-west-1"}, vpce, "https://sts.example"},
		{"another Region than the named", named, kms.Target{Region: "us-east-1"}, "https://kms-fips.us-east-1.amazonaws.com", "https://sts.example"},
		{"the target's own first", named, kms.Target{Region: "eu-west-1", KMSEndpoint: "https://a.example", STSEndpoint: "https://b.example"}, "https://a.example", "https://b.example"},
	} {
		p, err := awskms.New(t.Context(), x.cfg)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Endpoints(x.t); got.KMS != x.kms || got.STS != x.sts {
			t.Errorf("%s: %+v", x.name, got)
		}
		_ = p.Close()
	}
}

// TestFIPSIsNeverDroppedSilently: an address from the environment and FIPS endpoints
// exclude each other, so the start is refused.
func TestFIPSIsNeverDroppedSilently(t *testing.T) {
	p, err := awskms.New(t.Context(), awskms.Config{AWS: &aws.Config{BaseEndpoint: aws.String("https://a.example")}, FIPS: true})
	if err == nil {
		t.Errorf("started with %+v", p.Endpoints(kms.Target{}))
	}
}

// TestTheTrustIsProvenAtTheNamedEndpoint: calls without a key go there too.
func TestTheTrustIsProvenAtTheNamedEndpoint(t *testing.T) {
	r := newReplay(t, nil)
	w := newLocalWorld(t)
	cfg := w.config(w.server.Seed().Platform.Server)
	p, err := awskms.New(t.Context(), awskms.Config{AWS: &cfg, STSEndpoints: kms.Endpoints{"eu-west-1": r.URL}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	external := "8f3b1c52-7d1e-4a63-9d0a-6f1f0b7f2a10"
	if err := p.TryAssume(t.Context(), replayRole, &external, "eu-west-1"); err != nil {
		t.Error(err)
	}
	if err := p.TryAssume(t.Context(), replayRole, &external, "us-east-1"); kms.AsFailure(err) == nil || len(r.forms) != 1 {
		t.Errorf("another Region: %v, %d calls", err, len(r.forms))
	}
}

// TestReplicaOpensWhatThePrimaryWrapped: the key is named by the ARN of its primary and
// used in the replica's Region; the session policy names both.
func TestReplicaOpensWhatThePrimaryWrapped(t *testing.T) {
	w := newLocalWorld(t)
	target := w.Project(t)
	in := func(region string) *sdk.Client {
		cfg := w.config(w.server.Seed().Customer.Credentials)
		cfg.Region = region
		return sdk.NewFromConfig(cfg)
	}
	key, err := in(awslocal.DefaultRegion).CreateKey(t.Context(), &sdk.CreateKeyInput{MultiRegion: aws.Bool(true)})
	if err != nil {
		t.Fatal(err)
	}
	target.KeyID = *key.KeyMetadata.Arn
	const region = "eu-west-1"
	replica := fmt.Sprintf("arn:aws:kms:%s:%s:key/%s", region, awslocal.CustomerAccount, *key.KeyMetadata.KeyId)
	w.permit(t, roleName(target), []string{target.KeyID, replica}, "")
	first := kms.Run(t.Context(), w.p, kms.RunInput{Target: target})
	if first.Outcome != kms.OK || first.Key.ARN != target.KeyID {
		t.Fatalf("%s %v", first.Key.ARN, first.Failure)
	}
	target.Region = region
	run := kms.RunInput{Target: target, Stored: first.Probe}
	if r := kms.Run(t.Context(), w.p, run); r.Outcome != kms.Revoked || r.Reason != kms.KeyNotFound {
		t.Errorf("without a replica: %s (%s)", r.Outcome, r.Reason)
	}
	if _, err := in(awslocal.DefaultRegion).ReplicateKey(t.Context(), &sdk.ReplicateKeyInput{KeyId: key.KeyMetadata.Arn, ReplicaRegion: aws.String(region)}); err != nil {
		t.Fatal(err)
	}
	if r := kms.Run(t.Context(), w.p, run); r.Outcome != kms.OK || r.Key.ARN != replica {
		t.Errorf("by the primary's ARN: %s %v", r.Key.ARN, r.Failure)
	}
	run.Target.KeyID = *key.KeyMetadata.KeyId
	if r := kms.Run(t.Context(), w.p, run); r.Outcome != kms.OK || r.Key.ARN != replica {
		t.Errorf("by the id: %s %v", r.Key.ARN, r.Failure)
	}
}

func TestSessionPolicyNamesBothFormsOfAMultiRegionKey(t *testing.T) {
	r := newReplay(t, nil)
	target := replayTarget
	target.KeyID, target.Region = "arn:aws:kms:us-east-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab", "eu-west-1"
	s, err := r.provider(t, "").Assume(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	var policy struct{ Statement []struct{ Resource []string } }
	if err := json.Unmarshal([]byte(r.forms[0].Get("Policy")), &policy); err != nil {
		t.Fatal(err)
	}
	want := []string{"arn:aws:kms:eu-west-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab", target.KeyID}
	if len(policy.Statement) != 1 || !slices.Equal(policy.Statement[0].Resource, want) {
		t.Errorf("%+v", policy)
	}
}
