package command

import (
	"context"
	"crypto/sha256"

	"github.com/keywright/keywright/internal/engine/auth"
	"github.com/keywright/keywright/internal/engine/mongoerr"
)

const maxSessionsNamed = 10_000

func sessionCommands() []command {
	return []command{
		{name: "startSession", run: startSession, always: true},
		{name: "refreshSessions", run: namedSessions, always: true, stable: true},
		{name: "endSessions", run: namedSessions, anonymous: true, always: true, stable: true},
	}
}

func startSession(context.Context, *Server, *request, *auth.User) (*builder, error) {
	id := newSession()
	return newDoc().doc("id", newDoc().binary("id", 4, id[:]).done()).int32("timeoutMinutes", sessionMinutes), nil
}

// namedSessions ends or refreshes sessions. Sessions are not kept here: one
// begins when it is first named, its cursors go by their own clock, and its
// records of retryable writes are the replica's. Ending one closes its cursors.
func namedSessions(_ context.Context, s *Server, req *request, user *auth.User) (*builder, error) {
	list, ok := req.args[0].value.ArrayOK()
	if !ok {
		return nil, wrongType(req.cmd.name, req.name, req.args[0].value, "array")
	}
	values, err := list.Values()
	if err != nil || len(values) > maxSessionsNamed {
		return nil, mongoerr.Of(mongoerr.BadValue, "%s takes at most %d sessions", req.cmd.name, maxSessionsNamed)
	}
	ids := make(map[sessionID]bool, len(values))
	for _, v := range values {
		doc, ok := v.DocumentOK()
		if !ok {
			return nil, wrongType(req.cmd.name, req.name, v, "object")
		}
		id, ok := parseSessionID(doc)
		if !ok {
			return nil, mongoerr.Of(mongoerr.TypeMismatch, "a session must be {id: UUID}")
		}
		ids[id] = true
	}
	if req.cmd.name != "endSessions" || (s.cfg.Auth && user == nil) {
		return nil, nil
	}
	who := req.owner(user)
	s.cursors.kill(func(c *cursor) bool {
		return c.owner.hasSession && ids[c.owner.session] && c.owner.account == who.account
	})
	return nil, nil
}

// logicalSession is a session's id with its user's, as records of retryable
// writes are kept by: a session belongs to its user.
func (r *request) logicalSession(user *auth.User) []byte {
	if !r.hasSession {
		return nil
	}
	out := append([]byte(nil), r.session[:]...)
	if user == nil {
		return out
	}
	sum := sha256.Sum256([]byte(user.Name + "@" + user.DB))
	return append(out, sum[:]...)
}
