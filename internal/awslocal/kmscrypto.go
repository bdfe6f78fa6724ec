package awslocal

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"

	"github.com/keywright/keywright/internal/awslocal/policy"
)

const (
	maxPlaintext  = 4096
	maxCiphertext = 6144
	maxContext    = 8192
	blobVersion   = 1
	materialIDLen = 32
)

// cryptoInput has the fields that Encrypt and Decrypt share.
type cryptoInput struct {
	KeyID               string `json:"KeyId"`
	EncryptionContext   map[string]string
	EncryptionAlgorithm string
	GrantTokens         []string
	DryRun              bool
	DryRunModifiers     []string
	Recipient           json.RawMessage
}

func (in *cryptoInput) check(c *call) error {
	if in.EncryptionAlgorithm == "" {
		in.EncryptionAlgorithm = specSymmetric
	}
	switch in.EncryptionAlgorithm {
	case specSymmetric, "RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256":
	default:
		return invalid("1 validation error detected: Value at 'encryptionAlgorithm' failed to satisfy constraint: Member must satisfy enum value set")
	}
	if len(in.DryRunModifiers) > 0 || (len(in.Recipient) > 0 && string(in.Recipient) != "null") {
		return kmsFail("UnsupportedOperationException", "The local AWS supports neither Recipient nor DryRunModifiers")
	}
	size := 0
	for k, v := range in.EncryptionContext {
		if k == "" {
			return invalid("A key of the encryption context is empty")
		}
		size += len(k) + len(v)
	}
	if size > maxContext {
		return invalid("The encryption context has more than %d bytes", maxContext)
	}
	c.entry.EncryptionContext = in.EncryptionContext
	return noGrants(in.GrantTokens)
}

func (in *cryptoInput) conditions(ctx policy.Context) {
	ctx.Set("kms:EncryptionAlgorithm", in.EncryptionAlgorithm)
	for _, k := range slices.Sorted(maps.Keys(in.EncryptionContext)) {
		ctx.Add("kms:EncryptionContext:"+k, in.EncryptionContext[k])
		ctx.Add("kms:EncryptionContextKeys", k)
	}
}

// use authorises a key for a cryptographic operation and checks its state and
// kind, in this order: who may not use a key learns nothing of it.
func (c *call) use(ref keyRef, in *cryptoInput, operation string) (*key, error) {
	if err := c.authorizeKey(ref, operation, true, in.conditions); err != nil {
		return nil, err
	}
	if err := in.suits(ref.key, operation); err != nil {
		return nil, err
	}
	return ref.key, in.dryRun()
}

// suits checks a key's state and kind.
func (in *cryptoInput) suits(k *key, operation string) error {
	if err := k.usable(); err != nil {
		return err
	}
	switch {
	case k.Usage != usageEncrypt:
		return kmsFail("InvalidKeyUsageException", "%s key usage is %s which is not valid for %s.", k.ARN, k.Usage, operation)
	case !slices.Contains(algorithmsOf(k.Spec, k.Usage), in.EncryptionAlgorithm):
		return kmsFail("InvalidKeyUsageException", "Algorithm %s is incompatible with key spec %s.", in.EncryptionAlgorithm, k.Spec)
	case k.Spec != specSymmetric:
		return kmsFail("UnsupportedOperationException", "The local AWS does not implement %s with asymmetric keys", operation)
	}
	return nil
}

// dryRun ends a dry run that would have succeeded.
func (in *cryptoInput) dryRun() error {
	if in.DryRun {
		return kmsFail("DryRunOperationException", "The request would have succeeded, but the DryRun option is set.")
	}
	return nil
}

