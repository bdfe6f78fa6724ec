package policydoc

import (
	"fmt"
	"strings"

	"github.com/keywright/keywright/internal/keys"
)

// Kind says to which policy a text belongs. The strings are part of the API.
type Kind string

// The kinds.
const (
	// KindTrust is the role's trust policy, KindIdentity its own policy, KindKey the
	// key's policy.
	KindTrust    Kind = "trust"
	KindIdentity Kind = "identity"
	KindKey      Kind = "key"
	// KindBoundary is the role's permissions boundary; KindOrganization the service or
	// resource control policies of an AWS organization.
	KindBoundary     Kind = "boundary"
	KindOrganization Kind = "organization"
	// KindCreateKey and KindCreateRole make the thing itself.
	KindCreateKey  Kind = "createKey"
	KindCreateRole Kind = "createRole"
)

// Text is one policy, or one thing to make, in the forms in which people paste it. A
// form that makes no sense for it is empty.
type Text struct {
	Kind Kind `json:"kind"`
	// Where says in one sentence where it belongs.
	Where string `json:"where"`
	// Deny tells that a denying statement must be looked for, with the commands that
	// show the policies; there is nothing to add then.
	Deny bool `json:"deny,omitempty"`
	// Statement is what must be there, one JSON statement or a list; JSON is a whole
	// document with it.
	Statement string `json:"statement,omitempty"`
	JSON      string `json:"json,omitempty"`
	// AWSCLI are commands for a POSIX shell. Those that add to a policy keep its other
	// statements, with the help of jq, and change nothing when repeated.
	AWSCLI    string `json:"awsCli,omitempty"`
	Terraform string `json:"terraform,omitempty"`
}

func statements(s []Statement) string {
	if len(s) == 1 {
		return s[0].JSON()
	}
	return text(s, "  ")
}

// merge is the jq program that puts statements into a policy, each once.
func merge(s []Statement) string {
	list := text(s, "")
	return shell(".Statement = (([.Statement] | flatten) - " + list + " + " + list + ")")
}

// TrustText is the trust policy of a role that is there.
func (a Access) TrustText() Text {
	d, role := documentOf(a.Trust()), shell(a.roleName())
	return Text{
		Kind: KindTrust, Where: "The trust policy of the role " + a.RoleARN + ".",
		Statement: a.Trust().JSON(), JSON: d.JSON(),
		AWSCLI: "aws iam get-role" + a.iamRegion() + " --role-name " + role + " --query Role.AssumeRolePolicyDocument --output json |\n" +
			"  jq " + merge(d.Statement) + " > trust-policy.json &&\n" +
			"aws iam update-assume-role-policy" + a.iamRegion() + " --role-name " + role + " --policy-document file://trust-policy.json\n",
		Terraform: a.roleResource(),
	}
}

// RoleText makes a role with the trust policy.
func (a Access) RoleText() Text {
	d := documentOf(a.Trust())
	path := ""
	if p := a.rolePath(); p != "/" {
		path = " --path " + shell(p)
	}
	return Text{
		Kind: KindCreateRole, Where: "A new role in the account of the key, or in another one that shall lead to it.", JSON: d.JSON(),
		AWSCLI: "aws iam create-role" + a.iamRegion() + " --role-name " + shell(a.roleName()) + path + " \\\n" +
			"  --assume-role-policy-document " + shell(d.Compact()) + " \\\n  --query Role.Arn --output text\n",
		Terraform: a.roleResource(),
	}
}

func (a Access) roleResource() string {
	return block("aws_iam_role", pair{"name", a.roleName()}, pair{"path", a.rolePath()}, pair{"assume_role_policy", documentOf(a.Trust())})
}

// UseText is the role's own policy, as an inline policy that goes with the role.
func (a Access) UseText() Text {
	d := documentOf(a.Use()...)
	return Text{
		Kind: KindIdentity, Where: "The permissions of the role " + a.RoleARN + ", as an inline policy.",
		Statement: statements(d.Statement), JSON: d.JSON(),
		AWSCLI: "aws iam put-role-policy" + a.iamRegion() + " --role-name " + shell(a.roleName()) + " --policy-name " + shell(a.policyName()) + " \\\n" +
			"  --policy-document " + shell(d.Compact()) + "\n",
		Terraform: block("aws_iam_role_policy", pair{"name", a.policyName()}, pair{"role", a.roleName()}, pair{"policy", d}),
	}
}

