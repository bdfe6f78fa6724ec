package access

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/store"
)

// maxRoles is how many registrations a project may have.
const maxRoles = 100

// FeatureEncryptionAtRest is the feature that uses roles today.
const FeatureEncryptionAtRest = "ENCRYPTION_AT_REST"

// Prover tries roles; kms.Provider is one.
type Prover interface {
	TryAssume(ctx context.Context, roleARN string, externalID *string, region string) error
	CallerIdentity(ctx context.Context) (account, arn string, err error)
}

// Role is a registration with the features that use it.
type Role struct {
	store.AccessRole
	// Usages are names of features, such as FeatureEncryptionAtRest.
	Usages []string
	// Needed says why the role must stay although no feature uses it: something that is
	// kept can be opened through it only. Empty if nothing is.
	Needed string
}

// bound says why the registration can neither go nor point at another role; empty if it
// can.
func (r Role) bound() string {
	if len(r.Usages) > 0 {
		return "is used by the feature " + strings.Join(r.Usages, ", ")
	}
	return r.Needed
}

// Service manages registrations. It is safe for concurrent use.
type Service struct {
	st     *store.Store
	prover Prover
	region string

	mu       sync.Mutex
	platform string
}

// New makes the service. region is the one whose STS is asked.
func New(st *store.Store, prover Prover, region string) *Service {
	return &Service{st: st, prover: prover, region: region}
}

// PlatformARN is the root ARN of the platform's account, as the key service tells
// it; once known it is not asked for again.
func (s *Service) PlatformARN(ctx context.Context) (string, error) {
	s.mu.Lock()
	known := s.platform
	s.mu.Unlock()
	if known != "" {
		return known, nil
	}
	account, caller, err := s.prover.CallerIdentity(ctx)
	if err != nil {
		return "", unavailable("The platform's own AWS account cannot be found out", kms.AsFailure(err))
	}
	a, err := keys.ParseARN(caller)
	if err != nil {
		return "", fmt.Errorf("read the platform's identity: %w", err)
	}
	if err := s.st.Tx(ctx, func(tx *store.Tx) error { return tx.Platform(account) }); err != nil {
		return "", err
	}
	arn := keys.ARN{Partition: a.Partition, Service: "iam", Account: account, Resource: "root"}.String()
	s.mu.Lock()
	s.platform = arn
	s.mu.Unlock()
	return arn, nil
}

func unavailable(what string, f *kms.Failure) error {
	return apierr.New(503, "SERVICE_UNAVAILABLE", "%s: %s. %s", what, f.Detail(), f.Remedy).Because(f)
}

// Register makes a registration that is not authorized yet. GROUP_NOT_FOUND,
// USER_UNAUTHORIZED, SERVICE_UNAVAILABLE.
func (s *Service) Register(ctx context.Context, p tenant.Principal, project keys.ProjectID) (out Role, err error) {
	if err := s.st.View(ctx, func(tx *store.Tx) error {
		_, err := tenant.RequireKeyOwner(tx, p, project)
		return err
	}); err != nil {
		return Role{}, err
	}
	platform, err := s.PlatformARN(ctx)
	if err != nil {
		return Role{}, err
	}
	err = s.st.Tx(ctx, func(tx *store.Tx) error {
		pr, err := tenant.RequireKeyOwner(tx, p, project)
		if err != nil {
			return err
		}
		have, err := tx.Roles(project)
		if err != nil {
			return err
		}
		if len(have) >= maxRoles {
			return apierr.Conflict("MAX_AWS_IAM_ROLES_REACHED", "The project has %d registrations of roles; remove one first.", len(have))
		}
		now := tx.Now()
		out = Role{AccessRole: store.AccessRole{
			ID: keys.RoleID(keys.NewID(now)), Project: project, ExternalID: newExternalID(), PlatformARN: platform, Created: now,
		}}
		if err := tx.PutRole(out.AccessRole); err != nil {
			return err
		}
		e := tenant.Event(p, "CLOUD_PROVIDER_ACCESS_AWS_IAM_ROLE_ADDED", pr, "A registration of an AWS IAM role was made.")
		e.Data["roleId"] = string(out.ID)
		return tx.Append(e)
	})
	return out, err
}

// newExternalID puts 128 random bits into the form of a UUID. (A version 4 UUID has
// only 122; the value is opaque to everybody.)
func newExternalID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// List lists a project's registrations, oldest first: GROUP_NOT_FOUND.
func (s *Service) List(ctx context.Context, p tenant.Principal, project keys.ProjectID) (out []Role, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		if _, err := tenant.Require(tx, p, tenant.GroupReadOnly, project); err != nil {
			return err
		}
		all, err := tx.Roles(project)
		if err != nil {
			return err
		}
		for _, r := range all {
			role, err := withUsages(tx, r)
			if err != nil {
				return err
			}
			out = append(out, role)
		}
		return nil
	})
	return out, err
}

