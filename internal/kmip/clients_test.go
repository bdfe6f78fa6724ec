package kmip_test

import (
	"bytes"
	"crypto/tls"
	"testing"

	"github.com/keywright/keywright/internal/keys"
)

const nodeA, nodeB = keys.NodeID("65a0f0c2e4b0a1b2c3d40001"), keys.NodeID("65a0f0c2e4b0a1b2c3d40002")

func TestPerconaRequestsHaveTheSizesSeenOnTheWire(t *testing.T) {
	for name, c := range map[string]struct {
		request []byte
		size    int
	}{
		"Register":       {perconaRegister(make([]byte, 32)), 440},
		"Activate":       {percona(opActivate, tx(tagID, "42")), 152},
		"Get":            {percona(opGet, tx(tagID, "42")), 152},
		"Get Attributes": {percona(opGetAttributes, tx(tagID, "42"), tx(tagAttributeName, "State")), 168},
	} {
		if len(c.request) != c.size {
			t.Errorf("%s: %d bytes, the real one has %d", name, len(c.request), c.size)
		}
	}
}

func TestPerconaSequence(t *testing.T) {
	for name, version := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, nil)
			file, _ := l.admit(t, nodeA)
			cfg := l.config(t, file)
			cfg.MinVersion, cfg.MaxVersion = version, version
			key := bytes.Repeat([]byte{0xA5}, 32)

			save := l.dial(t, cfg)
			payload := success(t, save, perconaRegister(bytes.Clone(key)))
			if payload.shape() != "420094 " { // an Object Type before it breaks clients
				t.Errorf("Register answers %s", payload.shape())
			}
			id := payload.get(t, tagID).text()
			if !keys.KeyID(id).Valid() {
				t.Errorf("identifier %q", id)
			}
			if got := success(t, save, percona(opActivate, tx(tagID, id))); got.get(t, tagID).text() != id {
				t.Error("Activate answers for another key")
			}

			read := l.dial(t, cfg)
			payload = success(t, read, percona(opGetAttributes, tx(tagID, id), tx(tagAttributeName, "State")))
			if payload.shape() != "420094 420008 " || payload.get(t, tagID).text() != id {
				t.Errorf("Get Attributes answers %s", payload.shape())
			}
			a := payload.get(t, tagAttribute)
			if a.get(t, tagAttributeName).text() != "State" || a.get(t, tagAttributeValue).number() != stateActive || a.get(t, tagAttributeValue).kind != 5 {
				t.Error("the state is not Active")
			}
			payload = success(t, read, percona(opGet, tx(tagID, id)))
			if payload.shape() != "420057 420094 42008F " || payload.get(t, tagObjectType).number() != 2 || payload.get(t, tagID).text() != id {
				t.Errorf("Get answers %s", payload.shape())
			}
			block := payload.get(t, tagSymmetricKey, tagKeyBlock)
			// No wrapping data, and nothing beside the material.
			if block.shape() != "420042 420045 420028 42002A " || block.get(t, tagKeyValue).shape() != "420043 " {
				t.Errorf("key block %s with value %s", block.shape(), block.get(t, tagKeyValue).shape())
			}
			if block.get(t, tagKeyFormat).number() != 1 || !bytes.Equal(block.get(t, tagKeyValue, tagKeyMaterial).value, key) {
				t.Error("the key does not come back as it was registered")
			}
		})
	}
}

func TestPerconaVersionIsEchoedAndOldKeysAreTaken(t *testing.T) {
	l := newLab(t, nil)
	conn := l.client(t, nodeA)
	for minor := range 5 {
		answer := ask(t, conn, message(minor, nil, op(opQuery, en(tagQueryFunction, 1))))
		v := answer.get(t, tagResponseHeader, tagVersion)
		if v.get(t, tagMajor).number() != 1 || v.get(t, tagMinor).number() != minor {
			t.Errorf("1.%d is answered with 1.%d", minor, v.get(t, tagMinor).number())
		}
	}
	id := success(t, conn, perconaRegister(bytes.Repeat([]byte{'x'}, 44))).get(t, tagID).text()
	got := success(t, conn, percona(opGet, tx(tagID, id))).get(t, tagSymmetricKey, tagKeyBlock)
	if got.get(t, tagLength).number() != 352 || len(got.get(t, tagKeyValue, tagKeyMaterial).value) != 44 {
		t.Error("a key of 44 bytes does not come back")
	}
}

