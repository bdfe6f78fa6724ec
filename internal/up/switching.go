package up

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	iamtypes "github.com/aws/aws-sdk-go-v2/service/iam/types"
)

// The project to try the switch from access keys to a role on.
const (
	switchProject  = "Try switching"
	switchUserName = "KeywrightSwitching"
)

// makeSwitch makes the project whose key is reached with an access key of an IAM user. The
// secret goes into the API call and nowhere else: a start that was killed makes another
// access key.
func (p *platform) makeSwitch(ctx context.Context, st *samples) error {
	if err := p.ensureProject(ctx, switchProject, &st.Switch); err != nil {
		return err
	}
	customer := newCustomer(p.awsURL, p.seed.Customer)
	if st.SwitchKeyARN == "" {
		arn, err := customer.createKey(ctx)
		if err != nil {
			return err
		}
		st.SwitchKeyARN = arn
	}
	if err := p.remember(st); err != nil {
		return err
	}
	path := "/api/keywright/v1/groups/" + st.Switch + "/encryptionAtRest"
	var key struct {
		Enabled bool `json:"enabled"`
	}
	if err := p.api.Do(ctx, http.MethodGet, path, nil, &key); err != nil {
		return fmt.Errorf("look at the key of project %s: %w", switchProject, err)
	}
	if !key.Enabled {
		id, secret, err := customer.freshAccessKey(ctx, switchUserName, st.SwitchKeyARN)
		if err != nil {
			return err
		}
		if err := p.api.Do(ctx, http.MethodPost, path+":importCredentials", map[string]string{
			"accessKeyId": id, "secretAccessKey": secret, "customerMasterKeyId": st.SwitchKeyARN, "region": "US_EAST_1",
		}, nil); err != nil {
			return fmt.Errorf("import the access key into project %s: %w", switchProject, err)
		}
	}
	st.SwitchDone = true
	return p.remember(st)
}

// freshAccessKey gives the only access key of a user who may do the three things to a key.
func (c *customer) freshAccessKey(ctx context.Context, user, keyARN string) (id, secret string, err error) {
	access, err := policy(map[string]any{
		"Effect": "Allow", "Action": []string{"kms:DescribeKey", "kms:Encrypt", "kms:Decrypt"}, "Resource": keyARN,
	})
	if err != nil {
		return "", "", err
	}
	var exists *iamtypes.EntityAlreadyExistsException
	if _, err := c.iam.CreateUser(ctx, &iam.CreateUserInput{UserName: &user}); err != nil && !errors.As(err, &exists) {
		return "", "", fmt.Errorf("create user %s: %w", user, err)
	}
	if _, err := c.iam.PutUserPolicy(ctx, &iam.PutUserPolicyInput{UserName: &user, PolicyName: aws.String("KeywrightKeyAccess"), PolicyDocument: &access}); err != nil {
		return "", "", fmt.Errorf("give user %s access to the key: %w", user, err)
	}
	old, err := c.iam.ListAccessKeys(ctx, &iam.ListAccessKeysInput{UserName: &user})
	if err != nil {
		return "", "", fmt.Errorf("list access keys of user %s: %w", user, err)
	}
	for _, k := range old.AccessKeyMetadata {
		if _, err := c.iam.DeleteAccessKey(ctx, &iam.DeleteAccessKeyInput{UserName: &user, AccessKeyId: k.AccessKeyId}); err != nil {
			return "", "", fmt.Errorf("delete access key of user %s: %w", user, err)
		}
	}
	out, err := c.iam.CreateAccessKey(ctx, &iam.CreateAccessKeyInput{UserName: &user})
	if err != nil {
		return "", "", fmt.Errorf("create access key of user %s: %w", user, err)
	}
	return aws.ToString(out.AccessKey.AccessKeyId), aws.ToString(out.AccessKey.SecretAccessKey), nil
}

// describeSwitch fills in the project, if it is still there.
func (p *platform) describeSwitch(ctx context.Context, st samples, b *Bootstrap) error {
	if st.Switch == "" {
		return nil
	}
	err := p.api.Do(ctx, http.MethodGet, "/api/atlas/v2/groups/"+st.Switch, nil, nil)
	if code(err) == "GROUP_NOT_FOUND" {
		return nil
	}
	if err == nil {
		b.Switch = &BootstrapSwitch{ProjectID: st.Switch}
	}
	return err
}
