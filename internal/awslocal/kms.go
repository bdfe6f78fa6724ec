package awslocal

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/keywright/keywright/internal/awslocal/policy"
)

const (
	kmsTarget  = "TrentService."
	maxKeyName = 2048
)

// kmsOperation is one operation of KMS.
type kmsOperation struct {
	writes bool
	run    func(*call, *state, []byte) (any, error)
}

func kmsOperations() map[string]kmsOperation {
	return map[string]kmsOperation{
		"CreateKey":            {true, createKey},
		"DescribeKey":          {false, describeKey},
		"ListKeys":             {false, listKeys},
		"UpdateKeyDescription": {true, updateKeyDescription},
		"EnableKey":            {true, enableKey},
		"DisableKey":           {true, disableKey},
		"ScheduleKeyDeletion":  {true, scheduleKeyDeletion},
		"CancelKeyDeletion":    {true, cancelKeyDeletion},

		"Encrypt":                         {false, encrypt},
		"Decrypt":                         {false, decrypt},
		"ReEncrypt":                       {false, reEncrypt},
		"GenerateDataKey":                 {false, generateDataKey},
		"GenerateDataKeyWithoutPlaintext": {false, generateDataKeyWithoutPlaintext},

		"GetKeyPolicy":    {false, getKeyPolicy},
		"PutKeyPolicy":    {true, putKeyPolicy},
		"ListKeyPolicies": {false, listKeyPolicies},

		"CreateAlias": {true, createAlias},
		"UpdateAlias": {true, updateAlias},
		"DeleteAlias": {true, deleteAlias},
		"ListAliases": {false, listAliases},

		"EnableKeyRotation":    {true, enableKeyRotation},
		"DisableKeyRotation":   {true, disableKeyRotation},
		"GetKeyRotationStatus": {false, getKeyRotationStatus},
		"RotateKeyOnDemand":    {true, rotateKeyOnDemand},
		"ListKeyRotations":     {false, listKeyRotations},

		"ReplicateKey":        {true, replicateKey},
		"UpdatePrimaryRegion": {true, updatePrimaryRegion},

		"TagResource":      {true, tagResource},
		"UntagResource":    {true, untagResource},
		"ListResourceTags": {false, listResourceTags},
	}
}

func names[T any](ops map[string]T) string {
	return strings.Join(slices.Sorted(maps.Keys(ops)), ", ")
}

func (s *Server) answerKMS(r *http.Request, c *call, body []byte) ([]byte, error) {
	op, ok := strings.CutPrefix(r.Header.Get("X-Amz-Target"), kmsTarget)
	if !ok || !operationForm.MatchString(op) {
		return nil, kmsFail("UnknownOperationException", "X-Amz-Target must be %sOPERATION", kmsTarget)
	}
	run, ok := s.kms[op]
	if !ok {
		return nil, kmsFail("UnsupportedOperationException", "The local AWS does not implement kms:%s; it implements %s", op, names(s.kms))
	}
	c.entry.Operation = op
	var result any
	do, at := s.store.view, c.sees
	if run.writes {
		do, at = s.store.change, c.now
	}
	if err := do(at, func(st *state) (err error) {
		result, err = run.run(c, st, body)
		return err
	}); err != nil {
		return nil, err
	}
	if result == nil {
		return []byte("{}"), nil
	}
	return json.Marshal(result)
}

var operationForm = regexp.MustCompile(`^[A-Za-z]{1,64}$`)

// decode reads a request; fields that the local AWS does not know are ignored, as
// KMS does.
func decode(body []byte, to any) error {
	if len(body) == 0 {
		body = []byte("{}")
	}
	if err := json.Unmarshal(body, to); err != nil {
		var kind *json.UnmarshalTypeError
		if errors.As(err, &kind) {
			return kmsFail("SerializationException", "%s cannot be of type %s", kind.Field, kind.Value)
		}
		return kmsFail("SerializationException", "The request is not valid JSON")
	}
	return nil
}

func invalid(format string, args ...any) error {
	return kmsFail("ValidationException", format, args...)
}

// keyRef is a key as a request names it. A key of another account may be
// missing: whether it exists is not told before the policies are asked.
type keyRef struct {
	arn     string
	account string
	alias   string // the alias name that the request used
	key     *key
}

var (
	keyIDForm  = regexp.MustCompile(`^(mrk-[0-9a-f]{32}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$`)
	keyARNForm = regexp.MustCompile(`^arn:aws:kms:([a-z0-9-]+):([0-9]{12}):(key|alias)/(.+)$`)
)

func keyARN(region, account, id string) string {
	return "arn:aws:kms:" + region + ":" + account + ":key/" + id
}

