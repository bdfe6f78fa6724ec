package cmk

import (
	"context"
	"regexp"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/store"
)

// Credentials reach a project's key with an access key of an IAM user, as it was done
// before there were roles.
type Credentials struct {
	AccessKeyID     string
	SecretAccessKey secret.Bytes
	// KeyID and Region are as in a Patch.
	KeyID, Region string
}

// The forms of what AWS hands out; Atlas takes 16 to 128 characters for the id.
var (
	accessKeyForm = regexp.MustCompile(`^[A-Za-z0-9_]{16,128}$`)
	secretForm    = regexp.MustCompile(`^[!-~]{16,128}$`)
)

// Reach reads how a configuration is reached: with its role, or with its access key,
// whose secret the caller wipes.
func Reach(tx *store.Tx, c store.KeyConfig) (role store.AccessRole, key kms.AccessKey, err error) {
	if c.AccessKeyID == "" {
		role, err = tx.Role(c.Project, c.Role)
		return role, key, err
	}
	key.ID = c.AccessKeyID
	key.Secret, err = tx.AccessKeySecret(c.Project, c.AccessKeyID)
	return role, key, err
}

// reachCandidate is Reach for a configuration that is asked for: its role has to be
// authorized, and its secret may come with the request.
func reachCandidate(tx *store.Tx, c store.KeyConfig, patch Patch) (role store.AccessRole, key kms.AccessKey, err error) {
	switch {
	case c.AccessKeyID == "":
		role, err = usableRole(tx, c.Project, c.Role)
		return role, key, err
	case patch.newSecret():
		return role, kms.AccessKey{ID: c.AccessKeyID, Secret: patch.AWS.SecretAccessKey.Clone()}, nil
	}
	return Reach(tx, c)
}

// ImportCredentials switches a project's key management on with an access key, for
// migrations and samples. It is for projects that never had a role: once a project was
// configured with one, or switched to one, it is refused for ever. The access key is
// validated as a role is. The principal needs ORG_OWNER, and GROUP_OWNER as for every
// change of key management. Codes: those of Update, and
// AWS_KMS_CREDENTIALS_AUTH_DEPRECATED when the project has or had a role.
func (s *Service) ImportCredentials(ctx context.Context, p tenant.Principal, project keys.ProjectID, in Credentials) (View, error) {
	err := s.st.View(ctx, func(tx *store.Tx) error {
		pr, err := tenant.RequireKeyOwner(tx, p, project)
		if err == nil {
			_, err = tenant.RequireOrg(tx, p, tenant.OrgOwner, pr.Org)
		}
		return err
	})
	if err != nil {
		return View{}, err
	}
	on := true
	return s.change(ctx, p, project, Patch{imports: true, AWS: &AWSPatch{
		Enabled: &on, CustomerMasterKeyID: &in.KeyID, Region: &in.Region, AccessKeyID: &in.AccessKeyID, SecretAccessKey: &in.SecretAccessKey,
	}})
}

// credentialsAllowed refuses access keys where they cannot be (again): everywhere but in
// a project that has one, and in one without configuration into which an operator
// imports one.
func (p Patch) credentialsAllowed(old store.KeyConfig) error {
	a := p.AWS
	switch {
	case a == nil || a.AccessKeyID == nil && a.SecretAccessKey == nil || old.AccessKeyID != "":
		return nil
	case p.imports && !old.SwitchedToRole && old.Role == "" && (old.Generation == 0 || old.MigratedFromCredentials):
		return nil
	case p.imports:
		return apierr.BadRequest("AWS_KMS_CREDENTIALS_AUTH_DEPRECATED",
			"Group %s has, or had, an IAM role for AWS KMS, and there is no way back from a role to access keys. Give the roleId of an authorized role.", old.Project).With(string(old.Project))
	}
	return apierr.BadRequest("AWS_KMS_CREDENTIALS_AUTH_DEPRECATED",
		"Access keys are not accepted for AWS KMS. Register an IAM role (POST /groups/{groupId}/cloudProviderAccess), authorize it, and give its roleId.")
}

