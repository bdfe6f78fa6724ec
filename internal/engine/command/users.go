package command

import (
	"bytes"
	"context"
	"crypto/rand"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/auth"
	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/replication"
	"github.com/keywright/keywright/internal/secret"
)

const (
	usersCollection   = "system.users"
	versionCollection = "system.version"
)

func userCommands() []command {
	fields := []string{"pwd", "customData", "roles", "mechanisms", "digestPassword", "authenticationRestrictions"}
	return []command{
		{name: "createUser", needs: userNeeds(auth.CreateUser), run: createUser, fields: fields, writes: true, firstSteps: true},
		{name: "updateUser", needs: userNeeds(auth.ChangeUser), run: updateUser, fields: fields, writes: true},
		{name: "dropUser", needs: onDatabase(auth.DropUser), run: dropUser, writes: true},
		{name: "usersInfo", run: usersInfo, fields: []string{
			"showCredentials", "showPrivileges", "showCustomData", "showAuthenticationRestrictions", "filter",
		}},
	}
}

// userSource reads users for auth.Users.
type userSource struct{ s *Server }

// User implements auth.Source.
func (u userSource) User(ctx context.Context, id string) (bson.Raw, error) {
	key, err := idKey(id)
	if err != nil {
		return nil, err
	}
	reader, err := u.s.cfg.Node.Store().Read(ctx, "admin")
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	coll, ok := reader.Collection(usersCollection)
	if !ok {
		return nil, nil
	}
	return coll.Get(key)
}

// HasUsers implements auth.Source.
func (u userSource) HasUsers(ctx context.Context) (bool, error) {
	reader, err := u.s.cfg.Node.Store().Read(ctx, "admin")
	if err != nil {
		return false, err
	}
	defer reader.Close()
	coll, ok := reader.Collection(usersCollection)
	if !ok {
		return false, nil
	}
	n, err := coll.Count()
	return n > 0, err
}

// userNeeds: whoever gives a role away must be allowed to, in the role's database.
func userNeeds(action auth.Action) func(*request) ([]need, error) {
	return func(req *request) ([]need, error) {
		needs := needAll(auth.Resource{DB: req.db}, []auth.Action{action})
		roles, err := parseRoles(req.params(), req.db)
		if err != nil {
			return nil, err
		}
		for _, r := range roles {
			needs = append(needs, need{action: auth.GrantRole, on: auth.Resource{DB: r.DB}})
		}
		if action == auth.ChangeUser {
			if _, ok := req.arg("roles"); ok { // it may take roles away, too
				needs = append(needs, need{action: auth.GrantRole, on: auth.Resource{DB: req.db}})
			}
		}
		return needs, nil
	}
}

// parseRoles reads roles; a plain name means the user's database. All must exist.
func parseRoles(p *params, db string) ([]auth.Role, error) {
	v, ok := p.value("roles")
	if !ok {
		return nil, nil
	}
	list, ok := v.ArrayOK()
	if !ok {
		p.wrong("roles", v, "array")
		return nil, p.err
	}
	values, err := list.Values()
	if err != nil || len(values) > 1000 {
		return nil, mongoerr.Of(mongoerr.BadValue, "roles is malformed or too long")
	}
	roles := make([]auth.Role, 0, len(values))
	for _, e := range values {
		r := auth.Role{DB: db}
		if name, ok := e.StringValueOK(); ok {
			r.Role = name
		} else if doc, ok := e.DocumentOK(); ok {
			sub := subParams("roles", doc, "role", "db")
			r.Role, r.DB = sub.str("role"), sub.str("db")
			if sub.err != nil {
				return nil, sub.err
			}
		} else {
			return nil, mongoerr.Of(mongoerr.BadValue, "a role must be a name or {role: name, db: database}")
		}
		if !r.Exists() {
			return nil, mongoerr.Of(mongoerr.RoleNotFound, "Could not find role: %s@%s", r.Role, r.DB)
		}
		roles = append(roles, r)
	}
	return roles, nil
}

