package awslocal

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/awslocal/policy"
)

const maxAccessKeys = 2

func userOperations() map[string]queryOperation {
	return map[string]queryOperation{
		"CreateUser":        {[]string{"UserName", "Path", "PermissionsBoundary", "Tags.member"}, true, createUser},
		"GetUser":           {[]string{"UserName"}, false, getUser},
		"ListUsers":         {pageParams("PathPrefix"), false, listUsers},
		"DeleteUser":        {[]string{"UserName"}, true, deleteUser},
		"ListGroupsForUser": {pageParams("UserName"), false, emptyList(userHolder(), "ListGroupsForUser", "Groups")},
	}
}

func accessKeyOperations() map[string]queryOperation {
	return map[string]queryOperation{
		"CreateAccessKey": {[]string{"UserName"}, true, createAccessKey},
		"ListAccessKeys":  {pageParams("UserName"), false, listAccessKeys},
		"UpdateAccessKey": {[]string{"UserName", "AccessKeyId", "Status"}, true, updateAccessKey},
		"DeleteAccessKey": {[]string{"UserName", "AccessKeyId"}, true, deleteAccessKey},
	}
}

// userHolder is what a user has in common with a role.
func userHolder() holder {
	return holder{word: "User", param: "UserName", inlineMax: 2048, attachMax: 10,
		find: func(c *call, st *state, p params, operation string, more ...func(*target)) (*identity, error) {
			u, err := c.userFor(st, p["UserName"], operation, more...)
			if err != nil {
				return nil, err
			}
			return &u.identity, nil
		}}
}

// userFor authorises the call and finds the user in the caller's account.
func (c *call) userFor(st *state, name, operation string, more ...func(*target)) (*user, error) {
	if err := checkName("userName", name); err != nil {
		return nil, err
	}
	u := st.Accounts[c.caller.Account].Users[strings.ToLower(name)]
	arn := userARN(c.caller.Account, "/", name)
	if u != nil {
		arn = u.ARN
		more = append(more, func(t *target) { t.tags = u.Tags })
	}
	if err := c.authorizeIAMCall(operation, arn, more...); err != nil {
		return nil, err
	}
	if u == nil {
		return nil, fail(http.StatusNotFound, "NoSuchEntity", "The user with name %s cannot be found.", name)
	}
	return u, nil
}

// selfOr is userFor where a call without UserName means the caller.
func (c *call) selfOr(st *state, p params, operation string) (*user, error) {
	name := p["UserName"]
	if name == "" {
		if c.caller.Kind != policy.UserCaller {
			return nil, validation("Must specify userName when calling with non-User credentials")
		}
		name = c.userName
	}
	return c.userFor(st, name, operation)
}

func createUser(c *call, st *state, p params) ([]element, error) {
	name := p["UserName"]
	if err := checkName("userName", name); err != nil {
		return nil, err
	}
	path, err := pathOf(p)
	if err != nil {
		return nil, err
	}
	i, err := c.newIdentity(st, p, "CreateUser", identity{Name: name, Path: path, ID: uniqueID("AIDA"), ARN: userARN(c.caller.Account, path, name)})
	if err != nil {
		return nil, err
	}
	users := st.Accounts[c.caller.Account].Users
	if users[strings.ToLower(name)] != nil {
		return nil, fail(http.StatusConflict, "EntityAlreadyExists", "User with name %s already exists.", name)
	}
	if len(users) >= maxUsers {
		return nil, fail(http.StatusConflict, "LimitExceeded", "Cannot exceed quota for UsersPerAccount: %d", maxUsers)
	}
	u := &user{identity: i, AccessKeys: []accessKey{}}
	users[strings.ToLower(name)] = u
	return []element{u.element()}, nil
}

func (u *user) element() element { return group("User", append(u.fields(), u.details()...)...) }

func (u *user) fields() []element {
	return []element{
		leaf("Path", u.Path), leaf("UserName", u.Name), leaf("UserId", u.ID), leaf("Arn", u.ARN), leaf("CreateDate", xmlTime(u.Created)),
	}
}

func getUser(c *call, st *state, p params) ([]element, error) {
	u, err := c.selfOr(st, p, "GetUser")
	if err != nil {
		return nil, err
	}
	return []element{u.element()}, nil
}

