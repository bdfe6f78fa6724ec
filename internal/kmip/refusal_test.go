package kmip_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kmip"
)

func TestEveryErrorHasItsReason(t *testing.T) {
	l := newLab(t, nil)
	conn := l.client(t, nodeA)
	id := string(keys.NewKeyID())
	var inject error
	l.keys.fail = func(method string) error {
		if method == "Locate" || method == "Release" {
			return nil
		}
		return inject
	}
	requests := map[int][]byte{
		opGet:           percona(opGet, tx(tagID, id)),
		opGetAttributes: percona(opGetAttributes, tx(tagID, id), tx(tagAttributeName, "State")),
		opActivate:      percona(opActivate, tx(tagID, id)),
		opRegister:      perconaRegister(make([]byte, 32)),
		opCreate:        mongocrypt(2, opCreate, en(tagObjectType, 2), aesTemplate(256)),
	}
	for _, c := range []struct {
		err    error
		reason int
	}{
		{kmip.ErrNotFound, reasonNotFound},
		{kmip.ErrUnknown, reasonGeneral},
		{kmip.ErrForeign, reasonDenied},
		{kmip.ErrUnavailable, reasonGeneral},
		{kmip.ErrIllegal, reasonIllegal},
		{context.DeadlineExceeded, reasonGeneral},
		{errors.New("secret detail of arn:aws:kms"), reasonGeneral},
		{fmt.Errorf("secret detail: %w", kmip.ErrUnavailable), reasonGeneral},
		{fmt.Errorf("secret detail: %w", kmip.ErrForeign), reasonDenied},
	} {
		inject = c.err
		for code, request := range requests {
			want := c.reason
			if errors.Is(c.err, kmip.ErrIllegal) && code == opActivate {
				want = reasonDenied
			}
			item := refused(t, conn, request, code, want)
			if m := item.get(t, tagResultMessage).text(); strings.Contains(m, "detail") || strings.Contains(m, "kmip:") {
				t.Errorf("the client is told %q", m)
			}
		}
	}
	l.keys.fail = func(string) error { panic("broken") }
	refused(t, conn, requests[opGet], opGet, reasonGeneral)
	l.keys.fail = nil
	if !strings.Contains(l.log.String(), "level=ERROR") || !strings.Contains(l.log.String(), "well-formed identifier is unknown") {
		t.Error("an unknown identifier raises no alarm")
	}
}

func TestItemNotFoundIsSaidOnlyWhereItIsTrue(t *testing.T) {
	l := newLab(t, nil)
	conn := l.client(t, nodeA)
	id := success(t, conn, perconaRegister(make([]byte, 32))).get(t, tagID).text()
	for code, more := range map[int][]byte{opGet: nil, opActivate: nil, opGetAttributes: tx(tagAttributeName, "State"), opGetAttributeList: nil} {
		refused(t, conn, percona(code, tx(tagID, "42"), more), code, reasonNotFound)
		refused(t, conn, percona(code, tx(tagID, strings.ToUpper(id)), more), code, reasonNotFound)
		refused(t, conn, percona(code, tx(tagID, string(keys.NewKeyID())), more), code, reasonGeneral)
		refused(t, conn, percona(code), code, reasonInvalidField)
	}
	l.keys.with(func() { l.keys.entries[keys.KeyID(id)].state = keys.StateDestroyed })
	refused(t, conn, percona(opGet, tx(tagID, id)), opGet, reasonNotFound)
}

func TestANodeReachesItsOwnKeysOnly(t *testing.T) {
	l := newLab(t, nil)
	id := success(t, l.client(t, nodeA), perconaRegister(make([]byte, 32))).get(t, tagID).text()
	other := l.client(t, nodeB)
	refused(t, other, percona(opGet, tx(tagID, id)), opGet, reasonDenied)
	refused(t, other, percona(opActivate, tx(tagID, id)), opActivate, reasonDenied)
	refused(t, other, percona(opGetAttributes, tx(tagID, id), tx(tagAttributeName, "State")), opGetAttributes, reasonDenied)
}

