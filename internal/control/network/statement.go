package network

import (
	"encoding/json"
	"fmt"
	"slices"
)

// Statements are what a customer puts into policies so that exactly the given addresses
// can use the key.
type Statements struct {
	// RolePolicy denies the role's use of the key from elsewhere; it goes into the role's
	// own policy.
	RolePolicy json.RawMessage
	// KeyPolicy does the same in the key's policy.
	KeyPolicy json.RawMessage
	// TrustCondition is for the allowing statement of the role's trust policy, beside the
	// condition on sts:ExternalId.
	TrustCondition json.RawMessage
}

type statement struct {
	Sid       string            `json:"Sid"`
	Effect    string            `json:"Effect"`
	Principal map[string]string `json:"Principal,omitempty"`
	Action    []string          `json:"Action"`
	Resource  string            `json:"Resource"`
	Condition condition         `json:"Condition"`
}

type condition map[string]map[string]any

const sourceIP = "aws:SourceIp"

// statements builds them. A call through a VPC endpoint has no aws:SourceIp, and a
// negated condition is true without its key: Null keeps the denial to calls that have
// one (aws-kms 5.4). Without addresses there is nothing to allow, hence nothing to say.
func statements(roleARN, keyARN string, addresses []string) (Statements, error) {
	if len(addresses) == 0 {
		return Statements{}, nil
	}
	deny := statement{
		Sid: "KeywrightAddresses", Effect: "Deny", Action: []string{"kms:DescribeKey", "kms:Encrypt", "kms:Decrypt"}, Resource: keyARN,
		Condition: condition{"NotIpAddress": {sourceIP: addresses}, "Null": {sourceIP: "false"}},
	}
	inKey := deny
	inKey.Resource, inKey.Principal = "*", map[string]string{"AWS": roleARN}
	var out Statements
	for _, x := range []struct {
		to   *json.RawMessage
		from any
	}{
		{&out.RolePolicy, deny}, {&out.KeyPolicy, inKey}, {&out.TrustCondition, condition{"IpAddress": {sourceIP: addresses}}},
	} {
		b, err := json.Marshal(x.from)
		if err != nil {
			return Statements{}, fmt.Errorf("encode statement: %w", err)
		}
		*x.to = b
	}
	return out, nil
}

// union gives all addresses, sorted, each once.
func union(lists ...[]string) []string {
	out := []string{}
	for _, l := range lists {
		out = append(out, l...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
