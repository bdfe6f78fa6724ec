package policy

import (
	"slices"
	"strings"
)

// Condition is one operator on one key with its values.
type Condition struct {
	Operator string // as written, e.g. ForAnyValue:StringLikeIfExists
	Key      string
	Values   []string

	set      string // "", ForAnyValue or ForAllValues
	base     string // operator without negation, set and IfExists, lower case
	negated  bool
	ifExists bool
}

// baseOperator maps an operator to its positive form. Anything else is
// refused when a policy is written, never ignored.
func baseOperator(op string) (base string, negated, ok bool) {
	negations := map[string]string{
		"stringnotequals": "stringequals", "stringnotequalsignorecase": "stringequalsignorecase",
		"stringnotlike": "stringlike", "numericnotequals": "numericequals", "datenotequals": "dateequals",
		"notipaddress": "ipaddress", "arnnotequals": "arnlike", "arnnotlike": "arnlike",
	}
	if b, is := negations[op]; is {
		return b, true, true
	}
	if op == "arnequals" {
		return "arnlike", false, true
	}
	return op, false, slices.Contains([]string{
		"stringequals", "stringequalsignorecase", "stringlike",
		"numericequals", "numericlessthan", "numericlessthanequals", "numericgreaterthan", "numericgreaterthanequals",
		"dateequals", "datelessthan", "datelessthanequals", "dategreaterthan", "dategreaterthanequals",
		"bool", "binaryequals", "ipaddress", "arnlike", "null",
	}, op)
}

// suppliedKeys are the condition keys that the local AWS fills in, or that are
// truthfully absent in it (no VPC, no organization, no AWS service calls).
func suppliedKeys() []string {
	return []string{
		"aws:principalarn", "aws:principalaccount", "aws:principaltype", "aws:userid", "aws:username",
		"aws:principalorgid", "aws:principalorgpaths", "aws:sourceip", "aws:sourcevpc", "aws:sourcevpce", "aws:vpcsourceip",
		"aws:securetransport", "aws:currenttime", "aws:epochtime", "aws:tokenissuetime",
		"aws:multifactorauthpresent", "aws:multifactorauthage", "aws:requestedregion", "aws:useragent", "aws:referer",
		"aws:viaawsservice", "aws:calledvia", "aws:sourcearn", "aws:sourceaccount", "aws:sourceidentity",
		"aws:resourceaccount", "aws:resourceorgid",
		"sts:externalid", "sts:rolesessionname", "sts:sourceidentity", "sts:durationseconds", "sts:transitivetagkeys",
		"kms:encryptioncontextkeys", "kms:calleraccount", "kms:keyspec", "kms:keyusage", "kms:keyorigin",
		"kms:customermasterkeyspec", "kms:customermasterkeyusage", "kms:multiregion", "kms:multiregionkeytype",
		"kms:requestalias", "kms:encryptionalgorithm", "kms:viaservice", "kms:granteeprincipal", "kms:grantisforawsresource",
		"kms:bypasspolicylockoutsafetycheck", "kms:schedulekeydeletionpendingwindowindays",
		"kms:rotationperiodindays", "kms:replicaregion", "kms:primaryregion", "kms:reencryptonsamekey", "aws:tagkeys",
	}
}

// checkConditionKey refuses keys of AWS's global, sts, kms and iam namespaces
// that AWS would fill in and the local AWS would not: a condition on them
// would be decided differently here. Keys of services that are not here are
// absent on AWS too.
func checkConditionKey(key string) error {
	lower := strings.ToLower(key)
	vendor, name, ok := strings.Cut(lower, ":")
	if !ok || vendor == "" || name == "" {
		return malformed("Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.: %q", key)
	}
	switch vendor {
	case "aws", "kms", "sts", "iam":
	default:
		return nil
	}
	if slices.Contains(suppliedKeys(), lower) {
		return nil
	}
	for _, prefix := range []string{"kms:encryptioncontext:", "aws:principaltag/", "aws:resourcetag/", "aws:requesttag/"} {
		if n, ok := strings.CutPrefix(lower, prefix); ok && n != "" {
			return nil
		}
	}
	return malformed("The condition key %q is not supported by the local AWS", key)
}

func parseConditions(n node) ([]Condition, error) {
	if n.kind != nodeObject {
		return nil, malformed("Condition must be an object")
	}
	var out []Condition
	for _, op := range n.members {
		if op.value.kind != nodeObject {
			return nil, malformed("Condition %q must be an object", op.name)
		}
		for _, m := range op.value.members {
			c, err := parseCondition(op.name, m)
			if err != nil {
				return nil, err
			}
			out = append(out, c)
		}
	}
	return out, nil
}

func parseCondition(operator string, m member) (Condition, error) {
	c := Condition{Operator: operator, Key: m.name}
	op := strings.ToLower(operator)
	if rest, ok := strings.CutPrefix(op, "foranyvalue:"); ok {
		c.set, op = "any", rest
	} else if rest, ok := strings.CutPrefix(op, "forallvalues:"); ok {
		c.set, op = "all", rest
	}
	if rest, ok := strings.CutSuffix(op, "ifexists"); ok {
		c.ifExists, op = true, rest
	}
	var ok bool
	if c.base, c.negated, ok = baseOperator(op); !ok || (c.base == "null" && (c.ifExists || c.set != "")) {
		return c, malformed("Invalid Condition type : %s", operator)
	}
	if err := checkConditionKey(m.name); err != nil {
		return c, err
	}
	list := []node{m.value}
	if m.value.kind == nodeList {
		list = m.value.list
	}
	for _, v := range list {
		if v.kind != nodeText && v.kind != nodeNumber && v.kind != nodeBool {
			return c, malformed("A value of condition key %q is not a string, number or boolean", m.name)
		}
		if err := checkOperand(c.base, v.text); err != nil {
			return c, malformed("Condition %s on %s: %v", operator, m.name, err)
		}
		c.Values = append(c.Values, v.text)
	}
	if len(c.Values) == 0 {
		return c, malformed("Condition key %q has no values", m.name)
	}
	return c, nil
}

// checkKeyConditions refuses set operators on the single-valued
// kms:EncryptionContext:NAME, as KMS does.
func checkKeyConditions(conds []Condition) error {
	for _, c := range conds {
		if c.set != "" && strings.HasPrefix(strings.ToLower(c.Key), "kms:encryptioncontext:") {
			return malformed("OverlyPermissiveCondition: %s on the single-valued key %s; set operators belong on kms:EncryptionContextKeys", c.Operator, c.Key)
		}
	}
	return nil
}
