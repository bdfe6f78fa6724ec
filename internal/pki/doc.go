// Package pki holds the certificate authorities of a deployment and the leaf
// certificates that they sign.
//
// There are four authorities, one per Kind, with four keys: agent link, KMIP
// servers, KMIP clients, database TLS. A certificate of one kind never passes
// as another: each door trusts one authority only, every certificate carries
// its kind as organizational unit, and Verify demands chain, kind and extended
// key usage together.
//
// A private key is made on the machine that uses it and never leaves it; what
// travels is a certificate request, from which the authority takes nothing but
// the public key. A Keeper keeps one leaf on disk, renews it once a third of
// its life has passed, and hands the newest to tls.Config.
//
// Lifetimes: authorities ten years; link and database certificates 90 days;
// KMIP server and KMIP client certificates a year, both because a host that is
// cut off from the control plane must be able to restart its databases, and
// that needs both ends of the KMIP connection. A client certificate is revoked
// by taking its fingerprint out of the desired state, not by its end.
package pki
