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

// A list that is not numbered from 1 without gaps would lose members.
func TestListsHaveNoGaps(t *testing.T) {
	for raw, want := range map[string]int{
		"Tags.member.1.Key=a&Tags.member.1.Value=b&Tags.member.2.Key=c": 2,
		"":                    0,
		"Tags.member.2.Key=a": -1,
		"Tags.member.1.Key=a&Tags.member.3.Key=c":   -1,
		"Tags.member.1.Value=a":                     -1,
		"Tags.member.1.Key=a&Tags.member.2.Value=b": -1,
	} {
		p, err := parseParams(raw)
		if err != nil {
			t.Fatal(err)
		}
		if tags, err := p.tags(); (err != nil) != (want < 0) || (err == nil && len(tags) != want) {
			t.Errorf("%s: %v, %v", raw, tags, err)
		}
	}
	p, err := parseParams("TagKeys.member.1=a&TagKeys.member.3=b")
	if err != nil {
		t.Fatal(err)
	}
	if names, err := p.list("TagKeys"); err == nil {
		t.Errorf("read %v", names)
	}
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
