package tenant

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/store"
)

const maxUsers = 100

// UserPatch changes what is not nil. An empty Password keeps the old one.
type UserPatch struct {
	Roles       *[]store.DatabaseRole
	Scopes      *[]store.Scope
	Labels      *[]store.Tag
	Description *string
	DeleteAfter *time.Time
	Password    secret.Bytes
}

// CreateUser makes a database user, who then exists on every cluster of the
// project (or those that Scopes name). GROUP_NOT_FOUND, USER_UNAUTHORIZED,
// INVALID_ATTRIBUTE, USER_ALREADY_EXISTS.
func (s *Service) CreateUser(ctx context.Context, p Principal, u store.DatabaseUser, password secret.Bytes) (out store.DatabaseUser, err error) {
	if err := checkUser(u); err != nil {
		return store.DatabaseUser{}, err
	}
	if err := checkPassword(password); err != nil {
		return store.DatabaseUser{}, err
	}
	err = s.st.Tx(ctx, func(tx *store.Tx) error {
		project, err := Require(tx, p, GroupDatabaseAccessAdmin, u.Project)
		if err != nil {
			return err
		}
		have, err := tx.Users(u.Project)
		if err != nil {
			return err
		}
		if len(have) >= maxUsers {
			return apierr.Conflict("MAX_DATABASE_USERS_REACHED", "The project has %d database users; that is the most.", len(have))
		}
		out = u
		out.Created, out.Revision = tx.Now(), nextRevision(have)
		err = tx.AddUser(out, password)
		if errors.Is(err, store.ErrDuplicate) {
			return apierr.Conflict("USER_ALREADY_EXISTS", "A user with username %s on database %s already exists.", u.Username, u.Database).With(u.Username)
		}
		if err != nil {
			return err
		}
		e := Event(p, "MONGODB_USER_ADDED", project, "Database user %s was added.", u.Username)
		e.Data["dbUserUsername"] = u.Username
		return tx.Append(e)
	})
	return out, err
}

// nextRevision gives a revision above all others of the project: agents report the
// highest that they have carried out. A clock makes it grow over deletions too.
func nextRevision(have []store.DatabaseUser) uint64 {
	next := uint64(time.Now().UnixMicro())
	for _, u := range have {
		next = max(next, u.Revision+1)
	}
	return next
}

func checkUser(u store.DatabaseUser) error {
	bad := func(field, what string) error {
		return apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute %s specified: %s.", field, what).With(field)
	}
	switch {
	case u.Database != "admin":
		return bad("databaseName", `database users authenticate with a password against "admin"; "$external" is not supported`)
	case u.Username == "" || len(u.Username) > 1024 || strings.ContainsRune(u.Username, 0):
		return bad("username", "1 to 1024 characters are expected")
	case len(u.Roles) == 0 || len(u.Roles) > 100:
		return bad("roles", "1 to 100 roles are expected")
	case len(u.Description) > 100:
		return bad("description", "at most 100 characters are possible")
	case len(u.Scopes) > 100:
		return bad("scopes", "at most 100 are possible")
	}
	for _, r := range u.Roles {
		if r.Role == "" || r.Database == "" || len(r.Role) > 255 || len(r.Database) > 64 {
			return bad("roles", "every role needs roleName and databaseName")
		}
	}
	for _, sc := range u.Scopes {
		if sc.Name == "" || !slices.Contains([]string{"CLUSTER", "DATA_LAKE", "STREAM"}, sc.Type) {
			return bad("scopes", "every scope needs a name and the type CLUSTER")
		}
	}
	return CheckTags(u.Labels)
}

func checkPassword(pw secret.Bytes) error {
	if pw.Len() < 8 || pw.Len() > 256 {
		return apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute password specified: 8 to 256 characters are expected.").With("password")
	}
	return nil
}

// Users lists a project's database users: GROUP_NOT_FOUND.
func (s *Service) Users(ctx context.Context, p Principal, id keys.ProjectID) (out []store.DatabaseUser, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		if _, err := Require(tx, p, GroupReadOnly, id); err != nil {
			return err
		}
		out, err = tx.Users(id)
		return err
	})
	return out, err
}

// User gives a database user: GROUP_NOT_FOUND, USERNAME_NOT_FOUND.
func (s *Service) User(ctx context.Context, p Principal, id keys.ProjectID, database, username string) (out store.DatabaseUser, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		if _, err := Require(tx, p, GroupReadOnly, id); err != nil {
			return err
		}
		out, err = user(tx, id, database, username)
		return err
	})
	return out, err
}

func user(tx *store.Tx, id keys.ProjectID, database, username string) (store.DatabaseUser, error) {
	u, err := tx.User(id, database, username)
	if isNotFound(err) {
		return u, apierr.NotFound("USERNAME_NOT_FOUND", "No user with username %s exists.", username).With(username)
	}
	return u, err
}

// UpdateUser changes a database user: GROUP_NOT_FOUND, USER_UNAUTHORIZED,
// USERNAME_NOT_FOUND, INVALID_ATTRIBUTE.
func (s *Service) UpdateUser(ctx context.Context, p Principal, id keys.ProjectID, database, username string, in UserPatch) (out store.DatabaseUser, err error) {
	err = s.st.Tx(ctx, func(tx *store.Tx) error {
		project, err := Require(tx, p, GroupDatabaseAccessAdmin, id)
		if err != nil {
			return err
		}
		if out, err = user(tx, id, database, username); err != nil {
			return err
		}
		set(&out.Roles, in.Roles)
		set(&out.Scopes, in.Scopes)
		set(&out.Labels, in.Labels)
		set(&out.Description, in.Description)
		set(&out.DeleteAfter, in.DeleteAfter)
		if err := checkUser(out); err != nil {
			return err
		}
		if !in.Password.IsEmpty() {
			if err := checkPassword(in.Password); err != nil {
				return err
			}
		}
		have, err := tx.Users(id)
		if err != nil {
			return err
		}
		out.Revision = nextRevision(have)
		if err := tx.UpdateUser(out, in.Password); err != nil {
			return err
		}
		e := Event(p, "MONGODB_USER_UPDATED", project, "Database user %s was changed.", username)
		e.Data["dbUserUsername"] = username
		return tx.Append(e)
	})
	return out, err
}

// DeleteUser removes a database user from the project and all its clusters.
func (s *Service) DeleteUser(ctx context.Context, p Principal, id keys.ProjectID, database, username string) error {
	return s.st.Tx(ctx, func(tx *store.Tx) error {
		project, err := Require(tx, p, GroupDatabaseAccessAdmin, id)
		if err != nil {
			return err
		}
		if _, err := user(tx, id, database, username); err != nil {
			return err
		}
		if err := tx.DeleteUser(id, database, username); err != nil {
			return err
		}
		e := Event(p, "MONGODB_USER_DELETED", project, "Database user %s was deleted.", username)
		e.Data["dbUserUsername"] = username
		return tx.Append(e)
	})
}
