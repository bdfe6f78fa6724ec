package command

import (
	"context"
	"errors"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/auth"
	"github.com/keywright/keywright/internal/engine/mongoerr"
)

func loginCommands() []command {
	return []command{
		{name: "saslStart", fields: []string{"mechanism", "payload", "options", "autoAuthorize", "db"}, run: saslStart, anonymous: true, always: true, stable: true},
		{name: "saslContinue", fields: []string{"conversationId", "payload", "db"}, run: saslContinue, anonymous: true, always: true, stable: true},
		{name: "authenticate", fields: []string{"mechanism", "user", "db", "nonce", "key"}, run: authenticate, anonymous: true, always: true, stable: true},
		{name: "logout", run: logout, anonymous: true, always: true},
	}
}

// loginFailed is the one answer to all logins that fail.
func loginFailed() error { return mongoerr.Of(mongoerr.AuthenticationFailed, "Authentication failed.") }

func noMechanism(name string) error {
	return mongoerr.Of(mongoerr.MechanismUnavailable, "Authentication mechanism '%.32s' is not available; use SCRAM-SHA-256 or SCRAM-SHA-1", name)
}

func saslStart(ctx context.Context, _ *Server, req *request, _ *auth.User) (*builder, error) {
	p := req.params()
	mechanism, options := p.str("mechanism"), p.doc("options")
	payload := p.bytes("payload")
	if p.err != nil {
		return nil, p.err
	}
	answer, err := req.conn.startLogin(ctx, req.db, mechanism, payload, options)
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// startLogin begins a conversation; one that was under way is dropped.
func (c *conn) startLogin(ctx context.Context, db, mechanism string, payload []byte, options bson.Raw) (*builder, error) {
	c.conversation = nil
	skip := false
	if v, err := options.LookupErr("skipEmptyExchange"); options != nil && err == nil {
		skip, _ = v.BooleanOK()
	}
	conversation, first, err := c.server.logins.Start(ctx, db, auth.Mechanism(mechanism), payload, skip)
	switch {
	case errors.Is(err, auth.ErrMechanism):
		return nil, noMechanism(mechanism)
	case errors.Is(err, auth.ErrFailed):
		c.logFailure(mechanism)
		return nil, loginFailed()
	case err != nil:
		return nil, err
	}
	if l := c.login.Load(); l != nil {
		if claimedDB, name := conversation.Claimed(); l.db != claimedDB || l.name != name {
			return nil, mongoerr.Of(mongoerr.ProtocolError, "Each client connection may only be authenticated once; log out first")
		}
	}
	c.conversation = conversation
	c.conversationID++
	return c.saslReply(first, false), nil
}

func (c *conn) saslReply(payload []byte, done bool) *builder {
	return newDoc().int32("conversationId", c.conversationID).boolean("done", done).binary("payload", 0, payload)
}

func (c *conn) logFailure(mechanism string) {
	c.server.log.Warn("a login failed", "connection", c.info.ID, "remote", c.info.Remote.String(), "mechanism", mechanism)
}

func saslContinue(_ context.Context, s *Server, req *request, _ *auth.User) (*builder, error) {
	p := req.params()
	id := p.number("conversationId", -1)
	payload := p.bytes("payload")
	if p.err != nil {
		return nil, p.err
	}
	c := req.conn
	if c.conversation == nil {
		return nil, mongoerr.Of(mongoerr.ProtocolError, "No SASL session state found")
	}
	if id != int64(c.conversationID) {
		c.conversation = nil
		return nil, mongoerr.Of(mongoerr.ProtocolError, "sasl: Mismatched conversation id")
	}
	reply, done, err := c.conversation.Step(payload)
	if err != nil {
		c.conversation = nil
		c.logFailure("SCRAM")
		return nil, loginFailed()
	}
	if done {
		user := c.conversation.User()
		c.conversation = nil
		c.login.Store(&login{db: user.DB, name: user.Name, uuid: user.UUID})
		s.log.Debug("logged in", "connection", c.info.ID)
	}
	return c.saslReply(reply, done), nil
}

// speculate begins a login inside of hello. Whatever goes wrong, the answer is
// just missing.
func (c *conn) speculate(ctx context.Context, doc bson.Raw) bson.Raw {
	if c.server.draining() {
		return nil
	}
	p := subParams("speculativeAuthenticate", doc, "saslStart", "mechanism", "payload", "db", "options", "autoAuthorize")
	p.need("saslStart")
	db, mechanism, payload, options := p.str("db"), p.str("mechanism"), p.bytes("payload"), p.doc("options")
	if p.err != nil || db == "" {
		return nil
	}
	answer, err := c.startLogin(ctx, db, mechanism, payload, options)
	if err != nil {
		return nil
	}
	return answer.done()
}

// supportedMechanisms answers hello's saslSupportedMechs: "db.user". Somebody
// who does not exist has all mechanisms, as most users have.
func (s *Server) supportedMechanisms(ctx context.Context, who string) ([]string, error) {
	db, name, ok := strings.Cut(who, ".")
	if !ok || name == "" {
		return nil, mongoerr.Of(mongoerr.BadValue, "saslSupportedMechs must name a user as 'db.user'")
	}
	list := auth.Mechanisms()
	if s.cfg.Node.Status().Primary {
		user, err := s.users.Lookup(ctx, db, name)
		if err != nil {
			return nil, err
		}
		if user != nil {
			list = user.Mechanisms()
		}
	}
	out := make([]string, len(list))
	for i, m := range list {
		out[i] = string(m)
	}
	return out, nil
}

func authenticate(_ context.Context, _ *Server, req *request, _ *auth.User) (*builder, error) {
	p := req.params()
	name := p.str("mechanism")
	if p.err != nil {
		return nil, p.err
	}
	return nil, noMechanism(name)
}

func logout(_ context.Context, _ *Server, req *request, _ *auth.User) (*builder, error) {
	req.conn.conversation = nil
	req.conn.login.Store(nil)
	return nil, nil
}

// bytes reads binary data; old clients send base64 text, which is refused.
func (p *params) bytes(name string) []byte {
	p.need(name)
	v, ok := p.value(name)
	if !ok {
		return nil
	}
	_, data, ok := v.BinaryOK()
	if !ok {
		p.wrong(name, v, "binData")
	}
	return data
}
