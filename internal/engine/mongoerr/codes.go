package mongoerr

import "strconv"

// MongoDB's codes, as far as the engine gives them.
const (
	InternalError                            int32 = 1
	BadValue                                 int32 = 2
	NoSuchKey                                int32 = 4
	GraphContainsCycle                       int32 = 5
	HostUnreachable                          int32 = 6
	FailedToParse                            int32 = 9
	UserNotFound                             int32 = 11
	UnsupportedFormat                        int32 = 12
	Unauthorized                             int32 = 13
	TypeMismatch                             int32 = 14
	Overflow                                 int32 = 15
	InvalidLength                            int32 = 16
	ProtocolError                            int32 = 17
	AuthenticationFailed                     int32 = 18
	IllegalOperation                         int32 = 20
	InvalidBSON                              int32 = 22
	AlreadyInitialized                       int32 = 23
	LockTimeout                              int32 = 24
	NamespaceNotFound                        int32 = 26
	IndexNotFound                            int32 = 27
	PathNotViable                            int32 = 28
	RoleNotFound                             int32 = 31
	ConflictingUpdateOperators               int32 = 40
	CursorNotFound                           int32 = 43
	NamespaceExists                          int32 = 48
	MaxTimeMSExpired                         int32 = 50
	DollarPrefixedFieldName                  int32 = 52
	NotSingleValueField                      int32 = 54
	EmptyFieldName                           int32 = 56
	CommandNotFound                          int32 = 59
	WriteConcernFailed                       int32 = 64
	ImmutableField                           int32 = 66
	CannotCreateIndex                        int32 = 67
	InvalidOptions                           int32 = 72
	InvalidNamespace                         int32 = 73
	UnknownReplWriteConcern                  int32 = 79
	IndexOptionsConflict                     int32 = 85
	IndexKeySpecsConflict                    int32 = 86
	ShutdownInProgress                       int32 = 91
	NotYetInitialized                        int32 = 94
	UnsatisfiableWriteConcern                int32 = 100
	WriteConflict                            int32 = 112
	CommandNotSupported                      int32 = 115
	ConflictingOperationInProgress           int32 = 117
	InvalidPipelineOperator                  int32 = 168
	CannotIndexParallelArrays                int32 = 171
	InvalidIndexSpecificationOption          int32 = 197
	CannotBuildIndexKeys                     int32 = 201
	TransactionTooOld                        int32 = 225
	NotImplemented                           int32 = 238
	SnapshotTooOld                           int32 = 239
	SnapshotUnavailable                      int32 = 246
	NoSuchTransaction                        int32 = 251
	TransactionCommitted                     int32 = 256
	InvalidResumeToken                       int32 = 260
	ExceededTimeLimit                        int32 = 262
	OperationNotSupportedInTransaction       int32 = 263
	QueryExceededMemoryLimitNoDiskUseAllowed int32 = 292
	APIVersionError                          int32 = 322
	APIStrictError                           int32 = 323
	MechanismUnavailable                     int32 = 334
	UnsupportedOpQueryCommand                int32 = 352
	BSONObjectTooLarge                       int32 = 10334
	NotWritablePrimary                       int32 = 10107
	DuplicateKey                             int32 = 11000
	InterruptedAtShutdown                    int32 = 11600
	Interrupted                              int32 = 11601
	DocumentValidationFailure                int32 = 121
	ReadConcernMajorityNotAvailableYet       int32 = 134
	CommandNotSupportedOnView                int32 = 166
	PrimarySteppedDown                       int32 = 189
	InterruptedDueToReplStateChange          int32 = 11602
	NotPrimaryNoSecondaryOk                  int32 = 13435
	NotPrimaryOrSecondary                    int32 = 13436
	CursorInUse                              int32 = 12051
	InvalidIdField                           int32 = 53 //nolint:revive // MongoDB's name
)

// Codes without a name of their own; MongoDB calls them Location and the number.
const (
	// FieldPathPrefixed is a field path that starts with '$'.
	FieldPathPrefixed int32 = 16410
	// UnknownField is an unknown field of a command.
	UnknownField int32 = 40415
	// UnrecognizedStage is an unknown stage of a pipeline.
	UnrecognizedStage int32 = 40324
	// UserExists is createUser of a user that is there.
	UserExists int32 = 51003
	// RoleExists is createRole of a role that is there.
	RoleExists int32 = 51002
	// InvalidRegex is a regular expression that does not compile.
	InvalidRegex int32 = 51091
	// PathCollision is a projection that names a path and its parent.
	PathCollision int32 = 31249
	// InclusionInExclusion is a projection that includes a field while it excludes others.
	InclusionInExclusion int32 = 31253
	// ExclusionInInclusion is a projection that excludes a field while it includes others.
	ExclusionInInclusion int32 = 31254
	// AmbiguousArrayIndex is a document whose array answers to a path both by position and by name.
	AmbiguousArrayIndex int32 = 16746
)

// NameOf gives the codeName that MongoDB uses for a code; codes that have none
// are called Location and the number.
func NameOf(code int32) string {
	if name, ok := named(code); ok {
		return name
	}
	return "Location" + strconv.FormatInt(int64(code), 10)
}

