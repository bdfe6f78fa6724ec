package policydoc

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"

	"github.com/keywright/keywright/internal/keys"
)

// Access says who shall be let to which key.
type Access struct {
	// PlatformARN and ExternalID are what a registration hands out.
	PlatformARN, ExternalID string
	// RoleARN is the role in the customer's account.
	RoleARN string
	// KeyARN is the full ARN of the key. Replicas are the ARNs of its replicas that
	// shall be usable too, for a multi-Region key.
	KeyARN   string
	Replicas []string
	// Projects, if set, limit Encrypt and Decrypt to ciphertexts of these projects by
	// their encryption context. A role that is limited so cannot open what was wrapped
	// under another context.
	Projects []string
	// Addresses, if set, are the only ones from which the role may be used. They must
	// hold those of the control plane and of every host.
	Addresses []netip.Prefix
}

// actions are what a customer's role must be allowed, and nothing else.
func actions() Values { return Values{"kms:DescribeKey", "kms:Encrypt", "kms:Decrypt"} }

// CrossAccount tells whether key and role are in different accounts, so that the key's
// policy must name the role. False while one of the two is not known.
func (a Access) CrossAccount() bool {
	cross, known := a.Accounts()
	return known && cross
}

// Accounts tells whether key and role are in different accounts; known is false while
// an ARN or an account in it is missing.
func (a Access) Accounts() (cross, known bool) {
	r, errR := keys.ParseARN(a.RoleARN)
	k, errK := keys.ParseARN(a.KeyARN)
	if errR != nil || errK != nil || !keys.IsAccount(r.Account) || !keys.IsAccount(k.Account) {
		return false, false
	}
	return r.Account != k.Account, true
}

// Trust is the statement of the role's trust policy: the platform's account, and only
// with the external id.
func (a Access) Trust() Statement {
	c := Condition{"StringEquals": {"sts:ExternalId": {a.ExternalID}}}
	a.from(c)
	return Statement{Effect: "Allow", Principal: &Principal{AWS: a.PlatformARN}, Action: Values{"sts:AssumeRole"}, Condition: c}
}

// Use are the statements of the role's own policy: two when Projects are set, since
// DescribeKey knows no encryption context.
func (a Access) Use() []Statement {
	return a.use(append(Values{a.KeyARN}, a.Replicas...), nil, "Keywright")
}

// KeyUse are the statements of the key's policy that let the role of another account
// in. Their Sid belongs to the role, so that one key can serve several.
func (a Access) KeyUse() []Statement {
	sum := sha256.Sum256([]byte(a.RoleARN))
	return a.use(Values{"*"}, &Principal{AWS: a.RoleARN}, "KeywrightRole"+hex.EncodeToString(sum[:4]))
}

func (a Access) use(resources Values, who *Principal, sid string) []Statement {
	see := Statement{Sid: sid, Effect: "Allow", Principal: who, Action: actions(), Resource: resources}
	if len(a.Addresses) > 0 {
		see.Condition = AllowFromAddresses(a.Addresses)
	}
	if len(a.Projects) == 0 {
		return []Statement{see}
	}
	use := see
	see.Sid, see.Action = sid+"See", actions()[:1]
	use.Sid, use.Action = sid+"Use", actions()[1:]
	use.Condition = Condition{"StringEquals": {"kms:EncryptionContext:" + keys.ContextProject: Values(a.Projects)}}
	a.from(use.Condition)
	return []Statement{see, use}
}

// from adds the addresses to a condition.
func (a Access) from(c Condition) {
	if len(a.Addresses) > 0 {
		c["IpAddress"] = AllowFromAddresses(a.Addresses)["IpAddress"]
	}
}

// AllowFromAddresses is the condition of an Allow statement that holds for these
// source addresses only. Through a VPC endpoint AWS sees no source address, so there
// it never holds.
func AllowFromAddresses(addrs []netip.Prefix) Condition {
	return Condition{"IpAddress": {"aws:SourceIp": addresses(addrs)}}
}

// DenyElsewhere is a statement for the role's policy that takes the three actions on
// all keys away from every other address, whatever other statements allow. Calls through
// a VPC endpoint, where AWS sees no source address, are not touched.
func DenyElsewhere(addrs []netip.Prefix) Statement {
	return Statement{
		Sid: "KeywrightAddresses", Effect: "Deny", Action: actions(), Resource: Values{"*"},
		Condition: Condition{"NotIpAddress": {"aws:SourceIp": addresses(addrs)}, "Null": {"aws:SourceIp": {"false"}}},
	}
}

// addresses lists each prefix once, in order.
func addresses(addrs []netip.Prefix) Values {
	sorted := slices.Clone(addrs)
	slices.SortFunc(sorted, func(x, y netip.Prefix) int {
		if c := x.Addr().Compare(y.Addr()); c != 0 {
			return c
		}
		return x.Bits() - y.Bits()
	})
	var out Values
	for _, p := range slices.Compact(sorted) {
		out = append(out, p.String())
	}
	return out
}

// roleName and rolePath split the role's ARN; commands want the name alone.
func (a Access) roleName() string { return a.role()[strings.LastIndexByte(a.role(), '/')+1:] }

func (a Access) rolePath() string {
	r := strings.TrimPrefix(a.role(), "role")
	return r[:strings.LastIndexByte(r, '/')+1]
}

func (a Access) role() string {
	r, err := keys.ParseARN(a.RoleARN)
	if err != nil || !strings.HasPrefix(r.Resource, "role/") || strings.HasSuffix(r.Resource, "/") {
		return "role/ROLE_NAME"
	}
	return r.Resource
}

// policyName is the name of the role's inline policy: one for each key (and project,
// if limited to one), so that a second one does not replace the first.
func (a Access) policyName() string {
	k, err := keys.ParseARN(a.KeyARN)
	if err != nil {
		return "keywright"
	}
	name := "keywright-" + strings.TrimPrefix(k.Resource, "key/")
	if len(a.Projects) == 1 {
		name += "-" + a.Projects[0]
	}
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_+=,.@", r) {
			return r
		}
		return '-'
	}, name[:min(len(name), 128)])
}

// iamRegion is the option that leads the AWS CLI to the IAM of a partition: only the
// commercial one is found without.
func iamRegion(partition string) string {
	switch partition {
	case "aws-us-gov":
		return " --region us-gov-west-1"
	case "aws-cn":
		return " --region cn-north-1"
	}
	return ""
}

func (a Access) iamRegion() string {
	r, err := keys.ParseARN(a.RoleARN)
	if err != nil {
		r, _ = keys.ParseARN(a.PlatformARN)
	}
	return iamRegion(r.Partition)
}
