package e2e

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// customer is an administrator of an AWS account.
type customer struct {
	t   *testing.T
	id  string
	kms *kms.Client
	iam *iam.Client
}

func newCustomer(t *testing.T, endpoint, region, account, key, secretKey string) *customer {
	cfg := aws.Config{Region: region, BaseEndpoint: &endpoint, Credentials: credentials.NewStaticCredentialsProvider(key, secretKey, "")}
	return &customer{t: t, id: account, kms: kms.NewFromConfig(cfg), iam: iam.NewFromConfig(cfg)}
}

func (p *platform) customer() *customer {
	a := p.boot.AWS
	return newCustomer(p.t, a.Endpoint, a.Region, a.AccountID, a.AccessKeyID, a.SecretAccessKey)
}

func (p *platform) second() *customer {
	a := p.boot.AWSSecond
	return newCustomer(p.t, p.boot.AWS.Endpoint, p.boot.AWS.Region, a.AccountID, a.AccessKeyID, a.SecretAccessKey)
}

func (c *customer) createKey(in *kms.CreateKeyInput) (arn, id string) {
	c.t.Helper()
	if in == nil {
		in = &kms.CreateKeyInput{}
	}
	out, err := c.kms.CreateKey(c.t.Context(), in)
	if err != nil {
		c.t.Fatal(err)
	}
	return *out.KeyMetadata.Arn, *out.KeyMetadata.KeyId
}

func (c *customer) disable(key string) {
	c.t.Helper()
	if _, err := c.kms.DisableKey(c.t.Context(), &kms.DisableKeyInput{KeyId: &key}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *customer) enable(key string) {
	c.t.Helper()
	if _, err := c.kms.EnableKey(c.t.Context(), &kms.EnableKeyInput{KeyId: &key}); err != nil {
		c.t.Fatal(err)
	}
}

// policy makes a policy document of one statement.
func policy(effect string, fields map[string]any) string {
	s := map[string]any{"Effect": effect}
	for k, v := range fields {
		s[k] = v
	}
	b, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": []any{s}})
	if err != nil {
		panic(err)
	}
	return string(b)
}

func trust(principal, externalID string) string {
	f := map[string]any{"Principal": map[string]any{"AWS": principal}, "Action": "sts:AssumeRole"}
	if externalID != "" {
		f["Condition"] = map[string]any{"StringEquals": map[string]any{"sts:ExternalId": externalID}}
	}
	return policy("Allow", f)
}

func access(keyARN string, actions ...string) string {
	if len(actions) == 0 {
		actions = []string{"kms:DescribeKey", "kms:Encrypt", "kms:Decrypt"}
	}
	return policy("Allow", map[string]any{"Action": actions, "Resource": keyARN})
}

// createRole makes a role with a trust policy and an inline access policy.
func (c *customer) createRole(name, trustPolicy, accessPolicy string) (arn string) {
	c.t.Helper()
	out, err := c.iam.CreateRole(c.t.Context(), &iam.CreateRoleInput{RoleName: &name, AssumeRolePolicyDocument: &trustPolicy})
	if err != nil {
		c.t.Fatal(err)
	}
	c.setAccess(name, accessPolicy)
	return *out.Role.Arn
}

func (c *customer) setAccess(name, accessPolicy string) {
	c.t.Helper()
	if accessPolicy == "" {
		return
	}
	if _, err := c.iam.PutRolePolicy(c.t.Context(), &iam.PutRolePolicyInput{RoleName: &name, PolicyName: aws.String("access"), PolicyDocument: &accessPolicy}); err != nil {
		c.t.Fatal(err)
	}
}

// registration is a cloud provider access role of the API.
type registration struct {
	RoleID     string  `json:"roleId"`
	Principal  string  `json:"atlasAWSAccountArn"`
	ExternalID string  `json:"atlasAssumedRoleExternalId"`
	Authorized *string `json:"authorizedDate"`
	ARN        *string `json:"iamAssumedRoleArn"`
	Usages     []struct {
		FeatureType string `json:"featureType"`
	} `json:"featureUsages"`
}

func (p *platform) createProject(name string) string {
	p.t.Helper()
	var g struct {
		ID string `json:"id"`
	}
	p.call("POST", "/api/atlas/v2/groups", map[string]any{"name": name, "orgId": p.boot.OrgID}, &g)
	return g.ID
}

func (p *platform) register(project string) registration {
	p.t.Helper()
	var r registration
	p.call("POST", "/api/atlas/v2/groups/"+project+"/cloudProviderAccess", map[string]any{"providerName": "AWS"}, &r)
	return r
}

func (p *platform) authorize(project string, r registration, arn string) {
	p.t.Helper()
	p.call("PATCH", "/api/atlas/v2/groups/"+project+"/cloudProviderAccess/"+r.RoleID, map[string]any{"providerName": "AWS", "iamAssumedRoleArn": arn}, nil)
}

func kmsConfig(roleID, keyID string) map[string]any {
	return map[string]any{"awsKms": map[string]any{"enabled": true, "roleId": roleID, "customerMasterKeyID": keyID, "region": "US_EAST_1"}}
}

// keyed is a project with a customer key.
type keyed struct {
	project, keyARN, keyID, roleARN, roleName string
	role                                      registration
}

// enable makes a project with a customer key, as the manual tells.
func (p *platform) enable(name string) keyed {
	p.t.Helper()
	c := p.customer()
	k := keyed{project: p.createProject(name), roleName: fmt.Sprintf("Role-%s", name)}
	k.keyARN, k.keyID = c.createKey(nil)
	k.role = p.register(k.project)
	k.roleARN = c.createRole(k.roleName, trust(k.role.Principal, k.role.ExternalID), access(k.keyARN))
	p.authorize(k.project, k.role, k.roleARN)
	p.call("PATCH", "/api/atlas/v2/groups/"+k.project+"/encryptionAtRest", kmsConfig(k.role.RoleID, k.keyARN), nil)
	return k
}

var asymmetric = &kms.CreateKeyInput{KeySpec: kmstypes.KeySpecRsa2048, KeyUsage: kmstypes.KeyUsageTypeEncryptDecrypt}

func (c *customer) putKeyPolicy(id, doc string) {
	c.t.Helper()
	if _, err := c.kms.PutKeyPolicy(c.t.Context(), &kms.PutKeyPolicyInput{KeyId: &id, Policy: &doc}); err != nil {
		c.t.Fatal(err)
	}
}
