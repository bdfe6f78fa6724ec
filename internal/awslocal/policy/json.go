package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxDepth is far above what a policy needs: document, statement, condition
// block, operator, value list.
const maxDepth = 12

type nodeKind byte

const (
	nodeText nodeKind = iota
	nodeNumber
	nodeBool
	nodeNull
	nodeList
	nodeObject
)

// node is a JSON value that keeps the order of an object's members.
type node struct {
	kind    nodeKind
	text    string // of text, number and bool
	list    []node
	members []member
}

type member struct {
	name  string
	value node
}

// parseJSON reads one JSON value and refuses duplicate names in an object,
// which encoding/json lets pass.
func parseJSON(text string) (node, error) {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	n, err := readNode(dec, 0)
	if err != nil {
		return node{}, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return node{}, errors.New("something follows the document")
	}
	return n, nil
}

func readNode(dec *json.Decoder, depth int) (node, error) {
	if depth > maxDepth {
		return node{}, errors.New("nested too deeply")
	}
	tok, err := dec.Token()
	if err != nil {
		return node{}, err
	}
	switch t := tok.(type) {
	case string:
		return node{kind: nodeText, text: t}, nil
	case json.Number:
		return node{kind: nodeNumber, text: t.String()}, nil
	case bool:
		return node{kind: nodeBool, text: fmt.Sprint(t)}, nil
	case nil:
		return node{kind: nodeNull}, nil
	case json.Delim:
		if t == '[' {
			return readList(dec, depth)
		}
		return readObject(dec, depth)
	}
	return node{}, errors.New("unexpected JSON")
}

func readList(dec *json.Decoder, depth int) (node, error) {
	n := node{kind: nodeList}
	for dec.More() {
		v, err := readNode(dec, depth+1)
		if err != nil {
			return node{}, err
		}
		n.list = append(n.list, v)
	}
	_, err := dec.Token()
	return n, err
}

func readObject(dec *json.Decoder, depth int) (node, error) {
	n := node{kind: nodeObject}
	seen := map[string]bool{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return node{}, err
		}
		name, ok := tok.(string)
		if !ok {
			return node{}, errors.New("unexpected JSON")
		}
		if seen[name] {
			return node{}, fmt.Errorf("duplicate name %q", name)
		}
		seen[name] = true
		v, err := readNode(dec, depth+1)
		if err != nil {
			return node{}, err
		}
		n.members = append(n.members, member{name: name, value: v})
	}
	_, err := dec.Token()
	return n, err
}

// encode writes a node back as JSON with the members in their order.
func (n node) encode(b *bytes.Buffer) {
	switch n.kind {
	case nodeText:
		b.WriteString(quote(n.text))
	case nodeNumber, nodeBool:
		b.WriteString(n.text)
	case nodeNull:
		b.WriteString("null")
	case nodeList:
		b.WriteByte('[')
		for i, v := range n.list {
			if i > 0 {
				b.WriteByte(',')
			}
			v.encode(b)
		}
		b.WriteByte(']')
	case nodeObject:
		b.WriteByte('{')
		for i, m := range n.members {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(quote(m.name))
			b.WriteByte(':')
			m.value.encode(b)
		}
		b.WriteByte('}')
	}
}

func quote(s string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string always encodes
	return strings.TrimSuffix(b.String(), "\n")
}
