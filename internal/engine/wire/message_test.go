package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
)

func raw(t testing.TB, v any) bson.Raw {
	t.Helper()
	b, err := bson.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func frame(code opCode, body []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(headerSize+len(body)))
	b = binary.LittleEndian.AppendUint32(b, 7)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(code))
	return append(b, body...)
}

func msg(flags uint32, sections ...[]byte) []byte {
	body := binary.LittleEndian.AppendUint32(nil, flags)
	for _, s := range sections {
		body = append(body, s...)
	}
	return frame(opMsg, body)
}

func kind0(doc bson.Raw) []byte { return append([]byte{0}, doc...) }

func kind1(name string, docs ...bson.Raw) []byte {
	inner := append([]byte(name), 0)
	for _, d := range docs {
		inner = append(inner, d...)
	}
	out := binary.LittleEndian.AppendUint32([]byte{1}, uint32(4+len(inner)))
	return append(out, inner...)
}

func withChecksum(m []byte) []byte {
	binary.LittleEndian.PutUint32(m, uint32(len(m)+4))
	sum := crc32.Checksum(m, crc32.MakeTable(crc32.Castagnoli))
	return binary.LittleEndian.AppendUint32(m, sum)
}

func query(namespace string, docs ...bson.Raw) []byte {
	body := append([]byte{0, 0, 0, 0}, namespace...)
	body = append(body, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff)
	for _, d := range docs {
		body = append(body, d...)
	}
	return frame(opQuery, body)
}

func nested(depth int) bson.Raw {
	doc := bson.Raw{5, 0, 0, 0, 0}
	for range depth - 1 {
		outer := binary.LittleEndian.AppendUint32(nil, uint32(len(doc)+8))
		outer = append(outer, byte(bson.TypeEmbeddedDocument), 'a', 0)
		doc = append(append(outer, doc...), 0)
	}
	return doc
}

func TestReadMessageKeepsSequencesApart(t *testing.T) {
	body := raw(t, bson.D{{Key: "bulkWrite", Value: 1}, {Key: "$db", Value: "admin"}})
	a, b, c := raw(t, bson.D{{Key: "x", Value: 1}}), raw(t, bson.D{{Key: "x", Value: 2}}), raw(t, bson.D{{Key: "n", Value: "s"}})
	m := msg(flagMoreToCome|flagExhaust|1<<20, kind1("ops", a, b), kind0(body), kind1("nsInfo", c))
	req, err := ReadMessage(bytes.NewReader(m), MaxMessageSize)
	if err != nil {
		t.Fatal(err)
	}
	if req.ID != 7 || !req.NoReply || !req.Exhaust || req.Legacy || !bytes.Equal(req.Body, body) {
		t.Errorf("request is %+v", req)
	}
	if len(req.Sequences) != 2 || req.Sequences[0].Name != "ops" || len(req.Sequences[0].Documents) != 2 ||
		req.Sequences[1].Name != "nsInfo" || !bytes.Equal(req.Sequences[1].Documents[0], c) {
		t.Errorf("sequences are %+v", req.Sequences)
	}
}

func TestReadMessageChecksChecksums(t *testing.T) {
	m := withChecksum(msg(flagChecksum, kind0(raw(t, bson.D{{Key: "ping", Value: 1}}))))
	if _, err := ReadMessage(bytes.NewReader(m), MaxMessageSize); err != nil {
		t.Fatalf("right checksum: %v", err)
	}
	for i := 4; i < len(m); i++ { // request id, body and sum
		bad := bytes.Clone(m)
		bad[i] ^= 0x40
		if _, err := ReadMessage(bytes.NewReader(bad), MaxMessageSize); err == nil {
			t.Errorf("byte %d flipped: no error", i)
		}
	}
}

func TestReadMessageUnderstandsOldQueries(t *testing.T) {
	hello := raw(t, bson.D{{Key: "isMaster", Value: 1}})
	for name, m := range map[string][]byte{
		"plain":           query("admin.$cmd", hello),
		"with projection": query("admin.$cmd", hello, raw(t, bson.D{})),
		"wrapped":         query("admin.$cmd", raw(t, bson.D{{Key: "$query", Value: hello}, {Key: "$readPreference", Value: bson.D{}}})),
	} {
		req, err := ReadMessage(bytes.NewReader(m), MaxAnonymousSize)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !req.Legacy || req.DB != "admin" || !bytes.Equal(req.Body, hello) {
			t.Errorf("%s: request is %+v", name, req)
		}
	}
}

