package api

import (
	"net/http"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/cmk"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/policydoc"
)

// trustPolicyBody is a registration's trust policy, to paste.
type trustPolicyBody struct {
	RoleID     keys.RoleID    `json:"roleId"`
	Principal  string         `json:"atlasAWSAccountArn"`
	ExternalID string         `json:"atlasAssumedRoleExternalId"`
	Trust      policydoc.Text `json:"trustPolicy"`
	CreateRole policydoc.Text `json:"createRole"`
	Links      []link         `json:"links"`
}

func getTrustPolicy(c *call) (int, any, error) {
	r, err := c.cfg.Access.Get(c.ctx(), c.who, c.project(), keys.RoleID(c.vars["roleId"]))
	if err != nil {
		return 0, nil, err
	}
	a := policydoc.Access{PlatformARN: r.PlatformARN, ExternalID: r.ExternalID, RoleARN: r.ARN}
	if a.RoleARN == "" {
		p, _ := keys.ParseARN(r.PlatformARN)
		a.RoleARN = keys.ARN{Partition: p.Partition, Service: "iam", Account: "ROLE_ACCOUNT_ID", Resource: "role/keywright"}.String()
	}
	return http.StatusOK, trustPolicyBody{
		RoleID: r.ID, Principal: r.PlatformARN, ExternalID: r.ExternalID, Trust: a.TrustText(), CreateRole: a.RoleText(),
		Links: c.self("groups", string(c.project()), "cloudProviderAccess", string(r.ID)+":trustPolicy"),
	}, nil
}

// guidanceBody says what must be allowed before a key can be used.
type guidanceBody struct {
	RoleARN string `json:"roleArn"`
	KeyARN  string `json:"keyArn"`
	// CrossAccount is null while role or key are not known.
	CrossAccount *bool `json:"crossAccount"`
	// Placeholders are the words in capitals that stand for what is not known.
	Placeholders []string         `json:"placeholders"`
	Policies     []policydoc.Text `json:"policies"`
	CreateKey    policydoc.Text   `json:"createKey"`
	CreateRole   policydoc.Text   `json:"createRole"`
	Links        []link           `json:"links"`
}

func getGuidance(c *call) (int, any, error) {
	q := c.r.URL.Query()
	limited := q.Get("limitToProject")
	if limited != "" && limited != "true" && limited != "false" {
		return 0, nil, apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute limitToProject specified: true or false is expected.").With("limitToProject")
	}
	g, err := c.cfg.CMK.Guide(c.ctx(), c.who, c.project(), cmk.Candidate{KeyID: q.Get("customerMasterKeyID"), Region: q.Get("region"), RoleID: q.Get("roleId")}, limited == "true")
	if err != nil {
		return 0, nil, err
	}
	out := guidanceBody{
		RoleARN: g.Access.RoleARN, KeyARN: g.Access.KeyARN, CrossAccount: g.CrossAccount, Placeholders: g.Placeholders, Policies: g.Texts,
		CreateKey: g.CreateKey, CreateRole: g.CreateRole, Links: c.self("groups", string(c.project()), "encryptionAtRest:guidance"),
	}
	if out.Placeholders == nil {
		out.Placeholders = []string{}
	}
	return http.StatusOK, out, nil
}

// candidateRequest is a key to try; what is left out is what the project uses.
type candidateRequest struct {
	KeyID  string `json:"customerMasterKeyID"`
	Region string `json:"region"`
	RoleID string `json:"roleId"`
}

type checkBody struct {
	Outcome string `json:"outcome"`
	Reason  string `json:"reason,omitempty"`
	// ErrorCode and Detail are what a change to this candidate would be refused with.
	ErrorCode   string           `json:"errorCode,omitempty"`
	Detail      string           `json:"detail,omitempty"`
	KeyARN      string           `json:"keyArn"`
	RoleARN     string           `json:"roleArn"`
	Permissions []permissionBody `json:"permissions"`
	Links       []link           `json:"links"`
}

type permissionBody struct {
	Action string `json:"action"`
	// Result is OK, REFUSED, or NOT_TRIED when the run did not come so far.
	Result string `json:"result"`
	Remedy string `json:"remedy,omitempty"`
	remedyBody
}

// remedyBody is the exact statement that is missing.
type remedyBody struct {
	Statement *policydoc.Text `json:"remedyStatement,omitempty"`
	// Further are needed besides, when role and key are in different accounts.
	Further []policydoc.Text `json:"furtherStatements,omitempty"`
}

func toRemedyBody(a policydoc.Advice) (out remedyBody) {
	if len(a.Texts) > 0 {
		out.Statement, out.Further = &a.Texts[0], a.Texts[1:]
	}
	return out
}

// checkCandidate makes a dry run and changes nothing.
func checkCandidate(c *call) (int, any, error) {
	var in candidateRequest
	if err := decode(c.r, &in); err != nil {
		return 0, nil, err
	}
	r, err := c.cfg.CMK.Check(c.ctx(), c.who, c.project(), cmk.Candidate(in))
	if err != nil {
		return 0, nil, err
	}
	out := checkBody{Outcome: string(r.Outcome), Reason: string(r.Reason), KeyARN: r.Access.KeyARN, RoleARN: r.Access.RoleARN,
		Links: c.self("groups", string(c.project()), "encryptionAtRest:check")}
	if e := r.Refusal; e != nil {
		out.ErrorCode, out.Detail = e.Code, e.Detail
	}
	for _, p := range r.Permissions {
		b := permissionBody{Action: p.Action, Result: "NOT_TRIED", Remedy: p.Advice.Sentence, remedyBody: toRemedyBody(p.Advice)}
		switch {
		case p.OK:
			b.Result = "OK"
		case p.Tried:
			b.Result = "REFUSED"
		}
		out.Permissions = append(out.Permissions, b)
	}
	return http.StatusOK, out, nil
}
