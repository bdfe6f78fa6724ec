package awslocal

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

func FuzzParseParams(f *testing.F) {
	f.Add("Action=AssumeRole&Version=2011-06-15&RoleArn=arn%3Aaws")
	f.Add("a=1&a=2;%zz")
	f.Add(strings.Repeat("&", maxParams+1))
	f.Add("Tags.member.1.Key=a&Tags.member.1.Value=b&Tags.member.3.Key=c&TagKeys.member.1=x&TagKeys.member.01=y")
	f.Fuzz(func(t *testing.T, raw string) {
		p, err := parseParams(raw)
		if err != nil {
			if asAPIError(err, false).code != "MalformedQueryString" {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if len(p) > maxParams+1 {
			t.Fatalf("%d parameters", len(p))
		}
		// No member of a list is passed over in silence.
		tags, tagErr := p.tags()
		names, listErr := p.list("TagKeys")
		given := 0
		for k := range p {
			if strings.HasPrefix(k, "TagKeys.member.") {
				given++
			}
		}
		if (tagErr == nil && len(tags) > maxTags) || (listErr == nil && len(names) != given) {
			t.Fatalf("%d tags, %d of %d tag keys", len(tags), len(names), given)
		}
		// Whatever comes in must come out as well-formed XML.
		for k, v := range p {
			dec := xml.NewDecoder(strings.NewReader(string(xmlAnswer("sts", k, "X", []element{leaf("V", v)}))))
			for {
				if _, err := dec.Token(); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatalf("answer with %q: %v", v, err)
				}
			}
		}
	})
}

func FuzzParseBlob(f *testing.F) {
	k := &key{ARN: keyARN("us-east-1", CustomerAccount, "x"), Material: make([]byte, 32), MaterialID: strings.Repeat("ab", 32)}
	good, err := k.seal([]byte("plain"), map[string]string{"a": "b"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:40])
	f.Add([]byte{blobVersion, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, raw []byte) {
		plain, err := k.open(raw, map[string]string{"a": "b"})
		if err == nil && string(plain) != "plain" { // fuzzing processes each seal anew
			t.Fatalf("opened a blob that was not sealed here: %q", plain)
		}
	})
}

func FuzzOpenSession(f *testing.F) {
	sealKey := make([]byte, sealKeyLen)
	good, err := session{AccessKeyID: "ASIA"}.seal(sealKey)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add("AAAA")
	f.Fuzz(func(t *testing.T, token string) {
		if s, err := openSession(sealKey, token); err == nil && s.AccessKeyID != "ASIA" {
			t.Fatal("opened a token that was not sealed here")
		}
	})
}
