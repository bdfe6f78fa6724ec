package server

import (
	"bytes"
	"testing"

	"github.com/keywright/keywright/internal/agentlink"
)

func FuzzMessage(f *testing.F) {
	for _, s := range []string{"", "{}", `{"version":1}`, `{"version":2}`, `{"version":1,"nodes":[{"node":"x","phase":"RUNNING"}],"custody":[{"state":{"format":1,"verdict":"VALID"}}]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if in, err := decode[agentlink.Status](bytes.NewReader(b)); err == nil && in.Version > agentlink.Version {
			t.Error("a newer message was accepted")
		}
		_, _ = decode[agentlink.EscrowRequest](bytes.NewReader(b))
		_, _ = decode[agentlink.SignRequest](bytes.NewReader(b))
	})
}

func FuzzInit(f *testing.F) {
	for _, s := range []string{"", "{}", `{"version":1,"orgName":"a","ownerName":"b","publicKey":"c","privateKey":"d"}`, `{"version":2}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = parseInit(b) })
}
