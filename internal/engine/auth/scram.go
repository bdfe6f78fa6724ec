package auth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"

	"github.com/xdg-go/scram"

	"github.com/keywright/keywright/internal/secret"
)

// ErrFailed is the one answer to every login that does not succeed.
var ErrFailed = errors.New("authentication failed")

// ErrMechanism is returned for mechanisms that do not exist here.
var ErrMechanism = errors.New("authentication mechanism is not supported")

// maxPayload bounds a SCRAM message: two names and two nonces.
const maxPayload = 4096

// Authenticator starts conversations. Safe for concurrent use.
type Authenticator struct {
	users *Users
	// salts makes up the salts of users that do not exist.
	salts func() secret.Bytes
}

// NewAuthenticator makes an authenticator. salts gives a secret that stays the
// same for the life of the data, so that the made-up salt of a name does.
func NewAuthenticator(users *Users, salts func() secret.Bytes) *Authenticator {
	return &Authenticator{users: users, salts: salts}
}

// Conversation is one login on one connection. It is not safe for concurrent use.
type Conversation struct {
	server    *scram.ServerConversation
	user      *User // nil: the login will fail at the end
	db        string
	skipEmpty bool
	proven    bool
	done      bool
}

// Start takes the client's first message and gives the server's. skipEmpty says
// that the client ends with the server's last message. Errors are ErrMechanism,
// ErrFailed, or those of the users' source.
func (a *Authenticator) Start(ctx context.Context, db string, m Mechanism, payload []byte, skipEmpty bool) (*Conversation, []byte, error) {
	if !m.Known() {
		return nil, nil, ErrMechanism
	}
	c := &Conversation{db: db, skipEmpty: skipEmpty}
	var lookupErr error
	server, err := m.hash().NewServer(func(name string) (scram.StoredCredentials, error) {
		user, err := a.users.Lookup(ctx, db, name)
		if err != nil {
			lookupErr = err
			return scram.StoredCredentials{}, err
		}
		if user != nil {
			if cred, ok := user.Credentials[m]; ok {
				c.user = user
				return scram.StoredCredentials{
					KeyFactors: scram.KeyFactors{Salt: string(cred.Salt), Iters: cred.Iterations},
					StoredKey:  cred.StoredKey, ServerKey: cred.ServerKey,
				}, nil
			}
		}
		return a.madeUp(m, db, name), nil
	})
	if err != nil {
		return nil, nil, ErrFailed
	}
	c.server = server.NewConversation()
	if len(payload) > maxPayload {
		return nil, nil, ErrFailed
	}
	reply, err := c.server.Step(string(payload))
	if lookupErr != nil {
		return nil, nil, lookupErr
	}
	if err != nil {
		return nil, nil, ErrFailed
	}
	if z := c.server.AuthzID(); z != "" && z != c.server.Username() {
		return nil, nil, ErrFailed // acting for somebody else does not exist
	}
	return c, []byte(reply), nil
}

// madeUp gives credentials that nobody has the password of, with a salt that
// does not change, as that of a real user would not.
func (a *Authenticator) madeUp(m Mechanism, db, name string) scram.StoredCredentials {
	derive := func(label string) []byte {
		mac := hmac.New(sha256.New, a.salts().Reveal())
		for _, part := range []string{label, string(m), db, name} {
			_, _ = mac.Write([]byte(part))
			_, _ = mac.Write([]byte{0})
		}
		return mac.Sum(nil)
	}
	return scram.StoredCredentials{
		KeyFactors: scram.KeyFactors{Salt: string(derive("salt")[:m.saltSize()]), Iters: m.iterations()},
		StoredKey:  derive("stored")[:m.keySize()], ServerKey: derive("server")[:m.keySize()],
	}
}

// Step takes the client's next message and gives the server's; done tells that
// the login succeeded and the conversation is over. The error is ErrFailed, and
// ends the conversation.
func (c *Conversation) Step(payload []byte) (reply []byte, done bool, err error) {
	if c.done || len(payload) > maxPayload {
		return nil, false, ErrFailed
	}
	if c.proven { // the empty exchange
		c.done = true
		if len(payload) > 0 {
			return nil, false, ErrFailed
		}
		return nil, true, nil
	}
	text, err := c.server.Step(string(payload))
	if err != nil || !c.server.Valid() || c.user == nil {
		c.done = true
		return nil, false, ErrFailed
	}
	c.proven = true
	c.done = c.skipEmpty
	return []byte(text), c.done, nil
}

// User is the account that logged in; nil until Step says done.
func (c *Conversation) User() *User {
	if !c.done || !c.proven {
		return nil
	}
	return c.user
}

// Claimed is the name that the client gave, for the log of failures.
func (c *Conversation) Claimed() (db, name string) { return c.db, c.server.Username() }
