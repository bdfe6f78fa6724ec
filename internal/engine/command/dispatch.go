package command

import (
	"context"
	"errors"
	"sync/atomic"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/auth"
	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/storage"
	"github.com/keywright/keywright/internal/engine/wire"
)

// labelRetryable tells a driver to send the write again.
const labelRetryable = "RetryableWriteError"

// conn is one connection's session with the server.
type conn struct {
	server *Server
	info   wire.ConnInfo
	login  atomic.Pointer[login]

	conversation   *auth.Conversation
	conversationID int32
	metadata       bool // the client has introduced itself
}

// login is who a connection logged in as: the account's name, and its UUID so
// that a later account of the same name is another.
type login struct {
	db, name string
	uuid     [16]byte
}

// Trusted implements wire.Session.
func (c *conn) Trusted() bool { return !c.server.cfg.Auth || c.login.Load() != nil }

// Close implements wire.Session.
func (c *conn) Close() { c.conversation = nil }

// Handle implements wire.Session.
func (c *conn) Handle(ctx context.Context, wr *wire.Request, reply wire.Reply) error {
	for {
		doc, again := c.dispatch(ctx, wr)
		if ctx.Err() != nil && again {
			return ctx.Err()
		}
		if err := reply(doc, again); err != nil || !again {
			return err
		}
		// A streaming monitor: the next answer waits for a change of what the
		// last one told.
		wr = streamed(wr, doc)
	}
}

// dispatch runs one command and gives its reply; again tells that the client
// wants another when the topology changes.
func (c *conn) dispatch(ctx context.Context, wr *wire.Request) (reply bson.Raw, again bool) {
	s := c.server
	s.counters.command.Add(1)
	req, err := s.parseRequest(c, wr)
	if err != nil {
		return s.errorReply(nil, err), false
	}
	if req.maxTime > 0 && !req.cmd.waits {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, req.maxTime)
		defer cancel()
	}
	user, err := c.authorize(ctx, req)
	if err == nil {
		err = s.ready(req)
	}
	if err != nil {
		return s.errorReply(req, err), false
	}
	out, err := req.cmd.run(ctx, s, req, user)
	if err != nil {
		return s.errorReply(req, err), false
	}
	return s.okReply(req, out), wr.Exhaust && req.cmd.name == "hello" && awaits(req)
}

// ready refuses what the state of the node does not allow.
func (s *Server) ready(req *request) error {
	if s.draining() {
		return mongoerr.Of(mongoerr.ShutdownInProgress, "The server is shutting down")
	}
	if req.cmd.always {
		return nil
	}
	st := s.cfg.Node.Status()
	switch {
	case st.Primary:
		return nil
	case req.cmd.writes:
		return mongoerr.Of(mongoerr.NotWritablePrimary, "not primary: the node is not (yet) part of an initiated replica set, or has just started")
	default:
		return mongoerr.New(13435, "NotPrimaryNoSecondaryOk", "not primary and secondaryOk=false: the node is not (yet) part of an initiated replica set")
	}
}

// authorize finds the account anew for every command, so that a change of it is
// felt at once, and checks what the command needs.
func (c *conn) authorize(ctx context.Context, req *request) (*auth.User, error) {
	if !c.server.cfg.Auth {
		return nil, nil
	}
	user, err := c.account(ctx)
	if err != nil {
		return nil, err
	}
	if req.cmd.anonymous {
		return user, nil
	}
	if user == nil {
		if open, err := c.localException(ctx, req); err != nil || open {
			return nil, err
		}
		return nil, mongoerr.Of(mongoerr.Unauthorized, "Command %s requires authentication", req.cmd.name)
	}
	if req.cmd.needs == nil {
		return user, nil
	}
	needs, err := req.cmd.needs(req)
	if err != nil {
		return nil, err
	}
	if !allowed(user, needs) {
		return nil, notAuthorized(req)
	}
	req.needs = needs
	return user, nil
}

// allowed tells whether a user's roles allow all of it.
func allowed(user *auth.User, needs []need) bool {
	for _, n := range needs {
		if !auth.Allowed(user.Roles, n.action, n.on) {
			return false
		}
	}
	return true
}

func notAuthorized(req *request) error {
	return mongoerr.Of(mongoerr.Unauthorized, "not authorized on %s to execute command { %s: ... }", req.db, req.cmd.name)
}

