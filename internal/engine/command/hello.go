package command

import (
	"context"
	"math"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/auth"
	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/replication"
	"github.com/keywright/keywright/internal/engine/wire"
)

// What the engine claims to be. Wire version 21 is that of 7.0.
const (
	Version        = "7.0.0"
	minWireVersion = 0
	maxWireVersion = 21

	maxDocumentSize = 16 << 20
	maxWriteBatch   = 100_000
	maxClientInfo   = 512
	sessionMinutes  = 30
	maxHelloWait    = time.Hour
)

func handshakeCommands() []command {
	fields := []string{
		"helloOk", "client", "compression", "saslSupportedMechs", "speculativeAuthenticate", "topologyVersion", "maxAwaitTimeMS",
		"loadBalanced", "backpressure", "hostInfo", "internalClient",
	}
	return []command{
		{name: "hello", fields: fields, run: hello, anonymous: true, always: true, waits: true, stable: true},
		{name: "isMaster", aliases: []string{"ismaster"}, fields: fields, run: hello, anonymous: true, always: true, waits: true},
	}
}

// hello tells a client what it talks to.
func hello(ctx context.Context, s *Server, req *request, _ *auth.User) (*builder, error) {
	p := req.params()
	mechs := p.str("saslSupportedMechs")
	speculative := p.doc("speculativeAuthenticate")
	version := p.doc("topologyVersion")
	wait := time.Duration(min(p.count("maxAwaitTimeMS", 0), math.MaxInt32)) * time.Millisecond
	if p.err != nil {
		return nil, p.err
	}
	if err := req.conn.introduce(p.doc("client")); err != nil {
		return nil, err
	}
	if version != nil {
		if wait > maxHelloWait || !p.has("maxAwaitTimeMS") {
			return nil, mongoerr.Of(mongoerr.BadValue, "A request with a 'topologyVersion' must include 'maxAwaitTimeMS' of at most an hour")
		}
		if err := s.awaitChange(ctx, version, wait); err != nil {
			return nil, err
		}
	}
	st := s.cfg.Node.Status()
	out := newDoc()
	if p.boolean("helloOk", false) {
		out.boolean("helloOk", true)
	}
	s.describeSet(out, st, req.cmd.name == "hello")
	out.doc("topologyVersion", s.topologyVersion())
	out.int32("maxBsonObjectSize", maxDocumentSize).int32("maxMessageSizeBytes", wire.MaxMessageSize).int32("maxWriteBatchSize", maxWriteBatch).
		date("localTime", time.Now()).int32("logicalSessionTimeoutMinutes", sessionMinutes).int32("connectionId", req.conn.info.ID).
		int32("minWireVersion", minWireVersion).int32("maxWireVersion", maxWireVersion).boolean("readOnly", false)
	if mechs != "" {
		list, err := s.supportedMechanisms(ctx, mechs)
		if err != nil {
			return nil, err
		}
		out.strs("saslSupportedMechs", list)
	}
	if speculative != nil {
		if answer := req.conn.speculate(ctx, speculative); answer != nil {
			out.doc("speculativeAuthenticate", answer)
		}
	}
	return out, nil
}

// describeSet adds the replica set's fields, named as hello or as isMaster does.
func (s *Server) describeSet(out *builder, st replication.Status, modern bool) {
	primary := "ismaster"
	if modern {
		primary = "isWritablePrimary"
	}
	if st.Set == "" {
		out.boolean(primary, false).boolean("secondary", false).str("info", "Does not have a valid replica set config").boolean("isreplicaset", true)
		return
	}
	out.boolean(primary, st.Primary).boolean("secondary", false).str("setName", st.Set).number("setVersion", st.Version).
		strs("hosts", []string{st.Host}).str("me", st.Host)
	if st.Primary {
		out.str("primary", st.Host).oid("electionId", st.ElectionID)
	}
	written := time.Unix(int64(st.Applied.Timestamp.T), 0)
	optime := newDoc().timestamp("ts", st.Applied.Timestamp).int64("t", int64(st.Applied.Term)).done()       //nolint:gosec // a term is small
	majority := newDoc().timestamp("ts", st.Committed.Timestamp).int64("t", int64(st.Committed.Term)).done() //nolint:gosec // a term is small
	out.doc("lastWrite", newDoc().doc("opTime", optime).date("lastWriteDate", written).
		doc("majorityOpTime", majority).date("majorityWriteDate", time.Unix(int64(st.Committed.Timestamp.T), 0)).done())
}

func (s *Server) topologyVersion() bson.Raw {
	return newDoc().oid("processId", s.process).int64("counter", s.topologyCounter()).done()
}

func (s *Server) topologyCounter() int64 {
	n := s.cfg.Node.Status().TopologyVersion
	if s.draining() {
		n++
	}
	return n
}

// awaitChange returns when the topology is not the one of version, or when the
// time is up.
func (s *Server) awaitChange(ctx context.Context, version bson.Raw, wait time.Duration) error {
	process, ok1 := version.Lookup("processId").ObjectIDOK()
	counter, ok2 := version.Lookup("counter").AsInt64OK()
	if !ok1 || !ok2 {
		return mongoerr.Of(mongoerr.TypeMismatch, "topologyVersion must have the fields processId and counter")
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		changed := s.cfg.Node.Changed() // taken before the look, so that no change is missed
		if process != s.process || counter != s.topologyCounter() {
			break
		}
		select {
		case <-changed:
			continue
		case <-timer.C:
			return nil
		case <-s.closing:
		case <-ctx.Done():
			return ctx.Err()
		}
		break
	}
	if s.draining() {
		return mongoerr.Of(mongoerr.ShutdownInProgress, "The server is shutting down")
	}
	return nil
}

// awaits tells whether a hello waits for a change.
func awaits(req *request) bool {
	_, ok := req.arg("topologyVersion")
	return ok
}

// streamed gives the request that a streaming monitor would have sent next: the
// one before with the topology version of its answer.
func streamed(wr *wire.Request, answer bson.Raw) *wire.Request {
	next := *wr
	elements, err := wr.Body.Elements()
	if err != nil {
		return wr
	}
	body := newDoc()
	for _, e := range elements {
		if e.Key() == "topologyVersion" {
			body.value(e.Key(), answer.Lookup("topologyVersion"))
			continue
		}
		body.value(e.Key(), e.Value())
	}
	next.Body = body.done()
	return &next
}

// introduce takes what a client says about itself, once.
func (c *conn) introduce(client bson.Raw) error {
	if client == nil {
		return nil
	}
	if c.metadata {
		return mongoerr.New(186, "ClientMetadataCannotBeMutated", "The client metadata document may only be sent in the first hello")
	}
	if len(client) > maxClientInfo {
		return mongoerr.New(184, "ClientMetadataDocumentTooLarge", "The client metadata document must be at most %d bytes", maxClientInfo)
	}
	c.metadata = true
	return nil
}
