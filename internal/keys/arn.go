package keys

import (
	"fmt"
	"strings"
)

// ARN is an Amazon Resource Name, arn:partition:service:region:account:resource.
// Partitions other than "aws" exist and are kept.
type ARN struct{ Partition, Service, Region, Account, Resource string }

// ParseARN splits an ARN. It checks the form, not whether the thing exists.
func ParseARN(s string) (ARN, error) {
	p := strings.SplitN(s, ":", 6)
	if len(p) != 6 || p[0] != "arn" || p[1] == "" || p[2] == "" || p[5] == "" {
		return ARN{}, fmt.Errorf("%q is not an ARN (arn:partition:service:region:account:resource)", s)
	}
	return ARN{Partition: p[1], Service: p[2], Region: p[3], Account: p[4], Resource: p[5]}, nil
}

// String gives the ARN back.
func (a ARN) String() string {
	return strings.Join([]string{"arn", a.Partition, a.Service, a.Region, a.Account, a.Resource}, ":")
}

// ParseRoleARN parses the ARN of an IAM role: twelve digits of an account, a
// resource that starts with "role/".
func ParseRoleARN(s string) (ARN, error) {
	a, err := ParseARN(s)
	if err != nil {
		return ARN{}, err
	}
	if a.Service != "iam" || a.Region != "" || !IsAccount(a.Account) || !strings.HasPrefix(a.Resource, "role/") || a.Resource == "role/" {
		return ARN{}, fmt.Errorf("%q is not the ARN of an IAM role (arn:aws:iam::123456789012:role/NAME)", s)
	}
	return a, nil
}

// IsAlias tells whether a customer's name of a key is an alias (name or ARN):
// an alias can be pointed elsewhere, so it is refused by name.
func IsAlias(keyID string) bool {
	if strings.HasPrefix(keyID, "alias/") {
		return true
	}
	a, err := ParseARN(keyID)
	return err == nil && a.Service == "kms" && strings.HasPrefix(a.Resource, "alias/")
}

// SameKey tells whether two ARNs name the same KMS key, replicas of a multi-Region key
// included: what one of them wrapped the other opens.
func SameKey(a, b string) bool {
	x, errX := ParseARN(a)
	y, errY := ParseARN(b)
	if errX != nil || errY != nil {
		return false
	}
	return x.Partition == y.Partition && x.Service == y.Service && x.Account == y.Account && x.Resource == y.Resource &&
		(x.Region == y.Region || MultiRegion(x))
}

// MultiRegion tells whether a KMS key may have replicas in other Regions: its id says so.
func MultiRegion(a ARN) bool { return a.Service == "kms" && strings.HasPrefix(a.Resource, "key/mrk-") }

// IsAccount tells whether s is the id of an AWS account: twelve digits.
func IsAccount(s string) bool {
	if len(s) != 12 {
		return false
	}
	for i := range 12 {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// Partition gives the partition of an AWS Region (written as AWS does): aws-cn for
// China, aws-us-gov for GovCloud, else aws.
func Partition(region string) string {
	switch {
	case strings.HasPrefix(region, "cn-"):
		return "aws-cn"
	case strings.HasPrefix(region, "us-gov-"):
		return "aws-us-gov"
	}
	return "aws"
}
