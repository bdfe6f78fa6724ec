package e2e

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mongodb-forks/digest"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/client"
	"github.com/keywright/keywright/internal/engine/keysource"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
)

// TestBadInput refuses what is wrong, says what to do, and changes nothing.
func TestBadInput(t *testing.T) {
	p := newPlatform(t, "--no-sample")
	k := p.enable("Good")
	group := "/api/atlas/v2/groups/" + k.project
	encryption := group + "/encryptionAtRest"
	across := "" // the project whose key is in another account

	p.run(t, "encryption at rest", func(t *testing.T) {
		c := p.customer()
		rsaARN, _ := c.createKey(asymmetric)
		offARN, _ := c.createKey(nil)
		c.disable(offARN)
		unusableARN, _ := c.createKey(nil)
		// The role may use all of these keys: it is the keys that are wrong.
		c.setAccess(k.roleName, policy("Allow", map[string]any{
			"Action": []string{"kms:DescribeKey", "kms:Encrypt", "kms:Decrypt"}, "Resource": []string{k.keyARN, rsaARN, offARN},
		}))
		_, foreignID := p.second().createKey(nil)
		for _, tc := range []struct {
			name, key, code string
			says            []string
		}{
			{"asymmetric key", rsaARN, "AWS_KMS_CUSTOMER_MASTER_KEY_WRONG_TYPE", []string{"symmetric"}},
			{"disabled key", offARN, "AWS_KMS_CUSTOMER_MASTER_KEY_NOT_ENABLED", []string{"nable"}},
			{"key of another account by id", foreignID, "AWS_CUSTOMER_MASTER_KEY_NOT_FOUND", []string{"ARN"}},
			{"key that the role may not use", unusableARN, "NO_PERMISSION_TO_ENCRYPT_DECRYPT", []string{"kms:DescribeKey", "kms:Encrypt", "kms:Decrypt", unusableARN}},
			{"alias", "alias/mine", "INVALID_ATTRIBUTE", []string{"alias"}},
		} {
			p.run(t, tc.name, func(t *testing.T) {
				e := p.unchanged(encryption, tc.code, "PATCH", encryption, kmsConfig(k.role.RoleID, tc.key))
				for _, text := range tc.says {
					if !strings.Contains(e.Detail, text) {
						t.Errorf("the refusal does not speak of %q: %s", text, e.Detail)
					}
				}
			})
		}
		for name, tc := range map[string]struct {
			action string
		}{"no Encrypt": {"kms:Encrypt"}, "no Decrypt": {"kms:Decrypt"}} {
			p.run(t, name, func(t *testing.T) {
				other, _ := c.createKey(nil)
				var actions []string
				for _, a := range []string{"kms:DescribeKey", "kms:Encrypt", "kms:Decrypt"} {
					if a != tc.action {
						actions = append(actions, a)
					}
				}
				c.setAccess(k.roleName, policy("Allow", map[string]any{"Action": actions, "Resource": []string{k.keyARN, other}}))
				e := p.unchanged(encryption, "NO_PERMISSION_TO_ENCRYPT_DECRYPT", "PATCH", encryption, kmsConfig(k.role.RoleID, other))
				if !strings.Contains(e.Detail, tc.action) {
					t.Errorf("the refusal does not name %s: %s", tc.action, e.Detail)
				}
			})
		}
		c.setAccess(k.roleName, access(k.keyARN))
		p.unchanged(encryption, "AWS_CUSTOMER_MASTER_KEY_NOT_FOUND", "PATCH", encryption, map[string]any{"awsKms": map[string]any{"region": "EU_WEST_1", "customerMasterKeyID": k.keyID}})
		p.unchanged(encryption, "AWS_KMS_REGION_NOT_SUPPORTED", "PATCH", encryption, map[string]any{"awsKms": map[string]any{"region": "MARS_EAST_1"}})
		p.unchanged(encryption, "CLOUD_PROVIDER_ACCESS_ROLE_NOT_FOUND", "PATCH", encryption, kmsConfig("0123456789abcdef01234567", k.keyARN))
	})

	p.run(t, "key of another account by its full ARN works", func(t *testing.T) {
		other := p.enable("Across")
		arn, id := p.second().createKey(nil)
		second := p.second()
		root := map[string]any{"Sid": "Root", "Effect": "Allow", "Principal": map[string]any{"AWS": "arn:aws:iam::" + second.id + ":root"}, "Action": "kms:*", "Resource": "*"}
		use := map[string]any{
			"Sid": "KeywrightRole", "Effect": "Allow", "Principal": map[string]any{"AWS": other.roleARN},
			"Action": []string{"kms:DescribeKey", "kms:Encrypt", "kms:Decrypt"}, "Resource": "*",
		}
		doc, _ := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": []any{root, use}})
		second.putKeyPolicy(id, string(doc))
		p.customer().setAccess(other.roleName, policy("Allow", map[string]any{
			"Action": []string{"kms:DescribeKey", "kms:Encrypt", "kms:Decrypt"}, "Resource": []string{other.keyARN, arn},
		}))
		p.call("PATCH", "/api/atlas/v2/groups/"+other.project+"/encryptionAtRest", kmsConfig(other.role.RoleID, arn), nil)
		across = other.project
		p.createCluster(other.project, "Across", "AWS", 1)
		p.createUser(other.project)
		c := p.connect(other.project, "Across")
		if _, err := c.Database("a").Collection("b").InsertOne(t.Context(), bson.D{{Key: "x", Value: 1}}); err != nil {
			t.Fatal(err)
		}
	})

	p.run(t, "role", func(t *testing.T) {
		c := p.customer()
		r := p.register(k.project)
		path := group + "/cloudProviderAccess/" + r.RoleID
		loose := c.createRole("Loose", trust(r.Principal, ""), "")
		e := p.unchanged(path, "ROLE_ASSUMABLE_WITHOUT_EXTERNAL_ID", "PATCH", path, map[string]any{"providerName": "AWS", "iamAssumedRoleArn": loose})
		if !strings.Contains(e.Detail, "sts:ExternalId") {
			t.Errorf("the refusal does not say what to add: %s", e.Detail)
		}
		wrong := c.createRole("Wrong", trust(r.Principal, "00000000-0000-0000-0000-000000000000"), "")
		p.unchanged(path, "CANNOT_ASSUME_ROLE", "PATCH", path, map[string]any{"providerName": "AWS", "iamAssumedRoleArn": wrong})
		p.unchanged(path, "CANNOT_ASSUME_ROLE", "PATCH", path, map[string]any{"providerName": "AWS", "iamAssumedRoleArn": "arn:aws:iam::" + c.id + ":role/Nobody"})
		p.unchanged(path, "INVALID_ATTRIBUTE", "PATCH", path, map[string]any{"providerName": "AWS", "iamAssumedRoleArn": "nonsense"})
		p.unchanged(encryption, "CLOUD_PROVIDER_ACCESS_ROLE_NOT_AUTHORIZED", "PATCH", encryption, kmsConfig(r.RoleID, k.keyARN))
	})

	p.run(t, "clusters", func(t *testing.T) {
		clusters := group + "/clusters"
		bare := p.createProject("Bare")
		for _, size := range []string{"M0", "M2", "M5", "FLEX"} {
			p.unchanged(clusters, "CANNOT_USE_ENCRYPTION_AT_REST_TENANT", "POST", clusters, clusterRequest("Small", "AWS", size, 3))
		}
		serverless := clusterRequest("Small", "AWS", "M10", 3)
		serverless["replicationSpecs"].([]any)[0].(map[string]any)["regionConfigs"].([]any)[0].(map[string]any)["providerName"] = "SERVERLESS"
		p.unchanged(clusters, "CANNOT_USE_ENCRYPTION_AT_REST_TENANT", "POST", clusters, serverless)
		p.unchanged("/api/atlas/v2/groups/"+bare+"/clusters", "ENCRYPTION_AT_REST_NOT_ENABLED", "POST", "/api/atlas/v2/groups/"+bare+"/clusters", clusterRequest("Early", "AWS", "M10", 3))
		p.createCluster(k.project, "Sized", "AWS", 1)
		p.createUser(k.project)
		p.connect(k.project, "Sized")
		sized := clusterPath(k.project, "Sized")
		down := clusterRequest("Sized", "AWS", "M5", 1)
		delete(down, "name")
		p.unchanged(sized, "INSUFFICIENT_INSTANCE_SIZE", "PATCH", sized, down)
		p.unchanged(sized, "INVALID_ATTRIBUTE", "PATCH", sized, map[string]any{"backupEnabeld": true})
		p.unchanged(clusters, "CLUSTER_NAME_INVALID", "POST", clusters, clusterRequest("no good", "NONE", "M10", 3))
		p.unchanged(clusters, "DUPLICATE_CLUSTER_NAME", "POST", clusters, clusterRequest("Sized", "NONE", "M10", 3))
		even := clusterRequest("Even", "NONE", "M10", 4)
		p.unchanged(clusters, "INVALID_ATTRIBUTE", "POST", clusters, even)
	})

	p.run(t, "credentials", func(t *testing.T) {
		good := p.api
		defer func() { p.api = good }()
		resp, err := http.Get(p.boot.BaseURL + group)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != 401 || !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "Digest ") || !bytes.Contains(body, []byte("errorCode")) {
			t.Errorf("without credentials: %d %s", resp.StatusCode, body)
		}
		p.api = client.New(p.boot.BaseURL, p.boot.PublicKey, secret.FromString("wrong"))
		if err := p.api.Do(t.Context(), "GET", group, nil, nil); err == nil {
			t.Error("a wrong private key was accepted")
		}
		p.api = good
		var reader struct {
			PublicKey  string `json:"publicKey"`
			PrivateKey string `json:"privateKey"`
		}
		p.call("POST", group+"/apiKeys", map[string]any{"desc": "reader", "roles": []string{"GROUP_READ_ONLY"}}, &reader)
		p.api = client.New(p.boot.BaseURL, reader.PublicKey, secret.FromString(reader.PrivateKey))
		p.get(encryption)
		p.unchanged(encryption, "USER_UNAUTHORIZED", "PATCH", encryption, map[string]any{"awsKms": map[string]any{"enabled": false}})
		p.unchanged(group+"/clusters", "USER_UNAUTHORIZED", "POST", group+"/clusters", clusterRequest("Mine", "AWS", "M10", 1))
		p.unchanged(group+"/cloudProviderAccess", "USER_UNAUTHORIZED", "POST", group+"/cloudProviderAccess", map[string]any{"providerName": "AWS"})
	})

	p.run(t, "malformed JSON", func(t *testing.T) {
		before := p.get(encryption)
		c := &http.Client{Transport: digest.NewTransport(p.boot.PublicKey, p.boot.PrivateKey)}
		for _, body := range []string{`{"awsKms": {"enabled": tru`, `{"awsKms": {}} trailing`, ``, `[]`, `"text"`} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, p.boot.BaseURL+encryption, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Accept", client.MediaType)
			req.Header.Set("Content-Type", "application/json")
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			var e client.Error
			err = json.NewDecoder(resp.Body).Decode(&e)
			_ = resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusBadRequest || e.Code != "MALFORMED_JSON" && e.Code != "INVALID_JSON" {
				t.Errorf("body %q: %d %+v, %v", body, resp.StatusCode, e, err)
			}
		}
		if after := p.get(encryption); !bytes.Equal(before, after) {
			t.Errorf("malformed JSON changed %s to %s", before, after)
		}
	})

	p.run(t, "KMIP without and with a stranger's certificate", func(t *testing.T) {
		conn, err := tls.Dial("tcp", p.boot.KMIP.Address, &tls.Config{InsecureSkipVerify: true})
		if err == nil {
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = conn.Write([]byte{0x42, 0, 0x78, 1, 0, 0, 0, 0})
			if n, err := conn.Read(make([]byte, 64)); err == nil {
				t.Errorf("a client without certificate got %d bytes", n)
			}
		}
		// A certificate of the right kind of file but another authority: the node's
		// own database certificate.
		certs, _ := filepath.Glob(filepath.Join(p.dir, "agent", "nodes", "*", "database.pem"))
		if len(certs) == 0 {
			t.Fatal("no node has a certificate")
		}
		pair, err := tls.LoadX509KeyPair(certs[0], certs[0])
		if err != nil {
			t.Fatal(err)
		}
		p.foreignKey(t, p.cluster(k.project, "Sized"), p.cluster(across, "Across"))
		conn, err = tls.Dial("tcp", p.boot.KMIP.Address, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}})
		if err == nil {
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = conn.Write([]byte{0x42, 0, 0x78, 1, 0, 0, 0, 0})
			if n, err := conn.Read(make([]byte, 64)); err == nil {
				t.Errorf("a client with a database certificate got %d bytes", n)
			}
		}
	})
}

