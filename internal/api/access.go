package api

import (
	"encoding/json"
	"net/http"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/access"
	"github.com/keywright/keywright/internal/keys"
)

const providerAWS = "AWS"

type usageBody struct {
	FeatureType string  `json:"featureType"`
	FeatureID   *string `json:"featureId"`
}

type roleBody struct {
	ProviderName string      `json:"providerName"`
	RoleID       keys.RoleID `json:"roleId"`
	Principal    string      `json:"atlasAWSAccountArn"`
	ExternalID   string      `json:"atlasAssumedRoleExternalId"`
	Created      string      `json:"createdDate"`
	Authorized   *string     `json:"authorizedDate"`
	ARN          *string     `json:"iamAssumedRoleArn"`
	Usages       []usageBody `json:"featureUsages"`
}

func toRoleBody(r access.Role) roleBody {
	b := roleBody{
		ProviderName: providerAWS, RoleID: r.ID, Principal: r.PlatformARN, ExternalID: r.ExternalID,
		Created: stamp(r.Created), Authorized: stampOrNull(r.Authorized), Usages: []usageBody{},
	}
	if r.ARN != "" {
		b.ARN = &r.ARN
	}
	for _, u := range r.Usages {
		b.Usages = append(b.Usages, usageBody{FeatureType: u})
	}
	return b
}

// roleRequest is a role in a request; the rest of the model that some clients
// send along is read-only.
type roleRequest struct {
	ProviderName string          `json:"providerName"`
	ARN          string          `json:"iamAssumedRoleArn"`
	RoleID       json.RawMessage `json:"roleId"`
	Principal    json.RawMessage `json:"atlasAWSAccountArn"`
	ExternalID   json.RawMessage `json:"atlasAssumedRoleExternalId"`
	Created      json.RawMessage `json:"createdDate"`
	Authorized   json.RawMessage `json:"authorizedDate"`
	Usages       json.RawMessage `json:"featureUsages"`
}

func (c *call) roleRequest() (roleRequest, error) {
	var in roleRequest
	if err := decode(c.r, &in); err != nil {
		return in, err
	}
	return in, checkProvider(in.ProviderName)
}

func checkProvider(name string) error {
	if name != providerAWS {
		return apierr.BadRequest("INVALID_ENUM_VALUE", "An invalid enumeration value %q was specified: providerName can be AWS.", name).With("providerName")
	}
	return nil
}

func registerRole(c *call) (int, any, error) {
	if _, err := c.roleRequest(); err != nil {
		return 0, nil, err
	}
	r, err := c.cfg.Access.Register(c.ctx(), c.who, c.project())
	return http.StatusOK, toRoleBody(r), err
}

func authorizeRole(c *call) (int, any, error) {
	in, err := c.roleRequest()
	if err != nil {
		return 0, nil, err
	}
	r, err := c.cfg.Access.Authorize(c.ctx(), c.who, c.project(), keys.RoleID(c.vars["roleId"]), in.ARN)
	return http.StatusOK, toRoleBody(r), err
}

func listRoles(c *call) (int, any, error) {
	all, err := c.cfg.Access.List(c.ctx(), c.who, c.project())
	out := []roleBody{}
	for _, r := range all {
		out = append(out, toRoleBody(r))
	}
	return http.StatusOK, map[string]any{"awsIamRoles": out, "azureServicePrincipals": []any{}, "gcpServiceAccounts": []any{}}, err
}

func getRole(c *call) (int, any, error) {
	r, err := c.cfg.Access.Get(c.ctx(), c.who, c.project(), keys.RoleID(c.vars["roleId"]))
	return http.StatusOK, toRoleBody(r), err
}

func deauthorizeRole(c *call) (int, any, error) {
	if err := checkProvider(c.vars["cloudProvider"]); err != nil {
		return 0, nil, err
	}
	return noContent(c.cfg.Access.Deauthorize(c.ctx(), c.who, c.project(), keys.RoleID(c.vars["roleId"])))
}