func encrypt(c *call, st *state, body []byte) (any, error) {
	var in struct {
		cryptoInput
		Plaintext []byte
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	defer clear(in.Plaintext)
	if err := in.check(c); err != nil {
		return nil, err
	}
	if err := checkLength("plaintext", len(in.Plaintext), maxPlaintext); err != nil {
		return nil, err
	}
	ref, err := c.findKey(st, in.KeyID, true)
	if err != nil {
		return nil, err
	}
	k, err := c.use(ref, &in.cryptoInput, "Encrypt")
	if err != nil {
		return nil, err
	}
	blob, err := k.seal(in.Plaintext, in.EncryptionContext)
	if err != nil {
		return nil, err
	}
	return map[string]any{"CiphertextBlob": blob, "KeyId": k.ARN, "EncryptionAlgorithm": specSymmetric}, nil
}

func checkLength(name string, n, most int) error {
	if n < 1 {
		return invalid("1 validation error detected: Value at '%s' failed to satisfy constraint: Member must have length greater than or equal to 1", name)
	}
	if n > most {
		return tooLong(name, most)
	}
	return nil
}

func decrypt(c *call, st *state, body []byte) (any, error) {
	var in struct {
		cryptoInput
		CiphertextBlob []byte
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	if err := in.check(c); err != nil {
		return nil, err
	}
	if err := checkLength("ciphertextBlob", len(in.CiphertextBlob), maxCiphertext); err != nil {
		return nil, err
	}
	if in.KeyID == "" && in.EncryptionAlgorithm != specSymmetric {
		return nil, invalid("KeyId is required for asymmetric keys")
	}
	ref, err := c.decryptKey(st, in.KeyID, in.CiphertextBlob)
	if err != nil {
		return nil, err
	}
	k, err := c.use(ref, &in.cryptoInput, "Decrypt")
	if err != nil {
		return nil, err
	}
	plain, err := k.open(in.CiphertextBlob, in.EncryptionContext)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	answer, err := json.Marshal(map[string]any{
		"Plaintext": plain, "KeyId": k.ARN, "EncryptionAlgorithm": specSymmetric, "KeyMaterialId": materialOf(in.CiphertextBlob),
	})
	return json.RawMessage(answer), err
}

// decryptKey finds the key that the request names, or else the blob.
func (c *call) decryptKey(st *state, name string, blob []byte) (keyRef, error) {
	if name != "" {
		return c.findKey(st, name, true)
	}
	b, err := parseBlob(blob)
	if err != nil {
		return keyRef{}, err
	}
	k := st.Keys[b.arn]
	if k == nil || k.Region != c.region || k.gone(c.now) {
		return keyRef{}, kmsFail("AccessDeniedException", "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not allowed to access.")
	}
	c.entry.KeyARN = k.ARN
	return keyRef{arn: k.ARN, account: k.Account, key: k}, nil
}

// blob is a parsed ciphertext: version (1 byte), length of the key ARN (2
// bytes, big endian), key ARN, material id (32 bytes), nonce (12 bytes), AES-256-GCM
// output. Everything before the nonce and the encryption context is
// authenticated.
type blob struct {
	head     []byte
	arn      string
	material string
	rest     []byte // nonce and ciphertext
}

func invalidCiphertext() error { return kmsFail("InvalidCiphertextException", "") }

func parseBlob(raw []byte) (blob, error) {
	if len(raw) < 3 || raw[0] != blobVersion {
		return blob{}, invalidCiphertext()
	}
	end := 3 + int(binary.BigEndian.Uint16(raw[1:3]))
	if len(raw) < end+materialIDLen {
		return blob{}, invalidCiphertext()
	}
	head := end + materialIDLen
	return blob{head: raw[:head], arn: string(raw[3:end]), material: hex.EncodeToString(raw[end:head]), rest: raw[head:]}, nil
}

func (k *key) seal(plain []byte, context map[string]string) ([]byte, error) {
	material, err := hex.DecodeString(k.MaterialID)
	if err != nil || len(material) != materialIDLen {
		return nil, kmsFail("KMSInternalException", "The key's material id is damaged")
	}
	gcm, err := newGCM(k.Material)
	if err != nil {
		return nil, err
	}
	out := []byte{blobVersion}
	out = binary.BigEndian.AppendUint16(out, uint16(len(k.ARN))) //nolint:gosec // an ARN of ours has fewer than 200 bytes
	out = append(append(out, k.ARN...), material...)
	aad := authenticated(out, context)
	nonce := randomBytes(gcm.NonceSize())
	return gcm.Seal(append(out, nonce...), nonce, plain, aad), nil
}

func (k *key) open(raw []byte, context map[string]string) ([]byte, error) {
	b, err := parseBlob(raw)
	if err != nil {
		return nil, err
	}
	if !k.madeBlobOf(b.arn) {
		return nil, kmsFail("IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform this operation.")
	}
	material := k.material(b.material)
	if material == nil {
		return nil, invalidCiphertext()
	}
	gcm, err := newGCM(material)
	if err != nil {
		return nil, err
	}
	n := gcm.NonceSize()
	if len(b.rest) < n {
		return nil, invalidCiphertext()
	}
	plain, err := gcm.Open(nil, b.rest[:n], b.rest[n:], authenticated(b.head, context))
	if err != nil {
		return nil, invalidCiphertext()
	}
	return plain, nil
}

// materialOf gives the material id in a blob that was opened before.
func materialOf(raw []byte) string {
	b, err := parseBlob(raw)
	if err != nil {
		return ""
	}
	return b.material
}

// material finds the current or an older material by its id.
func (k *key) material(id string) []byte {
	if id == k.MaterialID {
		return k.Material
	}
	for _, m := range k.Older {
		if m.ID == id {
			return m.Material
		}
	}
	return nil
}

// authenticated is the associated data: the blob's head, then the pairs of the
// encryption context sorted by key, each text with its length before it.
func authenticated(head []byte, context map[string]string) []byte {
	out := slices.Clone(head)
	for _, k := range slices.Sorted(maps.Keys(context)) {
		for _, s := range []string{k, context[k]} {
			out = binary.BigEndian.AppendUint32(out, uint32(len(s))) //nolint:gosec // bounded by maxContext
			out = append(out, s...)
		}
	}
	return out
}
