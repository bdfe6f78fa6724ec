package kms

// RemedyFor tells a person what to do about a reason. op names the refused
// operation where that matters, "" otherwise.
func RemedyFor(r Reason, op Operation) string {
	switch r {
	case Timeout:
		return "Check the network path from this host to the KMS and STS endpoints of the Region: proxy, VPC endpoint, firewall."
	case DNS:
		return "Check this host's resolver and, with a VPC endpoint, its private DNS."
	case Connect:
		return "Check that this host's firewall lets it reach the KMS and STS endpoints of the Region."
	case TLS:
		return "Check this host's certificate authorities, a proxy that inspects TLS, and the configured endpoint."
	case AWSInternal:
		return "Wait; look at the AWS Health Dashboard."
	case Throttled:
		return "The request quota of the role's account is used up: wait, or raise the quota."
	case ClockSkew:
		return "Set the clock of this host."
	case PlatformCredentials:
		return "The operator of Keywright must repair the platform's own AWS credentials. Nothing is wrong with the customer's key."
	case PlatformPermissions:
		return "The operator of Keywright must give the platform's own principal sts:AssumeRole back, or open the VPC endpoint policy. Nothing is wrong with the customer's key."
	case STSRegionDisabled:
		return "Enable STS in this Region for the account, or use another STS endpoint."
	case SessionRefused:
		return "AWS refuses a session that it has just made; the next run tries again."
	case KeyStoreFailing:
		return "Check the health of the CloudHSM cluster or of the external key store's proxy."
	case KeyChanging:
		return "Wait until AWS has finished changing the key."
	case Limit:
		return "AWS reports a limit or a conflict; wait, then try again."
	case CiphertextMismatch:
		return "This key did not make this ciphertext, or it is damaged: check that the configured key is the one that protects the data."
	case KeyARNInvalid:
		return "Give the key's id, or its full ARN if it is in another account than the role. An alias cannot be used."
	case RoleNotAssumable:
		return "Check that the role exists and that its trust policy names the platform's account as principal and the external id of this registration."
	case RoleARNInvalid:
		return "Correct the role's ARN: arn:aws:iam::123456789012:role/NAME."
	case KeyPendingDeletion:
		return "Cancel the key's deletion before its date, then enable the key. After that date everything under it is lost."
	case KeyDisabled:
		return "Enable the key in AWS KMS, then try again."
	case KeyMaterialMissing:
		return "Import the same key material again."
	case KeyStoreDisconnected:
		return "Connect the key's custom key store."
	case KeyNotFound:
		return "Check the key's id, Region and account. A key in another account than the role needs its full ARN."
	case KeyAccessDenied:
		return refusedText(op)
	case KeyWrongType:
		return "Use a symmetric customer managed key (SYMMETRIC_DEFAULT) for encryption and decryption (ENCRYPT_DECRYPT)."
	case AccessKeyInvalid:
		return "Activate the access key of the IAM user again. If it was deleted, switch the project to an IAM role, or store another access key of a user who may use the key."
	case AccessKeySecretWrong:
		return "Store the secret that AWS showed when the access key was made. If it was right before, look for a damaged file and for a proxy that alters requests."
	default:
		return "The answer of AWS is not known to Keywright; the log has it in full."
	}
}

// RemedyForAccessKey is RemedyFor when the key is reached with an access key: then a user
// lacks permissions, not a role.
func RemedyForAccessKey(r Reason, op Operation) string {
	switch r {
	case KeyAccessDenied:
		return "Allow " + permissionOr(op) + " on the key for the IAM user of the access key, in the user's policy and in the key's policy, and look for a denying statement, an address condition, a permissions boundary or a service control policy."
	case KeyARNInvalid:
		return "Give the key's id, or its full ARN if it is in another account than the IAM user. An alias cannot be used."
	case KeyNotFound:
		return "Check the key's id, Region and account. A key in another account than the IAM user needs its full ARN."
	default:
		return RemedyFor(r, op)
	}
}

// refusedText is what can be said without the texts of AWS; package policydoc has the
// exact statement.
func refusedText(op Operation) string {
	return "Allow " + permissionOr(op) + " on the key for the role, in the role's policy and in the key's policy, and look for a denying statement, an address condition or a service control policy."
}

func permissionOr(op Operation) string {
	if p := op.Permission(); p != "" {
		return p
	}
	return "kms:DescribeKey, kms:Encrypt and kms:Decrypt"
}