func TestLibmongocryptSequences(t *testing.T) {
	l := newLab(t, nil)
	conn := l.client(t, nodeA)
	material := bytes.Repeat([]byte{7}, 96)
	for name, c := range map[string]struct {
		template []byte
		format   int
	}{
		"1.7.2":  {st(tagTemplate), 1},
		"newest": {st(tagTemplate, attribute("Cryptographic Usage Mask", in(tagAttributeValue, 0))), 2},
	} {
		id := success(t, conn, mongocrypt(0, opRegister, en(tagObjectType, 7), c.template,
			st(tagSecretData, en(tagSecretType, 2), st(tagKeyBlock, en(tagKeyFormat, c.format), st(tagKeyValue, by(tagKeyMaterial, bytes.Clone(material))))))).get(t, tagID).text()
		success(t, conn, mongocrypt(0, opActivate, tx(tagID, id)))
		payload := success(t, conn, mongocrypt(0, opGet, tx(tagID, id)))
		if payload.shape() != "420057 420094 420085 " || payload.get(t, tagObjectType).number() != 7 {
			t.Errorf("%s: Get answers %s", name, payload.shape())
		}
		sd := payload.get(t, tagSecretData)
		block := sd.get(t, tagKeyBlock)
		if sd.get(t, tagSecretType).number() != 2 || block.get(t, tagKeyFormat).number() != c.format ||
			!bytes.Equal(block.get(t, tagKeyValue, tagKeyMaterial).value, material) {
			t.Errorf("%s: the secret does not come back as it was registered", name)
		}
	}
	// Delegated keys: made by the server, used through Encrypt, which is to come.
	payload := success(t, conn, mongocrypt(2, opCreate, en(tagObjectType, 2), aesTemplate(256)))
	if payload.shape() != "420057 420094 " {
		t.Errorf("Create answers %s", payload.shape())
	}
	id := payload.get(t, tagID).text()
	success(t, conn, mongocrypt(0, opActivate, tx(tagID, id)))
	refused(t, conn, mongocrypt(2, opEncrypt, tx(tagID, id), by(0x4200C2, material)), opEncrypt, reasonNotSupported)
	refused(t, conn, mongocrypt(2, opDecrypt, tx(tagID, id), by(0x4200C2, material)), opDecrypt, reasonNotSupported)
}

func TestEnterpriseSequence(t *testing.T) {
	l := newLab(t, nil)
	conn := l.client(t, nodeA)
	template := st(tagTemplate,
		attribute("Cryptographic Algorithm", en(tagAttributeValue, 3)),
		attribute("Cryptographic Length", in(tagAttributeValue, 256)),
		attribute("Cryptographic Usage Mask", in(tagAttributeValue, 12)),
		attribute("Name", st(tagAttributeValue, tx(tagNameValue, "mongodb-1"), en(tagNameType, 1))),
		attribute("x-purpose", tx(tagAttributeValue, "test")))
	// One batch: made, activated, fetched, through the ID Placeholder.
	batch := message(2, nil,
		st(tagBatchItem, en(tagOperation, opCreate), by(tagBatchItemID, []byte{1}), st(tagRequestPayload, en(tagObjectType, 2), template)),
		st(tagBatchItem, en(tagOperation, opActivate), by(tagBatchItemID, []byte{2}), st(tagRequestPayload)),
		st(tagBatchItem, en(tagOperation, opGet), by(tagBatchItemID, []byte{3}), st(tagRequestPayload)))
	answer := ask(t, conn, batch)
	if len(answer.children) != 4 {
		t.Fatalf("answer %s", answer.shape())
	}
	for i, item := range answer.children[1:] {
		if item.get(t, tagResultStatus).number() != 0 || !bytes.Equal(item.get(t, tagBatchItemID).value, []byte{byte(i + 1)}) {
			t.Fatalf("item %d: %s", i, item.shape())
		}
	}
	id := answer.children[3].get(t, tagResponsePay, tagID).text()
	if len(answer.children[3].get(t, tagResponsePay, tagSymmetricKey, tagKeyBlock, tagKeyValue, tagKeyMaterial).value) != 32 {
		t.Error("not a key of 32 bytes")
	}
	for _, search := range [][]byte{
		attribute("Name", st(tagAttributeValue, tx(tagNameValue, "mongodb-1"), en(tagNameType, 1))),
		attribute("x-purpose", tx(tagAttributeValue, "test")),
		attribute("State", en(tagAttributeValue, stateActive)),
		attribute("Cryptographic Usage Mask", in(tagAttributeValue, 4)),
	} {
		found := success(t, conn, mongocrypt(2, opLocate, search))
		if found.get(t, tagID).text() != id {
			t.Error("not located")
		}
	}
	for _, search := range [][]byte{
		attribute("Name", st(tagAttributeValue, tx(tagNameValue, "mongodb-2"), en(tagNameType, 1))),
		attribute("State", en(tagAttributeValue, stateDeactivated)),
	} {
		if found := success(t, conn, mongocrypt(2, opLocate, search)); found.shape() != "" {
			t.Errorf("located %s", found.shape())
		}
	}
	if found := success(t, l.client(t, nodeB), mongocrypt(2, opLocate)); found.shape() != "" {
		t.Error("another node locates the key")
	}
}

