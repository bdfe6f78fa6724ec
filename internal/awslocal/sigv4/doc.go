// Package sigv4 verifies AWS Signature Version 4 in the Authorization header of
// a request, the way KMS, STS and IAM take it. It is pure: the caller looks up
// the secret of the access key between ParseAuthorization and Verify.
//
// Presigned URLs and streamed payloads are refused; these services have no use
// for them. Signatures are compared in constant time.
package sigv4
