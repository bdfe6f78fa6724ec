package kmip

import (
	"maps"
	"slices"

	"github.com/ovh/kmip-go"
	"github.com/ovh/kmip-go/payloads"
	"github.com/ovh/kmip-go/ttlv"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
)

const (
	algorithmAES  = "AES"
	maxTexts      = 16
	maxText       = 256
	maxSecretData = 1024
	// oldPerconaBits: old Percona Server registers the base64 text of a key.
	oldPerconaBits = 352
)

// requestMeta is what a Create or Register says about its object.
type requestMeta struct {
	Meta
	hasMask bool
}

// storedText tells whether a text attribute is kept as it is. Application
// attributes ("x-", "y-") and those that only describe.
func storedText(name kmip.AttributeName) bool {
	switch name {
	case kmip.AttributeNameObjectGroup, kmip.AttributeNameContactInformation,
		kmip.AttributeNameOperationPolicyName, //nolint:staticcheck // deprecated since KMIP 1.3; clients of KMIP 1.0 to 1.2 send it
		kmip.AttributeNameDescription, kmip.AttributeNameComment:
		return true
	}
	return name.IsCustom()
}

// metaOf reads the attributes of a Create or Register. An attribute that is not
// kept is refused: to drop it would be to promise something and not do it.
func metaOf(tpl kmip.TemplateAttribute) (requestMeta, error) {
	var m requestMeta
	if len(tpl.Name) > 0 { //nolint:staticcheck // deprecated since KMIP 1.3; clients of KMIP 1.0 to 1.2 may send it
		return m, invalid("templates are not supported")
	}
	seen := map[kmip.AttributeName]bool{}
	for _, a := range tpl.Attribute {
		if seen[a.AttributeName] {
			return m, invalid("an attribute is given twice")
		}
		if a.AttributeIndex != nil && *a.AttributeIndex != 0 {
			return m, invalid("only attribute index 0 is supported")
		}
		seen[a.AttributeName] = true
		if err := m.set(a); err != nil {
			return m, err
		}
	}
	return m, nil
}

func (m *requestMeta) set(a kmip.Attribute) error {
	switch v := a.AttributeValue.(type) {
	case kmip.CryptographicAlgorithm:
		if v != kmip.CryptographicAlgorithmAES {
			return invalid("the only Cryptographic Algorithm supported is AES")
		}
		m.Algorithm = algorithmAES
		return nil
	case kmip.CryptographicUsageMask:
		m.UsageMask, m.hasMask = uint32(v), true //nolint:gosec // a mask of 32 bits
		return nil
	case kmip.Name:
		if len(v.NameValue) == 0 || len(v.NameValue) > maxText {
			return invalid("a Name must have 1 to 256 bytes")
		}
		m.Name = v.NameValue
		return nil
	case int32:
		if a.AttributeName == kmip.AttributeNameCryptographicLength {
			m.Length = int(v)
			return nil
		}
	}
	if storedText(a.AttributeName) {
		return m.setText(a)
	}
	return invalid("an attribute is not supported")
}

func (m *requestMeta) setText(a kmip.Attribute) error {
	value, ok := a.AttributeValue.(string)
	if v, generic := a.AttributeValue.(ttlv.Value); generic {
		value, ok = v.Value.(string)
	}
	if !ok || len(value) > maxText || len(a.AttributeName) > maxText || len(m.Texts) >= maxTexts {
		return invalid("further attributes must be texts, at most 16 of at most 256 bytes")
	}
	if m.Texts == nil {
		m.Texts = map[string]string{}
	}
	m.Texts[string(a.AttributeName)] = value
	return nil
}

