package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iam"
	iamtypes "github.com/aws/aws-sdk-go-v2/service/iam/types"
	"go.mongodb.org/mongo-driver/v2/bson"
)

// reachedBy is how the API shows the way to a key.
type reachedBy struct {
	AWS struct {
		Enabled   bool   `json:"enabled"`
		Valid     bool   `json:"valid"`
		KeyID     string `json:"customerMasterKeyID"`
		RoleID    string `json:"roleId"`
		AccessKey string `json:"accessKeyID"`
	} `json:"awsKms"`
}

// localSecret reads the secret of an access key where the local AWS keeps it.
func (p *platform) localSecret(accessKeyID string) string {
	p.t.Helper()
	b, err := os.ReadFile(filepath.Join(p.dir, "aws", "state.json"))
	if err != nil {
		p.t.Fatal(err)
	}
	var st struct {
		Accounts map[string]struct {
			Users map[string]struct {
				AccessKeys []struct {
					ID     string `json:"id"`
					Secret string `json:"secret"`
				} `json:"accessKeys"`
			} `json:"users"`
		} `json:"accounts"`
	}
	if err := json.Unmarshal(b, &st); err != nil {
		p.t.Fatal(err)
	}
	for _, a := range st.Accounts {
		for _, u := range a.Users {
			for _, k := range u.AccessKeys {
				if k.ID == accessKeyID {
					return k.Secret
				}
			}
		}
	}
	p.t.Fatalf("the local AWS has no access key %s", accessKeyID)
	return ""
}

