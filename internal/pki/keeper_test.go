package pki_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywright/keywright/internal/pki"
)

// keeperConfig is for a keeper whose certificates a signs, with the time of now.
func keeperConfig(t testing.TB, a authority, leaf pki.Leaf) pki.KeeperConfig {
	use := pki.AsServer
	if !leaf.Server {
		use = pki.AsClient
	}
	return pki.KeeperConfig{
		Kind: a.Kind(), CAs: a.certPEM, Use: use, File: filepath.Join(t.TempDir(), "leaf.pem"),
		Signer: pki.SignerFunc(func(_ context.Context, csr []byte) ([]byte, error) { return a.Sign(csr, leaf, time.Now()) }),
	}
}

func openKeeper(t testing.TB, cfg pki.KeeperConfig) *pki.Keeper {
	t.Helper()
	k, err := pki.OpenKeeper(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeeperKeepsItsLeaf(t *testing.T) {
	a := newAuthority(t, pki.KindKMIPServer)
	cfg := keeperConfig(t, a, leafFor(pki.KindKMIPServer))
	cfg.CertificateFile = filepath.Join(t.TempDir(), "cert.pem")
	first := openKeeper(t, cfg).Leaf()
	if st, _ := os.Stat(cfg.File); st.Mode().Perm() != 0o600 {
		t.Errorf("mode %s", st.Mode())
	}
	public, _ := os.ReadFile(cfg.CertificateFile)
	if pki.Fingerprint(public) != pki.Fingerprint(first.Raw) || bytes.Contains(public, []byte("PRIVATE")) {
		t.Error("the copy is not the certificate alone")
	}
	if err := os.Chmod(cfg.File, 0o644); err != nil {
		t.Fatal(err)
	}
	if second := openKeeper(t, cfg).Leaf(); !second.Equal(first) {
		t.Error("a good certificate was replaced")
	}
	if st, _ := os.Stat(cfg.File); st.Mode().Perm() != 0o600 {
		t.Error("a key that others could read was left so")
	}
}

func TestKeeperReplacesAnUnusableLeaf(t *testing.T) {
	a := newAuthority(t, pki.KindKMIPServer)
	for name, spoil := range map[string]func(t *testing.T, path string){
		"damaged": func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("-----BEGIN CERTIFICATE-----\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"another authority's": func(t *testing.T, path string) {
			other := keeperConfig(t, newAuthority(t, pki.KindKMIPServer), leafFor(pki.KindKMIPServer))
			other.File = path
			openKeeper(t, other)
		},
		"expired": func(t *testing.T, path string) {
			keyPEM, csr, _ := pki.NewKey()
			certPEM, err := a.Sign(csr, pki.Leaf{CommonName: "n", Server: true, DNSNames: []string{"x"}, Lifetime: time.Nanosecond}, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if err := pki.WriteCombined(path, keyPEM, certPEM); err != nil {
				t.Fatal(err)
			}
		},
		"with another key": func(t *testing.T, path string) {
			_, csr, _ := pki.NewKey()
			keyPEM, _, _ := pki.NewKey()
			certPEM, _ := a.Sign(csr, leafFor(pki.KindKMIPServer), time.Now())
			if err := pki.WriteCombined(path, keyPEM, certPEM); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := keeperConfig(t, a, leafFor(pki.KindKMIPServer))
			spoil(t, cfg.File)
			before, _ := os.ReadFile(cfg.File)
			k := openKeeper(t, cfg)
			if pki.Fingerprint(k.Leaf().Raw) == pki.Fingerprint(before) {
				t.Error("the unusable certificate is in use")
			}
			roots, _ := pki.Pool(pki.KindKMIPServer, a.certPEM)
			if err := pki.Verify(pki.KindKMIPServer, roots, k.Leaf(), pki.AsServer, time.Now()); err != nil {
				t.Error(err)
			}
			cfg.Signer = pki.SignerFunc(func(context.Context, []byte) ([]byte, error) { return nil, errors.New("not needed") })
			openKeeper(t, cfg) // the new one is on disk
		})
	}
}

func TestKeeperRefusesWhatTheSignerShouldNotHaveSigned(t *testing.T) {
	a, other := newAuthority(t, pki.KindKMIPServer), newAuthority(t, pki.KindKMIPServer)
	cfg := keeperConfig(t, a, leafFor(pki.KindKMIPServer))
	for name, sign := range map[string]pki.SignerFunc{
		"other authority": func(_ context.Context, csr []byte) ([]byte, error) {
			return other.Sign(csr, leafFor(pki.KindKMIPServer), time.Now())
		},
		"other key": func(context.Context, []byte) ([]byte, error) {
			_, csr, _ := pki.NewKey()
			return a.Sign(csr, leafFor(pki.KindKMIPServer), time.Now())
		},
		"nothing": func(context.Context, []byte) ([]byte, error) { return nil, nil },
	} {
		cfg.Signer = sign
		if _, err := pki.OpenKeeper(t.Context(), cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, err := os.Stat(cfg.File); err == nil {
			t.Errorf("%s: written", name)
		}
	}
}

func TestKeeperRenewsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t, pki.KindLink) // lives 90 days
		cfg := keeperConfig(t, a, leafFor(pki.KindLink))
		var asked []time.Duration
		start := time.Now()
		var mu sync.Mutex // guards asked and broken
		broken := 0
		breakFor := func(times int) {
			mu.Lock()
			defer mu.Unlock()
			broken = times
		}
		cfg.Signer = pki.SignerFunc(func(_ context.Context, csr []byte) ([]byte, error) {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, time.Since(start))
			if broken > 0 {
				broken--
				return nil, errors.New("cut off")
			}
			return a.Sign(csr, leafFor(pki.KindLink), time.Now())
		})
		k := openKeeper(t, cfg)
		first := k.Leaf()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- k.Run(ctx) }()

		time.Sleep(29 * 24 * time.Hour)
		synctest.Wait()
		if len(asked) != 1 || !k.Leaf().Equal(first) {
			t.Fatalf("renewed too early: %v", asked)
		}
		breakFor(3)
		time.Sleep(24*time.Hour + time.Minute)
		synctest.Wait()
		if k.Leaf().Equal(first) || len(asked) != 5 {
			t.Fatalf("not renewed: %v", asked)
		}
		if d := asked[4] - asked[1]; d != 7*time.Second { // 1 + 2 + 4
			t.Errorf("retried over %s", d)
		}
		// Cut off when it is due again, the old certificate stays in use.
		second := k.Leaf()
		breakFor(1 << 30)
		time.Sleep(32 * 24 * time.Hour)
		synctest.Wait()
		if !k.Leaf().Equal(second) || time.Now().After(second.NotAfter) {
			t.Error("the certificate did not outlast the partition")
		}
		breakFor(0)
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		if k.Leaf().Equal(second) {
			t.Error("not renewed after the partition")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		cfg.Signer = nil // a restart needs no signer
		if !openKeeper(t, cfg).Leaf().Equal(k.Leaf()) {
			t.Error("the renewed certificate is not on disk")
		}
	})
}

