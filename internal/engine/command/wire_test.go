package command_test

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/xdg-go/scram"
	"go.mongodb.org/mongo-driver/v2/bson"
)

// rawConn speaks OP_MSG by hand.
type rawConn struct {
	net.Conn
	id      uint32 // of the last request
	replyID uint32 // of the last reply
}

func dialWire(t testing.TB, n *node) *rawConn {
	t.Helper()
	d := tls.Dialer{Config: &tls.Config{RootCAs: n.ca.pool, ServerName: "localhost", MinVersion: tls.VersionTLS12}}
	c, err := d.DialContext(t.Context(), "tcp", n.addr)
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	must(t, c.SetDeadline(time.Now().Add(time.Minute)))
	return &rawConn{Conn: c}
}

func (w *rawConn) send(t testing.TB, flags uint32, cmd bson.D) {
	t.Helper()
	body, err := bson.Marshal(cmd)
	must(t, err)
	w.id++
	m := binary.LittleEndian.AppendUint32(nil, uint32(21+len(body)))
	m = binary.LittleEndian.AppendUint32(m, w.id)
	m = binary.LittleEndian.AppendUint32(m, 0)
	m = binary.LittleEndian.AppendUint32(m, 2013)
	m = binary.LittleEndian.AppendUint32(m, flags)
	m = append(append(m, 0), body...)
	_, err = w.Write(m)
	must(t, err)
}

// receive gives a reply, whom it answers and whether more follow.
func (w *rawConn) receive(t testing.TB) (doc bson.Raw, to uint32, more bool) {
	t.Helper()
	m, err := readFrame(w)
	must(t, err)
	w.replyID = binary.LittleEndian.Uint32(m[4:])
	return bson.Raw(m[21:]), binary.LittleEndian.Uint32(m[8:]), binary.LittleEndian.Uint32(m[16:])&2 != 0
}

func (w *rawConn) call(t testing.TB, cmd bson.D) bson.Raw {
	t.Helper()
	w.send(t, 0, cmd)
	doc, to, more := w.receive(t)
	if to != w.id || more {
		t.Fatalf("the reply is for %d (more: %v), want %d", to, more, w.id)
	}
	return doc
}

func (w *rawConn) login(t testing.TB, user, password string) {
	t.Helper()
	client, err := scram.SHA256.NewClient(user, password, "")
	must(t, err)
	conv := client.NewConversation()
	first, err := conv.Step("")
	must(t, err)
	r := w.call(t, bson.D{
		{Key: "saslStart", Value: 1}, {Key: "mechanism", Value: "SCRAM-SHA-256"}, {Key: "payload", Value: []byte(first)},
		{Key: "$db", Value: "admin"},
	})
	for !r.Lookup("done").Boolean() {
		_, payload := r.Lookup("payload").Binary()
		var next string
		if !conv.Done() {
			next, err = conv.Step(string(payload))
			must(t, err)
		}
		r = w.call(t, bson.D{
			{Key: "saslContinue", Value: 1}, {Key: "conversationId", Value: r.Lookup("conversationId").Int32()}, {Key: "payload", Value: []byte(next)}, {Key: "$db", Value: "admin"},
		})
	}
	if !conv.Valid() {
		t.Fatal("the server did not prove itself")
	}
}

func TestHelloHasWhatDriversNeed(t *testing.T) {
	n := startNode(t)
	w := dialWire(t, n)
	r := w.call(t, bson.D{{Key: "hello", Value: 1}, {Key: "helloOk", Value: true}, {Key: "saslSupportedMechs", Value: "admin.nobody"}, {Key: "$db", Value: "admin"}})
	for _, field := range []string{
		"helloOk", "isWritablePrimary", "secondary", "setName", "setVersion", "hosts", "primary", "me", "electionId", "topologyVersion", "lastWrite", "maxBsonObjectSize",
		"maxMessageSizeBytes", "maxWriteBatchSize", "logicalSessionTimeoutMinutes", "localTime", "connectionId", "minWireVersion", "maxWireVersion", "readOnly",
		"saslSupportedMechs", "operationTime", "$clusterTime", "ok",
	} {
		if r.Lookup(field).Type == 0 {
			t.Errorf("hello lacks %s", field)
		}
	}
	if host := r.Lookup("hosts", "0").StringValue(); host != n.addr {
		t.Errorf("host is %s", host)
	}
	first := r.Lookup("electionId").ObjectID()
	n.stop()
	n.start()
	r = dialWire(t, n).call(t, bson.D{{Key: "hello", Value: 1}, {Key: "$db", Value: "admin"}})
	if second := r.Lookup("electionId").ObjectID(); string(second[:]) < string(first[:]) {
		t.Errorf("electionId went from %s down to %s", first.Hex(), second.Hex())
	}
}

func TestStreamingMonitorIsAnsweredAtTheEnd(t *testing.T) {
	n := startNode(t)
	w := dialWire(t, n)
	r := w.call(t, bson.D{{Key: "hello", Value: 1}, {Key: "$db", Value: "admin"}})
	version := r.Lookup("topologyVersion").Document()
	const exhaust = 1 << 16
	w.send(t, exhaust, bson.D{{Key: "hello", Value: 1}, {Key: "topologyVersion", Value: version}, {Key: "maxAwaitTimeMS", Value: 20}, {Key: "$db", Value: "admin"}})
	last := w.id
	for range 3 {
		doc, to, more := w.receive(t)
		if to != last || !more || doc.Lookup("ok").Double() != 1 {
			t.Fatalf("reply to %d (want %d), more %v: %s", to, last, more, doc)
		}
		last = w.replyID // each names the one before
	}
	n.stop()
	for {
		doc, _, more := w.receive(t)
		if more {
			continue
		}
		if doc.Lookup("code").AsInt64() != 91 || doc.Lookup("topologyVersion").Type == 0 {
			t.Errorf("at the end the monitor got %s", doc)
		}
		return
	}
}

