package api

import (
	"encoding/json"
	"net/http"

	"github.com/keywright/keywright/internal/control/cmk"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
)

// kmsBody is the awsKms object of an answer. Without a configuration it is
// {"enabled": false, "valid": false} with nulls: the object itself is never left
// out, since clients index it without a check.
type kmsBody struct {
	Enabled           bool         `json:"enabled"`
	Valid             bool         `json:"valid"`
	KeyID             *string      `json:"customerMasterKeyID"`
	Region            *string      `json:"region"`
	RoleID            *keys.RoleID `json:"roleId,omitempty"`
	AccessKeyID       string       `json:"accessKeyID,omitempty"`
	PrivateNetworking *bool        `json:"requirePrivateNetworking,omitempty"`
}

type otherBody struct {
	Enabled bool `json:"enabled"`
	Valid   bool `json:"valid"`
}

type encryptionBody struct {
	AWS         kmsBody   `json:"awsKms"`
	Azure       otherBody `json:"azureKeyVault"`
	Google      otherBody `json:"googleCloudKms"`
	SearchNodes bool      `json:"enabledForSearchNodes"`
}

func toEncryptionBody(v cmk.View) encryptionBody {
	b := encryptionBody{SearchNodes: v.SearchNodes}
	if v.Enabled {
		// What was asked for is shown at once; which configuration is in force the own call
		// shows beside it.
		r := v.Requested
		b.AWS = kmsBody{Enabled: true, Valid: v.Valid, KeyID: &r.KeyID, Region: &r.Region, AccessKeyID: r.AccessKeyID, PrivateNetworking: &r.PrivateNetworking}
		if r.Role != "" {
			b.AWS.RoleID = &r.Role
		}
	}
	return b
}

// encryptionRequest is a change. The two other providers are taken only while
// they stay off.
type encryptionRequest struct {
	AWS         *kmsRequest   `json:"awsKms"`
	Azure       *azureRequest `json:"azureKeyVault"`
	Google      *otherRequest `json:"googleCloudKms"`
	SearchNodes *bool         `json:"enabledForSearchNodes"`
}

type kmsRequest struct {
	Enabled           *bool           `json:"enabled"`
	KeyID             *string         `json:"customerMasterKeyID"`
	Region            *string         `json:"region"`
	RoleID            *string         `json:"roleId"`
	PrivateNetworking *bool           `json:"requirePrivateNetworking"`
	AccessKeyID       *string         `json:"accessKeyID"`
	SecretAccessKey   *string         `json:"secretAccessKey"`
	Valid             json.RawMessage `json:"valid"`
}

type otherRequest struct {
	Enabled           *bool           `json:"enabled"`
	Valid             json.RawMessage `json:"valid"`
	ServiceAccountKey json.RawMessage `json:"serviceAccountKey"`
	KeyVersion        json.RawMessage `json:"keyVersionResourceID"`
	RoleID            json.RawMessage `json:"roleId"`
}

type azureRequest struct {
	Enabled           *bool           `json:"enabled"`
	Valid             json.RawMessage `json:"valid"`
	Environment       json.RawMessage `json:"azureEnvironment"`
	ClientID          json.RawMessage `json:"clientID"`
	KeyIdentifier     json.RawMessage `json:"keyIdentifier"`
	KeyVault          json.RawMessage `json:"keyVaultName"`
	PrivateNetworking json.RawMessage `json:"requirePrivateNetworking"`
	ResourceGroup     json.RawMessage `json:"resourceGroupName"`
	Secret            json.RawMessage `json:"secret"`
	Subscription      json.RawMessage `json:"subscriptionID"`
	Tenant            json.RawMessage `json:"tenantID"`
	RoleID            json.RawMessage `json:"roleId"`
}

func getEncryption(c *call) (int, any, error) {
	v, err := c.cfg.CMK.Get(c.ctx(), c.who, c.project())
	return http.StatusOK, toEncryptionBody(v), err
}

func updateEncryption(c *call) (int, any, error) {
	var in encryptionRequest
	if err := decode(c.r, &in); err != nil {
		return 0, nil, err
	}
	p := cmk.Patch{EnabledForSearchNodes: in.SearchNodes}
	if a := in.AWS; a != nil {
		p.AWS = &cmk.AWSPatch{
			Enabled: a.Enabled, CustomerMasterKeyID: a.KeyID, Region: a.Region, RoleID: a.RoleID,
			RequirePrivateNetworking: a.PrivateNetworking, AccessKeyID: a.AccessKeyID,
		}
		if a.SecretAccessKey != nil {
			v := secret.FromString(*a.SecretAccessKey)
			defer v.Wipe()
			p.AWS.SecretAccessKey = &v
		}
	}
	if in.Azure != nil {
		p.Azure = &cmk.OtherPatch{Enabled: in.Azure.Enabled}
	}
	if in.Google != nil {
		p.Google = &cmk.OtherPatch{Enabled: in.Google.Enabled}
	}
	v, err := c.cfg.CMK.Update(c.ctx(), c.who, c.project(), p)
	return http.StatusOK, toEncryptionBody(v), err
}

