package keysource

// DecodeAnswer decodes a raw answer as a session does.
func DecodeAnswer(raw []byte) error {
	_, err := decodeAnswer(raw)
	return err
}
