package kmip_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kmip"
	"github.com/keywright/keywright/internal/pki"
	"github.com/keywright/keywright/internal/secret"
)

// fakeKeys is a key plane in memory.
type fakeKeys struct {
	mu      sync.Mutex
	entries map[keys.KeyID]*entry
	order   []keys.KeyID
	// invalid: the custody verdict is INVALID.
	invalid bool
	// fail, if set, is asked before each call, with the method's name.
	fail  func(method string) error
	calls map[string]int
}

type entry struct {
	node  keys.NodeID
	meta  kmip.Meta
	key   secret.Bytes
	state keys.State
	made  time.Time
}

func newSecret() secret.Bytes { return secret.Random(32) }

func newFakeKeys() *fakeKeys {
	return &fakeKeys{entries: map[keys.KeyID]*entry{}, calls: map[string]int{}}
}

// begin locks, counts and asks fail; the caller unlocks.
func (f *fakeKeys) begin(method string) error {
	if f.fail != nil {
		if err := f.fail(method); err != nil {
			f.mu.Lock()
			f.calls[method]++
			return err
		}
	}
	f.mu.Lock()
	f.calls[method]++
	return nil
}

func (f *fakeKeys) own(p kmip.Principal, id keys.KeyID) (*entry, error) {
	e := f.entries[id]
	switch {
	case e == nil:
		return nil, kmip.ErrUnknown
	case e.node != p.Node:
		return nil, kmip.ErrForeign
	case !e.state.Readable():
		return nil, kmip.ErrNotFound
	}
	return e, nil
}

func (f *fakeKeys) add(p kmip.Principal, meta kmip.Meta, key secret.Bytes) keys.KeyID {
	id := keys.NewKeyID()
	f.entries[id] = &entry{node: p.Node, meta: meta, key: key, state: keys.StatePreActive, made: time.Now()}
	f.order = append(f.order, id)
	return id
}

func (f *fakeKeys) Create(_ context.Context, p kmip.Principal, meta kmip.Meta) (keys.KeyID, error) {
	err := f.begin("Create")
	defer f.mu.Unlock()
	if err != nil {
		return "", err
	}
	return f.add(p, meta, secret.Random(32)), nil
}

func (f *fakeKeys) Register(_ context.Context, p kmip.Principal, obj kmip.Object) (keys.KeyID, error) {
	err := f.begin("Register")
	defer f.mu.Unlock()
	if err != nil {
		return "", err
	}
	return f.add(p, obj.Meta, obj.Material.Clone()), nil
}

func (f *fakeKeys) Activate(_ context.Context, p kmip.Principal, id keys.KeyID) error {
	err := f.begin("Activate")
	defer f.mu.Unlock()
	if err != nil {
		return err
	}
	e, err := f.own(p, id)
	if err != nil {
		return err
	}
	if e.state != keys.StatePreActive {
		return kmip.ErrIllegal
	}
	e.state = keys.StateActive
	return nil
}

func (f *fakeKeys) Get(_ context.Context, p kmip.Principal, id keys.KeyID) (kmip.Object, error) {
	err := f.begin("Get")
	defer f.mu.Unlock()
	if err != nil {
		return kmip.Object{}, err
	}
	e, err := f.own(p, id)
	if err != nil {
		return kmip.Object{}, err
	}
	if f.invalid {
		return kmip.Object{}, kmip.ErrUnavailable
	}
	return kmip.Object{Meta: e.meta, Material: e.key.Clone()}, nil
}

func (f *fakeKeys) Release(context.Context, kmip.Principal, keys.KeyID) error {
	err := f.begin("Release")
	defer f.mu.Unlock()
	if err == nil && f.invalid {
		err = kmip.ErrUnavailable
	}
	return err
}

