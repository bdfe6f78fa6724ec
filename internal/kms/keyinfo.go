package kms

import (
	"fmt"
	"time"
)

// Usable judges a key by its description: nil, or why it cannot serve. A nil is no
// proof: only a real Encrypt and Decrypt are.
func (k KeyInfo) Usable() *Failure {
	fail := func(o Outcome, r Reason, text string) *Failure {
		return &Failure{Outcome: o, Reason: r, Operation: OpDescribeKey, Message: text, Remedy: RemedyFor(r, OpDescribeKey)}
	}
	switch k.State {
	case "PendingDeletion", "PendingReplicaDeletion":
		f := fail(Revoked, KeyPendingDeletion, "the key is pending deletion")
		if !k.DeletionDate.IsZero() {
			date := k.DeletionDate.UTC().Format(time.RFC3339)
			f.Message = "the key will be deleted at " + date
			f.Remedy = "Cancel the key's deletion before " + date + ", then enable the key. After that everything under it is lost."
		}
		return f
	case "Disabled":
		return fail(Revoked, KeyDisabled, "the key is disabled")
	case "PendingImport":
		return fail(Revoked, KeyMaterialMissing, "the key has no key material")
	case "Unavailable":
		return fail(Revoked, KeyStoreDisconnected, "the key's custom key store is disconnected")
	case "Creating":
		return fail(Unreachable, KeyChanging, "the key is being created")
	}
	switch {
	case k.Manager == "AWS":
		return fail(Revoked, KeyWrongType, "the key is managed by AWS, not by the customer")
	case k.Usage != "ENCRYPT_DECRYPT" || k.Spec != "SYMMETRIC_DEFAULT":
		return fail(Revoked, KeyWrongType, fmt.Sprintf("the key has usage %s and spec %s", k.Usage, k.Spec))
	}
	return nil
}