// userName reads the user's name, the command's first field.
func (r *request) userName(p *params) string {
	name, ok := r.args[0].value.StringValueOK()
	switch {
	case !ok:
		p.wrong(r.cmd.name, r.args[0].value, "string")
	case name == "" || len(name) > 1024 || strings.ContainsRune(name, 0):
		p.fail(mongoerr.Of(mongoerr.BadValue, "User document needs 'user' field to be non-empty, and at most 1024 bytes long"))
	case r.db == "local" || r.db == "config":
		p.fail(mongoerr.Of(mongoerr.BadValue, "Cannot create or change users in the %s database", r.db))
	case r.db == "$external":
		p.fail(mongoerr.Of(mongoerr.NotImplemented, "users of $external are not supported by this engine yet"))
	}
	return name
}

func createUser(ctx context.Context, s *Server, req *request, user *auth.User) (*builder, error) {
	p := req.params()
	u := &auth.User{DB: req.db, Name: req.userName(p)}
	p.need("roles")
	p.need("pwd")
	if err := s.fill(u, p); err != nil {
		return nil, err
	}
	_, _ = rand.Read(u.UUID[:]) // never fails
	u.UUID[6], u.UUID[8] = u.UUID[6]&0x0f|0x40, u.UUID[8]&0x3f|0x80
	s.userChanges.Lock()
	defer s.userChanges.Unlock()
	if s.cfg.Auth && user == nil { // the exception for the first user, looked at again now that nobody else makes one
		if any, err := s.users.Any(ctx); err != nil || any {
			return nil, mongoerr.Of(mongoerr.Unauthorized, "Command createUser requires authentication")
		}
	}
	return nil, s.storeUser(ctx, req, u, false)
}

func updateUser(ctx context.Context, s *Server, req *request, _ *auth.User) (*builder, error) {
	p := req.params()
	name := req.userName(p)
	if p.err != nil {
		return nil, p.err
	}
	s.userChanges.Lock()
	defer s.userChanges.Unlock()
	old, err := s.users.Lookup(ctx, req.db, name)
	if err != nil {
		return nil, err
	}
	if old == nil {
		return nil, userNotFound(name, req.db)
	}
	u := *old
	if err := s.fill(&u, p); err != nil {
		return nil, err
	}
	return nil, s.storeUser(ctx, req, &u, true)
}

func userNotFound(name, db string) error {
	return mongoerr.Of(mongoerr.UserNotFound, "User '%s@%s' not found", name, db)
}

// fill sets what the command says about the user.
func (s *Server) fill(u *auth.User, p *params) error {
	if v, ok := p.value("authenticationRestrictions"); ok && len(v.Value) > 5 {
		p.fail(mongoerr.Of(mongoerr.NotImplemented, "authenticationRestrictions are not supported by this engine yet"))
	}
	if !p.boolean("digestPassword", true) {
		p.fail(mongoerr.Of(mongoerr.BadValue, "Use of SCRAM-SHA-256 requires undigested passwords: digestPassword must be true"))
	}
	mechanisms := p.strings("mechanisms")
	password := p.str("pwd")
	if data := p.doc("customData"); data != nil {
		u.CustomData = append(bson.Raw(nil), data...)
	}
	if p.err != nil {
		return p.err
	}
	if p.has("roles") {
		roles, err := parseRoles(p, u.DB)
		if err != nil {
			return err
		}
		u.Roles = roles
	}
	if p.has("mechanisms") && len(mechanisms) == 0 {
		return mongoerr.Of(mongoerr.BadValue, "mechanisms field must not be empty")
	}
	if !p.has("pwd") {
		return narrow(u, mechanisms)
	}
	if mechanisms == nil {
		mechanisms = []string{string(auth.ScramSHA1), string(auth.ScramSHA256)}
	}
	secretText := secret.FromString(password)
	defer secretText.Wipe()
	u.Credentials = map[auth.Mechanism]auth.Credentials{}
	for _, name := range mechanisms {
		m := auth.Mechanism(name)
		if !m.Known() {
			return mongoerr.Of(mongoerr.BadValue, "Unknown auth mechanism '%.32s'", name)
		}
		c, err := auth.NewCredentials(m, u.Name, secretText)
		if err != nil {
			return mongoerr.Of(mongoerr.BadValue, "%s", auth.ErrPassword.Error())
		}
		u.Credentials[m] = c
	}
	return nil
}

