package command

import (
	"context"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/auth"
	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/replication"
)

func replicaCommands() []command {
	return []command{
		{name: "replSetInitiate", needs: onCluster(auth.ReplSetConfigure), run: replSetInitiate, adminOnly: true, always: true, firstSteps: true},
		{name: "replSetGetStatus", needs: onCluster(auth.ReplSetStatus), run: replSetGetStatus, adminOnly: true, always: true, firstSteps: true, fields: []string{"initialSync"}},
		{name: "replSetGetConfig", needs: onCluster(auth.ReplSetStatus), run: replSetGetConfig, adminOnly: true, always: true, firstSteps: true},
	}
}

func badConfig(format string, args ...any) error {
	return mongoerr.New(93, "InvalidReplicaSetConfig", format, args...)
}

// replSetInitiate makes the node the one member of its set.
func replSetInitiate(ctx context.Context, s *Server, req *request, _ *auth.User) (*builder, error) {
	host := s.cfg.Host
	v := req.args[0].value
	doc, isDoc := v.DocumentOK()
	if _, isNumber := wholeNumber(v); !isDoc && !isNumber && v.Type != bson.TypeNull && v.Type != bson.TypeUndefined {
		return nil, wrongType("replSetInitiate", "replSetInitiate", v, "object")
	}
	if len(doc) > 5 {
		p := subParams("replSetInitiate", doc, "_id", "members", "version", "term", "protocolVersion", "settings", "configsvr", "writeConcernMajorityJournalDefault", "replicaSetId")
		p.need("_id")
		p.need("members")
		name, members := p.str("_id"), p.docs("members")
		if p.err != nil {
			return nil, p.err
		}
		if name != s.cfg.Set {
			return nil, badConfig("The set's name '%s' does not match the name '%s' that the node was started with", name, s.cfg.Set)
		}
		if len(members) != 1 {
			return nil, badConfig("This engine takes replica sets of exactly one member for now; %d were given", len(members))
		}
		m := subParams("members", members[0], "_id", "host", "priority", "votes", "arbiterOnly", "hidden", "buildIndexes", "tags", "secondaryDelaySecs")
		m.need("host")
		host = m.str("host")
		if m.boolean("arbiterOnly", false) || m.boolean("hidden", false) || m.number("priority", 1) == 0 || m.number("votes", 1) == 0 {
			m.fail(badConfig("The one member must be able to become primary"))
		}
		if m.err != nil {
			return nil, m.err
		}
	}
	if host == "" || len(host) > 300 {
		return nil, badConfig("The member's host must be host:port")
	}
	if err := s.cfg.Node.Initiate(context.WithoutCancel(ctx), s.cfg.Set, host); err != nil {
		return nil, err
	}
	s.log.Info("replica set initiated", "set", s.cfg.Set, "host", host)
	return nil, nil
}

func notInitiated() error {
	return mongoerr.Of(mongoerr.NotYetInitialized, "no replset config has been received")
}

func optimeDoc(o replication.OpTime) bson.Raw {
	return newDoc().timestamp("ts", o.Timestamp).int64("t", int64(o.Term)).done() //nolint:gosec // a term is small
}

func replSetGetStatus(_ context.Context, s *Server, _ *request, _ *auth.User) (*builder, error) {
	st := s.cfg.Node.Status()
	if st.Set == "" {
		return nil, notInitiated()
	}
	now := time.Now()
	state, text := int32(2), "SECONDARY"
	if st.Primary {
		state, text = 1, "PRIMARY"
	}
	written := time.Unix(int64(st.Applied.Timestamp.T), 0)
	member := newDoc().int32("_id", 0).str("name", st.Host).double("health", 1).int32("state", state).str("stateStr", text).
		int32("uptime", s.uptime()).doc("optime", optimeDoc(st.Applied)).date("optimeDate", written).
		str("syncSourceHost", "").int32("syncSourceId", -1).str("infoMessage", "").
		int64("configVersion", st.Version).int64("configTerm", int64(st.Term)).boolean("self", true).str("lastHeartbeatMessage", "") //nolint:gosec // a term is small
	members := newArray()
	members.doc(member.done())
	optimes := newDoc().doc("lastCommittedOpTime", optimeDoc(st.Committed)).doc("appliedOpTime", optimeDoc(st.Applied)).doc("durableOpTime", optimeDoc(st.Committed)).done()
	return newDoc().str("set", st.Set).date("date", now).int32("myState", state).int64("term", int64(st.Term)). //nolint:gosec // a term is small
															str("syncSourceHost", "").int32("syncSourceId", -1).int64("heartbeatIntervalMillis", 2000).
															int32("majorityVoteCount", 1).int32("writeMajorityCount", 1).int32("votingMembersCount", 1).int32("writableVotingMembersCount", 1).
															doc("optimes", optimes).array("members", members), nil
}

func replSetGetConfig(_ context.Context, s *Server, _ *request, _ *auth.User) (*builder, error) {
	st := s.cfg.Node.Status()
	if st.Set == "" {
		return nil, notInitiated()
	}
	members := newArray()
	members.doc(newDoc().int32("_id", 0).str("host", st.Host).boolean("arbiterOnly", false).boolean("buildIndexes", true).
		boolean("hidden", false).double("priority", 1).doc("tags", newDoc().done()).int64("secondaryDelaySecs", 0).int32("votes", 1).done())
	config := newDoc().str("_id", st.Set).int64("version", st.Version).int64("term", int64(st.Term)). //nolint:gosec // a term is small
														array("members", members).int64("protocolVersion", 1).boolean("writeConcernMajorityJournalDefault", true)
	return newDoc().doc("config", config.done()), nil
}

func (s *Server) uptime() int32 { return int32(time.Since(s.started) / time.Second) } //nolint:gosec // 68 years