func TestReadMessageRefuses(t *testing.T) {
	ping := raw(t, bson.D{{Key: "ping", Value: 1}})
	short := frame(opMsg, nil)
	binary.LittleEndian.PutUint32(short, 15)
	huge := frame(opMsg, nil)
	binary.LittleEndian.PutUint32(huge, MaxMessageSize+1)
	negative := frame(opMsg, nil)
	binary.LittleEndian.PutUint32(negative, 0x80000010)
	badSize := kind1("documents", ping)
	binary.LittleEndian.PutUint32(badSize[1:], 4096)
	for name, m := range map[string][]byte{
		"length below the header": short,
		"length above the limit":  huge,
		"negative length":         negative,
		"compressed":              frame(opCompressed, make([]byte, 9)),
		"old insert":              frame(2002, make([]byte, 20)),
		"no sections":             msg(0),
		"no body section":         msg(0, kind1("documents", ping)),
		"two bodies":              msg(0, kind0(ping), kind0(ping)),
		"unknown flag":            msg(1<<2, kind0(ping)),
		"unknown section":         msg(0, kind0(ping), []byte{2, 0}),
		"same sequence twice":     msg(0, kind0(ping), kind1("a", ping), kind1("a", ping)),
		"sequence without name":   msg(0, kind0(ping), kind1("", ping)),
		"sequence too long":       msg(0, kind0(ping), badSize),
		"checksum without room":   msg(flagChecksum),
		"truncated document":      msg(0, kind0(ping[:len(ping)-1])),
		"too deep":                msg(0, kind0(nested(MaxDepth+1))),
		"query outside $cmd":      query("admin.users", ping),
		"query without document":  query("admin.$cmd"),
		"query with a tail":       query("admin.$cmd", ping, ping, ping),
	} {
		if _, err := ReadMessage(bytes.NewReader(m), MaxMessageSize); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
	if _, err := ReadMessage(bytes.NewReader(msg(0, kind0(nested(MaxDepth)))), MaxMessageSize); err != nil {
		t.Errorf("deepest allowed nesting: %v", err)
	}
	m := msg(0, kind0(ping))
	for i := range m {
		want := io.ErrUnexpectedEOF
		if i == 0 {
			want = io.EOF
		}
		if _, err := ReadMessage(bytes.NewReader(m[:i]), MaxMessageSize); !errors.Is(err, want) {
			t.Errorf("cut after %d bytes: error is %v", i, err)
		}
	}
}

func TestReadMessageDoesNotTrustLengths(t *testing.T) {
	m := frame(opMsg, nil)
	binary.LittleEndian.PutUint32(m, MaxMessageSize)
	allocated := testing.AllocsPerRun(1, func() {
		_, err := ReadMessage(bytes.NewReader(append(m, make([]byte, 100)...)), MaxMessageSize)
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("error is %v", err)
		}
	})
	if allocated > 20 {
		t.Errorf("%v allocations", allocated)
	}
}

func TestValidateAgreesWithTheDriver(t *testing.T) {
	oid := bson.NewObjectID()
	good := raw(t, bson.D{
		{Key: "double", Value: 1.5}, {Key: "string", Value: "a\x00b"}, {Key: "doc", Value: bson.D{{Key: "x", Value: bson.A{1, "2"}}}},
		{Key: "bin", Value: bson.Binary{Subtype: 4, Data: make([]byte, 16)}}, {Key: "oid", Value: oid}, {Key: "bool", Value: true},
		{Key: "date", Value: bson.DateTime(3)}, {Key: "null", Value: nil}, {Key: "regex", Value: bson.Regex{Pattern: "a", Options: "i"}},
		{Key: "ptr", Value: bson.DBPointer{DB: "d", Pointer: oid}}, {Key: "code", Value: bson.JavaScript("x")},
		{Key: "scope", Value: bson.CodeWithScope{Code: "x", Scope: bson.D{{Key: "y", Value: 1}}}}, {Key: "sym", Value: bson.Symbol("s")},
		{Key: "ts", Value: bson.Timestamp{T: 1, I: 2}}, {Key: "long", Value: int64(5)}, {Key: "dec", Value: bson.NewDecimal128(1, 2)},
		{Key: "min", Value: bson.MinKey{}}, {Key: "max", Value: bson.MaxKey{}}, {Key: "undef", Value: bson.Undefined{}},
	})
	if err := Validate(good); err != nil {
		t.Fatal(err)
	}
	for i := range good {
		if err := Validate(good[:i]); err == nil {
			t.Errorf("cut after %d bytes: no error", i)
		}
		bad := bytes.Clone(good)
		bad[i] ^= 0xff
		if Validate(bad) == nil && bson.Raw(bad).Validate() != nil {
			t.Errorf("byte %d changed: the driver refuses it, we do not", i)
		}
	}
}

func FuzzReadMessage(f *testing.F) {
	ping := raw(f, bson.D{{Key: "ping", Value: 1}, {Key: "$db", Value: "admin"}})
	f.Add(msg(0, kind0(ping)))
	f.Add(msg(flagMoreToCome, kind1("documents", ping, ping), kind0(ping)))
	f.Add(withChecksum(msg(flagChecksum, kind0(ping))))
	f.Add(query("admin.$cmd", ping))
	f.Add(query("admin.$cmd", raw(f, bson.D{{Key: "$query", Value: ping}})))
	f.Add(frame(opCompressed, []byte(strings.Repeat("x", 20))))
	f.Add(msg(0, kind0(nested(50))))
	f.Fuzz(func(t *testing.T, b []byte) {
		req, err := ReadMessage(bytes.NewReader(b), MaxAnonymousSize)
		if err != nil {
			return
		}
		if err := req.Body.Validate(); err != nil {
			t.Fatalf("accepted body does not validate: %v", err)
		}
		for _, s := range req.Sequences {
			for _, d := range s.Documents {
				if err := d.Validate(); err != nil {
					t.Fatalf("accepted document does not validate: %v", err)
				}
			}
		}
	})
}