// A node's certificate opens the node's own keys and no others.
func (p *platform) foreignKey(t *testing.T, a, b clusterBody) {
	t.Helper()
	na, nb := a.Keywright.Nodes[0], b.Keywright.Nodes[0]
	host, port, err := net.SplitHostPort(p.boot.KMIP.Address)
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	source, err := keysource.New(keysource.Config{
		ServerNames: []string{host}, Port: number, ServerCAFile: p.boot.KMIP.CAFile,
		ClientCertificateFile: filepath.Join(p.dir, "agent", "nodes", na.ID, "kmip.pem"),
	})
	if err != nil {
		t.Fatal(err)
	}
	own, err := source.Get(t.Context(), keys.KeyID(na.MasterKey))
	if err != nil || own.Len() != 32 {
		t.Errorf("a node does not get its own key: %v", err)
	}
	if _, err := source.Get(t.Context(), keys.KeyID(nb.MasterKey)); !errors.Is(err, keysource.ErrDenied) {
		t.Errorf("a node asks for another node's key and is told %v", err)
	}
	if _, err := source.State(t.Context(), keys.KeyID(nb.MasterKey)); !errors.Is(err, keysource.ErrDenied) {
		t.Errorf("a node asks for the state of another node's key and is told %v", err)
	}
}

// get reads a resource as it is.
func (p *platform) get(path string) []byte {
	p.t.Helper()
	var v any
	p.call("GET", path, nil, &v)
	b, err := json.Marshal(v)
	if err != nil {
		p.t.Fatal(err)
	}
	return b
}

// unchanged wants a refusal (with this code, if one is named), and a GET of look
// that is the same before and after.
func (p *platform) unchanged(look, code, method, path string, in any) *client.Error {
	p.t.Helper()
	before := p.get(look)
	err := p.api.Do(p.ctx(), method, path, in, nil)
	var e *client.Error
	if !errors.As(err, &e) || e.Status < 400 || e.Status >= 500 || code != "" && e.Code != code || e.Detail == "" {
		p.t.Errorf("%s %s: want the refusal %s, got %v", method, path, code, err)
		e = &client.Error{}
	}
	if after := p.get(look); !bytes.Equal(before, after) {
		p.t.Errorf("%s %s was refused and changed\n%s\nto\n%s", method, path, before, after)
	}
	return e
}
