package command

import (
	"context"
	"fmt"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/auth"
	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/query"
)

// wantedUser is one user that usersInfo asks for.
type wantedUser struct{ name, db string }

func usersInfo(ctx context.Context, s *Server, req *request, user *auth.User) (*builder, error) {
	p := req.params()
	p.refuse("showCredentials", "showPrivileges")
	p.boolean("showCustomData", true)
	filterDoc := p.doc("filter")
	if p.err != nil {
		return nil, p.err
	}
	wanted, allDBs, all, err := wantedUsers(req)
	if err != nil {
		return nil, err
	}
	if err := mayViewUsers(s, user, req, wanted, allDBs, all); err != nil {
		return nil, err
	}
	filter, err := query.ParseFilter(filterDoc)
	if err != nil {
		return nil, err
	}
	reader, err := s.cfg.Node.Store().Read(ctx, "admin")
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	out := newArray()
	coll, ok := reader.Collection(usersCollection)
	if !ok {
		return newDoc().array("users", out), nil
	}
	it := coll.Scan(index.Bound{}, false)
	defer func() { _ = it.Close() }()
	for it.Next() {
		doc, err := it.Doc()
		if err != nil {
			return nil, err
		}
		u, err := auth.ParseUser(doc)
		if err != nil {
			return nil, fmt.Errorf("list users: %w", err)
		}
		if !allDBs && (!all || u.DB != req.db) && !containsUser(wanted, u) {
			continue
		}
		shown := showUser(u, p.boolean("showCustomData", true))
		if ok, err := filter.Match(shown); err != nil {
			return nil, err
		} else if ok && out.size() < maxBatchBytes {
			out.doc(shown)
		}
	}
	return newDoc().array("users", out), it.Err()
}

func containsUser(list []wantedUser, u *auth.User) bool {
	for _, w := range list {
		if w.name == u.Name && w.db == u.DB {
			return true
		}
	}
	return false
}

func wantedUsers(req *request) (list []wantedUser, allDBs, all bool, err error) {
	bad := mongoerr.Of(mongoerr.BadValue, "usersInfo must be 1, a user's name, {user: name, db: database}, {forAllDBs: true}, or a list of users")
	one := func(v bson.RawValue) bool {
		if name, ok := v.StringValueOK(); ok {
			list = append(list, wantedUser{name: name, db: req.db})
			return true
		}
		doc, ok := v.DocumentOK()
		if !ok {
			return false
		}
		p := subParams("usersInfo", doc, "user", "db")
		w := wantedUser{name: p.str("user"), db: p.str("db")}
		list = append(list, w)
		return p.err == nil && w.name != "" && w.db != ""
	}
	v := req.args[0].value
	if n, ok := wholeNumber(v); ok && n == 1 {
		return nil, false, true, nil
	}
	if doc, ok := v.DocumentOK(); ok {
		if yes, ok := doc.Lookup("forAllDBs").BooleanOK(); ok && yes {
			return nil, true, false, nil
		}
	}
	if arr, ok := v.ArrayOK(); ok {
		values, err := arr.Values()
		if err != nil || len(values) > 1000 {
			return nil, false, false, bad
		}
		for _, e := range values {
			if !one(e) {
				return nil, false, false, bad
			}
		}
		return list, false, false, nil
	}
	if !one(v) {
		return nil, false, false, bad
	}
	return list, false, false, nil
}

// mayViewUsers: everybody sees themselves, others need viewUser.
func mayViewUsers(s *Server, user *auth.User, req *request, wanted []wantedUser, allDBs, all bool) error {
	if !s.cfg.Auth {
		return nil
	}
	var dbs []string
	switch {
	case allDBs:
		dbs = []string{"admin"}
		if !auth.Allowed(user.Roles, auth.ViewUser, auth.Resource{DB: "any other"}) {
			return notAuthorized(req)
		}
	case all:
		dbs = []string{req.db}
	}
	for _, w := range wanted {
		if w.name != user.Name || w.db != user.DB {
			dbs = append(dbs, w.db)
		}
	}
	for _, db := range dbs {
		if !auth.Allowed(user.Roles, auth.ViewUser, auth.Resource{DB: db}) {
			return notAuthorized(req)
		}
	}
	return nil
}

func showUser(u *auth.User, custom bool) bson.Raw {
	roles := newArray()
	for _, r := range u.Roles {
		roles.doc(newDoc().str("role", r.Role).str("db", r.DB).done())
	}
	var mechanisms []string
	for _, m := range u.Mechanisms() {
		mechanisms = append(mechanisms, string(m))
	}
	out := newDoc().str("_id", u.ID()).binary("userId", 4, u.UUID[:]).str("user", u.Name).str("db", u.DB)
	if custom && u.CustomData != nil {
		out.doc("customData", u.CustomData)
	}
	return out.array("roles", roles).strs("mechanisms", mechanisms).done()
}
