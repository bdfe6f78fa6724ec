package policy

import (
	"errors"
	"strings"
	"testing"
)

func TestParseRefuses(t *testing.T) {
	st := func(more string) string {
		return `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*"` + more + `}]}`
	}
	condition := func(c string) string { return st(`,"Condition":{` + c + `}`) }
	for _, c := range []struct {
		name string
		kind Kind
		text string
		says string
	}{
		{"empty", Identity, ``, "invalid Json"},
		{"list", Identity, `[]`, "not an object"},
		{"rest", Identity, st("") + "x", "invalid Json"},
		{"duplicate name", Identity, st(`,"Effect":"Deny"`), "duplicate name"},
		{"duplicate operator key", Identity, condition(`"Bool":{"aws:SecureTransport":"true","aws:SecureTransport":"false"}`), "duplicate name"},
		{"unknown element", Identity, st(`,"Effects":"Allow"`), "Unknown element"},
		{"element's case", Identity, st(`,"sid":"x"`), "Unknown element"},
		{"top element", Identity, `{"Statements":[]}`, "Unknown element"},
		{"version", Identity, `{"Version":"2020-01-01","Statement":[]}`, "version"},
		{"no statement", Identity, `{"Version":"2012-10-17"}`, "no Statement"},
		{"empty statement", Identity, `{"Statement":[]}`, "no Statement"},
		{"no effect", Identity, `{"Statement":{"Action":"*","Resource":"*"}}`, "Effect"},
		{"effect's case", Identity, `{"Statement":{"Effect":"allow","Action":"*","Resource":"*"}}`, "Effect"},
		{"no action", Identity, `{"Statement":{"Effect":"Allow","Resource":"*"}}`, "Action"},
		{"both actions", Identity, st(`,"NotAction":"*"`), "both Action and NotAction"},
		{"both resources", Identity, st(`,"NotResource":"*"`), "both Resource and NotResource"},
		{"no resource", Identity, `{"Statement":{"Effect":"Allow","Action":"*"}}`, "must contain resources"},
		{"principal in identity policy", Identity, st(`,"Principal":"*"`), "should not specify a principal"},
		{"principal in session policy", Session, st(`,"Principal":"*"`), "should not specify a principal"},
		{"vendor", Identity, `{"Statement":{"Effect":"Allow","Action":"Encrypt","Resource":"*"}}`, "vendor"},
		{"resource no ARN", Identity, `{"Statement":{"Effect":"Allow","Action":"*","Resource":"key/x"}}`, "ARN format"},
		{"empty list", Identity, `{"Statement":{"Effect":"Allow","Action":[],"Resource":"*"}}`, "empty"},
		{"number as action", Identity, `{"Statement":{"Effect":"Allow","Action":1,"Resource":"*"}}`, "string"},
		{"duplicate Sid", Identity, `{"Statement":[{"Sid":"a","Effect":"Allow","Action":"*","Resource":"*"},{"Sid":"a","Effect":"Allow","Action":"*","Resource":"*"}]}`, "unique"},
		{"operator", Identity, condition(`"StringMatches":{"aws:SourceIp":"x"}`), "StringMatches"},
		{"NullIfExists", Identity, condition(`"NullIfExists":{"aws:SourceIp":"true"}`), "NullIfExists"},
		{"set prefix", Identity, condition(`"ForSome:StringEquals":{"aws:SourceIp":"x"}`), "ForSome"},
		{"unsupplied key", Identity, condition(`"StringEquals":{"kms:ResourceAliases":"x"}`), "not supported by the local AWS"},
		{"tag key without a name", Identity, condition(`"StringEquals":{"aws:PrincipalTag/":"x"}`), "not supported by the local AWS"},
		{"principal in boundary", Boundary, st(`,"Principal":"*"`), "should not specify a principal"},
		{"key without vendor", Identity, condition(`"StringEquals":{"SourceIp":"x"}`), "vendor"},
		{"value object", Identity, condition(`"StringEquals":{"aws:SourceIp":{}}`), "not a string"},
		{"no values", Identity, condition(`"StringEquals":{"aws:SourceIp":[]}`), "no values"},
		{"bad address", Identity, condition(`"IpAddress":{"aws:SourceIp":"10.0.0.0/99"}`), "IpAddress"},
		{"bad number", Identity, condition(`"NumericEquals":{"sts:DurationSeconds":"x"}`), "NumericEquals"},
		{"bad date", Identity, condition(`"DateLessThan":{"aws:CurrentTime":"yesterday"}`), "DateLessThan"},
		{"bad bool", Identity, condition(`"Bool":{"aws:SecureTransport":"yes"}`), "Bool"},
		{"trust with resource", Trust, `{"Statement":{"Effect":"Allow","Principal":"*","Action":"sts:AssumeRole","Resource":"*"}}`, "prohibited field Resource"},
		{"trust without principal", Trust, `{"Statement":{"Effect":"Allow","Action":"sts:AssumeRole"}}`, "Principal"},
		{"trust with other action", Trust, `{"Statement":{"Effect":"Allow","Principal":"*","Action":"kms:Encrypt"}}`, "STS AssumeRole"},
		{"trust with NotPrincipal", Trust, `{"Statement":{"Effect":"Allow","NotPrincipal":{"AWS":"111122223333"},"Action":"sts:AssumeRole"}}`, "NotPrincipal"},
		{"key policy without principal", Key, st(""), "Principal"},
		{"key policy with other action", Key, `{"Statement":{"Effect":"Allow","Principal":"*","Action":"s3:*","Resource":"*"}}`, "no action of a key policy"},
		{"set operator on context", Key, `{"Statement":{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*","Condition":{"ForAllValues:StringEquals":{"kms:EncryptionContext:a":"x"}}}}`, "OverlyPermissiveCondition"},
		{"principal wildcard", Key, `{"Statement":{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:role/*"},"Action":"kms:*","Resource":"*"}}`, "Invalid principal"},
		{"principal text", Key, `{"Statement":{"Effect":"Allow","Principal":"111122223333","Action":"kms:*","Resource":"*"}}`, "Invalid principal"},
		{"principal of sts that is iam's", Key, `{"Statement":{"Effect":"Allow","Principal":{"AWS":"arn:aws:sts::111122223333:role/x"},"Action":"kms:*","Resource":"*"}}`, "Invalid principal"},
		{"principal scheme", Key, `{"Statement":{"Effect":"Allow","Principal":{"Azure":"x"},"Action":"kms:*","Resource":"*"}}`, "Invalid principal"},
		{"too long", Identity, strings.Repeat(" ", MaxDocument+1), "longer"},
		{"too deep", Identity, strings.Repeat(`{"Statement":`, 50), "invalid Json"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse(c.kind, c.text)
			var bad *MalformedError
			if !errors.As(err, &bad) || !strings.Contains(bad.Text, c.says) {
				t.Errorf("got %v, want it to say %q", err, c.says)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{
		doc(rootLine),
		doc(allow("kms:*", "*")),
		`{"Statement":{"Effect":"Deny","NotPrincipal":{"AWS":["1"]},"NotAction":["*"],"NotResource":["arn:aws:kms:*:*:*"],"Condition":{"ForAnyValue:ArnLikeIfExists":{"aws:PrincipalArn":["${aws:username, 'x'}"]}}}}`,
		`{"Statement":[[[[`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, kind := range []Kind{Identity, Session, Key, Trust} {
			d, err := Parse(kind, text)
			if err != nil {
				var bad *MalformedError
				if !errors.As(err, &bad) {
					t.Fatalf("untyped error %v", err)
				}
				continue
			}
			// What was accepted can be evaluated and read back.
			v := Call{Caller: userOf(accountA, "u"), Action: "kms:Encrypt", Resource: keyK, ResourceAccount: accountA, Context: Context{"aws:username": {"u"}}}
			r := &ResourcePolicy{Named: Named{Doc: d}, IDs: ids(d)}
			Decide(v, Policies{Resource: r, Identity: []Named{{Doc: d}}, Session: &Named{Doc: d}})
			if _, err := Parse(kind, d.Rename(nil)); err != nil {
				t.Fatalf("read back as %s: %v", d.Rename(nil), err)
			}
		}
	})
}
