package policydoc

import (
	"fmt"
	"slices"
	"strings"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
)

// Advice is what to do about refused permissions.
type Advice struct {
	// Short is what was found, without statements, for events and lists.
	Short string
	// Sentence is one or two sentences for the project's owner.
	Sentence string
	// Texts are the statements to add or the policies to look at, the one that AWS
	// named first. Empty when it is the operator's fault.
	Texts []Text
}

// Remedy turns what a run found refused into the exact statement that is missing, or
// into the policy in which a denying one must be looked for. The zero Advice is for no
// findings.
func (a Access) Remedy(found []kms.Finding) Advice {
	if len(found) == 0 {
		return Advice{}
	}
	// A denial is said first: no statement that is added helps against it.
	found = slices.Clone(found)
	slices.SortStableFunc(found, func(x, y kms.Finding) int { return rank(x) - rank(y) })
	var out Advice
	var sentences, short []string
	seen := map[string]bool{}
	for _, f := range found {
		one := a.remedy(f)
		if key := string(f.Policy) + fmt.Sprint(f.Explicit) + fmt.Sprint(f.Permission == assume); !seen[key] {
			seen[key] = true
			all := f
			all.Permission = permissions(found, f)
			sentences, short = append(sentences, strings.Replace(one.Sentence, permissionMark, all.Permission, 1)), append(short, all.String())
			for _, t := range one.Texts {
				if !slices.ContainsFunc(out.Texts, func(have Text) bool { return have.Kind == t.Kind && have.Deny == t.Deny }) {
					out.Texts = append(out.Texts, t)
				}
			}
		}
	}
	out.Sentence, out.Short = strings.Join(sentences, " "), "As AWS says, "+strings.Join(short, "; ")+"."
	return out
}

const (
	assume = "sts:AssumeRole"
	// permissionMark is replaced by all permissions that were refused in the same way.
	permissionMark = "\x00"
)

func rank(f kms.Finding) int {
	if f.Explicit {
		return 0
	}
	return 1
}

// permissions lists what was refused in the same way as like.
func permissions(found []kms.Finding, like kms.Finding) string {
	var out []string
	for _, f := range found {
		if f.Policy == like.Policy && f.Explicit == like.Explicit && !slices.Contains(out, f.Permission) {
			out = append(out, f.Permission)
		}
	}
	return strings.Join(out, ", ")
}

func (a Access) remedy(f kms.Finding) Advice {
	switch {
	case f.Policy == kms.SessionPolicy, f.Policy == kms.EndpointPolicy, f.Permission == assume && platform(f.Policy):
		return Advice{Sentence: fmt.Sprintf("The %s of Keywright's own side refuses %s: its operator must allow it. Nothing is wrong with the customer's key.", f.Policy, permissionMark)}
	case f.Explicit:
		return a.denied(f)
	case f.Policy == kms.ServiceControlPolicy, f.Policy == kms.ResourceControlPolicy:
		t := a.organization(f)
		t.Statement, t.JSON = statements(a.Use()), documentOf(a.Use()...).JSON()
		t.Deny = false
		return Advice{Sentence: fmt.Sprintf("No %s of the AWS organization allows %s: its administrator must let it through.", f.Policy, permissionMark), Texts: []Text{t}}
	case f.Policy == kms.PermissionsBoundary:
		d := documentOf(a.Use()...)
		return Advice{Sentence: fmt.Sprintf("The permissions boundary of the role %s does not allow %s: add the statement to it.", a.RoleARN, permissionMark), Texts: []Text{{
			Kind: KindBoundary, Where: "The managed policy that is the permissions boundary of the role " + a.RoleARN + ".",
			Statement: statements(d.Statement), JSON: d.JSON(), AWSCLI: a.boundaryCommand(),
		}}}
	case f.Permission == assume:
		return Advice{Sentence: fmt.Sprintf("The trust policy of the role %s must allow sts:AssumeRole to the principal %s with the condition StringEquals sts:ExternalId %s, without a Deny that holds for it, and the role must exist. Add this statement to it: %s.",
			a.RoleARN, a.PlatformARN, a.ExternalID, a.Trust().Compact()), Texts: []Text{a.TrustText()}}
	case f.Policy == kms.KeyPolicy:
		out := Advice{Sentence: fmt.Sprintf("The policy of the key %s does not let the role %s in: it lacks %s. Add this statement to the key's policy: %s.", a.KeyARN, a.RoleARN, permissionMark, compact(a.KeyUse())), Texts: []Text{a.KeyText()}}
		if a.CrossAccount() {
			out.Sentence += fmt.Sprintf(" The key is in another account than the role, so the role's own policy needs this one too: %s. AWS says the same when the key does not exist in its Region, and when a Deny of the key's policy refuses.", compact(a.Use()))
			out.Texts = append(out.Texts, a.UseText())
		}
		return out
	}
	out := Advice{Sentence: fmt.Sprintf("The role %s lacks %s on the key %s. Add this statement to the role's policy: %s.", a.RoleARN, permissionMark, a.KeyARN, compact(a.Use())), Texts: []Text{a.UseText()}}
	if a.CrossAccount() {
		k, _ := keys.ParseARN(a.KeyARN)
		out.Sentence += fmt.Sprintf(" The key is in another account (%s), so its key policy needs this statement too: %s.", k.Account, compact(a.KeyUse()))
		out.Texts = append(out.Texts, a.KeyText())
	}
	return out
}

