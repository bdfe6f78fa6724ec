package cmk

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/policydoc"
	"github.com/keywright/keywright/internal/store"
)

// refusal says why a candidate's run was not OK, with a code that clients know, and
// what to do about it.
func refusal(c store.KeyConfig, role store.AccessRole, r kms.Result) *apierr.Error {
	f := r.Failure
	if f == nil {
		f = &kms.Failure{Outcome: r.Outcome, Reason: r.Reason, Remedy: kms.RemedyFor(r.Reason, "")}
	}
	bad := func(code, what string) *apierr.Error {
		return apierr.BadRequest(code, "%s (%s) %s", what, f.Detail(), f.Remedy).With(c.KeyID).Because(f)
	}
	switch r.Reason {
	case kms.RoleNotAssumable:
		return apierr.BadRequest("CANNOT_ASSUME_ROLE", "The role %s cannot be assumed. %s (%s)", role.ARN, adviceFor(c, role, r).Sentence, f.Detail()).With(string(role.ID)).Because(f)
	case kms.RoleARNInvalid, kms.PlatformPermissions:
		return bad("CANNOT_ASSUME_ROLE", "The role "+role.ARN+" cannot be assumed.").With(string(role.ID))
	case kms.AccessKeyInvalid:
		return bad("INVALID_AWS_CREDENTIALS", "AWS does not accept the access key "+c.AccessKeyID+"; one that was just made is accepted after some seconds.").With(c.AccessKeyID)
	case kms.AccessKeySecretWrong:
		return bad("INVALID_AWS_CREDENTIALS", "The secret is not that of the access key "+c.AccessKeyID+".").With(c.AccessKeyID)
	case kms.KeyDisabled, kms.KeyStoreDisconnected:
		return bad("AWS_KMS_CUSTOMER_MASTER_KEY_NOT_ENABLED", "The key "+c.KeyID+" is not enabled.")
	case kms.KeyPendingDeletion:
		return bad("AWS_KMS_CUSTOMER_MASTER_KEY_PENDING_DELETION", "The key "+c.KeyID+" is pending deletion.")
	case kms.KeyMaterialMissing:
		return bad("AWS_KMS_CUSTOMER_MASTER_KEY_PENDING_IMPORT", "The key "+c.KeyID+" has no key material.")
	case kms.KeyWrongType:
		return bad("AWS_KMS_CUSTOMER_MASTER_KEY_WRONG_TYPE", "The key "+c.KeyID+" is not a symmetric customer managed key for encryption and decryption.")
	case kms.KeyNotFound:
		e := bad("AWS_CUSTOMER_MASTER_KEY_NOT_FOUND", notFound(c, role))
		e.Status = 404
		return e
	case kms.KeyARNInvalid:
		return bad("INVALID_ATTRIBUTE", "Invalid attribute customerMasterKeyID specified: AWS KMS cannot read "+c.KeyID+".").With("customerMasterKeyID")
	case kms.KeyAccessDenied:
		return denied(c, role, r, f)
	case kms.CiphertextMismatch:
		return bad("ENCRYPTION_AT_REST_SETTINGS_INVALID", "The key does not open what was encrypted under the present configuration.")
	}
	return apierr.New(503, "SERVICE_UNAVAILABLE", "AWS did not tell whether the key %s can be used, so nothing was changed (%s). %s", c.KeyID, f.Detail(), f.Remedy).Because(f)
}

// otherNames are the ARN that the customer typed, if it is that of a multi-Region key
// in another Region than the one that is used: the role needs both.
func otherNames(typed, used string) []string {
	if typed != used && keys.SameKey(typed, used) {
		return []string{typed}
	}
	return nil
}

