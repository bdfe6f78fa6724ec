package policydoc

import (
	"bytes"
	"encoding/json"
	"strings"
)

// Document is an IAM policy document.
type Document struct {
	Version   string      `json:"Version"`
	Statement []Statement `json:"Statement"`
}

// Statement is one statement of a policy. The order of its members is that of AWS's
// own documents.
type Statement struct {
	Sid       string     `json:"Sid,omitempty"`
	Effect    string     `json:"Effect"`
	Principal *Principal `json:"Principal,omitempty"`
	Action    Values     `json:"Action"`
	Resource  Values     `json:"Resource,omitempty"`
	Condition Condition  `json:"Condition,omitempty"`
}

// Principal is an AWS principal: the ARN of an account's root or of a role.
type Principal struct {
	AWS string `json:"AWS"`
}

// Condition is operator, key, values; all must hold.
type Condition map[string]map[string]Values

// Values is one string or several. One is written without brackets, as AWS does.
type Values []string

// MarshalJSON implements json.Marshaler.
func (v Values) MarshalJSON() ([]byte, error) {
	if len(v) == 1 {
		return marshal(v[0], "")
	}
	return marshal([]string(v), "")
}

// documentOf wraps statements into a document.
func documentOf(s ...Statement) Document { return Document{Version: "2012-10-17", Statement: s} }

// JSON is the document as indented text.
func (d Document) JSON() string { return text(d, "  ") }

// Compact is the document on one line.
func (d Document) Compact() string { return text(d, "") }

// JSON is the statement as indented text.
func (s Statement) JSON() string { return text(s, "  ") }

// Compact is the statement on one line.
func (s Statement) Compact() string { return text(s, "") }

func text(v any, indent string) string {
	b, err := marshal(v, indent)
	if err != nil {
		return "" // strings and maps of strings always marshal
	}
	return string(b)
}

// marshal leaves <, > and & as they are: people paste this.
func marshal(v any, indent string) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	err := e.Encode(v)
	return bytes.TrimSpace(b.Bytes()), err
}

// shell quotes a word for a POSIX shell; plain words stay bare.
func shell(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@,+="
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
