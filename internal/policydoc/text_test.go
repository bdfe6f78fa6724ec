package policydoc_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/keywright/keywright/internal/awslocal/policy"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/policydoc"
)

// scenarios are one access for each thing that makes a difference.
func scenarios() map[string]policydoc.Access {
	in := func(partition, region, keyAccount string) policydoc.Access {
		return policydoc.Access{
			PlatformARN: "arn:" + partition + ":iam::111111111111:root", ExternalID: "8f3b1c52-7d1e-4a63-9d0a-6f1f0b7f2a10",
			RoleARN: "arn:" + partition + ":iam::222222222222:role/keywright",
			KeyARN:  "arn:" + partition + ":kms:" + region + ":" + keyAccount + ":key/12345678-1234-1234-1234-123456781234",
		}
	}
	same, cross := in("aws", "eu-west-2", "222222222222"), in("aws", "eu-west-2", "333333333333")
	limited := cross
	limited.RoleARN = "arn:aws:iam::222222222222:role/team/data/keywright"
	limited.Projects = []string{"65a0f0c2e4b0a1b2c3d4e5f6"}
	limited.Addresses = []netip.Prefix{netip.MustParsePrefix("203.0.113.9/32"), netip.MustParsePrefix("2001:db8::/56"), netip.MustParsePrefix("203.0.113.9/32")}
	replicas := same
	replicas.KeyARN = "arn:aws:kms:us-east-1:222222222222:key/mrk-0123456789abcdef0123456789abcdef"
	replicas.Replicas = []string{"arn:aws:kms:eu-west-1:222222222222:key/mrk-0123456789abcdef0123456789abcdef"}
	return map[string]policydoc.Access{
		"same-account": same, "cross-account": cross, "limited": limited, "multi-region": replicas,
		"gov": in("aws-us-gov", "us-gov-east-1", "333333333333"), "china": in("aws-cn", "cn-northwest-1", "333333333333"),
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.MkdirAll("testdata", 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what it was; see the difference with UPDATE_GOLDEN=1:\n%s", path, got)
	}
}

func TestTexts(t *testing.T) {
	for name, a := range scenarios() {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			for _, x := range append([]policydoc.Text{policydoc.KeyCommand("eu-west-2", name == "multi-region"), a.RoleText()}, a.Setup()...) {
				fmt.Fprintf(&b, "== %s\n%s\n-- statement\n%s\n-- json\n%s\n-- aws cli\n%s-- terraform\n%s\n", x.Kind, x.Where, x.Statement, x.JSON, x.AWSCLI, x.Terraform)
			}
			golden(t, name, b.String())
			for _, x := range a.Setup() {
				// IAM's own grammar, as the local AWS checks it.
				kind := policy.Trust
				switch x.Kind {
				case policydoc.KindIdentity:
					kind = policy.Identity
				case policydoc.KindKey:
					kind = policy.Key
				}
				if _, err := policy.Parse(kind, x.JSON); err != nil {
					t.Errorf("%s: %v", x.Kind, err)
				}
			}
			if want := name != "same-account" && name != "multi-region"; a.CrossAccount() != want || (len(a.Setup()) == 3) != want {
				t.Errorf("cross account %v, %d texts", a.CrossAccount(), len(a.Setup()))
			}
		})
	}
}

func TestDenyElsewhere(t *testing.T) {
	golden(t, "deny-elsewhere", policydoc.DenyElsewhere([]netip.Prefix{netip.MustParsePrefix("203.0.113.9/32"), netip.MustParsePrefix("198.51.100.0/24")}).JSON()+"\n")
}

// hostile is a name that ends every quotation there is. IAM allows such paths.
const hostile = `arn:aws:iam::222222222222:role/a'b"c\d${e}%{f}$(g)` + "`h`" + `<&>/r'o"le`

