package command_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/keywright/keywright/internal/engine/command"
	"github.com/keywright/keywright/internal/engine/cryptofs"
	"github.com/keywright/keywright/internal/engine/replication"
	"github.com/keywright/keywright/internal/engine/storage"
	"github.com/keywright/keywright/internal/engine/wire"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
)

const (
	pairClients = 16
	pairRound   = 800 // inserts on each node in a round
)

// BenchmarkWireEncryptedAgainstPlain does the same work, 16 clients inserting documents
// of about 300 bytes, on an encrypted and on a plain node, which take turns in short
// rounds. It reports encrypted / plain: the median over the rounds of the throughput
// (budget 0.95), and the p99 of all latencies (budget 1.10). Run it with
// -benchtime 20000x or more, and several times.
func BenchmarkWireEncryptedAgainstPlain(b *testing.B) {
	plain, encrypted := &pairSide{}, &pairSide{}
	plain.coll = startNode(b).root().Database("d").Collection("c")
	encrypted.coll = startEncrypted(b).root().Database("d").Collection("c")
	for _, s := range []*pairSide{plain, encrypted} {
		s.insert(b, pairRound) // connections, collection
		s.took, s.latencies = nil, nil
	}
	b.ResetTimer()
	for round, left := 0, b.N; left > 0; round++ {
		n := min(pairRound, left)
		left -= n
		order := []*pairSide{plain, encrypted}
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, s := range order {
			s.insert(b, n)
		}
	}
	b.StopTimer()
	ratios := make([]float64, len(plain.took))
	for i := range ratios {
		ratios[i] = float64(plain.took[i]) / float64(encrypted.took[i])
	}
	slices.Sort(ratios)
	b.ReportMetric(ratios[len(ratios)/2], "throughput-ratio")
	b.ReportMetric(float64(encrypted.p99())/float64(plain.p99()), "p99-ratio")
	b.ReportMetric(float64(encrypted.p99().Microseconds()), "encrypted-p99-us")
	b.ReportMetric(0, "ns/op")
}

// pairSide is one of the two nodes with what was measured.
type pairSide struct {
	coll      *mongo.Collection
	next      atomic.Int64
	took      []time.Duration // of each round
	latencies []time.Duration
}

func (s *pairSide) insert(b *testing.B, n int) {
	payload := string(make([]byte, 270))
	end := s.next.Load() + int64(n)
	all := make([][]time.Duration, pairClients)
	var wg sync.WaitGroup
	began := time.Now()
	for c := range pairClients {
		wg.Go(func() {
			for id := s.next.Add(1); id <= end; id = s.next.Add(1) {
				t := time.Now()
				if _, err := s.coll.InsertOne(b.Context(), bson.D{{Key: "_id", Value: id}, {Key: "p", Value: payload}}); err != nil {
					b.Error(err)
					return
				}
				all[c] = append(all[c], time.Since(t))
			}
		})
	}
	wg.Wait()
	s.took = append(s.took, time.Since(began))
	s.next.Store(end)
	s.latencies = slices.Concat(append(all, s.latencies)...)
}

func (s *pairSide) p99() time.Duration {
	slices.Sort(s.latencies)
	return s.latencies[len(s.latencies)*99/100]
}

// startEncrypted is startNode with an encrypted node.
func startEncrypted(b *testing.B) *node {
	b.Helper()
	n := newNode(b)
	must(b, vfs.Default.MkdirAll(n.dir, 0o700))
	const id = "0123456789abcdef01234567"
	ring, err := cryptofs.CreateKeyring(vfs.Default, n.dir, id, cryptofs.MasterKey{
		ID: "kw-00000000000000000000000000000001", Key: secret.New(bytes.Repeat([]byte{7}, 32))})
	must(b, err)
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	b.Cleanup(func() {
		n.stop()
		ring.Close()
	})
	log := slog.New(slog.NewTextHandler(testLog{b}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	n.replica, err = replication.Open(ctx, replication.Config{Dir: n.dir, Node: keys.NodeID(id), Files: storage.Encrypted(ring, vfs.Default), Logger: log})
	must(b, err)
	n.ln, err = net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	n.addr = n.ln.Addr().String()
	certificates, err := wire.LoadCertificates(wire.TLSFiles{CertificateKey: n.certFile}, log)
	must(b, err)
	n.stopped = make(chan struct{})
	n.commands = command.NewServer(command.Config{Node: n.replica, Auth: true, Set: setName, Host: n.addr, TLS: true, Logger: log, Stop: sync.OnceFunc(func() { close(n.stopped) })})
	n.port = wire.NewServer(wire.ServerConfig{Handler: n.commands, Mode: wire.TLSRequire, Certificates: certificates, Logger: log})
	n.served = make(chan struct{})
	go func() {
		defer close(n.served)
		_ = n.port.Serve(n.ln)
	}()
	n.setUp()
	return n
}