func TestNodesMayNotEndKeys(t *testing.T) {
	l := newLab(t, nil)
	conn := l.client(t, nodeA)
	id := success(t, conn, perconaRegister(make([]byte, 32))).get(t, tagID).text()
	refused(t, conn, percona(opRevoke, tx(tagID, id), st(0x420081, en(0x420082, 1))), opRevoke, reasonDenied)
	refused(t, conn, percona(opDestroy, tx(tagID, id)), opDestroy, reasonDenied)
	refused(t, conn, percona(opReKey, tx(tagID, id)), opReKey, reasonDenied)
	refused(t, conn, percona(0x1B), 0x1B, reasonNotSupported)
	refused(t, conn, percona(0x7F), 0x7F, reasonNotSupported)
	success(t, conn, percona(opGet, tx(tagID, id)))
}

// TestRevokedVerdict: a node under INVALID learns Deactivated by polling, and
// gets no key.
func TestRevokedVerdict(t *testing.T) {
	l := newLab(t, nil)
	conn := l.client(t, nodeA)
	id := success(t, conn, perconaRegister(make([]byte, 32))).get(t, tagID).text()
	success(t, conn, percona(opActivate, tx(tagID, id)))
	refused(t, conn, percona(opActivate, tx(tagID, id)), opActivate, reasonDenied)
	state := func() int {
		p := success(t, conn, percona(opGetAttributes, tx(tagID, id), tx(tagAttributeName, "State")))
		return p.get(t, tagAttribute, tagAttributeValue).number()
	}
	if state() != stateActive {
		t.Fatal("not Active")
	}
	l.keys.with(func() { l.keys.invalid = true })
	if state() != stateDeactivated {
		t.Error("not Deactivated under INVALID")
	}
	refused(t, conn, percona(opGet, tx(tagID, id)), opGet, reasonGeneral)
	refused(t, conn, perconaRegister(make([]byte, 32)), opRegister, reasonGeneral)
	l.keys.with(func() { l.keys.invalid = false; l.keys.entries[keys.KeyID(id)].state = keys.StatePendingDestruction })
	if state() != stateDeactivated {
		t.Error("a key that waits for destruction is not Deactivated")
	}
	success(t, conn, percona(opGet, tx(tagID, id))) // or the node could not be rotated away from it
}

// TestReleaseIsAskedJustBeforeTheAnswer: the verdict changes while a batch runs,
// after its Get.
func TestReleaseIsAskedJustBeforeTheAnswer(t *testing.T) {
	l := newLab(t, nil)
	conn := l.client(t, nodeA)
	key := bytes.Repeat([]byte{0xC3}, 32)
	id := success(t, conn, perconaRegister(bytes.Clone(key))).get(t, tagID).text()
	l.keys.fail = func(method string) error {
		if method == "Attributes" {
			l.keys.with(func() { l.keys.invalid = true })
		}
		return nil
	}
	answer, err := exchange(conn, message(2, nil, op(opGet, tx(tagID, id)), op(opGetAttributes, tx(tagID, id))))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(answer, key) {
		t.Fatal("the key was released after the verdict")
	}
	top := parse(t, answer)[0]
	checkFailure(t, top.children[1], opGet, reasonGeneral)
	if l.keys.count("Get") != 1 {
		t.Error("the test did not get to the key")
	}
}

