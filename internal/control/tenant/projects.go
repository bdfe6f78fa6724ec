package tenant

import (
	"context"
	"errors"
	"slices"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// maxProjects is how many projects an organization may have.
const maxProjects = 20_000

// NewProject is the wish for a project.
type NewProject struct {
	Name          string
	Org           keys.OrgID
	Tags          []store.Tag
	DefaultAlerts *bool
}

// ProjectPatch changes what is not nil.
type ProjectPatch struct {
	Name          *string
	Tags          *[]store.Tag
	DefaultAlerts *bool
	ManagedSlowMs *bool
	// Settings sets the flags that it names and leaves the others.
	Settings map[string]bool
}

// CreateProject makes a project. The API key or person that makes it becomes its
// Project Owner. ORG_NOT_FOUND, USER_UNAUTHORIZED, INVALID_ATTRIBUTE, GROUP_ALREADY_EXISTS.
func (s *Service) CreateProject(ctx context.Context, p Principal, in NewProject) (out store.Project, err error) {
	if err := checkProjectName(in.Name); err != nil {
		return store.Project{}, err
	}
	if err := CheckTags(in.Tags); err != nil {
		return store.Project{}, err
	}
	err = s.st.Tx(ctx, func(tx *store.Tx) error {
		if _, err := RequireOrg(tx, p, OrgGroupCreator, in.Org); err != nil {
			return err
		}
		have, err := tx.CountProjects(in.Org)
		if err != nil {
			return err
		}
		if have >= maxProjects {
			return apierr.Conflict("MAX_GROUPS_REACHED", "The organization has %d projects; that is the most.", have)
		}
		now := tx.Now()
		out = store.Project{
			ID: keys.ProjectID(keys.NewID(now)), Org: in.Org, Name: in.Name, Created: now, Tags: in.Tags,
			DefaultAlerts: in.DefaultAlerts == nil || *in.DefaultAlerts, ManagedSlowMs: true,
		}
		if err := addProject(tx, out); err != nil {
			return err
		}
		if p.KeyID != "" {
			if err := tx.GrantProject(p.KeyID, out.ID, []string{string(GroupOwner)}); err != nil {
				return err
			}
		}
		if p.PersonID != "" {
			if err := tx.GrantPerson(p.PersonID, out.ID, []string{string(GroupOwner)}); err != nil {
				return err
			}
		}
		return tx.Append(Event(p, "GROUP_CREATED", out, "Project %s was created.", out.Name))
	})
	return out, err
}

func addProject(tx *store.Tx, p store.Project) error {
	return duplicateProject(tx.AddProject(p), p.Name)
}

func duplicateProject(err error, name string) error {
	if errors.Is(err, store.ErrDuplicate) {
		return apierr.Conflict("GROUP_ALREADY_EXISTS", "A group with name %q already exists.", name).With(name)
	}
	return err
}

func checkProjectName(name string) error {
	if !namePattern.MatchString(name) {
		return apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute name specified: a project's name has 1 to 64 letters, digits and the characters -_.(),:&@+'.").With("name")
	}
	return nil
}

// CheckTags refuses tags (or labels) that are too long or too many.
func CheckTags(tags []store.Tag) error {
	if len(tags) > 50 {
		return apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute tags specified: at most 50 are possible.").With("tags")
	}
	for _, t := range tags {
		if t.Key == "" || len(t.Key) > 255 || len(t.Value) > 255 {
			return apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute tags specified: key and value have 1 to 255 characters.").With("tags")
		}
	}
	return nil
}

// Projects lists the projects that the principal may read, oldest first; those of
// one organization unless org is "".
func (s *Service) Projects(ctx context.Context, p Principal, org keys.OrgID) (out []store.Project, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		if org != "" {
			if _, err := RequireOrg(tx, p, OrgMember, org); err != nil {
				return err
			}
		}
		all, err := tx.Projects(org)
		out = slices.DeleteFunc(all, func(x store.Project) bool { return !p.Can(GroupReadOnly, x) })
		return err
	})
	return out, err
}

