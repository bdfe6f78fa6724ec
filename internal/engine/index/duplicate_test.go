package index

import (
	"bytes"
	"testing"
)

func TestDuplicateKey(t *testing.T) {
	s := Spec{Name: "a_1_b_-1", Fields: []Field{{Path: "a"}, {Path: "b.c", Desc: true}}, Unique: true}
	doc := j(t, `{"a":[1,"x"],"b":{"c":2.0}}`)
	keys, _, err := s.Keys(doc)
	if err != nil || len(keys) != 2 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	got := s.KeyValue(doc, keys[1])
	if !bytes.Equal(got, j(t, `{"a":"x","b.c":2.0}`)) {
		t.Errorf("values %s", got)
	}
	want := `E11000 duplicate key error collection: d.c index: a_1_b_-1 dup key: { a: "x", b.c: 2.0 }`
	if e := DuplicateKey("d.c", s, got); e.Code != 11000 || e.Message != want {
		t.Errorf("%v", e)
	}
	if got := s.KeyValue(doc, []byte{1}); got != nil {
		t.Errorf("values of an unknown key: %s", got)
	}
	oid := j(t, `{"_id":{"$oid":"000000000000000000000001"}}`)
	want = `E11000 duplicate key error collection: d.c index: _id_ dup key: { _id: ObjectId('000000000000000000000001') }`
	if e := DuplicateKey("d.c", IDSpec(), oid); e.Message != want {
		t.Errorf("%v", e)
	}
}