// narrow leaves an account only some of the mechanisms that it has.
func narrow(u *auth.User, mechanisms []string) error {
	if len(mechanisms) == 0 {
		return nil
	}
	kept := map[auth.Mechanism]auth.Credentials{}
	for _, name := range mechanisms {
		c, ok := u.Credentials[auth.Mechanism(name)]
		if !ok {
			return mongoerr.Of(mongoerr.BadValue, "mechanisms field must be a subset of previously set mechanisms")
		}
		kept[auth.Mechanism(name)] = c
	}
	u.Credentials = kept
	return nil
}

// storeUser writes the account, in place of the old one if there must be one.
func (s *Server) storeUser(ctx context.Context, req *request, u *auth.User, exists bool) error {
	doc, err := u.Document()
	if err != nil {
		return err
	}
	if err := index.Validate(doc); err != nil {
		return err
	}
	key, err := idKey(u.ID())
	if err != nil {
		return err
	}
	return s.changeUsers(ctx, req, func(tx *replication.Tx) error {
		old, err := tx.Lock(usersCollection, key)
		switch {
		case err != nil:
			return err
		case exists && old == nil:
			return userNotFound(u.Name, u.DB)
		case exists:
			return tx.Replace(usersCollection, key, doc)
		case old != nil:
			return mongoerr.Of(mongoerr.UserExists, "User \"%s@%s\" already exists", u.Name, u.DB)
		}
		if err := describeVersions(tx); err != nil {
			return err
		}
		return tx.Insert(usersCollection, doc)
	})
}

// describeVersions makes the documents that tools look for before they dump or
// restore users.
func describeVersions(tx *replication.Tx) error {
	for _, d := range []bson.Raw{
		newDoc().str("_id", "authSchema").int32("currentVersion", 5).done(),
		newDoc().str("_id", "featureCompatibilityVersion").str("version", "7.0").done(),
	} {
		key, err := index.EncodeID(d.Lookup("_id"))
		if err != nil {
			return err
		}
		have, err := tx.Lock(versionCollection, key)
		if err != nil {
			return err
		}
		if have == nil {
			if err := tx.Insert(versionCollection, d); err != nil {
				return err
			}
		}
	}
	return nil
}

// changeUsers writes to admin and makes the change felt everywhere before it
// returns.
func (s *Server) changeUsers(ctx context.Context, req *request, fn func(tx *replication.Tx) error) error {
	defer s.users.Invalidate()
	optime, err := s.cfg.Node.Write(context.WithoutCancel(ctx), replication.WriteOptions{DB: "admin"}, func(w *replication.Writer) error {
		_, _, err := w.Do(0, func(tx *replication.Tx) (bson.Raw, error) { return nil, fn(tx) })
		return err
	})
	if err != nil {
		return err
	}
	req.wrote, req.optime = true, optime.Timestamp
	return nil
}

func dropUser(ctx context.Context, s *Server, req *request, _ *auth.User) (*builder, error) {
	p := req.params()
	name := req.userName(p)
	if p.err != nil {
		return nil, p.err
	}
	key, err := idKey(auth.UserID(req.db, name))
	if err != nil {
		return nil, err
	}
	s.userChanges.Lock()
	defer s.userChanges.Unlock()
	var account []byte
	err = s.changeUsers(ctx, req, func(tx *replication.Tx) error {
		old, err := tx.Lock(usersCollection, key)
		if err != nil {
			return err
		}
		if have, ok := old.Lookup("user").StringValueOK(); old == nil || !ok || have != name {
			return userNotFound(name, req.db)
		}
		_, account, _ = old.Lookup("userId").BinaryOK()
		return tx.Delete(usersCollection, key)
	})
	if err == nil {
		s.cursors.kill(func(c *cursor) bool { return bytes.Equal(c.owner.account[:], account) })
	}
	return nil, err
}