func TestBadObjectsAreRefused(t *testing.T) {
	l := newLab(t, nil)
	conn := l.client(t, nodeA)
	good := bytes.Repeat([]byte{1}, 32)
	key := func(format int, material []byte, after ...[]byte) []byte {
		return st(tagSymmetricKey, st(tagKeyBlock, append([][]byte{en(tagKeyFormat, format), st(tagKeyValue, by(tagKeyMaterial, material))}, after...)...))
	}
	attributes := func(a ...[]byte) []byte { return st(tagTemplate, a...) }
	alg, length, mask := attribute("Cryptographic Algorithm", en(tagAttributeValue, 3)),
		attribute("Cryptographic Length", in(tagAttributeValue, 256)), attribute("Cryptographic Usage Mask", in(tagAttributeValue, 12))
	for name, c := range map[string]struct {
		code    int
		payload [][]byte
		reason  int
	}{
		"create public key":      {opCreate, [][]byte{en(tagObjectType, 3), aesTemplate(256)}, reasonInvalidField},
		"create AES 128":         {opCreate, [][]byte{en(tagObjectType, 2), aesTemplate(128)}, reasonInvalidField},
		"create 3DES":            {opCreate, [][]byte{en(tagObjectType, 2), attributes(attribute("Cryptographic Algorithm", en(tagAttributeValue, 2)), length, mask)}, reasonInvalidField},
		"create without mask":    {opCreate, [][]byte{en(tagObjectType, 2), attributes(alg, length)}, reasonInvalidField},
		"create without length":  {opCreate, [][]byte{en(tagObjectType, 2), attributes(alg, mask)}, reasonInvalidField},
		"twice":                  {opCreate, [][]byte{en(tagObjectType, 2), attributes(alg, length, mask, mask)}, reasonInvalidField},
		"unknown attribute":      {opCreate, [][]byte{en(tagObjectType, 2), attributes(alg, length, mask, attribute("Nonsense", tx(tagAttributeValue, "x")))}, reasonInvalidField},
		"case of an attribute":   {opCreate, [][]byte{en(tagObjectType, 2), attributes(alg, length, attribute("cryptographic usage mask", in(tagAttributeValue, 12)))}, reasonInvalidField},
		"activation date":        {opCreate, [][]byte{en(tagObjectType, 2), attributes(alg, length, mask, attribute("Activation Date", dt(tagAttributeValue, time.Now())))}, reasonInvalidField},
		"long text":              {opCreate, [][]byte{en(tagObjectType, 2), attributes(alg, length, mask, attribute("x-a", tx(tagAttributeValue, strings.Repeat("x", 257))))}, reasonInvalidField},
		"custom number":          {opCreate, [][]byte{en(tagObjectType, 2), attributes(alg, length, mask, attribute("x-a", in(tagAttributeValue, 1)))}, reasonInvalidField},
		"register 31 bytes":      {opRegister, [][]byte{en(tagObjectType, 2), attributes(alg, mask), key(1, good[:31], en(tagAlgorithm, 3), in(tagLength, 248))}, reasonInvalidField},
		"length differs":         {opRegister, [][]byte{en(tagObjectType, 2), aesTemplate(128), key(1, good, en(tagAlgorithm, 3), in(tagLength, 256))}, reasonInvalidField},
		"length in block":        {opRegister, [][]byte{en(tagObjectType, 2), aesTemplate(256), key(1, good, en(tagAlgorithm, 3), in(tagLength, 128))}, reasonInvalidField},
		"algorithm in block":     {opRegister, [][]byte{en(tagObjectType, 2), aesTemplate(256), key(1, good, en(tagAlgorithm, 2), in(tagLength, 256))}, reasonInvalidField},
		"register without mask":  {opRegister, [][]byte{en(tagObjectType, 2), attributes(alg, length), key(1, good)}, reasonInvalidField},
		"opaque key":             {opRegister, [][]byte{en(tagObjectType, 2), aesTemplate(256), key(2, good)}, reasonFormat},
		"PKCS8":                  {opRegister, [][]byte{en(tagObjectType, 2), aesTemplate(256), key(4, good)}, reasonFormat},
		"no material":            {opRegister, [][]byte{en(tagObjectType, 2), aesTemplate(256), st(tagSymmetricKey, st(tagKeyBlock, en(tagKeyFormat, 1)))}, reasonInvalidField},
		"wrapped":                {opRegister, [][]byte{en(tagObjectType, 2), aesTemplate(256), st(tagSymmetricKey, st(tagKeyBlock, en(tagKeyFormat, 1), by(tagKeyValue, good)))}, reasonNoFeat},
		"attribute beside":       {opRegister, [][]byte{en(tagObjectType, 2), aesTemplate(256), st(tagSymmetricKey, st(tagKeyBlock, en(tagKeyFormat, 1), st(tagKeyValue, by(tagKeyMaterial, good), alg)))}, reasonInvalidField},
		"long secret":            {opRegister, [][]byte{en(tagObjectType, 7), st(tagTemplate), st(tagSecretData, en(tagSecretType, 2), st(tagKeyBlock, en(tagKeyFormat, 1), st(tagKeyValue, by(tagKeyMaterial, make([]byte, 1025)))))}, reasonInvalidField},
		"certificate":            {opRegister, [][]byte{en(tagObjectType, 1), st(tagTemplate), st(0x420013, en(0x42001D, 1), by(0x42001E, good))}, reasonInvalidField},
		"locate by digest":       {opLocate, [][]byte{attribute("Digest", st(tagAttributeValue, en(0x420038, 6), by(0x420035, good)))}, reasonInvalidField},
		"get in another format":  {opGet, [][]byte{tx(tagID, "PLACE"), en(tagKeyFormat, 4)}, reasonFormat},
		"get compressed":         {opGet, [][]byte{tx(tagID, "PLACE"), en(0x420041, 1)}, 0x11},
		"get wrapped":            {opGet, [][]byte{tx(tagID, "PLACE"), st(0x420047, en(0x42009E, 1))}, reasonNoFeat},
		"locate by empty name":   {opLocate, [][]byte{attribute("Name", st(tagAttributeValue, tx(tagNameValue, ""), en(tagNameType, 1)))}, reasonInvalidField},
		"register a public key":  {opRegister, [][]byte{en(tagObjectType, 3), aesTemplate(256), st(0x42006D, st(tagKeyBlock, en(tagKeyFormat, 1), st(tagKeyValue, by(tagKeyMaterial, good))))}, reasonInvalidField},
		"register with template": {opRegister, [][]byte{en(tagObjectType, 2), st(tagTemplate, st(0x420053, tx(tagNameValue, "t"), en(tagNameType, 1))), key(1, good)}, reasonInvalidField},
	} {
		t.Run(name, func(t *testing.T) {
			id := success(t, conn, perconaRegister(bytes.Clone(good))).get(t, tagID).text()
			for i, p := range c.payload {
				if bytes.Equal(p, tx(tagID, "PLACE")) {
					c.payload[i] = tx(tagID, id)
				}
			}
			before := l.keys.count("Create") + l.keys.count("Register")
			refused(t, conn, percona(c.code, c.payload...), c.code, c.reason)
			if l.keys.count("Create")+l.keys.count("Register") != before {
				t.Error("a key was made all the same")
			}
		})
	}
}

