package awslocal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const callVersion = 1

// CallEntry is one line of the call log. It never holds plaintext, ciphertext
// or secrets.
type CallEntry struct {
	Version   int       `json:"version"`
	Time      time.Time `json:"time"`
	RequestID string    `json:"requestId"`
	// Account, Principal and AccessKeyID are of the caller; empty if the call was not
	// authenticated.
	Account     string `json:"account,omitempty"`
	Principal   string `json:"principal,omitempty"`
	AccessKeyID string `json:"accessKeyId,omitempty"`
	Service     string `json:"service,omitempty"`
	Operation   string `json:"operation,omitempty"`
	Region      string `json:"region,omitempty"`
	// Resource is what STS and IAM calls are about; KeyARN what KMS calls are.
	Resource          string            `json:"resource,omitempty"`
	KeyARN            string            `json:"keyArn,omitempty"`
	EncryptionContext map[string]string `json:"encryptionContext,omitempty"`
	SourceIP          string            `json:"sourceIp"`
	// Outcome is "ok" or the name of the error.
	Outcome string `json:"outcome"`
	// DecidedBy names the policies and statements that allowed or denied; Reason
	// says which allow is missing.
	DecidedBy []string `json:"decidedBy,omitempty"`
	Reason    string   `json:"reason,omitempty"`
}

// callLog appends entries to calls.jsonl.
type callLog struct {
	mu sync.Mutex
	f  *os.File
}

func openCallLog(dir string) (*callLog, error) {
	f, err := os.OpenFile(filepath.Join(dir, callsFile), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600) //nolint:gosec // the operator's own data directory
	if err != nil {
		return nil, fmt.Errorf("open call log: %w", err)
	}
	if err := endLastLine(f); err != nil {
		return nil, errors.Join(fmt.Errorf("open call log: %w", err), f.Close())
	}
	return &callLog{f: f}, nil
}

// endLastLine keeps a line that a crash cut off apart from the next one.
func endLastLine(f *os.File) error {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil || size == 0 {
		return err
	}
	last := make([]byte, 1)
	if _, err := f.ReadAt(last, size-1); err != nil {
		return err
	}
	if last[0] != '\n' {
		_, err = f.WriteString("\n")
	}
	return err
}

func (l *callLog) write(e CallEntry) error {
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("write call log: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.f.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write call log: %w", err)
	}
	return nil
}

func (l *callLog) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Close()
}