// keyStatus is what Atlas has no call for: the verdict on a project's key, since
// when, why, what to do, and who says so.
type keyStatus struct {
	Enabled    bool   `json:"enabled"`
	KeyARN     string `json:"keyArn,omitempty"`
	Generation uint64 `json:"generation"`
	// AccessKeyID is the access key of a migrated project that was not switched to a role.
	AccessKeyID string `json:"accessKeyId,omitempty"`
	// Migrated tells that the project had, or has, an access key.
	Migrated bool   `json:"migratedFromCredentials,omitempty"`
	Interval string `json:"validationInterval"`
	Verdict  string `json:"verdict,omitempty"`
	Reason   string `json:"reason,omitempty"`
	Detail   string `json:"detail,omitempty"`
	Remedy   string `json:"remedy,omitempty"`
	remedyBody
	NoticedBy string  `json:"noticedBy,omitempty"`
	Since     *string `json:"since,omitempty"`
	// Deadline is when GRACE ends and the clusters stop, by the first host's count.
	Deadline *string `json:"deadline,omitempty"`
	// Policy is what a confirmed revocation does: STOP, GRACE or ALERT.
	Policy     string            `json:"policy,omitempty"`
	Validators []validatorStatus `json:"validators"`
	// Requested is what was asked for last, Effective what is in force; they differ while a
	// change is prepared. Change is the newest that had to be prepared.
	Requested *keyConfiguration `json:"requested"`
	Effective *keyConfiguration `json:"effective"`
	Change    *keyChange        `json:"change"`
	// RollbackUntil is how long Rollback can be asked for; null if nothing is kept.
	RollbackUntil *string           `json:"rollbackUntil"`
	Rollback      *keyConfiguration `json:"rollbackTo"`
	Links         []link            `json:"links"`
}

type validatorStatus struct {
	// Host is empty for the control plane itself.
	Host        string  `json:"host"`
	Verdict     string  `json:"verdict"`
	Reason      string  `json:"reason,omitempty"`
	LastRun     *string `json:"lastRun"`
	LastOutcome string  `json:"lastOutcome,omitempty"`
	LastSuccess *string `json:"lastSuccess"`
	NextRun     *string `json:"nextRun"`
	Deadline    *string `json:"deadline,omitempty"`
	// Alarm is a condition that needs a person.
	Alarm string `json:"alarm,omitempty"`
	// Adopted tells that the verdict is another validator's.
	Adopted bool `json:"adopted,omitempty"`
	Silent  bool `json:"silent"`
}

func (c *call) keyStatus(v cmk.View) keyStatus {
	out := keyStatus{
		Enabled: v.Enabled, KeyARN: v.KeyARN, Generation: v.Generation, Interval: c.cfg.CMK.Interval().String(), Validators: []validatorStatus{},
		AccessKeyID: v.AccessKeyID, Migrated: v.MigratedFromCredentials,
		Links: c.self("groups", string(c.project()), "encryptionAtRest"),
	}
	if !v.Enabled {
		return out
	}
	out.Verdict, out.Reason, out.Detail = v.Verdict.Kind, v.Verdict.Reason, v.Verdict.Detail
	out.Remedy, out.NoticedBy, out.Since = v.Verdict.Remedy, v.Verdict.NoticedBy, stampOrNull(v.Verdict.Since)
	requested, effective := configurationOf(v.Requested), configurationOf(v.KeyConfig)
	out.Requested, out.Effective, out.Change = &requested, &effective, changeOf(v)
	if k := v.Retained; k != nil {
		to := configurationOf(k.Previous)
		out.Rollback, out.RollbackUntil = &to, stampOrNull(k.Retires)
	}
	out.remedyBody = toRemedyBody(v.Advice)
	out.Policy = string(c.cfg.CMK.Policy(v.KeyConfig).Mode)
	if d := v.Deadline(); !d.IsZero() {
		out.Deadline = stampOrNull(d)
	}
	for _, x := range v.Validators {
		var deadline *string
		if d := x.State.DeadlineWall; !d.IsZero() {
			deadline = stampOrNull(d)
		}
		out.Validators = append(out.Validators, validatorStatus{
			Host: x.Host, Verdict: string(x.State.Verdict), Reason: string(x.State.Reason), LastRun: stampOrNull(x.State.LastRun),
			LastOutcome: string(x.State.LastOutcome), LastSuccess: stampOrNull(x.State.LastSuccess), NextRun: stampOrNull(x.State.NextWall), Silent: x.Silent,
			Deadline: deadline, Alarm: x.State.Alarm, Adopted: x.State.Adopted,
		})
	}
	return out
}

func getKeyStatus(c *call) (int, any, error) {
	v, err := c.cfg.CMK.Peek(c.ctx(), c.who, c.project())
	return http.StatusOK, c.keyStatus(v), err
}

// tryAgain makes everybody validate now and waits for them.
func tryAgain(c *call) (int, any, error) {
	v, err := c.cfg.CMK.TryAgain(c.ctx(), c.who, c.project())
	return http.StatusOK, c.keyStatus(v), err
}

// credentialsRequest brings the access key of an IAM user into a project.
type credentialsRequest struct {
	AccessKeyID     string `json:"accessKeyId"`
	SecretAccessKey string `json:"secretAccessKey"`
	KeyID           string `json:"customerMasterKeyId"`
	Region          string `json:"region"`
}

func importCredentials(c *call) (int, any, error) {
	var in credentialsRequest
	if err := decode(c.r, &in); err != nil {
		return 0, nil, err
	}
	v := secret.FromString(in.SecretAccessKey)
	defer v.Wipe()
	out, err := c.cfg.CMK.ImportCredentials(c.ctx(), c.who, c.project(), cmk.Credentials{
		AccessKeyID: in.AccessKeyID, SecretAccessKey: v, KeyID: in.KeyID, Region: in.Region,
	})
	return http.StatusOK, c.keyStatus(out), err
}
