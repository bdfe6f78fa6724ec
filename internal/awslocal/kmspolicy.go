package awslocal

import (
	"fmt"
	"strconv"

	"github.com/keywright/keywright/internal/awslocal/policy"
)

func itoa(n int) string { return strconv.Itoa(n) }

// defaultKeyPolicy delegates to the account's identity policies; it gives
// nobody but the root user anything by itself.
func defaultKeyPolicy(account string) string {
	return fmt.Sprintf(`{
  "Version" : "2012-10-17",
  "Id" : "key-default-1",
  "Statement" : [ {
    "Sid" : "Enable IAM User Permissions",
    "Effect" : "Allow",
    "Principal" : {
      "AWS" : "arn:aws:iam::%s:root"
    },
    "Action" : "kms:*",
    "Resource" : "*"
  } ]
}`, account)
}

// setKeyPolicy checks a policy in every respect and only then puts it on the
// key. Unless bypass, the caller must be able to replace it again.
func (c *call) setKeyPolicy(st *state, k *key, text string, bypass bool) error {
	if len(text) == 0 {
		return invalid("1 validation error detected: Value at 'policy' failed to satisfy constraint: Member must have length greater than or equal to 1")
	}
	if len(text) > maxKeyPolicy {
		return kmsFail("LimitExceededException", "A key policy has at most %d bytes", maxKeyPolicy)
	}
	doc, err := policy.Parse(policy.Key, text)
	if err != nil {
		return err
	}
	b, err := st.bind(doc, text)
	if err != nil {
		return err
	}
	if !bypass && !c.couldPutPolicy(k, b) {
		return kmsFail("MalformedPolicyDocumentException", "The new key policy will not allow you to update the key policy in the future.")
	}
	k.Policy = b
	return nil
}

func (c *call) couldPutPolicy(k *key, b boundPolicy) bool {
	by, reason := c.entry.DecidedBy, c.entry.Reason // of the call itself
	defer func() { c.entry.DecidedBy, c.entry.Reason = by, reason }()
	return c.decide(target{
		action: "kms:PutKeyPolicy", resource: k.ARN, account: k.Account, policy: b.resource("default"),
		context: func(ctx policy.Context) {
			ctx.Set("kms:CallerAccount", c.caller.Account)
			k.conditions(ctx)
		},
	}).Allowed()
}

const policyName = "default"

func getKeyPolicy(c *call, st *state, body []byte) (any, error) {
	var in struct {
		keyIDInput
		PolicyName string
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	k, err := c.manage(st, in.KeyID, "GetKeyPolicy")
	if err != nil {
		return nil, err
	}
	if in.PolicyName != "" && in.PolicyName != policyName {
		return nil, kmsFail("NotFoundException", "No such policy exists")
	}
	return map[string]any{"Policy": st.readBack(k.Policy), "PolicyName": policyName}, nil
}

func listKeyPolicies(c *call, st *state, body []byte) (any, error) {
	var in keyIDInput
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	if _, err := c.manage(st, in.KeyID, "ListKeyPolicies"); err != nil {
		return nil, err
	}
	return map[string]any{"PolicyNames": []string{policyName}, "Truncated": false}, nil
}

func putKeyPolicy(c *call, st *state, body []byte) (any, error) {
	var in struct {
		keyIDInput
		Policy                         string
		PolicyName                     string
		BypassPolicyLockoutSafetyCheck bool
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	if in.PolicyName != "" && in.PolicyName != policyName {
		return nil, invalid("The name of a key policy is always %s", policyName)
	}
	ref, err := c.findKey(st, in.KeyID, false)
	if err != nil {
		return nil, err
	}
	if err := c.authorizeKey(ref, "PutKeyPolicy", false, func(ctx policy.Context) {
		ctx.Set("kms:BypassPolicyLockoutSafetyCheck", boolText(in.BypassPolicyLockoutSafetyCheck))
	}); err != nil {
		return nil, err
	}
	return nil, c.setKeyPolicy(st, ref.key, in.Policy, in.BypassPolicyLockoutSafetyCheck)
}