func TestNamesStayInsideTheirQuotes(t *testing.T) {
	a := scenarios()["cross-account"]
	a.RoleARN = hostile
	for _, x := range append(a.Setup(), a.RoleText()) {
		if !json.Valid([]byte(x.JSON)) || strings.Contains(x.JSON, `\u0026`) {
			t.Errorf("%s: %s", x.Kind, x.JSON)
		}
	}
	// A shell gives the document back as one word.
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("no sh")
	}
	out, err := exec.CommandContext(t.Context(), sh, "-c", `aws() { for w in "$@"; do printf '%s\n' "$w"; done; }
`+a.RoleText().AWSCLI).Output()
	words := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if err != nil || len(words) != 12 || words[3] != `r'o"le` || words[5] != "/a'b\"c\\d${e}%{f}$(g)`h`<&>/" {
		t.Errorf("%v %q", err, words)
	}
}

// TestTerraformReadsTheSame has terraform parse every block and evaluate what it
// makes of the documents: it is the JSON document.
func TestTerraformReadsTheSame(t *testing.T) {
	bin, err := exec.LookPath("terraform")
	if err != nil {
		t.Skip("no terraform: the blocks are checked by the golden files only")
	}
	all := scenarios()
	odd := all["cross-account"]
	odd.RoleARN = hostile
	all["hostile"] = odd
	for name, a := range all {
		for _, x := range append(a.Setup(), a.RoleText(), policydoc.KeyCommand("eu-west-2", true)) {
			fmtCmd := exec.CommandContext(t.Context(), bin, "fmt", "-")
			fmtCmd.Stdin = strings.NewReader(x.Terraform)
			if out, err := fmtCmd.CombinedOutput(); err != nil {
				t.Errorf("%s %s does not parse: %v\n%s\n%s", name, x.Kind, err, out, x.Terraform)
			}
		}
	}
	dir := t.TempDir()
	for name, a := range all {
		for _, x := range append(a.Setup(), a.RoleText()) {
			_, rest, _ := strings.Cut(x.Terraform, " = jsonencode(")
			expression := "jsonencode(" + strings.TrimSuffix(rest, "\n}\n")
			if err := os.WriteFile(filepath.Join(dir, "main.tf"), []byte("locals {\n  document = "+expression+"\n}\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), bin, "console")
			cmd.Dir, cmd.Stdin = dir, strings.NewReader("nonsensitive(local.document)\n")
			cmd.Env = append(os.Environ(), "CHECKPOINT_DISABLE=1")
			out, err := cmd.Output()
			var text string
			if err == nil {
				err = json.Unmarshal(bytes.TrimSpace(out), &text)
			}
			var have, want any
			if err == nil {
				err = json.Unmarshal([]byte(text), &have)
			}
			if err2 := json.Unmarshal([]byte(x.JSON), &want); err != nil || err2 != nil || !reflect.DeepEqual(have, want) {
				t.Errorf("%s %s: %v: terraform makes of it\n%s", name, x.Kind, err, out)
			}
		}
	}
}

func TestRemedyNamesPolicyAndStatement(t *testing.T) {
	all := scenarios()
	same, cross := all["same-account"], all["cross-account"]
	const d, e, x = "kms:DescribeKey", "kms:Encrypt", "kms:Decrypt"
	tests := []struct {
		name  string
		a     policydoc.Access
		found []kms.Finding
		kinds string // of the texts; "!" marks a denial to look for
		says  []string
	}{
		{"nothing", same, nil, "", nil},
		{"not assumable", same, []kms.Finding{{Permission: "sts:AssumeRole"}}, "trust", []string{"trust policy", same.ExternalID, same.PlatformARN, `"Effect":"Allow"`}},
		{"trust lacks it", same, []kms.Finding{{Permission: "sts:AssumeRole", Policy: kms.TrustPolicy}}, "trust", []string{same.Trust().Compact()}},
		{"trust denies", same, []kms.Finding{{Permission: "sts:AssumeRole", Policy: kms.TrustPolicy, Explicit: true}}, "trust!", []string{"Deny", "trust policy"}},
		{"resource control policy, trust", same, []kms.Finding{{Permission: "sts:AssumeRole", Policy: kms.ResourceControlPolicy, Explicit: true}}, "organization!", []string{"resource control policy", "222222222222"}},
		{"our own identity policy", same, []kms.Finding{{Permission: "sts:AssumeRole", Policy: kms.IdentityPolicy}}, "", []string{"operator"}},
		{"identity", same, []kms.Finding{{Permission: d, Policy: kms.IdentityPolicy}, {Permission: e, Policy: kms.IdentityPolicy}}, "identity", []string{"lacks kms:DescribeKey, kms:Encrypt", same.Use()[0].Compact()}},
		{"identity denies", same, []kms.Finding{{Permission: x, Policy: kms.IdentityPolicy, Explicit: true}}, "identity!", []string{"inline and attached", "kms:Decrypt"}},
		{"key's policy", same, []kms.Finding{{Permission: e, Policy: kms.KeyPolicy}}, "key", []string{same.KeyUse()[0].Compact()}},
		{"key's policy denies", same, []kms.Finding{{Permission: e, Policy: kms.KeyPolicy, Explicit: true}}, "key!", []string{"policy of the key"}},
		{"both", same, []kms.Finding{{Permission: d, Policy: kms.IdentityPolicy}, {Permission: e, Policy: kms.KeyPolicy, Explicit: true}}, "key! identity", []string{"Deny refuses kms:Encrypt", "lacks kms:DescribeKey on"}},
		{"another account, not told", cross, []kms.Finding{{Permission: d}}, "identity key", []string{cross.Use()[0].Compact(), cross.KeyUse()[0].Compact(), "333333333333"}},
		{"another account, key", cross, []kms.Finding{{Permission: d, Policy: kms.KeyPolicy}}, "key identity", []string{cross.Use()[0].Compact(), cross.KeyUse()[0].Compact()}},
		{"another account, identity", cross, []kms.Finding{{Permission: d, Policy: kms.IdentityPolicy}}, "identity key", nil},
		{"boundary", same, []kms.Finding{{Permission: e, Policy: kms.PermissionsBoundary}}, "boundary", []string{"permissions boundary"}},
		{"boundary denies", same, []kms.Finding{{Permission: e, Policy: kms.PermissionsBoundary, Explicit: true}}, "boundary!", []string{"permissions boundary"}},
		{"service control policy", same, []kms.Finding{{Permission: e, Policy: kms.ServiceControlPolicy}}, "organization", []string{"service control policy", "administrator"}},
		{"resource control policy denies", cross, []kms.Finding{{Permission: e, Policy: kms.ResourceControlPolicy, Explicit: true}}, "organization!", []string{"333333333333"}},
		{"session policy", same, []kms.Finding{{Permission: e, Policy: kms.SessionPolicy}}, "", []string{"operator"}},
		{"endpoint policy", same, []kms.Finding{{Permission: e, Policy: kms.EndpointPolicy, Explicit: true}}, "", []string{"VPC endpoint policy", "operator"}},
		{"denied, not told where", same, []kms.Finding{{Permission: e, Explicit: true}}, "identity!", []string{"key's policy"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.a.Remedy(tt.found)
			var kinds []string
			for _, x := range got.Texts {
				k := string(x.Kind)
				if x.Deny {
					k += "!"
					if x.Statement != "" || x.JSON != "" || x.Terraform != "" || x.AWSCLI == "" {
						t.Errorf("a denial has nothing to add: %+v", x)
					}
				}
				kinds = append(kinds, k)
			}
			if have := strings.Join(kinds, " "); have != tt.kinds {
				t.Errorf("texts %q, want %q", have, tt.kinds)
			}
			for _, s := range tt.says {
				if !strings.Contains(got.Sentence, s) {
					t.Errorf("does not say %q: %s", s, got.Sentence)
				}
			}
			if strings.Contains(got.Sentence, "\x00") || (got.Sentence == "") != (len(tt.found) == 0) {
				t.Errorf("%q", got.Sentence)
			}
		})
	}
}
