package tenant

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/store"
)

// maxPeople is how many people an organization may have.
const maxPeople = 500

var usernamePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._@+-]{0,127}$`)

// NewPerson is the wish for a person.
type NewPerson struct {
	// Username is lower case: letters, digits and ._@+-.
	Username string
	Password secret.Bytes
	OrgRoles []Role
}

// CreatePerson makes a person who may sign in: ORG_NOT_FOUND, USER_UNAUTHORIZED,
// INVALID_ATTRIBUTE, INVALID_ENUM_VALUE, USER_ALREADY_EXISTS.
func (s *Service) CreatePerson(ctx context.Context, p Principal, org keys.OrgID, in NewPerson) (out store.Person, err error) {
	hash, roles, err := in.check()
	if err != nil {
		return store.Person{}, err
	}
	err = s.st.Tx(ctx, func(tx *store.Tx) error {
		if _, err := RequireOrg(tx, p, OrgOwner, org); err != nil {
			return err
		}
		out, err = addPerson(tx, p, org, in.Username, roles, hash)
		return err
	})
	return out, err
}

func (in NewPerson) check() (hash secret.Bytes, roles []string, err error) {
	if !usernamePattern.MatchString(in.Username) {
		return hash, nil, apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute username specified: 1 to 128 lower-case letters, digits and ._@+- are expected.").With("username")
	}
	if err := checkPersonPassword(in.Password); err != nil {
		return hash, nil, err
	}
	if roles, err = fromRoles(in.OrgRoles, orgRoles, "an organization"); err != nil {
		return hash, nil, err
	}
	return hashPassword(in.Password), roles, nil
}

func addPerson(tx *store.Tx, p Principal, org keys.OrgID, username string, roles []string, hash secret.Bytes) (store.Person, error) {
	have, err := tx.People(org)
	if err != nil {
		return store.Person{}, err
	}
	if len(have) >= maxPeople {
		return store.Person{}, apierr.Conflict("MAX_USERS_REACHED", "The organization has %d people; that is the most.", len(have))
	}
	now := tx.Now()
	out := store.Person{ID: keys.NewID(now), Org: org, Username: username, OrgRoles: roles, Created: now}
	err = tx.AddPerson(out, hash)
	if errors.Is(err, store.ErrDuplicate) {
		return store.Person{}, apierr.Conflict("USER_ALREADY_EXISTS", "A person with username %s already exists.", username).With(username)
	}
	if err != nil {
		return store.Person{}, err
	}
	e := event(p, "USER_CREATED", org, "%s may sign in.", username)
	e.Data["targetUsername"] = username
	return out, tx.Append(e)
}

// AssignPerson sets a person's roles in a project; none takes them out of it. An
// Organization Owner adds themselves to a project in this way. GROUP_NOT_FOUND,
// USER_UNAUTHORIZED, INVALID_ENUM_VALUE, USER_NOT_FOUND.
func (s *Service) AssignPerson(ctx context.Context, p Principal, id keys.ProjectID, username string, roles []Role) (out store.Person, err error) {
	names, err := fromRoles(roles, groupRoles, "a project")
	if err != nil {
		return store.Person{}, err
	}
	err = s.st.Tx(ctx, func(tx *store.Tx) error {
		project, err := Require(tx, p, GroupOwner, id)
		if err != nil {
			return err
		}
		who, hash, err := tx.PersonByName(username)
		hash.Wipe()
		if isNotFound(err) || (err == nil && who.Org != project.Org) {
			return apierr.NotFound("USER_NOT_FOUND", "No person with username %s exists in this organization.", username).With(username)
		}
		if err != nil {
			return err
		}
		if err := tx.GrantPerson(who.ID, id, names); err != nil {
			return err
		}
		if out, err = tx.Person(who.ID); err != nil {
			return err
		}
		e := Event(p, "USER_ROLES_CHANGED", project, "%s has the roles %s in project %s.", username, strings.Join(names, ", "), project.Name)
		e.Data["targetUsername"] = username
		return tx.Append(e)
	})
	return out, err
}

// People lists the people of an organization: ORG_NOT_FOUND, USER_UNAUTHORIZED.
func (s *Service) People(ctx context.Context, p Principal, org keys.OrgID) (out []store.Person, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		if _, err := RequireOrg(tx, p, OrgReadOnly, org); err != nil {
			return err
		}
		out, err = tx.People(org)
		return err
	})
	return out, err
}

// ownerPerson makes the person of Init, with Organization Owner, in the first
// organization if it has nobody yet.
func ownerPerson(tx *store.Tx, org keys.OrgID, in Init, hash secret.Bytes) error {
	have, err := tx.People(org)
	if err != nil || len(have) > 0 {
		return err
	}
	_, err = addPerson(tx, System(), org, in.Username, []string{string(OrgOwner)}, hash)
	return err
}

func principalOfPerson(x store.Person) Principal {
	p := Principal{
		Name: "user:" + x.Username, PersonID: x.ID, Username: x.Username, Org: x.Org,
		OrgRoles: toRoles(x.OrgRoles), ProjectRoles: map[keys.ProjectID][]Role{},
	}
	for id, r := range x.ProjectRoles {
		p.ProjectRoles[id] = slices.Clone(toRoles(r))
	}
	return p
}
