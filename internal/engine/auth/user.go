package auth

import (
	"encoding/base64"
	"fmt"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// User is one account. A User that Users gave out is shared and must not be
// changed.
type User struct {
	// UUID stays with the account for its life; an account of the same name that
	// is made later has another one.
	UUID [16]byte
	// DB is the database that the account belongs to, which is part of its name.
	DB   string
	Name string
	// Credentials are kept for each mechanism that the account may use.
	Credentials map[Mechanism]Credentials
	Roles       []Role
	// CustomData is for clients only; nil if there is none.
	CustomData bson.Raw
}

// UserID is the _id of an account in admin.system.users.
func UserID(db, name string) string { return db + "." + name }

// ID is the account's _id in admin.system.users.
func (u *User) ID() string { return UserID(u.DB, u.Name) }

// Mechanisms are those that the account has credentials for.
func (u *User) Mechanisms() []Mechanism {
	var out []Mechanism
	for _, m := range Mechanisms() {
		if _, ok := u.Credentials[m]; ok {
			out = append(out, m)
		}
	}
	return out
}

type storedUser struct {
	ID          string                       `bson:"_id"`
	UserID      bson.Binary                  `bson:"userId"`
	User        string                       `bson:"user"`
	DB          string                       `bson:"db"`
	Credentials map[string]storedCredentials `bson:"credentials,omitempty"`
	CustomData  bson.Raw                     `bson:"customData,omitempty"`
	Roles       []Role                       `bson:"roles"`
}

type storedCredentials struct {
	IterationCount int32  `bson:"iterationCount"`
	Salt           string `bson:"salt"`
	StoredKey      string `bson:"storedKey"`
	ServerKey      string `bson:"serverKey"`
}

const subtypeUUID = 4

// Document gives the account in the shape of admin.system.users, which is the
// shape that dumps of MongoDB hold.
func (u *User) Document() (bson.Raw, error) {
	s := storedUser{
		ID: u.ID(), UserID: bson.Binary{Subtype: subtypeUUID, Data: u.UUID[:]}, User: u.Name, DB: u.DB,
		Credentials: map[string]storedCredentials{}, CustomData: u.CustomData, Roles: u.Roles,
	}
	if s.Roles == nil {
		s.Roles = []Role{}
	}
	enc := base64.StdEncoding.EncodeToString
	for m, c := range u.Credentials {
		s.Credentials[string(m)] = storedCredentials{
			IterationCount: int32(c.Iterations), //nolint:gosec // checked to be small when read, fixed when made
			Salt:           enc(c.Salt), StoredKey: enc(c.StoredKey), ServerKey: enc(c.ServerKey),
		}
	}
	doc, err := bson.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode user: %w", err)
	}
	return doc, nil
}

// ParseUser reads a document of admin.system.users. Credentials of mechanisms
// that do not exist here are left out; damaged ones are an error.
func ParseUser(doc bson.Raw) (*User, error) {
	var s storedUser
	if err := bson.Unmarshal(doc, &s); err != nil {
		return nil, fmt.Errorf("read user: %w", err)
	}
	u := &User{DB: s.DB, Name: s.User, Roles: s.Roles, CustomData: s.CustomData, Credentials: map[Mechanism]Credentials{}}
	copy(u.UUID[:], s.UserID.Data)
	if s.ID != u.ID() {
		return nil, fmt.Errorf("read user: its _id does not fit its name and database")
	}
	for name, sc := range s.Credentials {
		m := Mechanism(name)
		if !m.Known() {
			continue
		}
		c := Credentials{Iterations: int(sc.IterationCount)}
		for _, f := range []struct {
			to   *[]byte
			from string
		}{{&c.Salt, sc.Salt}, {&c.StoredKey, sc.StoredKey}, {&c.ServerKey, sc.ServerKey}} {
			b, err := base64.StdEncoding.DecodeString(f.from)
			if err != nil {
				return nil, fmt.Errorf("read user: %s credentials are not base64", m)
			}
			*f.to = b
		}
		if err := c.check(m); err != nil {
			return nil, fmt.Errorf("read user: %w", err)
		}
		u.Credentials[m] = c
	}
	return u, nil
}