// KeyText is the key's policy: the account's own line, without which nobody could
// administrate the key, and the statements for the role.
func (a Access) KeyText() Text {
	use := a.KeyUse()
	d := documentOf(append([]Statement{a.owner()}, use...)...)
	key, region := shell(a.KeyARN), a.keyRegion()
	return Text{
		Kind: KindKey, Where: "The policy of the key " + a.KeyARN + ". The document replaces the whole policy: keep statements that you have besides.",
		Statement: statements(use), JSON: d.JSON(),
		AWSCLI: "aws kms get-key-policy" + region + " --key-id " + key + " --policy-name default --query Policy --output text |\n" +
			"  jq " + merge(use) + " > key-policy.json &&\n" +
			"aws kms put-key-policy" + region + " --key-id " + key + " --policy-name default --policy file://key-policy.json\n",
		Terraform: block("aws_kms_key_policy", pair{"key_id", a.KeyARN}, pair{"policy", d}),
	}
}

// owner is the line of the default key policy.
func (a Access) owner() Statement {
	k, _ := keys.ParseARN(a.KeyARN)
	root := keys.ARN{Partition: k.Partition, Service: "iam", Account: k.Account, Resource: "root"}
	return Statement{Sid: "EnableIAMPolicies", Effect: "Allow", Principal: &Principal{AWS: root.String()}, Action: Values{"kms:*"}, Resource: Values{"*"}}
}

func (a Access) keyRegion() string {
	if k, err := keys.ParseARN(a.KeyARN); err == nil && k.Region != "" {
		return " --region " + shell(k.Region)
	}
	return ""
}

// KeyCommand makes a key that Keywright can use: symmetric, for encryption and
// decryption, in the given Region (as AWS writes it).
func KeyCommand(region string, multiRegion bool) Text {
	const description = "Keywright: customer key for encryption at rest"
	multi, extra := "", []pair{}
	if multiRegion {
		multi, extra = " --multi-region", []pair{{"multi_region", true}}
	}
	attributes := append([]pair{{"description", description}, {"key_usage", "ENCRYPT_DECRYPT"}, {"customer_master_key_spec", "SYMMETRIC_DEFAULT"}, {"deletion_window_in_days", 30}}, extra...)
	return Text{
		Kind: KindCreateKey, Where: "A new key in " + region + ". The command prints its ARN.",
		AWSCLI: "aws kms create-key --region " + shell(region) + " --key-spec SYMMETRIC_DEFAULT --key-usage ENCRYPT_DECRYPT" + multi + " \\\n" +
			"  --description " + shell(description) + " --query KeyMetadata.Arn --output text\n",
		Terraform: block("aws_kms_key", attributes...),
	}
}

// Setup are all texts that the access needs, in the order in which they are used.
func (a Access) Setup() []Text {
	out := []Text{a.TrustText(), a.UseText()}
	if a.CrossAccount() {
		out = append(out, a.KeyText())
	}
	return out
}

// pair is one attribute of a Terraform block.
type pair struct {
	name  string
	value any
}

// block writes a resource named keywright. Documents are written as jsonencode of an object.
func block(kind string, attributes ...pair) string {
	var b strings.Builder
	fmt.Fprintf(&b, "resource %s \"keywright\" {\n", hclString(kind))
	width := 0
	for _, p := range attributes {
		if _, doc := p.value.(Document); !doc {
			width = max(width, len(p.name))
		}
	}
	for _, p := range attributes {
		switch v := p.value.(type) {
		case string:
			fmt.Fprintf(&b, "  %-*s = %s\n", width, p.name, hclString(v))
		case Document:
			fmt.Fprintf(&b, "\n  %s = jsonencode(", p.name)
			hclDocument(&b, v, "  ")
			b.WriteString(")\n")
		default:
			fmt.Fprintf(&b, "  %-*s = %v\n", width, p.name, v)
		}
	}
	b.WriteString("}\n")
	return b.String()
}
