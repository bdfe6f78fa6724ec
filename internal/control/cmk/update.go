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
// OK), ENCRYPTION_AT_REST_CHANGE_IN_PROGRESS, ENCRYPTION_AT_REST_KEY_NOT_READABLE,
// CANNOT_DISABLE_ENCRYPTION_AT_REST. Where keys are kept under the key in force, what
// was asked for is prepared on the hosts first, and the answer shows it as requested.
func (s *Service) Update(ctx context.Context, p tenant.Principal, project keys.ProjectID, patch Patch) (View, error) {
	if err := s.st.View(ctx, func(tx *store.Tx) error {
		_, err := tenant.RequireKeyOwner(tx, p, project)
		return err
	}); err != nil {
		return View{}, err
	}
	return s.change(ctx, p, project, patch)
}

func (s *Service) change(ctx context.Context, p tenant.Principal, project keys.ProjectID, patch Patch) (View, error) {
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
	var access kms.AccessKey
	var changed bool
	err := s.st.View(ctx, func(tx *store.Tx) (err error) {
		if _, err = tenant.RequireKeyOwner(tx, p, project); err != nil {
			return err
		}
		if old, err = tx.KeyConfig(project); err != nil {
			return err
		}
		changes, err := tx.KeyChanges(project)
		if err != nil {
			return err
		}
		base := old
		staged, inProgress := stagedIn(changes)
		if inProgress { // what is not sent keeps the value that was asked for last
			base = staged.Candidate
			base.SearchNodes = old.SearchNodes
		}
		if next, changed, err = patch.apply(base); err != nil || !changed {
			return err
		}
		if inProgress {
			return changeInProgress(staged)
		}
		role, access, err = reachCandidate(tx, next, patch)
		if err == nil && next.AccessKeyID == "" {
			err = samePartition(next, role)
		}
		return err
	})
	if err != nil {
		return err
	}
	defer access.Secret.Wipe()
	if !changed {
		return s.settings(ctx, p, old, next.SearchNodes)
	}
	result, refusal := s.validate(ctx, old, next, role, access)
	if refusal != nil {
		return s.refuse(ctx, p, project, old, refusal)
	}
	next.KeyARN, next.Probe, next.ProbeSHA256 = result.Key.ARN, result.Probe.Ciphertext, result.Probe.Digest
	return s.stageOrCommit(ctx, p, candidate{config: next, role: role, access: access, newSecret: patch.newSecret(), result: result}, old)
}

// candidate is a configuration whose run was OK.
type candidate struct {
	config store.KeyConfig
	// role or access is how the key is reached; newSecret: its secret came just now.
	role      store.AccessRole
	access    kms.AccessKey
	newSecret bool
	result    kms.Result
	rollback  bool
}

// stageOrCommit puts a validated candidate in force, at once if no key is kept under
// the configuration before, or if it opens what that one wrapped by the same role.
func (s *Service) stageOrCommit(ctx context.Context, p tenant.Principal, c candidate, old store.KeyConfig) error {
	var stage bool
	if err := s.st.View(ctx, func(tx *store.Tx) (err error) {
		stage, err = needsStaging(tx, old, c.config)
		return err
	}); err != nil {
		return err
	}
	if !stage {
		return s.commit(ctx, p, old, c)
	}
	if why := c.tooMuchAtOnce(old); why != nil {
		return s.refuse(ctx, p, old.Project, old, why)
	}
	via, why := false, (*apierr.Error)(nil)
	if !c.rollback && !keys.SameKey(old.KeyARN, c.config.KeyARN) {
		if via, why = s.readable(ctx, old, c); why != nil {
			return s.refuse(ctx, p, old.Project, old, why)
		}
	}
	var begun store.KeyChange
	err := s.st.Tx(ctx, func(tx *store.Tx) error {
		pr, now, err := s.proceed(tx, p, old, c)
		if err != nil {
			return err
		}
		if now.SearchNodes != c.config.SearchNodes {
			now.SearchNodes = c.config.SearchNodes
			if err := tx.PutKeyConfig(now); err != nil {
				return err
			}
		}
		begun, err = s.begin(tx, p, pr, now, store.KeyChange{Candidate: carry(c.config, now), Rollback: c.rollback, ViaCandidate: via})
		return err
	})
	if err == nil { // the run that was just made proves the candidate
		s.setTrial(old.Project, trial{generation: begun.Generation, proven: true, next: s.clock() + s.Policy(begun.Candidate).C()})
	}
	return err
}