func named(code int32) (string, bool) {
	switch code {
	case InternalError:
		return "InternalError", true
	case BadValue:
		return "BadValue", true
	case NoSuchKey:
		return "NoSuchKey", true
	case GraphContainsCycle:
		return "GraphContainsCycle", true
	case HostUnreachable:
		return "HostUnreachable", true
	case FailedToParse:
		return "FailedToParse", true
	case UserNotFound:
		return "UserNotFound", true
	case UnsupportedFormat:
		return "UnsupportedFormat", true
	case Unauthorized:
		return "Unauthorized", true
	case TypeMismatch:
		return "TypeMismatch", true
	case Overflow:
		return "Overflow", true
	case InvalidLength:
		return "InvalidLength", true
	case ProtocolError:
		return "ProtocolError", true
	case AuthenticationFailed:
		return "AuthenticationFailed", true
	case IllegalOperation:
		return "IllegalOperation", true
	case InvalidBSON:
		return "InvalidBSON", true
	case AlreadyInitialized:
		return "AlreadyInitialized", true
	case LockTimeout:
		return "LockTimeout", true
	case NamespaceNotFound:
		return "NamespaceNotFound", true
	case IndexNotFound:
		return "IndexNotFound", true
	case PathNotViable:
		return "PathNotViable", true
	case RoleNotFound:
		return "RoleNotFound", true
	case ConflictingUpdateOperators:
		return "ConflictingUpdateOperators", true
	case CursorNotFound:
		return "CursorNotFound", true
	case NamespaceExists:
		return "NamespaceExists", true
	case MaxTimeMSExpired:
		return "MaxTimeMSExpired", true
	case DollarPrefixedFieldName:
		return "DollarPrefixedFieldName", true
	case NotSingleValueField:
		return "NotSingleValueField", true
	case EmptyFieldName:
		return "EmptyFieldName", true
	case CommandNotFound:
		return "CommandNotFound", true
	case WriteConcernFailed:
		return "WriteConcernFailed", true
	case ImmutableField:
		return "ImmutableField", true
	case CannotCreateIndex:
		return "CannotCreateIndex", true
	case InvalidOptions:
		return "InvalidOptions", true
	case InvalidNamespace:
		return "InvalidNamespace", true
	case UnknownReplWriteConcern:
		return "UnknownReplWriteConcern", true
	case IndexOptionsConflict:
		return "IndexOptionsConflict", true
	case IndexKeySpecsConflict:
		return "IndexKeySpecsConflict", true
	case ShutdownInProgress:
		return "ShutdownInProgress", true
	case NotYetInitialized:
		return "NotYetInitialized", true
	case UnsatisfiableWriteConcern:
		return "UnsatisfiableWriteConcern", true
	case WriteConflict:
		return "WriteConflict", true
	case CommandNotSupported:
		return "CommandNotSupported", true
	case ConflictingOperationInProgress:
		return "ConflictingOperationInProgress", true
	case InvalidPipelineOperator:
		return "InvalidPipelineOperator", true
	case CannotIndexParallelArrays:
		return "CannotIndexParallelArrays", true
	case InvalidIndexSpecificationOption:
		return "InvalidIndexSpecificationOption", true
	case CannotBuildIndexKeys:
		return "CannotBuildIndexKeys", true
	case TransactionTooOld:
		return "TransactionTooOld", true
	case NotImplemented:
		return "NotImplemented", true
	case SnapshotTooOld:
		return "SnapshotTooOld", true
	case SnapshotUnavailable:
		return "SnapshotUnavailable", true
	case NoSuchTransaction:
		return "NoSuchTransaction", true
	case TransactionCommitted:
		return "TransactionCommitted", true
	case InvalidResumeToken:
		return "InvalidResumeToken", true
	case ExceededTimeLimit:
		return "ExceededTimeLimit", true
	case OperationNotSupportedInTransaction:
		return "OperationNotSupportedInTransaction", true
	case QueryExceededMemoryLimitNoDiskUseAllowed:
		return "QueryExceededMemoryLimitNoDiskUseAllowed", true
	case APIVersionError:
		return "APIVersionError", true
	case APIStrictError:
		return "APIStrictError", true
	case MechanismUnavailable:
		return "MechanismUnavailable", true
	case UnsupportedOpQueryCommand:
		return "UnsupportedOpQueryCommand", true
	case BSONObjectTooLarge:
		return "BSONObjectTooLarge", true
	case NotWritablePrimary:
		return "NotWritablePrimary", true
	case DuplicateKey:
		return "DuplicateKey", true
	case InterruptedAtShutdown:
		return "InterruptedAtShutdown", true
	case Interrupted:
		return "Interrupted", true
	case DocumentValidationFailure:
		return "DocumentValidationFailure", true
	case ReadConcernMajorityNotAvailableYet:
		return "ReadConcernMajorityNotAvailableYet", true
	case CommandNotSupportedOnView:
		return "CommandNotSupportedOnView", true
	case PrimarySteppedDown:
		return "PrimarySteppedDown", true
	case InterruptedDueToReplStateChange:
		return "InterruptedDueToReplStateChange", true
	case NotPrimaryNoSecondaryOk:
		return "NotPrimaryNoSecondaryOk", true
	case NotPrimaryOrSecondary:
		return "NotPrimaryOrSecondary", true
	case CursorInUse:
		return "CursorInUse", true
	case InvalidIdField:
		return "InvalidIdField", true
	}
	return "", false
}
