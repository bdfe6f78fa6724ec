package command_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// proxy stands between a client, which speaks plainly with it, and the node. It
// loses answers: armed with the name of a command, it lets the next such command
// through to the node, waits for the node's answer, and cuts the connection
// instead of handing it on.
type proxy struct {
	node *node
	ln   net.Listener
	cmd  atomic.Pointer[string]
	lost atomic.Int32
	wg   sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
}

func newProxy(t *testing.T, n *node) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := &proxy{node: n, ln: ln}
	p.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			p.keep(c)
			p.wg.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		p.mu.Lock()
		for _, c := range p.conns {
			_ = c.Close()
		}
		p.mu.Unlock()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) keep(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(p.conns, c)
}

// serve hands messages on, one by one.
func (p *proxy) serve(client net.Conn) {
	defer func() { _ = client.Close() }()
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: p.node.ca.pool, ServerName: "localhost", MinVersion: tls.VersionTLS12}}
	server, err := dialer.DialContext(context.Background(), "tcp", p.node.addr)
	if err != nil {
		return
	}
	p.keep(server)
	defer func() { _ = server.Close() }()
	var lose atomic.Bool
	p.wg.Go(func() {
		defer func() { _ = client.Close() }()
		for {
			m, err := readFrame(server)
			if err != nil || lose.Load() {
				return
			}
			if _, err := client.Write(m); err != nil {
				return
			}
		}
	})
	for {
		m, err := readFrame(client)
		if err != nil {
			return
		}
		if name := p.cmd.Load(); name != nil && bytes.Contains(m, append([]byte{2}, append([]byte(*name), 0)...)) && p.cmd.CompareAndSwap(name, nil) {
			lose.Store(true)
			p.lost.Add(1)
		}
		if _, err := server.Write(m); err != nil {
			return
		}
	}
}

func readFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	m := make([]byte, binary.LittleEndian.Uint32(head[:]))
	copy(m, head[:])
	_, err := io.ReadFull(r, m[4:])
	return m, err
}

func TestAWriteWhoseAnswerIsLostIsDoneOnce(t *testing.T) {
	n := startNode(t)
	ctx := t.Context()
	p := newProxy(t, n)
	c, err := mongo.Connect(options.Client().SetHosts([]string{p.ln.Addr().String()}).SetDirect(true).SetServerSelectionTimeout(15 * time.Second).
		SetAuth(options.Credential{Username: rootName, Password: rootPwd, AuthSource: "admin"}))
	must(t, err)
	t.Cleanup(func() { _ = c.Disconnect(context.Background()) })
	coll := c.Database("d").Collection("c")
	_, err = coll.InsertOne(ctx, bson.D{{Key: "_id", Value: 1}, {Key: "n", Value: 0}})
	must(t, err)
	lose := func(name string) { p.cmd.Store(&name) }

	lose("insert")
	many, err := coll.InsertMany(ctx, []any{bson.D{{Key: "_id", Value: 2}}, bson.D{{Key: "_id", Value: 3}}, bson.D{{Key: "x", Value: 1}}})
	must(t, err)
	if len(many.InsertedIDs) != 3 {
		t.Errorf("inserted %v", many.InsertedIDs)
	}
	lose("update")
	up, err := coll.UpdateOne(ctx, bson.D{{Key: "_id", Value: 1}}, bson.D{{Key: "$inc", Value: bson.D{{Key: "n", Value: 1}}}})
	must(t, err)
	if up.MatchedCount != 1 || up.ModifiedCount != 1 {
		t.Errorf("update: %+v", up)
	}
	lose("update")
	up, err = coll.UpdateOne(ctx, bson.D{{Key: "u", Value: 9}}, bson.D{{Key: "$inc", Value: bson.D{{Key: "n", Value: 1}}}}, options.UpdateOne().SetUpsert(true))
	must(t, err)
	if up.UpsertedCount != 1 || up.UpsertedID == nil {
		t.Errorf("upsert: %+v", up)
	}
	lose("findAndModify")
	var before bson.M
	must(t, coll.FindOneAndUpdate(ctx, bson.D{{Key: "_id", Value: 1}}, bson.D{{Key: "$inc", Value: bson.D{{Key: "n", Value: 10}}}}).Decode(&before))
	if before["n"] != int32(1) {
		t.Errorf("findAndModify gave %v", before)
	}
	lose("delete")
	del, err := coll.DeleteOne(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: bson.A{2, 3}}}}})
	must(t, err)
	if del.DeletedCount != 1 {
		t.Errorf("delete: %+v", del)
	}
	if got := p.lost.Load(); got != 5 {
		t.Errorf("%d answers were lost, want 5", got)
	}
	var doc bson.M
	must(t, coll.FindOne(ctx, bson.D{{Key: "_id", Value: 1}}).Decode(&doc))
	if doc["n"] != int32(11) {
		t.Errorf("n is %v, want 11", doc["n"])
	}
	if total, err := coll.CountDocuments(ctx, bson.D{}); err != nil || total != 4 {
		t.Errorf("there are %d documents, want 4 (%v)", total, err)
	}
}

// session makes the fields of one retryable write.
func session(txn int64) bson.D {
	return bson.D{{Key: "lsid", Value: bson.D{{Key: "id", Value: bson.Binary{Subtype: 4, Data: bytes.Repeat([]byte{7}, 16)}}}}, {Key: "txnNumber", Value: txn}}
}

func TestRetriesByHand(t *testing.T) {
	n := startNode(t)
	w := dialWire(t, n)
	w.login(t, rootName, rootPwd)
	insert := func(txn int64, id any) bson.Raw {
		return w.call(t, append(bson.D{{Key: "insert", Value: "c"}, {Key: "documents", Value: bson.A{bson.D{{Key: "_id", Value: id}}}}, {Key: "$db", Value: "d"}}, session(txn)...))
	}
	for range 2 {
		if r := insert(5, "a"); r.Lookup("n").AsInt64() != 1 || r.Lookup("writeErrors").Type != 0 {
			t.Errorf("reply is %s", r)
		}
	}
	if r := insert(4, "b"); r.Lookup("code").AsInt64() != 225 {
		t.Errorf("an older number: %s", r)
	}
	if r := insert(6, "a"); r.Lookup("writeErrors").Type == 0 {
		t.Errorf("a newer number with the same document: %s", r)
	}
	r := w.call(t, append(bson.D{{Key: "delete", Value: "c"}, {Key: "deletes", Value: bson.A{bson.D{{Key: "q", Value: bson.D{}}, {Key: "limit", Value: 0}}}}, {Key: "$db", Value: "d"}}, session(7)...))
	if r.Lookup("code").AsInt64() != 72 {
		t.Errorf("many deletes with a number: %s", r)
	}
	n.stop()
	n.start()
	w = dialWire(t, n)
	w.login(t, rootName, rootPwd)
	if r := insert(6, "c"); r.Lookup("code").Type == 0 && r.Lookup("n").AsInt64() != 1 {
		t.Errorf("after a restart: %s", r)
	}
}