// objectOf reads the object of a Register. Its material shares memory with the
// request.
func objectOf(req *payloads.RegisterRequestPayload) (Object, error) {
	m, err := metaOf(req.TemplateAttribute)
	if err != nil {
		return Object{}, err
	}
	kb := keyBlock(req.Object)
	if kb == nil {
		return Object{}, invalid("only symmetric keys and secret data can be registered")
	}
	if kb.KeyWrappingData != nil || kb.KeyValue != nil && kb.KeyValue.Wrapped != nil {
		return Object{}, fail(reasonFeatureNotSupported, "wrapped keys are not supported")
	}
	if kb.KeyCompressionType != 0 {
		return Object{}, fail(kmip.ResultReasonKeyCompressionTypeNotSupported, "key compression is not supported")
	}
	if len(kb.GetAttributes()) > 0 {
		return Object{}, invalid("attributes beside the key material are not supported")
	}
	switch kb.KeyFormatType {
	case kmip.KeyFormatTypeRaw:
		m.Format = FormatRaw
	case kmip.KeyFormatTypeOpaque:
		m.Format = FormatOpaque
	default:
		return Object{}, fail(reasonFormatNotSupported, "the supported key formats are Raw and, for secret data, Opaque")
	}
	material, err := kb.GetBytes()
	if err != nil {
		return Object{}, invalid("the key material is missing")
	}
	if sd, ok := req.Object.(*kmip.SecretData); ok {
		err = m.secretData(sd, len(material))
	} else {
		err = m.symmetricKey(kb, len(material))
	}
	if err != nil {
		return Object{}, err
	}
	return Object{Meta: m.Meta, Material: secret.New(material)}, nil
}

func (m *requestMeta) symmetricKey(kb *kmip.KeyBlock, n int) error {
	m.Type = TypeSymmetricKey
	bits := 8 * n
	switch {
	case m.Format != FormatRaw:
		return fail(reasonFormatNotSupported, "a symmetric key must have the format Raw")
	case bits != 128 && bits != 192 && bits != 256 && bits != oldPerconaBits:
		return invalid("the length of the key material is not supported")
	case kb.CryptographicAlgorithm != 0 && kb.CryptographicAlgorithm != kmip.CryptographicAlgorithmAES,
		kb.CryptographicAlgorithm == 0 && m.Algorithm == "":
		return invalid("the Cryptographic Algorithm must be AES")
	case kb.CryptographicLength != 0 && int(kb.CryptographicLength) != bits, m.Length != 0 && m.Length != bits:
		return invalid("the Cryptographic Length is not that of the key material")
	case !m.hasMask:
		return invalid("the Cryptographic Usage Mask is missing")
	}
	m.Algorithm, m.Length = algorithmAES, bits
	return nil
}

func (m *requestMeta) secretData(sd *kmip.SecretData, n int) error {
	m.Type = TypeSecretData
	switch sd.SecretDataType {
	case kmip.SecretDataTypePassword:
		m.SecretType = "Password"
	case kmip.SecretDataTypeSeed:
		m.SecretType = "Seed"
	default:
		return invalid("the type of secret data is not supported")
	}
	if n == 0 || n > maxSecretData {
		return invalid("secret data must have 1 to 1024 bytes")
	}
	if m.Algorithm != "" || m.Length != 0 && m.Length != 8*n || sd.KeyBlock.CryptographicAlgorithm != 0 {
		return invalid("algorithm and length do not fit secret data")
	}
	if l := sd.KeyBlock.CryptographicLength; l != 0 && int(l) != 8*n {
		return invalid("the Cryptographic Length is not that of the key material")
	}
	m.Length = 0
	return nil
}

func keyBlock(obj kmip.Object) *kmip.KeyBlock {
	switch o := obj.(type) {
	case *kmip.SymmetricKey:
		return &o.KeyBlock
	case *kmip.SecretData:
		return &o.KeyBlock
	}
	return nil
}

func formatCode(f Format) kmip.KeyFormatType {
	if f == FormatOpaque {
		return kmip.KeyFormatTypeOpaque
	}
	return kmip.KeyFormatTypeRaw
}