// applyReach merges role and access key into a configuration.
func (p Patch) applyReach(old store.KeyConfig, c *store.KeyConfig) error {
	a := p.AWS
	id := old.AccessKeyID
	if a.AccessKeyID != nil && *a.AccessKeyID != "" {
		id = *a.AccessKeyID
	}
	if a.RoleID != nil && *a.RoleID != "" {
		if a.SecretAccessKey != nil || id != old.AccessKeyID {
			return invalid("awsKms.roleId", "a role and an access key were given; send the role alone to switch to it")
		}
		c.Role, c.AccessKeyID = keys.RoleID(*a.RoleID), ""
		c.SwitchedToRole = old.MigratedFromCredentials
		return nil
	}
	switch {
	case a.SecretAccessKey == nil && id == old.AccessKeyID: // as it was read, or not sent
		return nil
	case a.SecretAccessKey == nil:
		return missing("awsKms.secretAccessKey", "the secret of the access key")
	case !accessKeyForm.MatchString(id):
		return invalid("awsKms.accessKeyID", "16 to 128 letters and digits are expected, such as AKIAIOSFODNN7EXAMPLE")
	case !secretForm.Match(a.SecretAccessKey.Reveal()):
		return invalid("awsKms.secretAccessKey", "16 to 128 printable characters are expected")
	}
	c.AccessKeyID, c.MigratedFromCredentials = id, true
	return nil
}

func invalid(field, what string) error {
	return apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute %s specified: %s.", field, what).With(field)
}

// newSecret tells whether the secret of an access key came with the request.
func (p Patch) newSecret() bool { return p.AWS != nil && p.AWS.SecretAccessKey != nil }

// tooMuchAtOnce refuses what cannot be prepared on the hosts in one step: the switch goes
// from one way to a key to another, and a new access key is in force at once.
func (c candidate) tooMuchAtOnce(old store.KeyConfig) *apierr.Error {
	if keys.SameKey(old.KeyARN, c.config.KeyARN) || !c.newSecret && !Switches(old, c.config) {
		return nil
	}
	return apierr.Conflict("ENCRYPTION_AT_REST_ONE_AT_A_TIME",
		"Group %s keeps keys that are wrapped under %s; nothing was changed. Change how that key is reached first (roleId, or the access key, with the present customerMasterKeyID), and the customerMasterKeyID with a second request.", old.Project, old.KeyARN).With(string(old.Project))
}

// Switches tells whether the step from one configuration to the next is the one-way
// switch from an access key to a role.
func Switches(old, next store.KeyConfig) bool { return old.AccessKeyID != "" && next.Role != "" }

// reachEvent says how the key of a committed configuration is reached.
func reachEvent(p tenant.Principal, pr store.Project, old, next store.KeyConfig, role store.AccessRole) audit.Event {
	const updated = "ENCRYPTION_AT_REST_CONFIGURATION_UPDATED"
	if next.AccessKeyID != "" {
		e := tenant.Event(p, updated, pr, "Encryption at rest uses the key %s in %s with the access key %s of an IAM user.", next.KeyARN, next.Region, next.AccessKeyID)
		if old.AccessKeyID == "" {
			e.Type = "ENCRYPTION_AT_REST_CREDENTIALS_IMPORTED"
		}
		e.Data["keyArn"], e.Data["accessKeyId"] = next.KeyARN, next.AccessKeyID
		return e
	}
	e := tenant.Event(p, updated, pr, "Encryption at rest uses the key %s in %s through the role %s.", next.KeyARN, next.Region, role.ARN)
	e.Data["keyArn"], e.Data["roleArn"], e.Data["roleId"] = next.KeyARN, role.ARN, string(role.ID)
	if Switches(old, next) {
		e.Type = "ENCRYPTION_AT_REST_SWITCHED_TO_ROLE"
		e.Message += " The access key " + old.AccessKeyID + " is forgotten, and access keys are not accepted any more."
		e.Data["accessKeyId"] = old.AccessKeyID
	}
	return e
}