// needsStaging tells whether kept keys must be proven for a candidate before it is in
// force. Another region of the same multi-Region key, by the same role, opens them as
// the stored probe showed (key-plane rule 25).
func needsStaging(tx *store.Tx, old, next store.KeyConfig) (bool, error) {
	if !old.Enabled || keys.SameKey(old.KeyARN, next.KeyARN) && old.Role == next.Role {
		return false, nil
	}
	using, err := clustersWithKey(tx, next.Project)
	if err != nil || len(using) > 0 {
		return true, err
	}
	all, err := kept(tx, next.Project)
	return len(all) > 0, err
}

// readable makes sure that the key in force still opens what it wrapped, through its own
// role or through the candidate's (key-plane rule 24): without that nothing could be
// wrapped anew. While the verdict is VALID nothing is asked.
func (s *Service) readable(ctx context.Context, old store.KeyConfig, c candidate) (viaCandidate bool, why *apierr.Error) {
	var v store.Verdict
	var own store.AccessRole
	var access kms.AccessKey
	if err := s.st.View(ctx, func(tx *store.Tx) (err error) {
		if v, err = tx.Verdict(old.Project); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		own, access, err = Reach(tx, old)
		return err
	}); err != nil {
		return false, apierr.New(503, "SERVICE_UNAVAILABLE", "The configuration could not be read, nothing was changed.").Because(err)
	}
	defer access.Secret.Wipe()
	if custody.Verdict(v.Kind) == custody.Valid {
		return false, nil
	}
	in := kms.RunInput{
		Target: s.target(old, own, access, old.KeyARN), Context: keys.ProbeContext(s.st.Deployment(), old.Project).Map(),
		Stored: kms.Probe{Ciphertext: old.Probe, Digest: old.ProbeSHA256},
	}
	first := kms.OpenProbe(ctx, s.cfg.Provider, in)
	if first == nil {
		return false, nil
	}
	in.Target = s.target(old, c.role, c.access, old.KeyARN)
	if kms.OpenProbe(ctx, s.cfg.Provider, in) == nil {
		return true, nil
	}
	return false, apierr.Conflict("ENCRYPTION_AT_REST_KEY_NOT_READABLE",
		"The key in force, %s, cannot be read now, neither through its own role nor through %s, so the kept keys cannot be wrapped anew; nothing was changed. Make it usable again, or let the new role use it too (kms:Decrypt), until the change is complete. (%s) %s",
		old.KeyARN, c.role.ARN, first.Detail(), first.Remedy).With(old.KeyID).Because(first)
}

// changeInProgress refuses another change.
func changeInProgress(c store.KeyChange) *apierr.Error {
	return apierr.Conflict("ENCRYPTION_AT_REST_CHANGE_IN_PROGRESS",
		"A change to the key %s is %s since %s; nothing was changed. Wait until it is complete (GET /api/keywright/v1/groups/%s/encryptionAtRest shows how far each host is), or abort it (POST /api/keywright/v1/groups/%s/encryptionAtRest:abortChange) and send this request again.",
		c.Candidate.KeyID, c.State, c.Since.Format(time.RFC3339), c.Project, c.Project).With(string(c.Project))
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

// samePartition refuses a region or a key of another AWS partition than the role's.
func samePartition(c store.KeyConfig, role store.AccessRole) error {
	arn, err := keys.ParseARN(role.ARN)
	if err != nil {
		return nil
	}
	if want := keys.Partition(AWSRegion(c.Region)); arn.Partition != want {
		return apierr.BadRequest("AWS_KMS_REGION_NOT_SUPPORTED",
			"The region %s is in the AWS partition %s, the role %s in %s: a role reaches keys of its own partition only. Choose a region of %s, or a role in %s.",
			c.Region, want, role.ARN, arn.Partition, arn.Partition, want).With("region")
	}
	if key, err := keys.ParseARN(c.KeyID); err == nil && key.Partition != arn.Partition {
		return apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute customerMasterKeyID specified: the key is in the AWS partition %s, the role %s in %s.",
			key.Partition[:min(len(key.Partition), 32)], role.ARN, arn.Partition).With("customerMasterKeyID")
	}
	return nil
}