// managedObject gives an object back as it was registered. Nothing stands
// beside the key material: clients refuse attributes that they do not know.
func managedObject(obj Object) (kmip.Object, error) {
	material := obj.Material.Reveal()
	if len(material) == 0 {
		return nil, fail(reasonGeneralFailure, "internal error")
	}
	kb := kmip.KeyBlock{
		KeyFormatType: formatCode(obj.Format),
		KeyValue:      &kmip.KeyValue{Plain: &kmip.PlainKeyValue{KeyMaterial: kmip.KeyMaterial{Bytes: &material}}},
	}
	if obj.Type == TypeSecretData {
		kind := kmip.SecretDataTypeSeed
		if obj.SecretType == "Password" {
			kind = kmip.SecretDataTypePassword
		}
		return &kmip.SecretData{SecretDataType: kind, KeyBlock: kb}, nil
	}
	kb.CryptographicAlgorithm = kmip.CryptographicAlgorithmAES
	kb.CryptographicLength = int32(8 * len(material)) //nolint:gosec // at most 44 bytes
	return &kmip.SymmetricKey{KeyBlock: kb}, nil
}

// stateCode gives the state's KMIP code.
func stateCode(s keys.State) (kmip.State, error) {
	switch s {
	case keys.StatePreActive:
		return kmip.StatePreActive, nil
	case keys.StateActive:
		return kmip.StateActive, nil
	case keys.StateDeactivated, keys.StatePendingDestruction:
		return kmip.StateDeactivated, nil
	case keys.StateCompromised:
		return kmip.StateCompromised, nil
	case keys.StateDestroyed:
		return kmip.StateDestroyed, nil
	case keys.StateDestroyedCompromised:
		return kmip.StateDestroyedCompromised, nil
	}
	return 0, fail(reasonGeneralFailure, "internal error")
}

// attributeList is everything that can be said of a key, State first.
func attributeList(id keys.KeyID, a Attributes) ([]kmip.Attribute, error) {
	state, err := stateCode(a.State)
	if err != nil {
		return nil, err
	}
	kind := kmip.ObjectTypeSymmetricKey
	if a.Type == TypeSecretData {
		kind = kmip.ObjectTypeSecretData
	}
	list := []kmip.Attribute{
		{AttributeName: kmip.AttributeNameState, AttributeValue: state},
		{AttributeName: kmip.AttributeNameUniqueIdentifier, AttributeValue: string(id)},
		{AttributeName: kmip.AttributeNameObjectType, AttributeValue: kind},
		{AttributeName: kmip.AttributeNameCryptographicUsageMask, AttributeValue: kmip.CryptographicUsageMask(a.UsageMask)}, //nolint:gosec // a mask of 32 bits
	}
	add := func(name kmip.AttributeName, value any) {
		list = append(list, kmip.Attribute{AttributeName: name, AttributeValue: value})
	}
	if a.Algorithm == algorithmAES {
		add(kmip.AttributeNameCryptographicAlgorithm, kmip.CryptographicAlgorithmAES)
		add(kmip.AttributeNameCryptographicLength, int32(a.Length)) //nolint:gosec // at most 352
	}
	if a.Name != "" {
		add(kmip.AttributeNameName, kmip.Name{NameValue: a.Name, NameType: kmip.NameTypeUninterpretedTextString})
	}
	if !a.Created.IsZero() {
		add(kmip.AttributeNameInitialDate, a.Created)
	}
	if !a.Activated.IsZero() {
		add(kmip.AttributeNameActivationDate, a.Activated)
	}
	for _, name := range slices.Sorted(maps.Keys(a.Texts)) {
		add(kmip.AttributeName(name), a.Texts[name])
	}
	return list, nil
}

func findAttribute(list []kmip.Attribute, name kmip.AttributeName) (kmip.Attribute, bool) {
	for _, a := range list {
		if a.AttributeName == name {
			return a, true
		}
	}
	return kmip.Attribute{}, false
}