func notFound(c store.KeyConfig, role store.AccessRole) string {
	if a, err := keys.ParseARN(c.KeyID); err == nil && keys.MultiRegion(a) && a.Region != AWSRegion(c.Region) {
		return fmt.Sprintf("The multi-Region key %s has no replica in %s. Make one (aws kms replicate-key --region %s --key-id %s --replica-region %s); it has a key policy of its own.",
			c.KeyID, c.Region, a.Region, c.KeyID, AWSRegion(c.Region))
	}
	account := "the role's account"
	if c.AccessKeyID != "" {
		account = "the account of the access key's user"
	}
	if a, err := keys.ParseARN(role.ARN); err == nil {
		account = "account " + a.Account + " (the role's)"
	}
	if strings.HasPrefix(c.KeyID, "arn:") {
		return fmt.Sprintf("There is no key %s in %s.", c.KeyID, c.Region)
	}
	return fmt.Sprintf("There is no key %s in %s of %s. A key in another account than that must be given by its full ARN; a key in another region needs that region.", c.KeyID, c.Region, account)
}

// denied names the missing permissions and gives the statement that adds them.
func denied(c store.KeyConfig, role store.AccessRole, r kms.Result, f *kms.Failure) *apierr.Error {
	missing := slices.Clone(r.Denied)
	if len(missing) == 0 && f.MissingPermission != "" {
		missing = []string{f.MissingPermission}
	}
	if c.AccessKeyID != "" {
		return deniedUser(c, r.Key.ARN, missing, f)
	}
	return apierr.BadRequest("NO_PERMISSION_TO_ENCRYPT_DECRYPT", "%s (%s)", adviceFor(c, role, r).Sentence, f.Detail()).With(missing...).Because(f)
}

// adviceFor is the remedy for a run that found permissions refused.
func adviceFor(c store.KeyConfig, role store.AccessRole, r kms.Result) policydoc.Advice {
	if r.Key.ARN != "" {
		c.KeyARN = r.Key.ARN
	} else {
		c.KeyARN = ""
	}
	found := r.Refused
	if f := r.Failure; len(found) == 0 && f != nil {
		if x, ok := f.Finding(); ok {
			found = []kms.Finding{x}
		}
	}
	return accessOf(c, role).Remedy(found)
}

// accessOf is what the customer's policies must allow for a configuration.
func accessOf(c store.KeyConfig, role store.AccessRole) policydoc.Access {
	key := c.KeyARN
	if key == "" {
		key = kms.Target{RoleARN: role.ARN, KeyID: c.KeyID, Region: AWSRegion(c.Region)}.KeyARN()
	}
	return policydoc.Access{PlatformARN: role.PlatformARN, ExternalID: role.ExternalID, RoleARN: role.ARN, KeyARN: key, Replicas: otherNames(c.KeyID, key)}
}

// deniedUser is denied for an access key. Who its user is only AWS knows.
func deniedUser(c store.KeyConfig, key string, missing []string, f *kms.Failure) *apierr.Error {
	if key == "" {
		key = c.KeyID
	}
	if !strings.HasPrefix(key, "arn:") {
		key = "arn:aws:kms:" + AWSRegion(c.Region) + ":*:key/" + key
	}
	return apierr.BadRequest("NO_PERMISSION_TO_ENCRYPT_DECRYPT",
		"The IAM user of the access key %s may not use the key %s: it lacks %s. Add this statement to the user's policy: %s. (%s) %s",
		c.AccessKeyID, c.KeyID, list(missing), statement(needed(), key, ""), f.Detail(), f.Remedy).With(missing...).Because(f)
}

// needed are the permissions that the customer's role must have, and no others.
func needed() []string { return []string{"kms:DescribeKey", "kms:Encrypt", "kms:Decrypt"} }

func statement(actions []string, resource, principal string) string {
	type policy struct {
		Effect    string            `json:"Effect"`
		Principal map[string]string `json:"Principal,omitempty"`
		Action    []string          `json:"Action"`
		Resource  string            `json:"Resource"`
	}
	p := policy{Effect: "Allow", Action: actions, Resource: resource}
	if principal != "" {
		p.Principal = map[string]string{"AWS": principal}
	}
	b, err := json.Marshal(p)
	if err != nil {
		return ""
	}
	return string(b)
}

// list joins at most ten names for a sentence.
func list(names []string) string {
	if len(names) > 10 {
		return strings.Join(names[:10], ", ") + fmt.Sprintf(" and %d more", len(names)-10)
	}
	return strings.Join(names, ", ")
}