func listUsers(c *call, st *state, p params) ([]element, error) {
	if err := c.authorizeIAMCall("ListUsers", "arn:aws:iam::"+c.caller.Account+":user/"); err != nil {
		return nil, err
	}
	users := st.Accounts[c.caller.Account].Users
	var list []string
	for _, name := range slices.Sorted(maps.Keys(users)) {
		if strings.HasPrefix(users[name].Path, p["PathPrefix"]) {
			list = append(list, name)
		}
	}
	return paged(p, "Users", list, func(name string) element { return group("member", users[name].fields()...) })
}

// seededStays refuses to take away what the seed file names.
func seededStays(what string) error {
	return fail(http.StatusBadRequest, "UnmodifiableEntity", "%s is one that the local AWS starts with and names in its seed file: it cannot be deleted", what)
}

func deleteUser(c *call, st *state, p params) ([]element, error) {
	u, err := c.userFor(st, p["UserName"], "DeleteUser")
	if err != nil {
		return nil, err
	}
	if isSeeded(c.caller.Account, u.Name) {
		return nil, seededStays("The user " + u.Name)
	}
	if len(u.AccessKeys) > 0 {
		return nil, fail(http.StatusConflict, "DeleteConflict", "Cannot delete entity, must delete access keys first.")
	}
	if err := u.free(); err != nil {
		return nil, err
	}
	delete(st.Accounts[c.caller.Account].Users, strings.ToLower(u.Name))
	return nil, nil
}

func createAccessKey(c *call, st *state, p params) ([]element, error) {
	u, err := c.selfOr(st, p, "CreateAccessKey")
	if err != nil {
		return nil, err
	}
	if len(u.AccessKeys) >= maxAccessKeys {
		return nil, fail(http.StatusConflict, "LimitExceeded", "Cannot exceed quota for AccessKeysPerUser: %d", maxAccessKeys)
	}
	k := accessKey{ID: uniqueID("AKIA"), Secret: newSecret(), Created: c.now.UTC().Truncate(time.Second)}
	u.AccessKeys = append(slices.Clone(u.AccessKeys), k)
	st.indexAccessKeys()
	return []element{group("AccessKey", append(k.fields(u.Name), leaf("SecretAccessKey", k.Secret))...)}, nil
}

func (k accessKey) fields(userName string) []element {
	status := "Active"
	if k.Inactive {
		status = "Inactive"
	}
	return []element{leaf("UserName", userName), leaf("AccessKeyId", k.ID), leaf("Status", status), leaf("CreateDate", xmlTime(k.Created))}
}

func listAccessKeys(c *call, st *state, p params) ([]element, error) {
	u, err := c.selfOr(st, p, "ListAccessKeys")
	if err != nil {
		return nil, err
	}
	byID := map[string]accessKey{}
	for _, k := range u.AccessKeys {
		byID[k.ID] = k
	}
	return paged(p, "AccessKeyMetadata", slices.Sorted(maps.Keys(byID)), func(id string) element { return group("member", byID[id].fields(u.Name)...) })
}

// accessKeyFor authorises a call about one access key and finds its place.
func (c *call) accessKeyFor(st *state, p params, operation string) (*user, int, error) {
	u, err := c.selfOr(st, p, operation)
	if err != nil {
		return nil, 0, err
	}
	at := slices.IndexFunc(u.AccessKeys, func(k accessKey) bool { return k.ID == p["AccessKeyId"] })
	if at < 0 {
		return nil, 0, fail(http.StatusNotFound, "NoSuchEntity", "The Access Key with id %.128s cannot be found.", p["AccessKeyId"])
	}
	return u, at, nil
}

func updateAccessKey(c *call, st *state, p params) ([]element, error) {
	status := p["Status"]
	if status != "Active" && status != "Inactive" {
		return nil, validation("1 validation error detected: Value '%.20s' at 'status' failed to satisfy constraint: Member must satisfy enum value set: [Active, Inactive]", status)
	}
	u, at, err := c.accessKeyFor(st, p, "UpdateAccessKey")
	if err != nil {
		return nil, err
	}
	u.AccessKeys[at].Inactive = status == "Inactive"
	st.indexAccessKeys()
	return nil, nil
}

func deleteAccessKey(c *call, st *state, p params) ([]element, error) {
	u, at, err := c.accessKeyFor(st, p, "DeleteAccessKey")
	if err != nil {
		return nil, err
	}
	if at == 0 && isSeeded(c.caller.Account, u.Name) {
		return nil, seededStays("The access key " + u.AccessKeys[at].ID)
	}
	u.AccessKeys = slices.Delete(slices.Clone(u.AccessKeys), at, at+1)
	st.indexAccessKeys()
	return nil, nil
}
