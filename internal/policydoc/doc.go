// Package policydoc writes the policies with which a customer lets Keywright use a
// key, in the three forms that people paste: the JSON document, a command line of the
// AWS CLI, and Terraform.
//
// There are three places: the role's trust policy (who may assume it), the role's
// permissions (what it may do) and, when the key is in another account than the role,
// the key's policy. Each allows exactly what is needed: sts:AssumeRole with the
// registration's external id, and kms:DescribeKey, kms:Encrypt and kms:Decrypt on one
// key. Nothing here calls anybody; Remedy turns what AWS refused into the statement
// that is missing, or into the place where a denying one must be looked for.
//
// Everything works in every partition (aws, aws-us-gov, aws-cn): the partition comes
// from the ARNs, and commands name a Region where the partition needs it.
package policydoc