// findKey resolves a key id (always in the caller's own account and the call's
// Region), a key ARN, or with aliases an alias name or alias ARN. Management
// operations take no aliases.
func (c *call) findKey(st *state, name string, aliases bool) (ref keyRef, err error) {
	ref.account = c.caller.Account
	switch {
	case name == "":
		return ref, invalid("1 validation error detected: Value at 'keyId' failed to satisfy constraint: Member must not be null")
	case len(name) > maxKeyName:
		return ref, invalid("1 validation error detected: Value at 'keyId' failed to satisfy constraint: Member must have length less than or equal to %d", maxKeyName)
	case strings.HasPrefix(name, "arn:"):
		m := keyARNForm.FindStringSubmatch(name)
		if m == nil {
			return ref, kmsFail("InvalidArnException", "%s is not a valid KMS key ARN", name)
		}
		if m[1] != c.region {
			return ref, kmsFail("NotFoundException", "Invalid arn %s", m[1])
		}
		ref.account, ref.arn = m[2], name
		if m[3] == "alias" {
			if !aliases {
				return ref, kmsFail("InvalidArnException", "%s is an alias; this operation takes a key id or key ARN", name)
			}
			if ref, err = c.resolveAlias(st, ref, name); err != nil {
				return ref, err
			}
		}
	case strings.HasPrefix(name, "alias/") && aliases:
		if ref, err = c.resolveAlias(st, ref, aliasARN(c.region, ref.account, name)); err != nil {
			return ref, err
		}
	case keyIDForm.MatchString(name):
		ref.arn = keyARN(c.region, ref.account, name)
	default:
		return ref, kmsFail("NotFoundException", "Invalid keyId '%s'", name)
	}
	c.entry.KeyARN = ref.arn
	if k := st.Keys[ref.arn]; k != nil && !k.gone(c.now) {
		ref.key = k
	}
	if ref.key == nil && ref.account == c.caller.Account {
		return ref, kmsFail("NotFoundException", "Key '%s' does not exist", ref.arn)
	}
	return ref, nil
}

// authorizeKey asks the policies; crosses tells whether the operation works on
// another account's key.
func (c *call) authorizeKey(ref keyRef, operation string, crosses bool, more func(policy.Context), opts ...func(*target)) error {
	t := target{
		action: "kms:" + operation, resource: ref.arn, account: ref.account, crosses: crosses,
		policy: &policy.ResourcePolicy{Named: policy.Named{Doc: &policy.Document{Kind: policy.Key}}},
		context: func(ctx policy.Context) {
			ctx.Set("kms:CallerAccount", c.caller.Account)
			if ref.alias != "" {
				ctx.Set("kms:RequestAlias", ref.alias)
			}
			if ref.key != nil {
				ref.key.conditions(ctx)
			}
			if more != nil {
				more(ctx)
			}
		},
	}
	if ref.key != nil {
		t.policy, t.tags = ref.key.Policy.resource("default"), ref.key.Tags
	}
	for _, o := range opts {
		o(&t)
	}
	if text := c.refusal(t); text != "" {
		return kmsFail("AccessDeniedException", "%s", text)
	}
	if ref.key == nil { // cannot be: the empty policy allows nobody
		return kmsFail("AccessDeniedException", "%s", foreign)
	}
	return nil
}

func (k *key) conditions(ctx policy.Context) {
	ctx.Set("kms:KeySpec", k.Spec)
	ctx.Set("kms:CustomerMasterKeySpec", k.Spec)
	ctx.Set("kms:KeyUsage", k.Usage)
	ctx.Set("kms:CustomerMasterKeyUsage", k.Usage)
	ctx.Set("kms:KeyOrigin", "AWS_KMS")
	ctx.Set("kms:MultiRegion", boolText(k.Primary != ""))
	if k.Primary != "" {
		ctx.Set("kms:MultiRegionKeyType", k.multiRegionType())
	}
}

// authorizeIAM asks the caller's own policies only, for operations without a
// key.
func (c *call) authorizeIAM(operation string, more func(policy.Context), opts ...func(*target)) error {
	t := target{action: "kms:" + operation, resource: "*", account: c.caller.Account, context: func(ctx policy.Context) {
		ctx.Set("kms:CallerAccount", c.caller.Account)
		if more != nil {
			more(ctx)
		}
	}}
	for _, o := range opts {
		o(&t)
	}
	if text := c.refusal(t); text != "" {
		return kmsFail("AccessDeniedException", "%s", text)
	}
	return nil
}

// manage finds and authorises a key for a management operation, which works in
// the key's own account only.
func (c *call) manage(st *state, name, operation string, opts ...func(*target)) (*key, error) {
	ref, err := c.findKey(st, name, false)
	if err != nil {
		return nil, err
	}
	if err := c.authorizeKey(ref, operation, false, nil, opts...); err != nil {
		return nil, err
	}
	return ref.key, nil
}

func pendingDeletion(k *key) error {
	if k.State == statePendingReplicaDeletion {
		return kmsFail("KMSInvalidStateException", "%s is pending replica deletion.", k.ARN)
	}
	return kmsFail("KMSInvalidStateException", "%s is pending deletion.", k.ARN)
}

// usable checks that a key is Enabled.
func (k *key) usable() error {
	if k.State == stateDisabled {
		return kmsFail("DisabledException", "%s is disabled.", k.ARN)
	}
	if k.pending() {
		return pendingDeletion(k)
	}
	return nil
}
