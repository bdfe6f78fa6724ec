package command_test

import (
	"context"
	"net"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/command"
	"github.com/keywright/keywright/internal/engine/wire"
)

// FuzzDispatch hands documents to the commands of a node without logins: every
// one must be answered, and with ok and a code where it fails.
func FuzzDispatch(f *testing.F) {
	names, _ := command.Commands()
	for _, name := range names {
		if name == "shutdown" {
			continue
		}
		for _, v := range []any{1, "c", bson.D{{Key: "find", Value: "c"}}, bson.A{bson.D{{Key: "id", Value: 1}}}, nil} {
			b, err := bson.Marshal(bson.D{
				{Key: name, Value: v}, {Key: "$db", Value: "admin"}, {Key: "filter", Value: bson.D{{Key: "a", Value: bson.D{{Key: "$gt", Value: 1}}}}},
				{Key: "documents", Value: bson.A{bson.D{{Key: "x", Value: 1}}}}, {Key: "cursor", Value: bson.D{}},
			})
			must(f, err)
			f.Add(b)
		}
	}
	for _, d := range []bson.D{
		{{Key: "insert", Value: "c"}, {Key: "documents", Value: bson.A{bson.D{{Key: "x", Value: 1}}}}, {Key: "$db", Value: "d"}},
		{{Key: "update", Value: "c"}, {Key: "updates", Value: bson.A{bson.D{{Key: "q", Value: bson.D{}}, {Key: "u", Value: bson.D{{Key: "$inc", Value: bson.D{{Key: "n", Value: 1}}}}}, {Key: "multi", Value: true}}}}, {Key: "$db", Value: "d"}},
		{{Key: "aggregate", Value: "c"}, {Key: "pipeline", Value: bson.A{bson.D{{Key: "$match", Value: bson.D{}}}}}, {Key: "cursor", Value: bson.D{}}, {Key: "$db", Value: "d"}},
		{{Key: "explain", Value: bson.D{{Key: "find", Value: "c"}}}, {Key: "verbosity", Value: "executionStats"}, {Key: "$db", Value: "d"}},
		{{Key: "hello", Value: 1}, {Key: "saslSupportedMechs", Value: "a.b"}, {Key: "speculativeAuthenticate", Value: bson.D{{Key: "saslStart", Value: 1}, {Key: "mechanism", Value: "SCRAM-SHA-256"}, {Key: "payload", Value: []byte("n,,n=a,r=b")}, {Key: "db", Value: "a"}}}, {Key: "$db", Value: "a"}},
	} {
		b, err := bson.Marshal(d)
		must(f, err)
		f.Add(b)
	}
	n := startNode(f)
	server := command.NewServer(command.Config{Node: n.replica, Set: setName, Host: n.addr})
	f.Cleanup(server.Close)
	f.Fuzz(func(t *testing.T, b []byte) {
		if wire.Validate(b) != nil {
			return
		}
		s := server.Open(wire.ConnInfo{ID: 1, Remote: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, Local: &net.TCPAddr{}})
		defer s.Close()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		answers := 0
		err := s.Handle(ctx, &wire.Request{ID: 1, Body: b}, func(doc bson.Raw, _ bool) error {
			answers++
			if err := doc.Validate(); err != nil {
				t.Fatalf("the reply is malformed: %v", err)
			}
			ok, known := doc.Lookup("ok").DoubleOK()
			if !known || (ok != 1 && doc.Lookup("code").Type != bson.TypeInt32) {
				t.Fatalf("the reply is incomplete: %s", doc)
			}
			if doc.Lookup("code").Type == bson.TypeInt32 && doc.Lookup("code").Int32() == 1 && ok == 0 {
				t.Fatalf("internal error: %s", doc)
			}
			return nil
		})
		if err != nil || answers != 1 {
			t.Fatalf("%d answers, error %v", answers, err)
		}
	})
}
