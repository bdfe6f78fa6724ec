package cmk

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/access"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/store"
)

// errMoved means that the configuration changed while a candidate was validated.
var errMoved = errors.New("the configuration changed meanwhile")

// Update changes a project's key management. The candidate is validated first; a
// refusal changes nothing. Codes: GROUP_NOT_FOUND, USER_UNAUTHORIZED,
// INVALID_ATTRIBUTE, MISSING_ATTRIBUTE, AWS_KMS_REGION_NOT_SUPPORTED,
// ENCRYPTION_AT_REST_PROVIDER_NOT_SUPPORTED, AWS_KMS_CREDENTIALS_AUTH_DEPRECATED,
// FEATURE_UNSUPPORTED, CLOUD_PROVIDER_ACCESS_ROLE_NOT_FOUND,
// CLOUD_PROVIDER_ACCESS_ROLE_NOT_AUTHORIZED, those of refusal (a run that was not
// OK), ENCRYPTION_AT_REST_KEY_IN_USE, CANNOT_DISABLE_ENCRYPTION_AT_REST.
func (s *Service) Update(ctx context.Context, p tenant.Principal, project keys.ProjectID, patch Patch) (View, error) {
	if err := s.st.View(ctx, func(tx *store.Tx) error {
		_, err := tenant.RequireKeyOwner(tx, p, project)
		return err
	}); err != nil {
		return View{}, err
	}
	if err := patch.check(); err != nil {
		return View{}, err
	}
	lock := s.changeLock(project)
	lock.Lock()
	defer lock.Unlock()
	for {
		err := s.update(ctx, p, project, patch)
		if errors.Is(err, errMoved) && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return View{}, err
		}
		return s.Get(ctx, p, project) // the candidate's run is young enough to be reused
	}
}

func (s *Service) update(ctx context.Context, p tenant.Principal, project keys.ProjectID, patch Patch) error {
	if patch.disables() {
		return s.disable(ctx, p, project, patch)
	}
	var old, next store.KeyConfig
	var role store.AccessRole
	var changed bool
	err := s.st.View(ctx, func(tx *store.Tx) (err error) {
		if _, err = tenant.RequireKeyOwner(tx, p, project); err != nil {
			return err
		}
		if old, err = tx.KeyConfig(project); err != nil {
			return err
		}
		if next, changed, err = patch.apply(old); err != nil || !changed {
			return err
		}
		role, err = usableRole(tx, project, next.Role)
		return err
	})
	if err != nil {
		return err
	}
	if !changed {
		return s.settings(ctx, p, old, next)
	}
	result, refusal := s.validate(ctx, old, next, role)
	if refusal != nil {
		return s.refuse(ctx, p, project, old, refusal)
	}
	next.KeyARN, next.Probe, next.ProbeSHA256 = result.Key.ARN, result.Probe.Ciphertext, result.Probe.Digest
	return s.commit(ctx, p, old, next, role, result)
}

func usableRole(tx *store.Tx, project keys.ProjectID, id keys.RoleID) (store.AccessRole, error) {
	r, err := tx.Role(project, id)
	if errors.Is(err, store.ErrNotFound) {
		return r, access.NotFound(id)
	}
	if err == nil && r.Authorized.IsZero() {
		return r, apierr.BadRequest("CLOUD_PROVIDER_ACCESS_ROLE_NOT_AUTHORIZED",
			"The cloud provider access role with ID %s is not authorized yet. Put the principal and the external id into the trust policy of your role, then PATCH cloudProviderAccess/%s with its ARN.", id, id).With(string(id))
	}
	return r, err
}

// settings commits changes that need no run.
func (s *Service) settings(ctx context.Context, p tenant.Principal, old, next store.KeyConfig) error {
	if old.SearchNodes == next.SearchNodes && old.PrivateNetworking == next.PrivateNetworking {
		return nil
	}
	return s.st.Tx(ctx, func(tx *store.Tx) error {
		pr, now, err := s.unchanged(tx, p, old)
		if err != nil {
			return err
		}
		next.Validate, next.Updated = now.Validate, tx.Now()
		if err := tx.PutKeyConfig(next); err != nil {
			return err
		}
		return tx.Append(tenant.Event(p, "ENCRYPTION_AT_REST_CONFIGURATION_UPDATED", pr, "Settings of encryption at rest were changed."))
	})
}