// platform tells whether the policy is one of the caller's side in an AssumeRole.
func platform(p kms.PolicyKind) bool {
	return p == kms.IdentityPolicy || p == kms.PermissionsBoundary || p == kms.ServiceControlPolicy
}

func compact(s []Statement) string {
	if len(s) == 1 {
		return s[0].Compact()
	}
	return text(s, "")
}

// denied says where a denying statement must be looked for.
func (a Access) denied(f kms.Finding) Advice {
	t := Text{Deny: true}
	role := shell(a.roleName())
	showRole := "aws iam list-role-policies" + a.iamRegion() + " --role-name " + role + "\n" +
		"aws iam list-attached-role-policies" + a.iamRegion() + " --role-name " + role + "\n"
	showKey := "aws kms get-key-policy" + a.keyRegion() + " --key-id " + shell(a.KeyARN) + " --policy-name default --query Policy --output text\n"
	showTrust := "aws iam get-role" + a.iamRegion() + " --role-name " + role + " --query Role.AssumeRolePolicyDocument\n"
	switch f.Policy {
	case kms.TrustPolicy:
		t.Kind, t.Where, t.AWSCLI = KindTrust, "the trust policy of the role "+a.RoleARN, showTrust
	case kms.KeyPolicy:
		t.Kind, t.Where, t.AWSCLI = KindKey, "the policy of the key "+a.KeyARN, showKey
	case kms.IdentityPolicy:
		t.Kind, t.Where, t.AWSCLI = KindIdentity, "the inline and attached policies of the role "+a.RoleARN, showRole
	case kms.PermissionsBoundary:
		t.Kind, t.Where, t.AWSCLI = KindBoundary, "the permissions boundary of the role "+a.RoleARN, a.boundaryCommand()
	case kms.ServiceControlPolicy, kms.ResourceControlPolicy:
		t = a.organization(f)
	default:
		t.Kind, t.Where, t.AWSCLI = KindIdentity, "the policies of the role "+a.RoleARN+", its permissions boundary and the key's policy", showRole+a.boundaryCommand()+showKey
		if f.Permission == assume {
			t.Kind, t.Where, t.AWSCLI = KindTrust, "the trust policy of the role "+a.RoleARN, showTrust
		}
	}
	sentence := fmt.Sprintf("A statement with Effect Deny refuses %s: look for it in %s, and take it away or except this role (an address condition counts too). No statement that allows helps against it.", permissionMark, t.Where)
	t.Where = strings.ToUpper(t.Where[:1]) + t.Where[1:] + "."
	return Advice{Sentence: sentence, Texts: []Text{t}}
}

func (a Access) boundaryCommand() string {
	return "aws iam get-role" + a.iamRegion() + " --role-name " + shell(a.roleName()) + " --query Role.PermissionsBoundary\n"
}

// organization points to the policies of an AWS organization, which only its
// administrator sees: service control policies hold for the role's account, resource
// control policies for the account of what is used.
func (a Access) organization(f kms.Finding) Text {
	arn, filter := a.RoleARN, "SERVICE_CONTROL_POLICY"
	if f.Policy == kms.ResourceControlPolicy {
		filter = "RESOURCE_CONTROL_POLICY"
		if f.Permission != assume {
			arn = a.KeyARN
		}
	}
	account := "ACCOUNT_ID"
	if x, err := keys.ParseARN(arn); err == nil && x.Account != "" {
		account = x.Account
	}
	return Text{
		Kind: KindOrganization, Deny: true, Where: fmt.Sprintf("the %s that holds for the account %s", f.Policy, account),
		AWSCLI: "aws organizations list-policies-for-target --target-id " + shell(account) + " --filter " + filter + "\n",
	}
}