// account gives the connection's account, nil if it is not logged in (any more).
func (c *conn) account(ctx context.Context) (*auth.User, error) {
	l := c.login.Load()
	if l == nil {
		return nil, nil
	}
	user, err := c.server.users.Lookup(ctx, l.db, l.name)
	if err != nil {
		return nil, err
	}
	if user == nil || user.UUID != l.uuid {
		c.login.Store(nil)
		return nil, nil
	}
	return user, nil
}

// localException lets a client on this machine set up a node that has no user
// yet: initiate the set and make the first user.
func (c *conn) localException(ctx context.Context, req *request) (bool, error) {
	if !req.cmd.firstSteps || !c.info.Loopback() || req.db != "admin" {
		return false, nil
	}
	if !c.server.cfg.Node.Status().Primary { // no users can be there before the set is
		return c.server.cfg.Node.Status().Set == "", nil
	}
	any, err := c.server.users.Any(ctx)
	return err == nil && !any, err
}

// okReply ends a successful reply.
func (s *Server) okReply(req *request, out *builder) bson.Raw {
	if out == nil {
		out = newDoc()
	}
	out.double("ok", 1)
	if req.cmd.writes {
		if e := req.concern.failure(); e != nil {
			out.doc("writeConcernError", newDoc().int32("code", e.Code).str("codeName", e.Name).str("errmsg", e.Message).done())
		}
	}
	return s.clock(req, out).done()
}

// clock adds the times of the set, once there is one.
func (s *Server) clock(req *request, out *builder) *builder {
	st := s.cfg.Node.Status()
	now := st.Applied.Timestamp
	if req != nil && req.wrote && req.optime.T != 0 {
		out.timestamp("operationTime", req.optime)
		if req.optime.After(now) {
			now = req.optime
		}
	} else if now.T != 0 {
		out.timestamp("operationTime", now)
	}
	if now.T == 0 {
		return out
	}
	signature := newDoc().binary("hash", 0, make([]byte, 20)).int64("keyId", 0).done()
	return out.doc("$clusterTime", newDoc().timestamp("clusterTime", now).doc("signature", signature).done())
}

// errorReply gives the reply for a failed command.
func (s *Server) errorReply(req *request, err error) bson.Raw {
	e := s.clientError(err)
	out := newDoc().double("ok", 0).str("errmsg", e.Message).int32("code", e.Code).str("codeName", e.Name)
	labels := e.Labels
	if req != nil && req.hasTxn && retryable(e.Code) && !contains(labels, labelRetryable) {
		labels = append([]string{labelRetryable}, labels...)
	}
	if len(labels) > 0 {
		out.strs("errorLabels", labels)
	}
	var dup *storage.DuplicateKeyError
	if errors.As(err, &dup) {
		out.doc("keyPattern", dup.KeyPattern).doc("keyValue", dup.KeyValue)
	}
	if stateChange(e.Code) {
		out.doc("topologyVersion", s.topologyVersion())
	}
	return s.clock(req, out).done()
}

// clientError gives err as clients see it. What is not meant for them is logged
// instead.
func (s *Server) clientError(err error) *mongoerr.Error {
	var e *mongoerr.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded):
		return mongoerr.Of(mongoerr.MaxTimeMSExpired, "operation exceeded time limit")
	case errors.Is(err, context.Canceled):
		if s.draining() {
			return mongoerr.Of(mongoerr.InterruptedAtShutdown, "interrupted at shutdown")
		}
		return mongoerr.Of(mongoerr.Interrupted, "operation was interrupted")
	}
	s.log.Error("a command failed unexpectedly", "error", err)
	return mongoerr.From(err)
}

// stateChange tells whether a code makes drivers look at the server anew.
func stateChange(code int32) bool {
	return code == mongoerr.ShutdownInProgress || code == mongoerr.InterruptedAtShutdown || code == mongoerr.NotWritablePrimary
}

// retryable tells whether a write that failed so may be sent again.
func retryable(code int32) bool { return stateChange(code) }

// fatalForCommand tells whether an error of one statement ends its command, as
// the other statements would meet it as well.
func fatalForCommand(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return true
	}
	var e *mongoerr.Error
	if !errors.As(err, &e) {
		return true
	}
	return stateChange(e.Code) || e.Code == mongoerr.TransactionTooOld || e.Code == mongoerr.InternalError || contains(e.Labels, labelRetryable)
}
