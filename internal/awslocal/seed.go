package awslocal

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
)

// The accounts that every data directory starts with.
const (
	// PlatformAccount is the account that Keywright itself acts from.
	PlatformAccount = "999900001111"
	// CustomerAccount is the customer's account.
	CustomerAccount = "111122223333"
	// SecondAccount is a second customer's account, for cross-account keys.
	SecondAccount = "444455556666"
	// DefaultRegion is the Region that the seed file names. Every other Region
	// works too.
	DefaultRegion = "us-east-1"
	// SeedFile is the name of the seed file in the data directory.
	SeedFile = "seed.json"

	seedVersion = 1
)

// Credentials are an access key of a seeded user. They never show their secret
// in logs; only JSON carries it.
type Credentials struct {
	AccessKeyID     string `json:"accessKeyId"`
	SecretAccessKey string `json:"secretAccessKey"`
}

// String names the access key and hides its secret.
func (c Credentials) String() string { return c.AccessKeyID + " [redacted]" }

// GoString is String.
func (c Credentials) GoString() string { return c.String() }

// LogValue implements slog.LogValuer.
func (c Credentials) LogValue() slog.Value { return slog.StringValue(c.String()) }

// PlatformSeed holds the platform account's users: one for the control plane,
// one for the agents. Each may do nothing but sts:AssumeRole.
type PlatformSeed struct {
	AccountID string      `json:"accountId"`
	Server    Credentials `json:"server"`
	Agent     Credentials `json:"agent"`
}

// AccountSeed is a customer's account with its administrator's access key.
type AccountSeed struct {
	AccountID string `json:"accountId"`
	Credentials
}

// String names account and access key and hides the secret.
func (a AccountSeed) String() string { return a.AccountID + " " + a.Credentials.String() }

// Seed says which accounts and access keys exist from the start. The keys are
// random per data directory and stay the same over restarts. Its JSON form is
// the file seed.json (SeedFile), version 1.
type Seed struct {
	Version  int          `json:"version"`
	Region   string       `json:"region"`
	Platform PlatformSeed `json:"platform"`
	// CanaryRoleARN is a role of the platform account that trusts the account
	// and asks no external id: assuming it tells whether the platform's own
	// permission works.
	CanaryRoleARN string      `json:"canaryRoleArn"`
	Customer      AccountSeed `json:"customer"`
	Second        AccountSeed `json:"second"`
}

// LogValue implements slog.LogValuer: a log names the accounts, never a secret.
func (s Seed) LogValue() slog.Value {
	return slog.StringValue("accounts " + s.Platform.AccountID + ", " + s.Customer.AccountID + ", " + s.Second.AccountID)
}

// LogValue implements slog.LogValuer.
func (p PlatformSeed) LogValue() slog.Value { return slog.StringValue("account " + p.AccountID) }

// ReadSeed reads the seed file of a data directory. A file of a newer version
// is refused.
func ReadSeed(dataDir string) (Seed, error) {
	path := filepath.Join(dataDir, SeedFile)
	raw, err := os.ReadFile(path) //nolint:gosec // the operator's own data directory
	if err != nil {
		return Seed{}, fmt.Errorf("read seed file: %w", err)
	}
	var s Seed
	if err := json.Unmarshal(raw, &s); err != nil {
		return Seed{}, fmt.Errorf("read seed file %s: %w", path, err)
	}
	if s.Version != seedVersion {
		return Seed{}, fmt.Errorf("read seed file %s: version %d, this program knows %d", path, s.Version, seedVersion)
	}
	return s, nil
}
