package awskms

import (
	"context"
	"log/slog"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// Config configures a Provider.
type Config struct {
	// AWS is the SDK's configuration with the platform's own credentials. Zero: Load
	// builds it from the default chain.
	AWS aws.Config
	// CanaryRoleARN, if set, is a role in the platform's account that every principal
	// of the platform may assume. When a customer's role is refused and the canary is
	// refused too, the platform is at fault and not the customer.
	CanaryRoleARN string
	// SessionName appears in the customer's CloudTrail; "keywright" if empty.
	SessionName string
	// Logger may be nil.
	Logger *slog.Logger
}

// Provider implements kms.Provider over AWS.
type Provider struct{ cfg Config }

// New makes a provider.
func New(ctx context.Context, cfg Config) (*Provider, error) { return &Provider{cfg: cfg}, nil }