// Project gives a project: GROUP_NOT_FOUND.
func (s *Service) Project(ctx context.Context, p Principal, id keys.ProjectID) (out store.Project, err error) {
	return s.ProjectFor(ctx, p, GroupReadOnly, id)
}

// ProjectFor gives a project that the principal may act in: GROUP_NOT_FOUND,
// USER_UNAUTHORIZED.
func (s *Service) ProjectFor(ctx context.Context, p Principal, role Role, id keys.ProjectID) (out store.Project, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		out, err = Require(tx, p, role, id)
		return err
	})
	return out, err
}

// ProjectByName gives the project of a name that the principal may read:
// GROUP_NAME_NOT_FOUND.
func (s *Service) ProjectByName(ctx context.Context, p Principal, name string) (out store.Project, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		all, err := tx.ProjectsNamed(name)
		if err != nil {
			return err
		}
		for _, x := range all {
			if p.Can(GroupReadOnly, x) {
				out = x
				return nil
			}
		}
		return apierr.NotFound("GROUP_NAME_NOT_FOUND", "No group with name %q exists.", name).With(name)
	})
	return out, err
}

// UpdateProject changes a project: GROUP_NOT_FOUND, USER_UNAUTHORIZED,
// INVALID_ATTRIBUTE, GROUP_ALREADY_EXISTS.
func (s *Service) UpdateProject(ctx context.Context, p Principal, id keys.ProjectID, in ProjectPatch) (out store.Project, err error) {
	if in.Name != nil {
		if err := checkProjectName(*in.Name); err != nil {
			return store.Project{}, err
		}
	}
	if in.Tags != nil {
		if err := CheckTags(*in.Tags); err != nil {
			return store.Project{}, err
		}
	}
	err = s.st.Tx(ctx, func(tx *store.Tx) error {
		old, err := Require(tx, p, GroupOwner, id)
		if err != nil {
			return err
		}
		out = old
		set(&out.Name, in.Name)
		set(&out.Tags, in.Tags)
		set(&out.DefaultAlerts, in.DefaultAlerts)
		set(&out.ManagedSlowMs, in.ManagedSlowMs)
		if len(in.Settings) > 0 {
			merged := map[string]bool{}
			for k, v := range old.Settings {
				merged[k] = v
			}
			for k, v := range in.Settings {
				merged[k] = v
			}
			out.Settings = merged
		}
		if err := duplicateProject(tx.UpdateProject(out), out.Name); err != nil {
			return err
		}
		if out.Name != old.Name {
			return tx.Append(Event(p, "GROUP_NAME_CHANGED", out, "Project %s was renamed to %s.", old.Name, out.Name))
		}
		return tx.Append(Event(p, "GROUP_UPDATED", out, "Settings of project %s were changed.", out.Name))
	})
	return out, err
}

func set[T any](into *T, v *T) {
	if v != nil {
		*into = *v
	}
}

// DeleteProject removes a project that has no clusters: GROUP_NOT_FOUND,
// USER_UNAUTHORIZED, CANNOT_CLOSE_GROUP_ACTIVE_ATLAS_CLUSTERS.
func (s *Service) DeleteProject(ctx context.Context, p Principal, id keys.ProjectID) error {
	return s.st.Tx(ctx, func(tx *store.Tx) error {
		project, err := Require(tx, p, GroupOwner, id)
		if err != nil {
			return err
		}
		if project.Clusters > 0 {
			return apierr.Conflict("CANNOT_CLOSE_GROUP_ACTIVE_ATLAS_CLUSTERS", "Cannot close group while it has active clusters; please terminate all clusters.")
		}
		if err := tx.DeleteProject(id); err != nil {
			return err
		}
		// The project's own events can be read no more: this one is the organization's.
		e := event(p, "GROUP_DELETED", project.Org, "Project %s was deleted.", project.Name)
		e.Data["groupId"] = string(id)
		return tx.Append(e)
	})
}