func (f *fakeKeys) Attributes(_ context.Context, p kmip.Principal, id keys.KeyID) (kmip.Attributes, error) {
	err := f.begin("Attributes")
	defer f.mu.Unlock()
	if err != nil {
		return kmip.Attributes{}, err
	}
	e, err := f.own(p, id)
	if err != nil {
		return kmip.Attributes{}, err
	}
	a := kmip.Attributes{Meta: e.meta, State: e.state, Created: e.made}
	if f.invalid {
		a.State = keys.StateDeactivated
	}
	return a, nil
}

func (f *fakeKeys) Locate(_ context.Context, p kmip.Principal, name string) ([]keys.KeyID, error) {
	err := f.begin("Locate")
	defer f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	var out []keys.KeyID
	for _, id := range slices.Backward(f.order) {
		if e := f.entries[id]; e.node == p.Node && e.state.Readable() && (name == "" || e.meta.Name == name) {
			out = append(out, id)
		}
	}
	return out, nil
}

func (f *fakeKeys) with(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
}

func (f *fakeKeys) count(method string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[method]
}

// lab is a server with its authorities.
type lab struct {
	keys     *fakeKeys
	admitted sync.Map // fingerprint -> kmip.Principal
	server   *kmip.Server
	clients  *pki.Authority
	servers  []byte
	dir      string
	log      *syncBuffer
	stop     context.CancelFunc
	done     chan error
	n        atomic.Int32
}

func (l *lab) Admit(fp string) (kmip.Principal, bool) {
	p, ok := l.admitted.Load(fp)
	if !ok {
		return kmip.Principal{}, false
	}
	return p.(kmip.Principal), true
}