// settings commits changes that need no run.
func (s *Service) settings(ctx context.Context, p tenant.Principal, old store.KeyConfig, searchNodes bool) error {
	if old.SearchNodes == searchNodes {
		return nil
	}
	return s.st.Tx(ctx, func(tx *store.Tx) error {
		pr, now, err := s.unchanged(tx, p, old)
		if err != nil {
			return err
		}
		now.SearchNodes, now.Updated = searchNodes, tx.Now()
		if err := tx.PutKeyConfig(now); err != nil {
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
func (s *Service) validate(ctx context.Context, old, next store.KeyConfig, role store.AccessRole, access kms.AccessKey) (kms.Result, *apierr.Error) {
	in := kms.RunInput{
		Target: s.target(next, role, access, next.KeyID), Context: keys.ProbeContext(s.st.Deployment(), next.Project).Map(),
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

// proceed checks, in the transaction of a change, that nothing has moved since its
// candidate was validated.
func (s *Service) proceed(tx *store.Tx, p tenant.Principal, old store.KeyConfig, c candidate) (store.Project, store.KeyConfig, error) {
	pr, now, err := s.unchanged(tx, p, old)
	if err != nil {
		return pr, now, err
	}
	changes, err := tx.KeyChanges(old.Project)
	if err != nil {
		return pr, now, err
	}
	if staged, ok := stagedIn(changes); ok {
		return pr, now, changeInProgress(staged)
	}
	if c.config.AccessKeyID != "" {
		return pr, now, nil
	}
	proven, err := usableRole(tx, old.Project, c.config.Role)
	if err == nil && proven.ARN != c.role.ARN {
		err = errMoved
	}
	return pr, now, err
}

// commit puts a candidate in force at once.
func (s *Service) commit(ctx context.Context, p tenant.Principal, old store.KeyConfig, c candidate) error {
	next := c.config
	err := s.st.Tx(ctx, func(tx *store.Tx) error {
		pr, now, err := s.proceed(tx, p, old, c)
		if err != nil {
			return err
		}
		if stage, err := needsStaging(tx, now, next); err != nil || stage {
			return errors.Join(err, errMoved) // the first key was made meanwhile
		}
		next = carry(next, now)
		next.SearchNodes = c.config.SearchNodes
		next.Updated = tx.Now()
		if next.Generation, err = nextGeneration(tx, now); err != nil {
			return err
		}
		if err := tx.PutKeyConfig(next); err != nil {
			return err
		}
		if c.newSecret {
			if err := tx.PutAccessKeySecret(next.Project, next.AccessKeyID, c.access.Secret); err != nil {
				return err
			}
		}
		if err := tx.Append(reachEvent(p, pr, old, next, c.role)); err != nil {
			return err
		}
		if old.Enabled {
			return nil // the verdict of the generation before stays until validators have run (rule 23)
		}
		return tx.PutVerdict(store.Verdict{Project: next.Project, Kind: string(custody.Valid), NoticedBy: controlPlane, Since: tx.Now()})
	})
	if err == nil {
		s.prober(next.Project).remember(next.Generation, c.result, time.Now())
	}
	return err
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
			Mode: old.Mode, Grace: old.Grace, UnreachableLimit: old.UnreachableLimit,
			MigratedFromCredentials: old.MigratedFromCredentials, SwitchedToRole: old.SwitchedToRole}
		if err := patch.credentialsAllowed(old); err != nil {
			return err
		}
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
		if next.Generation, err = nextGeneration(tx, old); err != nil {
			return err
		}
		if err := endAll(tx, project); err != nil {
			return err
		}
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
