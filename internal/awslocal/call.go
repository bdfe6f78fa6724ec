package awslocal

import (
	"crypto/rand"
	"fmt"
	"maps"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/keywright/keywright/internal/awslocal/policy"
	"github.com/keywright/keywright/internal/awslocal/sigv4"
)

// call is one request under way.
type call struct {
	wall      time.Time // by which signatures are checked
	now       time.Time // in the local AWS: wall, unless time was moved
	sees      time.Time // for store.view: now, or later
	json      bool      // KMS's protocol; else query and XML
	region    string
	userAgent string
	referer   string
	caller    policy.Caller
	userID    string
	userName  string
	issued    time.Time // of a session
	identity  []policy.Named
	boundary  *policy.Named
	session   *policy.Named
	tags      map[string]string // of the caller
	fault     *Fault            // that acts on this call
	entry     CallEntry
}

func newCall(r *http.Request, wall time.Time, offset time.Duration) *call {
	now := wall.Add(offset)
	ip, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		ip = r.RemoteAddr
	}
	c := &call{wall: wall, now: now, json: isJSON(r), userAgent: r.UserAgent(), referer: r.Referer()}
	c.entry = CallEntry{Version: callVersion, Time: now.UTC(), RequestID: newRequestID(), SourceIP: ip}
	return c
}

// newRequestID makes a random UUID (version 4).
func newRequestID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails (it ends the process instead)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

var regionForm = regexp.MustCompile(`^[a-z]{2}(-[a-z]+){1,3}-[0-9]{1,2}$`)

// authenticate finds out who calls, verifies the signature, and loads the
// caller's policies as they are now. As soon as the caller is known, meet gives
// the fault that acts on the call.
func (c *call) authenticate(st *state, r *http.Request, body []byte, meet func()) error {
	auth, err := sigv4.ParseAuthorization(r.Header.Get("Authorization"))
	if err != nil {
		return authError(c.json, err)
	}
	c.entry.Service, c.region, c.entry.Region = auth.Service, auth.Region, auth.Region
	token := r.Header.Get(sigv4.TokenHeader)
	secret, err := c.identify(st, auth.AccessKeyID, token)
	if err != nil {
		return err
	}
	meet()
	if c.fault != nil && c.fault.Kind == FaultSkew {
		c.wall = c.wall.Add(time.Duration(c.fault.SkewSeconds) * time.Second)
	}
	if err := sigv4.Verify(r, body, auth, []byte(secret), c.wall); err != nil {
		return authError(c.json, err)
	}
	c.entry.AccessKeyID = auth.AccessKeyID
	c.entry.Account, c.entry.Principal = c.caller.Account, c.caller.ARN
	if !regionForm.MatchString(auth.Region) {
		return tokenError(c.json, scopeWrong, "Credential should be scoped to a valid Region.")
	}
	switch {
	case c.json && auth.Service != "kms":
		return tokenError(true, scopeWrong, "Credential should be scoped to correct service: 'kms'.")
	case !c.json && auth.Service != "sts" && auth.Service != "iam":
		return tokenError(false, scopeWrong, "Credential should be scoped to correct service: 'sts' or 'iam'.")
	}
	return nil
}

const badToken = "The security token included in the request is invalid."

// identify looks up the access key and gives its secret.
func (c *call) identify(st *state, accessKeyID, token string) (string, error) {
	if token != "" {
		return c.identifySession(st, accessKeyID, token)
	}
	owner := st.accessKeys[accessKeyID]
	if owner == nil {
		return "", tokenError(c.json, tokenInvalid, badToken)
	}
	u := owner.user
	c.caller = policy.Caller{Kind: policy.UserCaller, Account: owner.account, ARN: u.ARN, PrincipalARN: u.ARN, UniqueID: u.ID}
	c.userID, c.userName = u.ID, u.Name
	c.load(st, &u.identity)
	return owner.secret, nil
}

func (c *call) identifySession(st *state, accessKeyID, token string) (string, error) {
	s, err := openSession(st.SealKey, token)
	if err != nil || s.AccessKeyID != accessKeyID {
		return "", tokenError(c.json, tokenInvalid, badToken)
	}
	if !c.now.Before(s.Expires) {
		return "", tokenError(c.json, tokenExpired, "The security token included in the request is expired")
	}
	r := st.roleByID(s.Account, s.RoleID)
	if r == nil { // the role was deleted, perhaps made anew
		return "", tokenError(c.json, tokenInvalid, badToken)
	}
	c.caller = policy.Caller{Kind: policy.SessionCaller, Account: s.Account, ARN: s.arn(), PrincipalARN: r.ARN, UniqueID: r.ID}
	c.userID, c.issued = r.ID+":"+s.Name, s.Issued
	c.load(st, &r.identity)
	if s.Policy != "" {
		doc, err := policy.Parse(policy.Session, s.Policy)
		if err != nil {
			return "", fmt.Errorf("read session policy: %w", err)
		}
		c.session = &policy.Named{Doc: doc}
	}
	return s.Secret, nil
}

