package doctor_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keywright/keywright/internal/doctor"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/kms/awskms"
)

// platform is an AWS as the doctor sees it.
type platform struct {
	source, arn string
	err         error
	endpoint    string
	from        []netip.Addr
}

func (p *platform) CredentialSource(context.Context) (string, error) { return p.source, p.err }

func (p *platform) CallerIdentity(context.Context) (account, arn string, err error) {
	if p.err != nil {
		return "", "", &kms.Failure{Outcome: kms.Unreachable, Reason: kms.PlatformCredentials, Remedy: "Repair the credentials."}
	}
	return "999900001111", p.arn, nil
}

func (p *platform) Endpoints(kms.Target) awskms.Endpoints {
	return awskms.Endpoints{KMS: p.endpoint, STS: p.endpoint}
}

func (p *platform) SourceAddresses(context.Context) []netip.Addr { return p.from }

// rig is a machine on which all is well, but that its endpoints are not AWS's.
type rig struct {
	cfg  doctor.Config
	aws  *platform
	date func() string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{date: func() string { return time.Now().UTC().Format(http.TimeFormat) }}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", r.date())
		w.WriteHeader(http.StatusForbidden)
	}))
	t.Cleanup(srv.Close)
	r.aws = &platform{source: "EC2RoleProvider", arn: "arn:aws:sts::999900001111:assumed-role/keywright/i-0", endpoint: srv.URL, from: []netip.Addr{netip.MustParseAddr("192.0.2.7")}}
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r.cfg = doctor.Config{Kind: doctor.Server, DataDir: dir, AWS: r.aws, Listen: []string{"127.0.0.1:0"}}
	return r
}

// is wants a check's level, and what it says.
func (r *rig) is(t *testing.T, check string, level doctor.Level, says string) {
	t.Helper()
	all := doctor.Examine(t.Context(), r.cfg)
	for _, f := range all {
		if f.Check != check {
			continue
		}
		if f.Level != level || !strings.Contains(f.Text+" "+f.Remedy, says) {
			t.Errorf("%s is %+v, want %s with %q", check, f, level, says)
		}
		if f.Level == doctor.Fail && f.Remedy == "" {
			t.Errorf("%s fails and does not say what to do", check)
		}
		if level == doctor.Fail && doctor.Worst(all) != doctor.Fail {
			t.Errorf("%s fails and the worst is %s", check, doctor.Worst(all))
		}
		return
	}
	t.Errorf("no check %q in %+v", check, all)
}

func TestEveryCheckTellsGoodFromBad(t *testing.T) {
	t.Run("credentials", func(t *testing.T) {
		r := newRig(t)
		r.is(t, "AWS credentials", doctor.OK, "EC2RoleProvider")
		r.is(t, "AWS identity", doctor.OK, "assumed-role/keywright")
		r.aws.source = "EnvConfigCredentials"
		r.is(t, "AWS credentials", doctor.Warn, "instance role")
		r.aws.arn = "arn:aws:iam::999900001111:root"
		r.is(t, "AWS identity", doctor.Warn, "root user")
		r.aws.err = errors.New("none")
		r.is(t, "AWS credentials", doctor.Fail, "instance role")
		r.is(t, "AWS identity", doctor.Fail, "Repair")
	})
	t.Run("endpoints and clock", func(t *testing.T) {
		r := newRig(t)
		r.is(t, "STS endpoint", doctor.Warn, "none of AWS's own names")
		r.is(t, "STS clock", doctor.OK, "off")
		for off, level := range map[time.Duration]doctor.Level{time.Minute: doctor.Warn, -time.Minute: doctor.Warn, 10 * time.Minute: doctor.Fail, -10 * time.Minute: doctor.Fail} {
			r.date = func() string { return time.Now().Add(off).UTC().Format(http.TimeFormat) }
			r.is(t, "KMS clock", level, "chrony")
		}
		r.date = func() string { return "x" }
		r.is(t, "KMS clock", doctor.Warn, "proxy")
		r.aws.endpoint = "http://127.0.0.1:1"
		r.is(t, "KMS endpoint", doctor.Fail, "CONNECT")
	})
	t.Run("addresses", func(t *testing.T) {
		r := newRig(t)
		r.is(t, "addresses", doctor.OK, "192.0.2.7")
		r.aws.from = []netip.Addr{netip.MustParseAddr("10.0.0.7")}
		r.is(t, "addresses", doctor.Warn, "--egress-address")
		r.aws.from = nil
		r.is(t, "addresses", doctor.Warn, "--egress-address")
	})
	t.Run("data directory", func(t *testing.T) {
		r := newRig(t)
		r.is(t, "data directory", doctor.OK, "0700")
		if left, err := os.ReadDir(r.cfg.DataDir); err != nil || len(left) != 0 {
			t.Errorf("it left %v, %v", left, err)
		}
		if err := os.Chmod(r.cfg.DataDir, 0o755); err != nil {
			t.Fatal(err)
		}
		r.is(t, "data directory", doctor.Fail, "chmod 700")
		r.cfg.DataDir = filepath.Join(r.cfg.DataDir, "none")
		r.is(t, "data directory", doctor.Warn, "does not exist")
	})
	t.Run("ports", func(t *testing.T) {
		r := newRig(t)
		r.is(t, "port 127.0.0.1:0", doctor.OK, "free")
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		r.cfg.Listen = []string{l.Addr().String()}
		r.is(t, "port "+l.Addr().String(), doctor.Fail, "another process")
		lock, err := os.Create(filepath.Join(r.cfg.DataDir, "lock"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = lock.Close() }()
		if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		r.is(t, "port "+l.Addr().String(), doctor.OK, "runs on this data directory")
	})
	t.Run("a host that is not enrolled", func(t *testing.T) {
		r := newRig(t)
		r.cfg.Kind, r.cfg.ServerURL = doctor.Agent, "https://127.0.0.1:1"
		r.is(t, "enrolment", doctor.Warn, "token")
		r.is(t, "control plane", doctor.Fail, "firewall")
		r.cfg.ServerURL = "http://x"
		r.is(t, "control plane", doctor.Fail, "--server")
		if err := os.WriteFile(filepath.Join(r.cfg.DataDir, "identity.json"), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
		r.is(t, "enrolment", doctor.Fail, "enrol this host again")
	})
	t.Run("the system", func(t *testing.T) {
		for _, f := range doctor.Examine(t.Context(), newRig(t).cfg) {
			if f.Check == "core dumps" && f.Level != doctor.OK {
				t.Errorf("%+v", f)
			}
		}
	})
}
