package awslocal

import (
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/awslocal/policy"
)

const (
	assumeRoleAction = "sts:AssumeRole"

	minSession       = 900
	defaultSession   = 3600
	maxSession       = 43200
	maxChained       = 3600
	maxSessionPolicy = 2048
)

func stsOperations() map[string]queryOperation {
	return map[string]queryOperation{
		"GetCallerIdentity": {nil, false, getCallerIdentity},
		"AssumeRole":        {[]string{"RoleArn", "RoleSessionName", "ExternalId", "DurationSeconds", "Policy"}, false, assumeRole},
	}
}

// getCallerIdentity needs no permission, and no policy can deny it.
func getCallerIdentity(c *call, _ *state, _ params) ([]element, error) {
	return []element{leaf("Arn", c.caller.ARN), leaf("UserId", c.userID), leaf("Account", c.caller.Account)}, nil
}

var (
	roleARNForm    = regexp.MustCompile(`^arn:aws:iam::([0-9]{12}):role/([\x21-\x7e]*/)?[A-Za-z0-9_+=,.@-]{1,64}$`)
	sessionForm    = regexp.MustCompile(`^[A-Za-z0-9_+=,.@-]{2,64}$`)
	externalIDForm = regexp.MustCompile(`^[A-Za-z0-9_+=,.@:/-]*$`)
)

func validation(format string, args ...any) error {
	return fail(http.StatusBadRequest, "ValidationError", format, args...)
}

type assumeInput struct {
	roleARN, account, session, externalID string
	hasExternalID                         bool
	seconds                               int
	policy                                string
}

func readAssume(p params) (assumeInput, error) {
	in := assumeInput{roleARN: p["RoleArn"], session: p["RoleSessionName"], policy: p["Policy"]}
	m := roleARNForm.FindStringSubmatch(in.roleARN)
	if m == nil || len(in.roleARN) > 2048 {
		return in, validation("%.200s is invalid", in.roleARN)
	}
	in.account = m[1]
	if !sessionForm.MatchString(in.session) {
		return in, validation("1 validation error detected: Value '%.100s' at 'roleSessionName' failed to satisfy constraint: Member must satisfy regular expression pattern: [\\w+=,.@-]* and have 2 to 64 characters", in.session)
	}
	in.externalID, in.hasExternalID = p["ExternalId"]
	if n := len(in.externalID); in.hasExternalID && (n < 2 || n > 1224 || !externalIDForm.MatchString(in.externalID)) {
		return in, validation("1 validation error detected: Value at 'externalId' failed to satisfy constraint: Member must satisfy regular expression pattern: [\\w+=,.@:\\/-]* and have 2 to 1224 characters")
	}
	var err error
	if in.seconds, err = p.number("DurationSeconds", defaultSession); err != nil {
		return in, err
	}
	if in.seconds < minSession || in.seconds > maxSession {
		return in, validation("1 validation error detected: Value '%d' at 'durationSeconds' failed to satisfy constraint: Member must have value between %d and %d", in.seconds, minSession, maxSession)
	}
	if len(in.policy) > maxSessionPolicy {
		return in, fail(http.StatusBadRequest, "PackedPolicyTooLarge", "A session policy has at most %d characters", maxSessionPolicy)
	}
	if in.policy != "" {
		if _, err := policy.Parse(policy.Session, in.policy); err != nil {
			return in, err
		}
	}
	return in, nil
}

func assumeRole(c *call, st *state, p params) ([]element, error) {
	in, err := readAssume(p)
	if err != nil {
		return nil, err
	}
	c.entry.Resource = in.roleARN
	r := st.roleByARN(in.roleARN)
	if err := c.authorizeAssume(r, in); err != nil {
		return nil, err
	}
	if in.seconds > r.MaxSession {
		return nil, validation("The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
	}
	if c.caller.Kind == policy.SessionCaller && in.seconds > maxChained {
		return nil, validation("The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.")
	}
	s := session{
		AccessKeyID: uniqueID("ASIA"), Secret: newSecret(), Account: in.account, RoleID: r.ID, RoleName: r.Name,
		Name: in.session, Policy: in.policy, Issued: c.now.UTC(), Expires: c.now.UTC().Truncate(time.Second).Add(time.Duration(in.seconds) * time.Second),
	}
	token, err := s.seal(st.SealKey)
	if err != nil {
		return nil, err
	}
	out := []element{
		group("AssumedRoleUser", leaf("AssumedRoleId", r.ID+":"+s.Name), leaf("Arn", s.arn())),
		group("Credentials", leaf("AccessKeyId", s.AccessKeyID), leaf("SecretAccessKey", s.Secret),
			leaf("SessionToken", token), leaf("Expiration", xmlTime(s.Expires))),
	}
	if in.policy != "" {
		out = append(out, leaf("PackedPolicySize", itoa(max(1, len(in.policy)*100/maxSessionPolicy))))
	}
	return out, nil
}

// authorizeAssume asks trust policy and caller's policies. A role that does
// not exist is refused like one that trusts somebody else.
func (c *call) authorizeAssume(r *role, in assumeInput) error {
	if c.caller.Kind == policy.RootCaller {
		return fail(http.StatusForbidden, "AccessDenied", "Roles may not be assumed by root accounts.")
	}
	t := target{
		action: assumeRoleAction, resource: in.roleARN, account: in.account, crosses: true,
		policy: &policy.ResourcePolicy{Named: policy.Named{Doc: &policy.Document{Kind: policy.Trust}}},
		context: func(ctx policy.Context) {
			if in.hasExternalID {
				ctx.Set("sts:ExternalId", in.externalID)
			}
			ctx.Set("sts:RoleSessionName", in.session)
			ctx.Set("sts:DurationSeconds", itoa(in.seconds))
		},
	}
	if r != nil {
		t.policy = r.Trust.resource("of " + r.Name)
	}
	if text := c.refusal(t); text != "" {
		return fail(http.StatusForbidden, "AccessDenied", "%s", text)
	}
	if r == nil { // cannot be: the empty policy allows nobody
		return fail(http.StatusForbidden, "AccessDenied", "%s is not authorized", strings.TrimSpace(c.caller.ARN))
	}
	return nil
}
