package access

import (
	"context"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/policydoc"
	"github.com/keywright/keywright/internal/store"
)

// Authorize proves that the role can be assumed with the registration's external id
// and in no other way, and records it. Authorizing again, with another role too, is
// the same call; a registration that is in use keeps its role. A refusal changes
// nothing but leaves an event. GROUP_NOT_FOUND, USER_UNAUTHORIZED,
// CLOUD_PROVIDER_ACCESS_ROLE_NOT_FOUND, INVALID_ATTRIBUTE, AWS_IAM_ROLE_IN_USE,
// CANNOT_ASSUME_ROLE, ROLE_ASSUMABLE_WITHOUT_EXTERNAL_ID, SERVICE_UNAVAILABLE.
func (s *Service) Authorize(ctx context.Context, p tenant.Principal, project keys.ProjectID, id keys.RoleID, roleARN string) (out Role, err error) {
	if _, err := keys.ParseRoleARN(roleARN); err != nil || len(roleARN) < 20 || len(roleARN) > 2048 {
		return Role{}, apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute iamAssumedRoleArn specified: %q is not the ARN of an IAM role (arn:aws:iam::123456789012:role/NAME).", clip(roleARN)).With("iamAssumedRoleArn")
	}
	var before Role
	if err := s.st.View(ctx, func(tx *store.Tx) (err error) {
		if _, err = tenant.RequireKeyOwner(tx, p, project); err == nil {
			before, err = s.candidate(tx, project, id, roleARN)
		}
		return err
	}); err != nil {
		return Role{}, err
	}
	if err := samePartition(before.PlatformARN, roleARN); err != nil {
		return Role{}, err
	}
	refusal := s.prove(ctx, before.AccessRole, roleARN)
	err = s.st.Tx(ctx, func(tx *store.Tx) error {
		pr, err := tenant.RequireKeyOwner(tx, p, project)
		if err != nil {
			return err
		}
		// The calls to AWS took time: nothing may have changed meanwhile.
		if out, err = s.candidate(tx, project, id, roleARN); err != nil {
			return err
		}
		e := tenant.Event(p, "CLOUD_PROVIDER_ACCESS_AWS_IAM_ROLE_UPDATED", pr, "AWS IAM role %s was authorized.", roleARN)
		if refusal != nil {
			e.Type = "CLOUD_PROVIDER_ACCESS_AWS_IAM_ROLE_AUTHORIZATION_REFUSED"
			e.Message = "The authorization of AWS IAM role " + roleARN + " was refused: " + refusal.Code + "."
			e.Data["errorCode"] = refusal.Code
		}
		e.Data["roleId"], e.Data["roleArn"] = string(id), roleARN
		if err := tx.Append(e); err != nil || refusal != nil {
			return err
		}
		out.ARN, out.Authorized, out.Proven, out.Doubt = roleARN, tx.Now(), tx.Now(), ""
		return tx.PutRole(out.AccessRole)
	})
	if err != nil {
		return Role{}, err
	}
	if refusal != nil {
		return Role{}, refusal
	}
	return out, nil
}

// samePartition refuses a role that no principal of the platform's account can ever
// assume: the partitions of AWS know nothing of each other.
func samePartition(platformARN, roleARN string) error {
	platform, errP := keys.ParseARN(platformARN)
	role, errR := keys.ParseARN(roleARN)
	if errP != nil || errR != nil || platform.Partition == role.Partition {
		return nil
	}
	return apierr.BadRequest("INVALID_ATTRIBUTE",
		"Invalid attribute iamAssumedRoleArn specified: the role is in the AWS partition %s, the platform's account in %s, and roles cannot be assumed across partitions. Use a role in %s, or a Keywright whose account is in %s.",
		clip(role.Partition), platform.Partition, platform.Partition, clip(role.Partition)).With("iamAssumedRoleArn")
}

// candidate gives the registration, unless it is in use with another role.
func (s *Service) candidate(tx *store.Tx, project keys.ProjectID, id keys.RoleID, roleARN string) (Role, error) {
	r, err := find(tx, project, id)
	if err != nil {
		return Role{}, err
	}
	if why := r.bound(); why != "" && r.ARN != roleARN {
		return Role{}, inUse(id, why, "register and authorize the new role, then change the project's encryption at rest to it")
	}
	return r, nil
}

// prove makes the three calls (key-plane rule 5.2).
func (s *Service) prove(ctx context.Context, r store.AccessRole, roleARN string) *apierr.Error {
	if err := s.prover.TryAssume(ctx, roleARN, &r.ExternalID, s.region); err != nil {
		f := kms.AsFailure(err)
		if noAnswer(f) {
			return untold(f)
		}
		finding, ok := f.Finding()
		advice := f.Remedy
		if ok {
			advice = policydoc.Access{PlatformARN: r.PlatformARN, ExternalID: r.ExternalID, RoleARN: roleARN}.Remedy([]kms.Finding{finding}).Sentence
		}
		return apierr.BadRequest("CANNOT_ASSUME_ROLE", "Cannot assume role %s: %s. %s", roleARN, f.Detail(), advice).With(roleARN).Because(f)
	}
	other := newExternalID()
	for _, externalID := range []*string{nil, &other} {
		err := s.prover.TryAssume(ctx, roleARN, externalID, s.region)
		if err == nil {
			return apierr.BadRequest("ROLE_ASSUMABLE_WITHOUT_EXTERNAL_ID",
				"The role %s can be assumed without its external id, so other customers of the platform could reach your key through it. Every statement of its trust policy that names %s must have the condition StringEquals sts:ExternalId %s, as this one: %s.",
				roleARN, r.PlatformARN, r.ExternalID, policydoc.Access{PlatformARN: r.PlatformARN, ExternalID: r.ExternalID}.Trust().Compact()).With(roleARN)
		}
		if f := kms.AsFailure(err); noAnswer(f) {
			return untold(f)
		}
	}
	return nil
}

// noAnswer tells whether a failure says nothing about the role. A refusal that the
// classes put at the platform's door is an answer all the same: the call with the
// right external id decides whether the role can be used.
func noAnswer(f *kms.Failure) bool {
	return f.Outcome == kms.Unreachable && f.Reason != kms.PlatformPermissions
}

func untold(f *kms.Failure) *apierr.Error {
	return apierr.New(503, "SERVICE_UNAVAILABLE", "AWS did not tell whether the role can be assumed: %s. %s", f.Detail(), f.Remedy).Because(f)
}

func clip(s string) string { return s[:min(len(s), 200)] }