// load takes the policies and tags of the caller's user or role.
func (c *call) load(st *state, i *identity) {
	c.identity, c.tags = st.identityPolicies(i), i.Tags
	if m := st.managed(i.Boundary); m != nil {
		c.boundary = &policy.Named{Name: m.ARN, Doc: m.boundary}
	}
}

func (st *state) roleByID(accountID, id string) *role {
	a := st.Accounts[accountID]
	if a == nil {
		return nil
	}
	for _, r := range a.Roles {
		if r.ID == id {
			return r
		}
	}
	return nil
}

// target is what a call is about.
type target struct {
	action   string
	resource string // ARN, or "*"
	account  string // of the resource
	policy   *policy.ResourcePolicy
	crosses  bool
	tags     map[string]string    // of the resource
	request  map[string]string    // tags in the request
	tagKeys  []string             // names of the tags in the request
	context  func(policy.Context) // adds the operation's condition keys
}

// decide evaluates the policies and notes in the call log what decided.
func (c *call) decide(t target) policy.Decision {
	ctx := c.context(t)
	if t.context != nil {
		t.context(ctx)
	}
	d := policy.Decide(policy.Call{
		Caller: c.caller, Action: t.action, Resource: t.resource, ResourceAccount: t.account, Crosses: t.crosses, Context: ctx,
	}, policy.Policies{Resource: t.policy, Identity: c.identity, Boundary: c.boundary, Session: c.session})
	c.entry.DecidedBy = d.By
	if !d.Allowed() {
		c.entry.Reason = d.Text(t.action)
	}
	return d
}

// foreign is what AWS says about a resource of another account, so that nobody
// learns whether it exists.
const foreign = "because the resource does not exist in this Region, no resource-based policies allow access, or a resource-based policy explicitly denies access"

// refusal is the text of an access denied error, "" if the call is allowed.
func (c *call) refusal(t target) string {
	d := c.decide(t)
	if d.Allowed() {
		return ""
	}
	why := d.Text(t.action)
	if t.account != c.caller.Account && (d.Reason == policy.NoResource || d.Reason == policy.DenyInResource) {
		why = foreign
		if t.action == assumeRoleAction {
			// A missing role, one that trusts somebody else and one that denies sound alike.
			why = policy.Decision{Reason: policy.NoResource}.Text(t.action)
		}
	}
	return fmt.Sprintf("User: %s is not authorized to perform: %s on resource: %s %s", c.caller.ARN, t.action, t.resource, why)
}

// context holds the global condition keys.
func (c *call) context(t target) policy.Context {
	ctx := policy.Context{}
	ctx.Set("aws:PrincipalArn", c.caller.PrincipalARN)
	ctx.Set("aws:PrincipalAccount", c.caller.Account)
	ctx.Set("aws:userid", c.userID)
	ctx.Set("aws:SourceIp", c.entry.SourceIP)
	ctx.Set("aws:SecureTransport", "false")
	ctx.Set("aws:CurrentTime", c.now.UTC().Format(time.RFC3339))
	ctx.Set("aws:EpochTime", strconv.FormatInt(c.now.Unix(), 10))
	ctx.Set("aws:RequestedRegion", c.region)
	ctx.Set("aws:ViaAWSService", "false")
	if t.account != "" {
		ctx.Set("aws:ResourceAccount", t.account)
	}
	if c.userAgent != "" {
		ctx.Set("aws:UserAgent", c.userAgent)
	}
	if c.referer != "" {
		ctx.Set("aws:Referer", c.referer)
	}
	for prefix, tags := range map[string]map[string]string{
		"aws:PrincipalTag/": c.tags, "aws:ResourceTag/": t.tags, "aws:RequestTag/": t.request,
	} {
		for name, value := range tags {
			ctx.Set(prefix+name, value)
		}
	}
	ctx.Set("aws:TagKeys", append(slices.Sorted(maps.Keys(t.request)), t.tagKeys...)...)
	switch c.caller.Kind {
	case policy.UserCaller:
		ctx.Set("aws:PrincipalType", "User")
		ctx.Set("aws:username", c.userName)
	case policy.SessionCaller:
		ctx.Set("aws:PrincipalType", "AssumedRole")
		ctx.Set("aws:TokenIssueTime", c.issued.UTC().Format(time.RFC3339))
		ctx.Set("aws:MultiFactorAuthPresent", "false")
	case policy.RootCaller:
		ctx.Set("aws:PrincipalType", "Account")
	}
	return ctx
}
