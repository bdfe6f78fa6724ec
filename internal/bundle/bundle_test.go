package bundle_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/bundle"
	"github.com/keywright/keywright/internal/envelope"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/pki"
)

func authority(t testing.TB, kind pki.Kind, now time.Time) *pki.Authority {
	t.Helper()
	cert, key, err := pki.NewAuthority(kind, "65a0f0c2e4b0a1b2c3d4e5f6", now)
	if err != nil {
		t.Fatal(err)
	}
	a, err := pki.LoadAuthority(kind, cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func payload(t testing.TB) bundle.Payload {
	t.Helper()
	d := keys.DeploymentID("65a0f0c2e4b0a1b2c3d4e5f6")
	raw, err := envelope.Wrapped{Version: 1, KeyARN: "arn:aws:kms:us-east-1:222222222222:key/1", Ciphertext: []byte("ciphertext"), Created: time.Unix(1e9, 0)}.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	w := agentlink.EscrowedWrap{Node: "n", Project: "p", Cluster: "c", Key: keys.NewKeyID(), Purpose: keys.PurposeMasterKey, State: keys.StateActive, Generation: 1, Revision: 2, Wrapped: raw}
	damaged, gone := w, w
	damaged.Wrapped, gone.Wrapped, gone.State = []byte("damaged"), nil, keys.StateDestroyed
	return bundle.Payload{Deployment: d, Created: time.Unix(1e9, 0).UTC(), Wraps: []bundle.Wrap{bundle.Describe(d, "h", w), bundle.Describe(d, "h", damaged), bundle.Describe(d, "h", gone)}}
}

func encode(t testing.TB, b bundle.Bundle) []byte {
	t.Helper()
	raw, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestABundleComesBackAsItWasAndDoesNotGrowOld(t *testing.T) {
	long := time.Now().Add(-8 * 365 * 24 * time.Hour)
	link := authority(t, pki.KindLink, long)
	want := payload(t)
	b, err := bundle.Sign(want, link, long)
	if err != nil {
		t.Fatal(err)
	}
	got, err := bundle.Open(encode(t, b), link.CertificatePEM())
	if err != nil {
		t.Fatal(err)
	}
	w := got.Wraps[0]
	if got.Deployment != want.Deployment || len(got.Wraps) != 3 || !bytes.Equal(w.Wrapped, want.Wraps[0].Wrapped) || w.Host != "h" {
		t.Errorf("%+v", got)
	}
	if w.KeyARN != "arn:aws:kms:us-east-1:222222222222:key/1" || w.Context["keywright:key"] != string(w.Key) || w.Context["keywright:node"] != "n" || w.Context["keywright:purpose"] != "master-key" {
		t.Errorf("described as %q, %v", w.KeyARN, w.Context)
	}
	if got.Wraps[1].KeyARN != "" || len(got.Wraps[1].Wrapped) == 0 || got.Wraps[2].Context != nil {
		t.Errorf("%+v", got.Wraps[1:])
	}
}

func TestWhatIsNotTheControlPlanesIsRefused(t *testing.T) {
	now := time.Now()
	link := authority(t, pki.KindLink, now)
	good, err := bundle.Sign(payload(t), link, now)
	if err != nil {
		t.Fatal(err)
	}
	other, err := bundle.Sign(payload(t), authority(t, pki.KindLink, now), now)
	if err != nil {
		t.Fatal(err)
	}
	key, csr, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	host, err := link.Sign(csr, pki.Leaf{CommonName: "65a0f0c2e4b0a1b2c3d4e5f6", Client: true}, now)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(key.Reveal())
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(append([]byte("keywright key export 1\n"), good.Payload...))
	byHost, err := private.(crypto.Signer).Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*bundle.Bundle)
		want   error
	}{
		"another deployment":          {func(b *bundle.Bundle) { *b = other }, bundle.ErrSignature},
		"changed payload":             {func(b *bundle.Bundle) { b.Payload = append(bytes.Clone(b.Payload), ' ') }, bundle.ErrSignature},
		"another bundle's signature":  {func(b *bundle.Bundle) { b.Signature = other.Signature }, bundle.ErrSignature},
		"signed by a host":            {func(b *bundle.Bundle) { b.Certificate, b.Signature = string(host), byHost }, bundle.ErrSignature},
		"no certificate":              {func(b *bundle.Bundle) { b.Certificate = "" }, bundle.ErrDamaged},
		"the authority's certificate": {func(b *bundle.Bundle) { b.Certificate = string(link.CertificatePEM()) }, bundle.ErrSignature},
		"newer":                       {func(b *bundle.Bundle) { b.Version = 2 }, bundle.ErrNewer},
		"no version":                  {func(b *bundle.Bundle) { b.Version = 0 }, bundle.ErrDamaged},
		"another format":              {func(b *bundle.Bundle) { b.Format = "" }, bundle.ErrDamaged},
	} {
		b := good
		c.change(&b)
		if _, err := bundle.Open(encode(t, b), link.CertificatePEM()); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := bundle.Open([]byte("{"), link.CertificatePEM()); !errors.Is(err, bundle.ErrDamaged) {
		t.Error(err)
	}
	if _, err := bundle.Open(encode(t, good), link.CertificatePEM()); err != nil {
		t.Error(err)
	}
}

// A bundle comes from outside: whatever it holds, Open gives an answer.
func FuzzOpen(f *testing.F) {
	now := time.Now()
	link := authority(f, pki.KindLink, now)
	good, err := bundle.Sign(payload(f), link, now)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(encode(f, good))
	f.Add([]byte(`{"format":"keywright-key-export","version":1,"payload":"e30=","certificate":"x","signature":""}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if p, err := bundle.Open(raw, link.CertificatePEM()); err != nil && len(p.Wraps) > 0 {
			t.Error("a refused bundle gave wraps")
		}
	})
}
