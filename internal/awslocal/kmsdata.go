package awslocal

import (
	"encoding/json"

	"github.com/keywright/keywright/internal/awslocal/policy"
)

const maxDataKey = 1024

// dataKeyInput is what both GenerateDataKey operations take.
type dataKeyInput struct {
	cryptoInput
	KeySpec       string
	NumberOfBytes *int
}

// size gives the length of the data key in bytes: exactly one of the two
// parameters says it.
func (in *dataKeyInput) size() (int, error) {
	switch {
	case (in.KeySpec == "") == (in.NumberOfBytes == nil):
		return 0, invalid("Please specify either number of bytes or key spec.")
	case in.KeySpec == "AES_128":
		return 16, nil
	case in.KeySpec == "AES_256":
		return 32, nil
	case in.KeySpec != "":
		return 0, invalid("1 validation error detected: Value '%.100s' at 'keySpec' failed to satisfy constraint: Member must satisfy enum value set: [AES_256, AES_128]", in.KeySpec)
	}
	n := *in.NumberOfBytes
	if n < 1 || n > maxDataKey {
		return 0, invalid("1 validation error detected: Value '%d' at 'numberOfBytes' failed to satisfy constraint: Member must have value between 1 and %d", n, maxDataKey)
	}
	return n, nil
}

// dataKey makes a random data key and seals it.
func (c *call) dataKey(st *state, body []byte, operation string) (k *key, plain, blob []byte, err error) {
	var in dataKeyInput
	if err := decode(body, &in); err != nil {
		return nil, nil, nil, err
	}
	n, err := in.size()
	if err != nil {
		return nil, nil, nil, err
	}
	in.EncryptionAlgorithm = "" // no parameter of these operations
	if err := in.check(c); err != nil {
		return nil, nil, nil, err
	}
	ref, err := c.findKey(st, in.KeyID, true)
	if err != nil {
		return nil, nil, nil, err
	}
	if k, err = c.use(ref, &in.cryptoInput, operation); err != nil {
		return nil, nil, nil, err
	}
	plain = randomBytes(n)
	blob, err = k.seal(plain, in.EncryptionContext)
	return k, plain, blob, err
}

func generateDataKey(c *call, st *state, body []byte) (any, error) {
	k, plain, blob, err := c.dataKey(st, body, "GenerateDataKey")
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	answer, err := json.Marshal(map[string]any{"Plaintext": plain, "CiphertextBlob": blob, "KeyId": k.ARN, "KeyMaterialId": k.MaterialID})
	return json.RawMessage(answer), err
}

func generateDataKeyWithoutPlaintext(c *call, st *state, body []byte) (any, error) {
	k, plain, blob, err := c.dataKey(st, body, "GenerateDataKeyWithoutPlaintext")
	if err != nil {
		return nil, err
	}
	clear(plain)
	return map[string]any{"CiphertextBlob": blob, "KeyId": k.ARN, "KeyMaterialId": k.MaterialID}, nil
}

// reEncrypt opens a blob with one key and seals the plaintext with another. It
// asks two permissions, each with its own encryption context.
func reEncrypt(c *call, st *state, body []byte) (any, error) {
	var in struct {
		CiphertextBlob                 []byte
		SourceKeyID                    string `json:"SourceKeyId"`
		SourceEncryptionContext        map[string]string
		SourceEncryptionAlgorithm      string
		DestinationKeyID               string `json:"DestinationKeyId"`
		DestinationEncryptionContext   map[string]string
		DestinationEncryptionAlgorithm string
		GrantTokens                    []string
		DryRun                         bool
		DryRunModifiers                []string
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	source := cryptoInput{EncryptionContext: in.SourceEncryptionContext, EncryptionAlgorithm: in.SourceEncryptionAlgorithm, GrantTokens: in.GrantTokens, DryRun: in.DryRun, DryRunModifiers: in.DryRunModifiers}
	destination := cryptoInput{EncryptionContext: in.DestinationEncryptionContext, EncryptionAlgorithm: in.DestinationEncryptionAlgorithm}
	for _, side := range []*cryptoInput{&source, &destination} { // the call log keeps the destination's context
		if err := side.check(c); err != nil {
			return nil, err
		}
	}
	if err := checkLength("ciphertextBlob", len(in.CiphertextBlob), maxCiphertext); err != nil {
		return nil, err
	}
	from, err := c.decryptKey(st, in.SourceKeyID, in.CiphertextBlob)
	if err != nil {
		return nil, err
	}
	c.entry.Resource = from.arn
	to, err := c.findKey(st, in.DestinationKeyID, true)
	if err != nil {
		return nil, err
	}
	for _, side := range []struct {
		ref       keyRef
		in        *cryptoInput
		operation string
	}{{from, &source, "ReEncryptFrom"}, {to, &destination, "ReEncryptTo"}} {
		if err := c.authorizeKey(side.ref, side.operation, true, func(ctx policy.Context) {
			side.in.conditions(ctx)
			ctx.Set("kms:ReEncryptOnSameKey", boolText(from.arn == to.arn))
		}); err != nil {
			return nil, err
		}
	}
	if err := source.suits(from.key, "ReEncrypt"); err != nil {
		return nil, err
	}
	if err := destination.suits(to.key, "ReEncrypt"); err != nil {
		return nil, err
	}
	if err := source.dryRun(); err != nil {
		return nil, err
	}
	plain, err := from.key.open(in.CiphertextBlob, in.SourceEncryptionContext)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	blob, err := to.key.seal(plain, in.DestinationEncryptionContext)
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"CiphertextBlob": blob, "SourceKeyId": from.key.ARN, "KeyId": to.key.ARN,
		"SourceEncryptionAlgorithm": specSymmetric, "DestinationEncryptionAlgorithm": specSymmetric,
		"SourceKeyMaterialId": materialOf(in.CiphertextBlob), "DestinationKeyMaterialId": to.key.MaterialID,
	}, nil
}