// Get gives a registration: GROUP_NOT_FOUND, CLOUD_PROVIDER_ACCESS_ROLE_NOT_FOUND.
func (s *Service) Get(ctx context.Context, p tenant.Principal, project keys.ProjectID, id keys.RoleID) (out Role, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		if _, err := tenant.Require(tx, p, tenant.GroupReadOnly, project); err != nil {
			return err
		}
		out, err = find(tx, project, id)
		return err
	})
	return out, err
}

func find(tx *store.Tx, project keys.ProjectID, id keys.RoleID) (Role, error) {
	r, err := tx.Role(project, id)
	if errors.Is(err, store.ErrNotFound) {
		return Role{}, NotFound(id)
	}
	if err != nil {
		return Role{}, err
	}
	return withUsages(tx, r)
}

// NotFound is the refusal of a role id that the project does not have.
func NotFound(id keys.RoleID) error {
	return apierr.NotFound("CLOUD_PROVIDER_ACCESS_ROLE_NOT_FOUND", "No cloud provider access role with ID %s exists in this group.", id).With(string(id))
}

func withUsages(tx *store.Tx, r store.AccessRole) (Role, error) {
	out := Role{AccessRole: r}
	c, err := tx.KeyConfig(r.Project)
	if err != nil {
		return out, err
	}
	changes, err := tx.KeyChanges(r.Project)
	if err != nil {
		return out, err
	}
	used := c.Enabled && c.Role == r.ID
	for _, x := range changes {
		used = used || x.Staged() && x.Candidate.Role == r.ID
		if x.State == store.ChangeCommitted && x.Previous.Role == r.ID {
			out.Needed = "leads to the key " + x.Previous.KeyARN + ", whose wraps are kept for a rollback until " + x.Retires.UTC().Format(time.RFC3339)
		}
	}
	if used {
		out.Usages = append(out.Usages, FeatureEncryptionAtRest)
	}
	if !c.Enabled && out.Needed == "" {
		out.Needed, err = lastWay(tx, r)
	}
	return out, err
}

// lastWay says that kept wraps of a project without key management can be opened through
// this role only; empty if there are none, or another role.
func lastWay(tx *store.Tx, r store.AccessRole) (string, error) {
	if r.Authorized.IsZero() {
		return "", nil
	}
	others, err := tx.Roles(r.Project)
	if err != nil {
		return "", err
	}
	for _, o := range others {
		if o.ID != r.ID && !o.Authorized.IsZero() {
			return "", nil
		}
	}
	wraps, err := tx.EscrowOfProject(r.Project)
	if err != nil {
		return "", err
	}
	if len(wraps) == 0 {
		return "", nil
	}
	return fmt.Sprintf("is the project's last way to the key that %d kept wraps of master keys are under", len(wraps)), nil
}

// Deauthorize removes a registration: GROUP_NOT_FOUND, USER_UNAUTHORIZED,
// CLOUD_PROVIDER_ACCESS_ROLE_NOT_FOUND, AWS_IAM_ROLE_IN_USE.
func (s *Service) Deauthorize(ctx context.Context, p tenant.Principal, project keys.ProjectID, id keys.RoleID) error {
	return s.st.Tx(ctx, func(tx *store.Tx) error {
		pr, err := tenant.RequireKeyOwner(tx, p, project)
		if err != nil {
			return err
		}
		r, err := find(tx, project, id)
		if err != nil {
			return err
		}
		if why := r.bound(); why != "" {
			return inUse(id, why, "switch the project's encryption at rest off or to another role, and wait until nothing is kept under the key any more")
		}
		if err := tx.DeleteRole(project, id); err != nil {
			return err
		}
		e := tenant.Event(p, "CLOUD_PROVIDER_ACCESS_AWS_IAM_ROLE_DELETED", pr, "The registration of AWS IAM role %s was removed.", r.ARN)
		e.Data["roleId"], e.Data["roleArn"] = string(id), r.ARN
		return tx.Append(e)
	})
}

func inUse(id keys.RoleID, why, remedy string) error {
	text := fmt.Sprintf("The role with ID %s %s; %s.", id, why, remedy)
	return apierr.BadRequest("AWS_IAM_ROLE_IN_USE", "%s", text).With(text)
}