func TestHeaderRules(t *testing.T) {
	l := newLab(t, nil)
	id := success(t, l.client(t, nodeA), perconaRegister(make([]byte, 32))).get(t, tagID).text()
	file, _ := l.admit(t, nodeA)
	get := op(opGet, tx(tagID, id))
	version := func(major, minor int) []byte { return st(tagVersion, in(tagMajor, major), in(tagMinor, minor)) }
	count := func(n int) []byte { return in(tagBatchCount, n) }
	for name, c := range map[string]struct {
		request []byte
		reason  int
		closes  bool
	}{
		"KMIP 2.0":               {st(tagRequest, st(tagRequestHeader, version(2, 0), count(1)), get), reasonInvalidMessage, true},
		"KMIP 1.5":               {st(tagRequest, st(tagRequestHeader, version(1, 5), count(1)), get), reasonInvalidMessage, true},
		"KMIP 0.9":               {st(tagRequest, st(tagRequestHeader, version(0, 9), count(1)), get), reasonInvalidMessage, true},
		"no version":             {st(tagRequest, st(tagRequestHeader, count(1)), get), reasonInvalidMessage, true},
		"count too high":         {st(tagRequest, st(tagRequestHeader, version(1, 0), count(2)), get), reasonInvalidMessage, true},
		"no items":               {st(tagRequest, st(tagRequestHeader, version(1, 0), count(0))), reasonInvalidMessage, true},
		"too many items":         {message(0, nil, bytes.Split(bytes.Repeat(append(bytes.Clone(get), '|'), 33), []byte("|"))[:33]...), reasonInvalidMessage, true},
		"asynchronous":           {message(2, bo(tagAsynchronous), get), reasonNoFeat, false},
		"undo":                   {message(2, en(tagBatchOption, 3), get), reasonNoFeat, false},
		"critical extension":     {message(2, nil, st(tagBatchItem, en(tagOperation, opGet), st(tagRequestPayload, tx(tagID, id)), st(tagExtension, tx(tagVendor, "x"), bo(tagCriticality), st(tagVendorExt)))), reasonNoFeat, false},
		"operation of no number": {message(0, nil, st(tagBatchItem, tx(tagOperation, "Get"), st(tagRequestPayload))), reasonInvalidMessage, true},
		"password in the header": {message(0, st(0x42000C, st(0x420023, en(0x420024, 99), st(0x420025))), get), reasonInvalidMessage, true},
	} {
		t.Run(name, func(t *testing.T) {
			conn := l.dial(t, l.config(t, file))
			answer := ask(t, conn, c.request)
			checkFailure(t, answer.get(t, tagBatchItem), 0, c.reason)
			if v := answer.get(t, tagResponseHeader, tagVersion, tagMajor).number(); v != 1 {
				t.Errorf("answered in version %d", v)
			}
			_, err := exchange(conn, percona(opGet, tx(tagID, id)))
			if (err != nil) != c.closes {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
	// A request from the future, or from the past, is fine.
	conn := l.dial(t, l.config(t, file))
	for _, at := range []time.Time{time.Now().Add(100 * time.Hour), time.Unix(1, 0)} {
		success(t, conn, message(0, dt(tagTimeStamp, at), op(opGet, tx(tagID, id))))
	}
}

func TestBatchErrorContinuation(t *testing.T) {
	l := newLab(t, nil)
	conn := l.client(t, nodeA)
	id := success(t, conn, perconaRegister(make([]byte, 32))).get(t, tagID).text()
	bad, good := op(opGet, tx(tagID, "42")), op(opGetAttributes, tx(tagID, id))
	for name, c := range map[string]struct {
		option []byte
		items  int
	}{"left out": {nil, 1}, "stop": {en(tagBatchOption, 2), 1}, "continue": {en(tagBatchOption, 1), 2}} {
		answer := ask(t, conn, message(2, c.option, bad, good))
		if len(answer.children)-1 != c.items {
			t.Errorf("%s: %d items", name, len(answer.children)-1)
		}
	}
}

func TestMaximumResponseSize(t *testing.T) {
	l := newLab(t, nil)
	conn := l.client(t, nodeA)
	key := bytes.Repeat([]byte{0xC3}, 32)
	id := success(t, conn, perconaRegister(bytes.Clone(key))).get(t, tagID).text()
	whole, err := exchange(conn, percona(opGet, tx(tagID, id)))
	if err != nil {
		t.Fatal(err)
	}
	success(t, conn, message(0, in(tagMaxResponse, len(whole)), op(opGet, tx(tagID, id))))
	refused(t, conn, message(0, in(tagMaxResponse, len(whole)-8), op(opGet, tx(tagID, id))), opGet, reasonTooLarge)
	tight := ask(t, conn, message(0, in(tagMaxResponse, 16), op(opGet, tx(tagID, id)))).get(t, tagBatchItem)
	if tight.shape() != "42005C 42007F 42007E " || tight.get(t, tagResultReason).number() != reasonTooLarge {
		t.Errorf("the least answer holds %s", tight.shape())
	}
}

func TestLimitsComeBeforeTheKeyPlane(t *testing.T) {
	now := time.Now()
	l := newLab(t, func(c *kmip.Config) {
		c.Limits = kmip.Limits{RequestRate: 1, RequestBurst: 5, KeysPerNode: 3}
		c.Now = func() time.Time { return now }
	})
	conn := l.client(t, nodeA)
	for range 3 {
		success(t, conn, perconaRegister(make([]byte, 32)))
	}
	refused(t, conn, perconaRegister(make([]byte, 32)), opRegister, reasonDenied)
	refused(t, conn, percona(opCreate, en(tagObjectType, 2), aesTemplate(256)), opCreate, reasonDenied)
	if n := l.keys.count("Register") + l.keys.count("Create"); n != 3 {
		t.Errorf("the key plane was asked %d times", n)
	}
	get := percona(opGet, tx(tagID, string(keys.NewKeyID())))
	refused(t, conn, get, opGet, reasonGeneral) // the burst is used up
	if l.keys.count("Get") != 0 {
		t.Error("the key plane was asked above the rate")
	}
	success(t, l.client(t, nodeB), perconaRegister(make([]byte, 32))) // others are not held up
}

func TestManyCreatesAtOnceKeepTheLimit(t *testing.T) {
	l := newLab(t, func(c *kmip.Config) { c.Limits.KeysPerNode = 5 })
	l.keys.fail = func(method string) error {
		if method == "Register" {
			time.Sleep(5 * time.Millisecond) // time enough for another to count before this one counts
		}
		return nil
	}
	file, _ := l.admit(t, nodeA)
	done := make(chan error, 12)
	for range cap(done) {
		conn := l.dial(t, l.config(t, file))
		go func() {
			_, err := exchange(conn, perconaRegister(make([]byte, 32)))
			done <- err
		}()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n := l.keys.count("Register"); n != 5 {
		t.Errorf("%d keys were made", n)
	}
}