// unchanged checks that nobody changed the configuration since old was read, and gives
// it as it is now: runs may have been asked for meanwhile, and that counter never goes
// back.
func (s *Service) unchanged(tx *store.Tx, p tenant.Principal, old store.KeyConfig) (store.Project, store.KeyConfig, error) {
	pr, err := tenant.RequireKeyOwner(tx, p, old.Project)
	if err != nil {
		return pr, old, err
	}
	now, err := tx.KeyConfig(old.Project)
	if err == nil && (now.Generation != old.Generation || now.SearchNodes != old.SearchNodes || now.PrivateNetworking != old.PrivateNetworking ||
		s.Policy(now) != s.Policy(old)) {
		err = errMoved
	}
	return pr, now, err
}

// validate runs the candidate. Where a key is in use already and the candidate is
// the same key reached otherwise, it must also open the stored probe (rule 24).
func (s *Service) validate(ctx context.Context, old, next store.KeyConfig, role store.AccessRole) (kms.Result, *apierr.Error) {
	in := kms.RunInput{
		Target: s.target(next, role, next.KeyID), Context: keys.ProbeContext(s.st.Deployment(), next.Project).Map(),
	}
	r := kms.Run(ctx, s.cfg.Provider, in)
	if r.Outcome == kms.OK && old.Enabled && keys.SameKey(old.KeyARN, r.Key.ARN) {
		in.Stored = kms.Probe{Ciphertext: old.Probe, Digest: old.ProbeSHA256}
		in.Target.KeyID = r.Key.ARN
		r = kms.Run(ctx, s.cfg.Provider, in)
	}
	if r.Outcome != kms.OK {
		return r, refusal(next, role, r)
	}
	return r, nil
}

// refuse records that a candidate was refused; nothing else changes.
func (s *Service) refuse(ctx context.Context, p tenant.Principal, project keys.ProjectID, old store.KeyConfig, why *apierr.Error) error {
	err := s.st.Tx(ctx, func(tx *store.Tx) error {
		pr, _, err := s.unchanged(tx, p, old)
		if err != nil {
			return err
		}
		e := tenant.Event(p, "ENCRYPTION_AT_REST_CONFIGURATION_VALIDATION_FAILED", pr, "A change of encryption at rest was refused: %s.", why.Code)
		e.Data["errorCode"] = why.Code
		return tx.Append(e)
	})
	if err != nil && !errors.Is(err, errMoved) {
		s.log.ErrorContext(ctx, "refusal was not recorded", "project", project, "error", err)
	}
	return why
}

func (s *Service) commit(ctx context.Context, p tenant.Principal, old, next store.KeyConfig, role store.AccessRole, r kms.Result) error {
	err := s.st.Tx(ctx, func(tx *store.Tx) error {
		pr, now, err := s.unchanged(tx, p, old)
		if err != nil {
			return err
		}
		proven, err := usableRole(tx, next.Project, next.Role)
		if err != nil {
			return err
		}
		if proven.ARN != role.ARN {
			return errMoved
		}
		if old.Enabled && !keys.SameKey(old.KeyARN, next.KeyARN) {
			if err := keyUnused(tx, next.Project); err != nil {
				return err
			}
		}
		next.Generation, next.Validate, next.Updated = old.Generation+1, now.Validate, tx.Now()
		if err := tx.PutKeyConfig(next); err != nil {
			return err
		}
		e := tenant.Event(p, "ENCRYPTION_AT_REST_CONFIGURATION_UPDATED", pr, "Encryption at rest uses the key %s in %s through the role %s.", next.KeyARN, next.Region, role.ARN)
		e.Data["keyArn"], e.Data["roleArn"], e.Data["roleId"] = next.KeyARN, role.ARN, string(role.ID)
		if err := tx.Append(e); err != nil {
			return err
		}
		if old.Enabled {
			return nil // the verdict of the generation before stays until validators have run (rule 23)
		}
		return tx.PutVerdict(store.Verdict{Project: next.Project, Kind: string(custody.Valid), NoticedBy: controlPlane, Since: tx.Now()})
	})
	if err == nil {
		s.prober(next.Project).remember(old.Generation+1, r, time.Now())
	}
	return err
}

