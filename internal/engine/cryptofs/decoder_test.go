package cryptofs

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
)

// decodeFile is a second reader of the stored formats, written from their
// description with the standard library alone. It shares no code with the package
// and exists so that a mistake in both directions of it cannot go unseen.
func decodeFile(name string, dataKeys map[uint32][]byte, db [16]byte, file []byte) ([]byte, error) {
	if len(file) < 104 || string(file[:8]) != "KWEF\r\n\x1a\n" || file[8] != 1 {
		return nil, errors.New("not an encrypted file of version 1")
	}
	layout := file[9]
	streamAt := map[byte]int{1: 4096, 2: 64, 3: 64}[layout]
	if streamAt == 0 || len(file) < streamAt+40 || file[streamAt] != 40 {
		return nil, fmt.Errorf("layout %d", layout)
	}
	if !bytes.Equal(file[16:32], db[:]) {
		return nil, errors.New("another database")
	}
	if len(bytes.Trim(file[64:streamAt], "\x00")) > 0 {
		return nil, errors.New("padding")
	}
	dataKey, ok := dataKeys[binary.BigEndian.Uint32(file[12:16])]
	if !ok {
		return nil, errors.New("unknown key")
	}
	bound := name
	if strings.HasPrefix(name, "temporary.") && strings.HasSuffix(name, ".dbtmp") {
		bound = "OPTIONS-" + name[len("temporary."):len(name)-len(".dbtmp")]
	}
	info := "keywright/file/v1" + string(file[:64]) + string([]byte{byte(len(bound) >> 8), byte(len(bound))}) + bound
	key, err := hkdf.Key(sha256.New, dataKey, file[streamAt+1:streamAt+33], info, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	prefix := file[streamAt+33 : streamAt+40]
	if layout == 2 {
		return decodeFrames(gcm, prefix, file[104:])
	}
	return decodeSegments(gcm, prefix, file[streamAt:])
}

func decodeSegments(gcm cipher.AEAD, prefix, stream []byte) ([]byte, error) {
	var plain []byte
	for i := 0; ; i++ {
		from, to := i*4096, min((i+1)*4096, len(stream))
		if i == 0 {
			from = 40
		}
		last := byte(0)
		if to == len(stream) {
			last = 1
		}
		nonce := append(binary.BigEndian.AppendUint32(bytes.Clone(prefix), uint32(i)), last)
		pt, err := gcm.Open(nil, nonce, stream[from:to], nil)
		if err != nil {
			return nil, fmt.Errorf("segment %d: %w", i, err)
		}
		plain = append(plain, pt...)
		if last == 1 {
			return plain, nil
		}
	}
}

func decodeFrames(gcm cipher.AEAD, prefix, b []byte) ([]byte, error) {
	var plain []byte
	for i := uint32(0); len(b) > 0; i++ {
		if len(b) < 52 || b[0] != 'K' || b[1] != 'F' || binary.BigEndian.Uint16(b[2:]) != 0 {
			return nil, fmt.Errorf("frame %d: header", i)
		}
		n := int(binary.BigEndian.Uint32(b[4:]))
		if binary.BigEndian.Uint32(b[8:]) != i || binary.BigEndian.Uint32(b[12:]) > i {
			return nil, fmt.Errorf("frame %d: index or durable", i)
		}
		if crc32.Checksum(b[:32], crc32.MakeTable(crc32.Castagnoli)) != binary.BigEndian.Uint32(b[32:]) || len(b) < 52+n {
			return nil, fmt.Errorf("frame %d: checksum or length", i)
		}
		nonce := append(binary.BigEndian.AppendUint32(bytes.Clone(prefix), i), 0)
		pt, err := gcm.Open(nil, nonce, b[36:52+n], b[:36])
		if err != nil {
			return nil, fmt.Errorf("frame %d: %w", i, err)
		}
		plain = append(plain, pt...)
		b = b[52+n:]
	}
	return plain, nil
}