func TestAttributes(t *testing.T) {
	l := newLab(t, nil)
	conn := l.client(t, nodeA)
	id := success(t, conn, perconaRegister(bytes.Repeat([]byte{1}, 32))).get(t, tagID).text()
	names := func(asked ...string) string {
		payload := [][]byte{tx(tagID, id)}
		for _, n := range asked {
			payload = append(payload, tx(tagAttributeName, n))
		}
		got := ""
		for _, c := range success(t, conn, percona(opGetAttributes, payload...)).children[1:] {
			got += c.get(t, tagAttributeName).text() + ","
			if _, ok := c.child(tagAttributeIndex); ok {
				t.Error("an attribute carries an index")
			}
		}
		return got
	}
	for _, c := range []struct {
		asked []string
		want  string
	}{
		{[]string{"State"}, "State,"},
		{[]string{"Cryptographic Length", "State"}, "Cryptographic Length,State,"},
		{[]string{"state", "Nonsense", "State", "State"}, "State,"}, // names are case sensitive
		{[]string{"Nonsense"}, "State,"},                            // never none: that crashes a client
		{nil, "State,Unique Identifier,Object Type,Cryptographic Usage Mask,Cryptographic Algorithm,Cryptographic Length,Initial Date,"},
	} {
		if got := names(c.asked...); got != c.want {
			t.Errorf("%v: %s", c.asked, got)
		}
	}
	list := success(t, conn, percona(opGetAttributeList, tx(tagID, id)))
	if len(list.children) != 8 || list.children[1].text() != "State" {
		t.Errorf("attribute list %s", list.shape())
	}
}

func TestToolsCanLookAround(t *testing.T) {
	l := newLab(t, nil)
	conn := l.client(t, nodeA)
	q := success(t, conn, mongocrypt(2, opQuery, en(tagQueryFunction, 1), en(tagQueryFunction, 2), en(tagQueryFunction, 3)))
	if q.get(t, tagVendor).text() != "Keywright" {
		t.Error("no vendor")
	}
	for _, c := range q.children {
		if c.tag == tagOperation && (c.number() == opRevoke || c.number() == opDestroy || c.number() == opEncrypt) {
			t.Errorf("operation %#x is offered", c.number())
		}
	}
	d := success(t, conn, mongocrypt(1, opDiscover))
	if d.children[0].get(t, tagMinor).number() != 4 || d.children[4].get(t, tagMinor).number() != 0 {
		t.Error("the highest version does not come first")
	}
	d = success(t, conn, mongocrypt(1, opDiscover,
		st(tagVersion, in(tagMajor, 2), in(tagMinor, 0)), st(tagVersion, in(tagMajor, 1), in(tagMinor, 0)), st(tagVersion, in(tagMajor, 1), in(tagMinor, 2))))
	if len(d.children) != 2 || d.children[0].get(t, tagMinor).number() != 2 {
		t.Errorf("offers %s", d.shape())
	}
}