func TestKeeperWaitsForLeaveToInstall(t *testing.T) {
	a := newAuthority(t, pki.KindKMIPClient)
	cfg := keeperConfig(t, a, leafFor(pki.KindKMIPClient))
	var refuse error
	installed := 0
	cfg.BeforeInstall = func(context.Context, *x509.Certificate) error { return refuse }
	cfg.OnInstall = func(*x509.Certificate) { installed++ }
	k := openKeeper(t, cfg)
	first, disk := k.Leaf(), fileFingerprint(t, cfg.File)
	refuse = errors.New("the fingerprint is not admitted yet")
	if err := k.Renew(t.Context()); !errors.Is(err, refuse) {
		t.Fatal(err)
	}
	if !k.Leaf().Equal(first) || fileFingerprint(t, cfg.File) != disk || installed != 1 {
		t.Error("a certificate was installed without leave")
	}
	refuse = nil
	if err := k.Renew(t.Context()); err != nil || k.Leaf().Equal(first) || installed != 2 {
		t.Error("not installed", err)
	}
}

func fileFingerprint(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return pki.Fingerprint(b)
}

func TestTLSConfigurations(t *testing.T) {
	link, client := newAuthority(t, pki.KindLink), newAuthority(t, pki.KindKMIPClient)
	serverCfg := keeperConfig(t, link, pki.Leaf{CommonName: "server", Server: true, DNSNames: []string{"server.test"}})
	serverCfg.SendCA = true
	serverCfg.CAs = append(newAuthority(t, pki.KindLink).certPEM, link.certPEM...) // an older one stands beside it
	server := openKeeper(t, serverCfg)
	agent := openKeeper(t, keeperConfig(t, link, pki.Leaf{CommonName: "agent", Client: true}))
	node := openKeeper(t, keeperConfig(t, client, leafFor(pki.KindKMIPClient)))

	as := func(k *pki.Keeper) *tls.Config {
		c, err := pki.ClientTLS(k, pki.KindLink, link.certPEM)
		if err != nil {
			t.Fatal(err)
		}
		c.ServerName = "server.test"
		return c
	}
	wrongName := as(agent)
	wrongName.ServerName = "other.test"
	otherCA, err := pki.ClientTLS(agent, pki.KindLink, newAuthority(t, pki.KindLink).certPEM)
	if err != nil {
		t.Fatal(err)
	}
	otherCA.ServerName = "server.test"
	forced := as(nil) // sends a certificate that the server did not ask for
	forced.GetClientCertificate = node.GetClientCertificate
	pin := pki.Fingerprint(link.certPEM)
	for name, c := range map[string]struct {
		client   *tls.Config
		optional bool
		ok       bool
	}{
		"agent":                          {as(agent), false, true},
		"nobody":                         {as(nil), false, false},
		"nobody where that is allowed":   {as(nil), true, true},
		"a node's KMIP certificate":      {forced, false, false},
		"the same where none is allowed": {forced, true, false},
		"wrong name":                     {wrongName, false, false},
		"server of another authority":    {otherCA, false, false},
		"pinned":                         {pki.PinnedClientTLS(pki.KindLink, pin, "server.test"), true, true},
		"pinned, wrong name":             {pki.PinnedClientTLS(pki.KindLink, pin, "other.test"), true, false},
		"pinned to another":              {pki.PinnedClientTLS(pki.KindLink, pki.Fingerprint(client.certPEM), "server.test"), true, false},
		"pinned to the leaf":             {pki.PinnedClientTLS(pki.KindLink, pki.Fingerprint(server.Leaf().Raw), "server.test"), true, false},
	} {
		cfg, err := pki.ServerTLS(server, pki.KindLink, link.certPEM, c.optional)
		if err != nil {
			t.Fatal(err)
		}
		if got := shake(t, cfg, c.client); (got == nil) != c.ok {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// shake does a handshake over loopback and gives what either side found wrong.
func shake(t *testing.T, server, client *tls.Config) error {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		raw, err := ln.Accept()
		if err == nil {
			defer func() { _ = raw.Close() }()
			err = tls.Server(raw, server).HandshakeContext(ctx)
		}
		done <- err
	}()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	err = tls.Client(raw, client).HandshakeContext(ctx)
	if err != nil {
		_ = raw.Close()
	}
	return errors.Join(err, <-done)
}
