package agent

import (
	"crypto"
	"errors"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/audit"
)

// signHead signs the head of the host's audit chain with the key of the link
// certificate. Without one the report goes unsigned: it is not kept back.
func (a *Agent) signHead(st agentlink.Status) agentlink.Status {
	if st.AuditSeq == 0 {
		return st
	}
	err := errors.New("the link certificate has no key")
	cert, certErr := a.linkCert.GetClientCertificate(nil)
	if certErr == nil {
		if signer, ok := cert.PrivateKey.(crypto.Signer); ok {
			var hash audit.Hash
			if hash, err = audit.ParseHash(st.AuditHead); err == nil {
				head := audit.SignedHead{Deployment: string(a.id.Deployment), Chain: audit.HostChain(string(a.id.Host)), Head: audit.Head{Seq: st.AuditSeq, Hash: hash}}
				if head, err = head.Sign(signer, time.Now()); err == nil {
					st.AuditSigned, st.AuditSignature = head.Time, head.Signature
				}
			}
		}
	}
	if err := errors.Join(certErr, err); err != nil {
		a.log.Warn("the head of the audit chain is not signed", "error", err)
	}
	return st
}

// aboutAudit is an alarm about the host's audit log.
const aboutAudit = "audit"

// anchorsAt tells what the host's audit log has at some places. A log that somebody else
// has changed under this process is an alarm.
func (a *Agent) anchorsAt(seqs []uint64) []agentlink.AuditAnchor {
	const most = 64
	heads, err := a.recorder.log.HashesAt(seqs[:min(len(seqs), most)])
	if errors.Is(err, audit.ErrBroken) {
		a.alarms.raise(aboutAudit, "the audit log was changed by somebody else: "+err.Error())
	}
	if err != nil {
		a.log.Error("the audit log could not be checked", "error", err)
		return nil
	}
	out := make([]agentlink.AuditAnchor, 0, len(heads))
	for _, h := range heads {
		out = append(out, agentlink.AuditAnchor{Seq: h.Seq, Hash: h.Hash.String()})
	}
	return out
}

// certificateEnds tells when the host's own certificates end.
func (a *Agent) certificateEnds() []agentlink.CertificateEnd {
	out := []agentlink.CertificateEnd{{Name: "link", End: a.linkCert.Leaf().NotAfter}}
	if a.kmipCert != nil {
		out = append(out, agentlink.CertificateEnd{Name: "kmip-server", End: a.kmipCert.Leaf().NotAfter})
	}
	return out
}
