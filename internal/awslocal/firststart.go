package awslocal

import (
	"fmt"
	"strings"
	"time"
)

const (
	serverUser = "keywright-server"
	agentUser  = "keywright-agent"
	adminUser  = "admin"
	canaryRole = "keywright-canary"

	notForProduction = "NOT FOR PRODUCTION: this file holds key material and access keys in clear"

	assumeOnly    = `{"Version":"2012-10-17","Statement":[{"Sid":"AssumeCustomerRoles","Effect":"Allow","Action":"sts:AssumeRole","Resource":"*"}]}`
	administrator = `{"Version":"2012-10-17","Statement":[{"Sid":"AdministratorAccess","Effect":"Allow","Action":"*","Resource":"*"}]}`
)

// firstState makes the three accounts with their users.
func firstState(now time.Time) (*state, error) {
	st := &state{Version: stateVersion, Warning: notForProduction, SealKey: randomBytes(sealKeyLen), Accounts: map[string]*account{}, Keys: map[string]*key{}, Aliases: map[string]*alias{}}
	for _, id := range []string{PlatformAccount, CustomerAccount, SecondAccount} {
		st.Accounts[id] = &account{ID: id, Users: map[string]*user{}, Roles: map[string]*role{}, Policies: map[string]*managedPolicy{}}
	}
	st.addUser(now, PlatformAccount, serverUser, "AssumeCustomerRoles", assumeOnly)
	st.addUser(now, PlatformAccount, agentUser, "AssumeCustomerRoles", assumeOnly)
	st.addUser(now, CustomerAccount, adminUser, "AdministratorAccess", administrator)
	st.addUser(now, SecondAccount, adminUser, "AdministratorAccess", administrator)
	// The canary trusts through the account line, so the platform's own
	// permission is what decides whether it can be assumed.
	trust := fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Sid":"Canary","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::%s:root"},"Action":"sts:AssumeRole"}]}`, PlatformAccount)
	st.Accounts[PlatformAccount].Roles[canaryRole] = &role{
		identity: identity{
			Name: canaryRole, Path: "/", ID: uniqueID("AROA"), ARN: roleARN(PlatformAccount, "/", canaryRole),
			Created: now.UTC().Truncate(time.Second), Policies: map[string]string{},
		},
		Description: "Tells a customer's refusal from a fault of the platform's own permission",
		MaxSession:  defaultSession, Trust: boundPolicy{Text: trust},
	}
	return st, st.index()
}

func (st *state) addUser(now time.Time, accountID, name, policyName, text string) {
	now = now.UTC().Truncate(time.Second)
	st.Accounts[accountID].Users[strings.ToLower(name)] = &user{
		identity: identity{
			Name: name, Path: "/", ID: uniqueID("AIDA"), ARN: userARN(accountID, "/", name), Created: now,
			Policies: map[string]string{policyName: text},
		},
		AccessKeys: []accessKey{{ID: uniqueID("AKIA"), Secret: newSecret(), Created: now}},
	}
}

func userARN(accountID, path, name string) string {
	return "arn:aws:iam::" + accountID + ":user" + path + name
}

func roleARN(accountID, path, name string) string {
	return "arn:aws:iam::" + accountID + ":role" + path + name
}

// seedOf reads the seeded credentials out of the state.
func (st *state) seedOf() (Seed, error) {
	s := Seed{Version: seedVersion, Region: DefaultRegion, CanaryRoleARN: roleARN(PlatformAccount, "/", canaryRole)}
	s.Platform.AccountID, s.Customer.AccountID, s.Second.AccountID = PlatformAccount, CustomerAccount, SecondAccount
	for _, want := range seededUsers(&s) {
		a := st.Accounts[want.account]
		if a == nil || a.Users[want.user] == nil || len(a.Users[want.user].AccessKeys) == 0 {
			return Seed{}, fmt.Errorf("user %s of account %s has no access key", want.user, want.account)
		}
		k := a.Users[want.user].AccessKeys[0]
		*want.to = Credentials{AccessKeyID: k.ID, SecretAccessKey: k.Secret}
	}
	return s, nil
}

type seededUser struct {
	account, user string
	to            *Credentials
}

func seededUsers(s *Seed) []seededUser {
	return []seededUser{
		{PlatformAccount, serverUser, &s.Platform.Server},
		{PlatformAccount, agentUser, &s.Platform.Agent},
		{CustomerAccount, adminUser, &s.Customer.Credentials},
		{SecondAccount, adminUser, &s.Second.Credentials},
	}
}

// isSeeded tells whether the seed file names a user of an account: it and its
// first access key stay.
func isSeeded(accountID, name string) bool {
	for _, u := range seededUsers(&Seed{}) {
		if u.account == accountID && u.user == strings.ToLower(name) {
			return true
		}
	}
	return false
}