func TestUnacknowledgedWritesGetNoReply(t *testing.T) {
	n := startNode(t)
	w := dialWire(t, n)
	w.login(t, rootName, rootPwd)
	const moreToCome = 2
	w.send(t, moreToCome, bson.D{{Key: "insert", Value: "c"}, {Key: "documents", Value: bson.A{bson.D{{Key: "_id", Value: 1}}}}, {Key: "writeConcern", Value: bson.D{{Key: "w", Value: 0}}}, {Key: "$db", Value: "d"}})
	w.send(t, moreToCome, bson.D{{Key: "frobnicate", Value: 1}, {Key: "$db", Value: "d"}})
	if r := w.call(t, bson.D{{Key: "count", Value: "c"}, {Key: "$db", Value: "d"}}); r.Lookup("n").AsInt64() != 1 {
		t.Errorf("count: %s", r)
	}
}

func TestCursors(t *testing.T) {
	n := startNode(t)
	w := dialWire(t, n)
	w.login(t, rootName, rootPwd)
	docs := bson.A{}
	for i := range 250 {
		docs = append(docs, bson.D{{Key: "_id", Value: i}})
	}
	w.call(t, bson.D{{Key: "insert", Value: "c"}, {Key: "documents", Value: docs}, {Key: "$db", Value: "d"}})
	open := func() int64 {
		r := w.call(t, bson.D{{Key: "find", Value: "c"}, {Key: "batchSize", Value: 2}, {Key: "$db", Value: "d"}})
		return r.Lookup("cursor", "id").AsInt64()
	}
	id := open()
	// A snapshot: what is deleted meanwhile is still given.
	w.call(t, bson.D{{Key: "delete", Value: "c"}, {Key: "deletes", Value: bson.A{bson.D{{Key: "q", Value: bson.D{}}, {Key: "limit", Value: 0}}}}, {Key: "$db", Value: "d"}})
	r := w.call(t, bson.D{{Key: "getMore", Value: id}, {Key: "collection", Value: "c"}, {Key: "$db", Value: "d"}})
	values, err := r.Lookup("cursor", "nextBatch").Array().Values()
	must(t, err)
	if len(values) != 248 || r.Lookup("cursor", "id").AsInt64() != 0 {
		t.Errorf("getMore gave %d documents", len(values))
	}
	if r := w.call(t, bson.D{{Key: "getMore", Value: id}, {Key: "collection", Value: "c"}, {Key: "$db", Value: "d"}}); r.Lookup("code").AsInt64() != 43 {
		t.Errorf("a spent cursor: %s", r)
	}
	w.call(t, bson.D{{Key: "insert", Value: "c"}, {Key: "documents", Value: docs}, {Key: "$db", Value: "d"}})
	id = open()
	other := dialWire(t, n)
	other.login(t, rootName, rootPwd)
	if r := other.call(t, append(bson.D{{Key: "getMore", Value: id}, {Key: "collection", Value: "c"}, {Key: "$db", Value: "d"}}, session(1)[:1]...)); r.Lookup("code").AsInt64() != 50738 {
		t.Errorf("another session: %s", r)
	}
	if r := other.call(t, bson.D{{Key: "getMore", Value: id}, {Key: "collection", Value: "b"}, {Key: "$db", Value: "d"}}); r.Lookup("code").AsInt64() != 13 {
		t.Errorf("another collection: %s", r)
	}
	r = other.call(t, bson.D{{Key: "killCursors", Value: "c"}, {Key: "cursors", Value: bson.A{id, int64(5)}}, {Key: "$db", Value: "d"}})
	if killed, err := r.Lookup("cursorsKilled").Array().Values(); err != nil || len(killed) != 1 {
		t.Errorf("killCursors: %s", r)
	}
	if r := w.call(t, bson.D{{Key: "getMore", Value: id}, {Key: "collection", Value: "c"}, {Key: "$db", Value: "d"}}); r.Lookup("code").AsInt64() != 43 {
		t.Errorf("a killed cursor: %s", r)
	}
}

func TestHugeMessagesNeedALogin(t *testing.T) {
	n := startNode(t)
	big := bson.D{{Key: "ping", Value: 1}, {Key: "comment", Value: make([]byte, 100<<10)}, {Key: "$db", Value: "admin"}}
	w := dialWire(t, n)
	body, err := bson.Marshal(big)
	must(t, err)
	head := binary.LittleEndian.AppendUint32(nil, uint32(21+len(body)))
	head = append(head, 1, 0, 0, 0, 0, 0, 0, 0, 0xdd, 7, 0, 0)
	_, err = w.Write(head) // it must not wait for the rest
	must(t, err)
	if _, err := readFrame(w); err == nil {
		t.Error("a huge message was answered without a login")
	} else if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
		t.Error("the connection stays open")
	}
	w = dialWire(t, n)
	w.login(t, rootName, rootPwd)
	if r := w.call(t, big); r.Lookup("ok").Double() != 1 {
		t.Errorf("after the login: %s", r)
	}
}