// keyUnused refuses another CMK while something is wrapped under the present one.
func keyUnused(tx *store.Tx, project keys.ProjectID) error {
	using, err := clustersWithKey(tx, project)
	if err != nil {
		return err
	}
	wraps, err := tx.EscrowOfProject(project)
	if err != nil {
		return err
	}
	const other = "Wrapping keys anew under another CMK is not supported yet; another role, or another region of the same multi-Region key, can be set at any time."
	switch {
	case len(using) > 0:
		return apierr.Conflict("ENCRYPTION_AT_REST_KEY_IN_USE",
			"The clusters %s of group %s use the present key, so the project keeps it; nothing was changed. %s To use another CMK, set encryptionAtRestProvider of these clusters to NONE and wait until they are IDLE, or delete them, then send this request again.", list(using), project, other).With(string(project))
	case len(wraps) > 0:
		return apierr.Conflict("ENCRYPTION_AT_REST_KEY_IN_USE",
			"Keys that are wrapped under the present key of group %s are still being destroyed by their hosts; nothing was changed. %s Send this request again in a minute.", project, other).With(string(project))
	}
	return nil
}

// clustersWithKey lists the clusters that need the customer key, or may still.
func clustersWithKey(tx *store.Tx, project keys.ProjectID) ([]string, error) {
	cs, err := tx.Clusters(project)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, c := range cs {
		if c.Settings.EncryptionProvider == "AWS" || c.Converting != "" {
			out = append(out, c.Name)
		}
	}
	slices.Sort(out)
	return out, nil
}

// disable switches key management off and forgets its details.
func (s *Service) disable(ctx context.Context, p tenant.Principal, project keys.ProjectID, patch Patch) error {
	return s.st.Tx(ctx, func(tx *store.Tx) error {
		pr, err := tenant.RequireKeyOwner(tx, p, project)
		if err != nil {
			return err
		}
		old, err := tx.KeyConfig(project)
		if err != nil {
			return err
		}
		next := store.KeyConfig{Project: project, Generation: old.Generation, Validate: old.Validate, SearchNodes: old.SearchNodes, Updated: tx.Now(),
			Mode: old.Mode, Grace: old.Grace, UnreachableLimit: old.UnreachableLimit}
		if patch.EnabledForSearchNodes != nil {
			next.SearchNodes = *patch.EnabledForSearchNodes
		}
		if !old.Enabled {
			if next.SearchNodes == old.SearchNodes {
				return nil
			}
			if err := tx.PutKeyConfig(next); err != nil {
				return err
			}
			return tx.Append(tenant.Event(p, "ENCRYPTION_AT_REST_CONFIGURATION_UPDATED", pr, "Settings of encryption at rest were changed."))
		}
		using, err := clustersWithKey(tx, project)
		if err != nil {
			return err
		}
		if len(using) > 0 {
			return apierr.Conflict("CANNOT_DISABLE_ENCRYPTION_AT_REST",
				"Cannot disable encryption at rest: the clusters %s of group %s use it. Set their encryptionAtRestProvider to NONE and wait until that is done, or delete them, first.", list(using), project).With(string(project))
		}
		next.Generation++
		if err := tx.PutKeyConfig(next); err != nil {
			return err
		}
		if err := tx.DeleteVerdict(project); err != nil {
			return err
		}
		e := tenant.Event(p, "ENCRYPTION_AT_REST_CONFIGURATION_UPDATED", pr, "Encryption at rest was switched off.")
		e.Data["enabled"] = "false"
		return tx.Append(e)
	})
}
