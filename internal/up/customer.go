package up

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	iamtypes "github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/keywright/keywright/internal/awslocal"
)

// customer does what a customer does in their own AWS account.
type customer struct {
	kms *kms.Client
	iam *iam.Client
}

func newCustomer(endpoint string, a awslocal.AccountSeed) *customer {
	cfg := aws.Config{
		Region: Region, BaseEndpoint: aws.String(endpoint),
		Credentials: credentials.NewStaticCredentialsProvider(a.AccessKeyID, a.SecretAccessKey, ""),
	}
	return &customer{kms: kms.NewFromConfig(cfg), iam: iam.NewFromConfig(cfg)}
}

func (c *customer) createKey(ctx context.Context) (arn string, err error) {
	out, err := c.kms.CreateKey(ctx, &kms.CreateKeyInput{Description: aws.String("Keywright sample")})
	if err != nil {
		return "", fmt.Errorf("create sample key: %w", err)
	}
	return aws.ToString(out.KeyMetadata.Arn), nil
}

// ensureRole makes the role, or brings an existing one up to date: it trusts
// principal with the external id, and may do the three things to the key.
func (c *customer) ensureRole(ctx context.Context, name, principal, externalID, keyARN string) (arn string, err error) {
	trust, err := policy(map[string]any{
		"Effect": "Allow", "Principal": map[string]string{"AWS": principal}, "Action": "sts:AssumeRole",
		"Condition": map[string]any{"StringEquals": map[string]string{"sts:ExternalId": externalID}},
	})
	if err != nil {
		return "", err
	}
	access, err := policy(map[string]any{
		"Effect": "Allow", "Action": []string{"kms:DescribeKey", "kms:Encrypt", "kms:Decrypt"}, "Resource": keyARN,
	})
	if err != nil {
		return "", err
	}
	role, err := c.iam.CreateRole(ctx, &iam.CreateRoleInput{RoleName: &name, AssumeRolePolicyDocument: &trust})
	var exists *iamtypes.EntityAlreadyExistsException
	switch {
	case err == nil:
		arn = aws.ToString(role.Role.Arn)
	case errors.As(err, &exists):
		if _, err := c.iam.UpdateAssumeRolePolicy(ctx, &iam.UpdateAssumeRolePolicyInput{RoleName: &name, PolicyDocument: &trust}); err != nil {
			return "", fmt.Errorf("update trust policy of sample role: %w", err)
		}
		got, err := c.iam.GetRole(ctx, &iam.GetRoleInput{RoleName: &name})
		if err != nil {
			return "", fmt.Errorf("read sample role: %w", err)
		}
		arn = aws.ToString(got.Role.Arn)
	default:
		return "", fmt.Errorf("create sample role: %w", err)
	}
	if _, err := c.iam.PutRolePolicy(ctx, &iam.PutRolePolicyInput{
		RoleName: &name, PolicyName: aws.String("KeywrightKeyAccess"), PolicyDocument: &access,
	}); err != nil {
		return "", fmt.Errorf("give sample role access to the key: %w", err)
	}
	return arn, nil
}