// TestSwitchFromAccessKeysToARole takes the project "Try switching" the one way, with an
// encrypted cluster that was made before.
func TestSwitchFromAccessKeysToARole(t *testing.T) {
	p := newPlatform(t)
	if p.boot.Switch == nil {
		t.Fatal("bootstrap.json names no project to try switching on")
	}
	project := p.boot.Switch.ProjectID
	path := "/api/atlas/v2/groups/" + project + "/encryptionAtRest"
	look := func() (out reachedBy) {
		p.t.Helper()
		p.call("GET", path, nil, &out)
		return out
	}
	before := look().AWS
	if !before.Enabled || !before.Valid || !strings.HasPrefix(before.AccessKey, "AKIA") || before.RoleID != "" {
		t.Fatalf("before: %+v", before)
	}
	secret := p.localSecret(before.AccessKey)
	p.createUser(project)
	p.createCluster(project, "Old", "AWS", 1)
	c := p.connect(project, "Old")
	if _, err := c.Database("kept").Collection("things").InsertOne(t.Context(), bson.D{{Key: "_id", Value: "one"}}); err != nil {
		t.Fatal(err)
	}
	intact := func() error {
		b := p.cluster(project, "Old")
		c, err := dial(p.t, p.uri(b.Strings.Standard))
		if err != nil {
			return err
		}
		n, err := c.Database("kept").Collection("things").CountDocuments(p.t.Context(), bson.D{})
		if err == nil && n != 1 {
			err = fmt.Errorf("%d documents", n)
		}
		return err
	}
	secretsFile := filepath.Join(p.dir, "agent", "access-keys.json")
	inClear := func(but ...string) []string {
		needles := map[string][]byte{}
		spelled(needles, "secret of the access key", []byte(secret))
		return containsAny(p.t, p.dir, needles, func(file string) bool {
			for _, b := range append(but, filepath.Join(p.dir, "aws")+"/") {
				if strings.HasPrefix(file, b) {
					return true
				}
			}
			return false
		})
	}

	p.run(t, "the secret lies in one file of the host, readable by nobody else", func(t *testing.T) {
		if st, err := os.Stat(secretsFile); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", st, err)
		}
		if found := inClear(secretsFile); len(found) > 0 {
			t.Errorf("in clear: %s", strings.Join(found, "; "))
		}
		if len(inClear()) == 0 {
			t.Error("the search does not find what lies in clear")
		}
	})

	admin := p.customer()
	role := p.register(project)
	const name = "Switched"
	// It may try the key, but not open what is wrapped.
	arn := admin.createRole(name, trust(role.Principal, role.ExternalID), access(before.KeyID, "kms:DescribeKey", "kms:Encrypt"))
	p.authorize(project, role, arn)
	patch := map[string]any{"awsKms": map[string]any{"roleId": role.RoleID}}
	p.run(t, "a role that lacks Decrypt is refused by name", func(t *testing.T) {
		e := p.refused("NO_PERMISSION_TO_ENCRYPT_DECRYPT", "PATCH", path, patch)
		if !strings.Contains(e.Detail, "lacks kms:Decrypt") || !strings.Contains(e.Detail, `"Effect":"Allow"`) {
			t.Errorf("the refusal: %s", e.Detail)
		}
		if now := look().AWS; now != before {
			t.Errorf("changed: %+v, before %+v", now, before)
		}
	})
	p.run(t, "a role that opens only probes is refused by the host", func(t *testing.T) {
		admin.setAccess(name, `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["kms:DescribeKey","kms:Encrypt"],"Resource":"`+before.KeyID+`"},`+
			`{"Effect":"Allow","Action":"kms:Decrypt","Resource":"`+before.KeyID+`","Condition":{"StringEquals":{"kms:EncryptionContext:keywright:purpose":"validation"}}}]}`)
		p.call("PATCH", path, patch, nil)
		p.eventually("the switch is given up", time.Minute, func() error {
			if m := p.messageOf(project, "ENCRYPTION_AT_REST_CHANGE_ABORTED"); !strings.Contains(m, "kms:Decrypt") || !strings.Contains(m, `"Effect":"Allow"`) {
				return fmt.Errorf("message %q", m)
			}
			return nil
		})
		if now := look().AWS; now.AccessKey != before.AccessKey || !now.Valid {
			t.Errorf("changed: %+v, before %+v", now, before)
		}
		if err := intact(); err != nil {
			t.Error(err)
		}
	})
	p.run(t, "the switch", func(t *testing.T) {
		admin.setAccess(name, access(before.KeyID))
		p.call("PATCH", path, patch, nil)
		p.eventually("the role is in force", time.Minute, func() error {
			if now := look().AWS; now.RoleID != role.RoleID || now.AccessKey != "" || !now.Valid {
				return fmt.Errorf("it is %+v", now)
			}
			return nil
		})
		p.eventually("the secret is gone from the host", time.Minute, func() error {
			if _, err := os.Stat(secretsFile); !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("still there (%w)", err)
			}
			return nil
		})
		if found := inClear(); len(found) > 0 {
			t.Errorf("in clear: %s", strings.Join(found, "; "))
		}
		if m := p.messageOf(project, "ENCRYPTION_AT_REST_SWITCHED_TO_ROLE"); !strings.Contains(m, arn) {
			t.Errorf("event: %q", m)
		}
	})
	p.run(t, "there is no way back", func(t *testing.T) {
		keys := map[string]any{"accessKeyID": before.AccessKey, "secretAccessKey": secret}
		p.refused("AWS_KMS_CREDENTIALS_AUTH_DEPRECATED", "PATCH", path, map[string]any{"awsKms": keys})
		p.refused("AWS_KMS_CREDENTIALS_AUTH_DEPRECATED", "POST", "/api/keywright/v1/groups/"+project+"/encryptionAtRest:importCredentials", map[string]any{
			"accessKeyId": before.AccessKey, "secretAccessKey": secret, "customerMasterKeyId": before.KeyID, "region": "US_EAST_1",
		})
	})
	p.run(t, "the cluster of before needs the access key no more", func(t *testing.T) {
		user := "KeywrightSwitching"
		if _, err := admin.iam.UpdateAccessKey(t.Context(), &iam.UpdateAccessKeyInput{UserName: &user, AccessKeyId: &before.AccessKey, Status: iamtypes.StatusTypeInactive}); err != nil {
			t.Fatal(err)
		}
		p.killNamed("mongod")
		p.eventually("the cluster is back, with its data", time.Minute, intact)
		p.stop()
		p.start()
		p.eventually("the cluster is there after a restart", time.Minute, intact)
		if p.boot.Switch == nil || p.boot.Switch.ProjectID != project || look().AWS.RoleID != role.RoleID {
			t.Errorf("the second start: %+v", p.boot.Switch)
		}
	})
}
