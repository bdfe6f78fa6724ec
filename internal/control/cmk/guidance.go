package cmk

import (
	"context"
	"errors"
	"strings"

	"github.com/keywright/keywright/internal/control/access"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/policydoc"
	"github.com/keywright/keywright/internal/store"
)

// Guidance is what a customer must allow before a key can be used.
type Guidance struct {
	Access policydoc.Access
	// CrossAccount is nil while role or key are not known well enough.
	CrossAccount *bool
	// Placeholders are the words in capitals that stand in the texts for what is not
	// known yet.
	Placeholders []string
	// Texts are the policies, in the order in which they are set; CreateKey and
	// CreateRole make what is not there.
	Texts                 []policydoc.Text
	CreateKey, CreateRole policydoc.Text
}

// Guide gives the policies for a candidate, whose parts may all be empty: then what the
// project uses counts, and placeholders stand for the rest. limited adds the condition
// that only ciphertexts of this project can be made and opened. It asks nobody.
// GROUP_NOT_FOUND, INVALID_ATTRIBUTE, AWS_KMS_REGION_NOT_SUPPORTED,
// CLOUD_PROVIDER_ACCESS_ROLE_NOT_FOUND.
func (s *Service) Guide(ctx context.Context, p tenant.Principal, project keys.ProjectID, cand Candidate, limited bool) (out Guidance, err error) {
	patch := Patch{AWS: &AWSPatch{CustomerMasterKeyID: given(cand.KeyID), Region: given(cand.Region), RoleID: given(cand.RoleID)}}
	var c store.KeyConfig
	var role store.AccessRole
	err = s.st.View(ctx, func(tx *store.Tx) (err error) {
		if _, err = tenant.Require(tx, p, tenant.GroupReadOnly, project); err != nil {
			return err
		}
		if err = patch.check(); err != nil {
			return err
		}
		if c, err = tx.KeyConfig(project); err != nil {
			return err
		}
		if cand.RoleID != "" {
			c.Role = keys.RoleID(cand.RoleID)
		}
		role, err = guidedRole(tx, project, c.Role)
		return err
	})
	if err != nil {
		return out, err
	}
	if a := patch.AWS; a.Region != nil {
		c.Region = *a.Region
	}
	if patch.AWS.CustomerMasterKeyID != nil {
		c.KeyID = cand.KeyID
		if arn, err := keys.ParseARN(cand.KeyID); err == nil && cand.Region == "" {
			c.Region = arn.Region
		}
	}
	region := AWSRegion(c.Region)
	if region == "" {
		region = "us-east-1"
	}
	out.Access = guidedAccess(role, c.KeyID, region)
	if limited {
		out.Access.Projects = []string{string(project)}
	}
	if cross, known := out.Access.Accounts(); known {
		out.CrossAccount = &cross
	}
	for _, word := range []string{"PLATFORM_ACCOUNT_ID", "EXTERNAL_ID", "ROLE_ACCOUNT_ID", "KEY_ACCOUNT_ID", "KEY_ID"} {
		a := out.Access
		if strings.Contains(a.PlatformARN+" "+a.ExternalID+" "+a.RoleARN+" "+a.KeyARN, word) {
			out.Placeholders = append(out.Placeholders, word)
		}
	}
	out.Texts, out.CreateRole = out.Access.Setup(), out.Access.RoleText()
	out.CreateKey = policydoc.KeyCommand(region, strings.Contains(out.Access.KeyARN, ":key/mrk-"))
	return out, nil
}

// guidedRole is the named registration, else the newest one of the project; zero if
// there is none.
func guidedRole(tx *store.Tx, project keys.ProjectID, id keys.RoleID) (store.AccessRole, error) {
	if id != "" {
		r, err := tx.Role(project, id)
		if errors.Is(err, store.ErrNotFound) {
			return r, access.NotFound(id)
		}
		return r, err
	}
	all, err := tx.Roles(project)
	if err != nil || len(all) == 0 {
		return store.AccessRole{}, err
	}
	return all[len(all)-1], nil
}

// guidedAccess fills what is not known with words that nobody takes for real.
func guidedAccess(role store.AccessRole, keyID, region string) policydoc.Access {
	partition := keys.Partition(region)
	a := policydoc.Access{PlatformARN: role.PlatformARN, ExternalID: role.ExternalID, RoleARN: role.ARN}
	if a.PlatformARN == "" {
		a.PlatformARN, a.ExternalID = "arn:"+partition+":iam::PLATFORM_ACCOUNT_ID:root", "EXTERNAL_ID"
	}
	if keyID == "" {
		keyID = "KEY_ID"
	}
	a.KeyARN = kms.Target{RoleARN: role.ARN, KeyID: keyID, Region: region}.KeyARN()
	if a.KeyARN == "" {
		a.KeyARN = keys.ARN{Partition: partition, Service: "kms", Region: region, Account: "KEY_ACCOUNT_ID", Resource: "key/" + keyID}.String()
	}
	a.Replicas = otherNames(keyID, a.KeyARN)
	if a.RoleARN == "" {
		a.RoleARN = "arn:" + partition + ":iam::ROLE_ACCOUNT_ID:role/keywright"
	}
	return a
}