func authority(t testing.TB, kind pki.Kind) (*pki.Authority, []byte) {
	t.Helper()
	certPEM, keyPEM, err := pki.NewAuthority(kind, "65a0f0c2e4b0a1b2c3d4e5f6", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	a, err := pki.LoadAuthority(kind, certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return a, certPEM
}

func newLab(t testing.TB, change func(*kmip.Config)) *lab {
	t.Helper()
	l := &lab{keys: newFakeKeys(), dir: t.TempDir(), log: &syncBuffer{}, done: make(chan error, 1)}
	server, serverCA := authority(t, pki.KindKMIPServer)
	client, clientCA := authority(t, pki.KindKMIPClient)
	l.clients, l.servers = client, serverCA
	keeper, err := pki.OpenKeeper(t.Context(), pki.KeeperConfig{
		Kind: pki.KindKMIPServer, CAs: serverCA, Use: pki.AsServer, File: filepath.Join(l.dir, "server.pem"),
		Signer: pki.SignerFunc(func(_ context.Context, csr []byte) ([]byte, error) {
			return server.Sign(csr, pki.Leaf{CommonName: "agent", Server: true, DNSNames: []string{"localhost"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}, time.Now())
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg := kmip.Config{
		Addr: "127.0.0.1:0", Keeper: keeper, ClientCAs: clientCA, Admission: l, Keys: l.keys,
		Logger: slog.New(slog.NewTextHandler(l.log, nil)),
		Limits: kmip.Limits{RequestRate: 1e9, RequestBurst: 1e9},
	}
	if change != nil {
		change(&cfg)
	}
	if l.server, err = kmip.NewServer(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	go func() { l.done <- l.server.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-l.done; err != nil {
			t.Error(err)
		}
	})
	return l
}

// credentials makes a certificate of an authority in a combined file.
func (l *lab) credentials(t testing.TB, a *pki.Authority, lifetime time.Duration) (file, fingerprint string) {
	t.Helper()
	keyPEM, csr, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	leaf := pki.Leaf{CommonName: "node", Client: true, Lifetime: lifetime}
	certPEM, err := a.Sign(csr, leaf, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(l.dir, "client"+string(rune('a'+l.n.Add(1)))+".pem")
	if err := pki.WriteCombined(file, keyPEM, certPEM); err != nil {
		t.Fatal(err)
	}
	return file, pki.Fingerprint(certPEM)
}

// admit makes an admitted node.
func (l *lab) admit(t testing.TB, node keys.NodeID) (file, fingerprint string) {
	t.Helper()
	file, fingerprint = l.credentials(t, l.clients, 0)
	l.admitted.Store(fingerprint, kmip.Principal{Node: node})
	return file, fingerprint
}

// config is a client's TLS configuration; no file, no certificate.
func (l *lab) config(t testing.TB, file string) *tls.Config {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(l.servers)
	cfg := &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}
	if file != "" {
		cert, err := tls.LoadX509KeyPair(file, file)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg
}

func (l *lab) dial(t testing.TB, cfg *tls.Config) *tls.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", l.server.Addr().String(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	return conn
}

// client is a connection of a fresh admitted node.
func (l *lab) client(t testing.TB, id keys.NodeID) *tls.Conn {
	t.Helper()
	file, _ := l.admit(t, id)
	return l.dial(t, l.config(t, file))
}

// exchange sends a request and reads one answer.
func exchange(conn net.Conn, request []byte) ([]byte, error) {
	if _, err := conn.Write(request); err != nil {
		return nil, err
	}
	var head [8]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return nil, err
	}
	out := append(head[:], make([]byte, binary.BigEndian.Uint32(head[4:]))...)
	_, err := io.ReadFull(conn, out[8:])
	return out, err
}

// ask sends a request and gives the answer, checked for what holds for all.
func ask(t testing.TB, conn net.Conn, request []byte) node {
	t.Helper()
	answer, err := exchange(conn, request)
	if err != nil {
		t.Fatal(err)
	}
	top := parse(t, answer)
	if len(top) != 1 || top[0].tag != tagResponse {
		t.Fatalf("not one response: %x", answer)
	}
	header := top[0].get(t, tagResponseHeader)
	// Exactly these three, in this order: the strict client fails on any other.
	if header.shape() != "420069 420092 42000D " {
		t.Fatalf("header holds %s", header.shape())
	}
	if d := time.Since(time.Unix(int64(binary.BigEndian.Uint64(header.get(t, tagTimeStamp).value)), 0)).Abs(); d > time.Minute {
		t.Errorf("time stamp is off by %s", d)
	}
	if got, want := header.get(t, tagBatchCount).number(), len(top[0].children)-1; got != want {
		t.Errorf("batch count %d for %d items", got, want)
	}
	return top[0]
}

// success gives the payload of the one item of a successful answer.
func success(t testing.TB, conn net.Conn, request []byte) node {
	t.Helper()
	item := ask(t, conn, request).get(t, tagBatchItem)
	if s := item.get(t, tagResultStatus).number(); s != 0 {
		t.Fatalf("status %d, reason %#x: %s", s, item.get(t, tagResultReason).number(), item.get(t, tagResultMessage).text())
	}
	if item.shape() != "42005C 42007F 42007C " {
		t.Fatalf("item holds %s", item.shape())
	}
	return item.get(t, tagResponsePay)
}

// refused checks that an answer is a failure of the reason.
func refused(t testing.TB, conn net.Conn, request []byte, code, reason int) node {
	t.Helper()
	item := ask(t, conn, request).get(t, tagBatchItem)
	checkFailure(t, item, code, reason)
	return item
}

func checkFailure(t testing.TB, item node, code, reason int) {
	t.Helper()
	if item.get(t, tagResultStatus).number() != 1 || item.get(t, tagResultReason).number() != reason {
		t.Fatalf("reason %#x (%s), want %#x", item.get(t, tagResultReason).number(), item.get(t, tagResultMessage).text(), reason)
	}
	if o, ok := item.child(tagOperation); code != 0 && (!ok || o.number() != code) {
		t.Errorf("the failure does not name operation %#x", code)
	}
	if _, ok := item.child(tagResponsePay); ok {
		t.Error("a failure carries a payload")
	}
	if m := item.get(t, tagResultMessage).text(); m == "" || len(m) > 120 {
		t.Errorf("message %q", m)
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func (s *syncBuffer) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b.Reset()
}
