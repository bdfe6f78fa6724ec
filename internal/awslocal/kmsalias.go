package awslocal

import (
	"regexp"
	"slices"
	"strings"
	"time"
)

const maxAliasesPerKey = 50

// alias is a second name of a key in the same account and Region.
type alias struct {
	ARN     string    `json:"arn"`
	KeyARN  string    `json:"keyArn"`
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated,omitzero"`
}

var aliasForm = regexp.MustCompile(`^alias/[A-Za-z0-9/_-]{1,250}$`)

func aliasARN(region, account, name string) string {
	return "arn:aws:kms:" + region + ":" + account + ":" + name
}

// resolveAlias finds the key behind an alias. Another account's alias that is
// missing gives a missing key, so that it is refused like one.
func (c *call) resolveAlias(st *state, ref keyRef, arn string) (keyRef, error) {
	a := st.Aliases[arn]
	if a != nil {
		ref.arn, ref.alias = a.KeyARN, arn[strings.Index(arn, ":alias/")+1:]
		return ref, nil
	}
	if ref.account == c.caller.Account {
		return ref, kmsFail("NotFoundException", "Alias %s is not found.", arn)
	}
	ref.arn = arn
	return ref, nil
}

func checkAliasName(name string) error {
	if !strings.HasPrefix(name, "alias/") {
		return invalid("Alias must start with the prefix \"alias/\". Please see https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html")
	}
	if !aliasForm.MatchString(name) || strings.HasPrefix(name, "alias/aws/") {
		return kmsFail("InvalidAliasNameException", "%.256q is no valid alias: letters, digits, '/', '_' and '-' after \"alias/\", and not \"alias/aws/\"", name)
	}
	return nil
}

// authorizeAlias asks the caller's own policies about the alias itself.
func (c *call) authorizeAlias(operation, arn string) error {
	if text := c.refusal(target{action: "kms:" + operation, resource: arn, account: c.caller.Account}); text != "" {
		return kmsFail("AccessDeniedException", "%s", text)
	}
	return nil
}

func createAlias(c *call, st *state, body []byte) (any, error) {
	var in struct{ AliasName, TargetKeyId string } //nolint:revive // AWS's names
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	if err := checkAliasName(in.AliasName); err != nil {
		return nil, err
	}
	arn := aliasARN(c.region, c.caller.Account, in.AliasName)
	if err := c.authorizeAlias("CreateAlias", arn); err != nil {
		return nil, err
	}
	k, err := c.manage(st, in.TargetKeyId, "CreateAlias")
	if err != nil {
		return nil, err
	}
	if k.pending() {
		return nil, pendingDeletion(k)
	}
	if a := st.Aliases[arn]; a != nil && !st.Keys[a.KeyARN].gone(c.now) {
		return nil, kmsFail("AlreadyExistsException", "An alias with the name %s already exists", arn)
	}
	if err := st.roomForAlias(k); err != nil {
		return nil, err
	}
	st.Aliases[arn] = &alias{ARN: arn, KeyARN: k.ARN, Created: c.now.UTC()}
	return nil, nil
}

func (st *state) roomForAlias(k *key) error {
	n := 0
	for _, a := range st.Aliases {
		if a.KeyARN == k.ARN {
			n++
		}
	}
	if n >= maxAliasesPerKey {
		return kmsFail("LimitExceededException", "A key has at most %d aliases", maxAliasesPerKey)
	}
	return nil
}

// updateAlias points an alias to another key of the same type and usage. It
// needs a permission on the alias and on both keys.
func updateAlias(c *call, st *state, body []byte) (any, error) {
	var in struct{ AliasName, TargetKeyId string } //nolint:revive // AWS's names
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	if err := checkAliasName(in.AliasName); err != nil {
		return nil, err
	}
	arn := aliasARN(c.region, c.caller.Account, in.AliasName)
	if err := c.authorizeAlias("UpdateAlias", arn); err != nil {
		return nil, err
	}
	a := st.Aliases[arn]
	if a == nil || st.Keys[a.KeyARN].gone(c.now) {
		return nil, kmsFail("NotFoundException", "Alias %s is not found.", arn)
	}
	old, err := c.manage(st, a.KeyARN, "UpdateAlias")
	if err != nil {
		return nil, err
	}
	k, err := c.manage(st, in.TargetKeyId, "UpdateAlias")
	if err != nil {
		return nil, err
	}
	switch {
	case k.pending():
		return nil, pendingDeletion(k)
	case algorithmFamily(k.Spec) != algorithmFamily(old.Spec) || k.Usage != old.Usage:
		return nil, invalid("Alias %s can only be updated to a key of the same type and usage as %s", arn, old.ARN)
	case k != old:
		if err := st.roomForAlias(k); err != nil {
			return nil, err
		}
	}
	a.KeyARN, a.Updated = k.ARN, c.now.UTC()
	return nil, nil
}

// algorithmFamily tells symmetric, HMAC and asymmetric keys apart.
func algorithmFamily(spec string) string {
	switch family, _, _ := strings.Cut(spec, "_"); family {
	case "SYMMETRIC", "HMAC":
		return family
	}
	return "asymmetric"
}

func deleteAlias(c *call, st *state, body []byte) (any, error) {
	var in struct{ AliasName string }
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	if err := checkAliasName(in.AliasName); err != nil {
		return nil, err
	}
	arn := aliasARN(c.region, c.caller.Account, in.AliasName)
	if err := c.authorizeAlias("DeleteAlias", arn); err != nil {
		return nil, err
	}
	a := st.Aliases[arn]
	if a == nil {
		return nil, kmsFail("NotFoundException", "Alias %s is not found.", arn)
	}
	if _, err := c.manage(st, a.KeyARN, "DeleteAlias"); err != nil {
		return nil, err
	}
	delete(st.Aliases, arn)
	return nil, nil
}

func listAliases(c *call, st *state, body []byte) (any, error) {
	var in struct {
		keyIDInput
		Limit  *int
		Marker string
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	limit := 50
	if in.Limit != nil {
		if limit = *in.Limit; limit < 1 || limit > 100 {
			return nil, invalid("1 validation error detected: Value at 'limit' failed to satisfy constraint: Member must have value between 1 and 100")
		}
	}
	if err := c.authorizeIAM("ListAliases", nil); err != nil {
		return nil, err
	}
	only := ""
	if in.KeyID != "" {
		ref, err := c.findKey(st, in.KeyID, false)
		if err != nil {
			return nil, err
		}
		only = ref.arn
	}
	type entry struct {
		AliasName, AliasArn string
		TargetKeyID         string `json:"TargetKeyId"`
		CreationDate        float64
		LastUpdatedDate     float64
	}
	list := []entry{}
	prefix := aliasARN(c.region, c.caller.Account, "")
	for arn, a := range st.Aliases {
		name, own := strings.CutPrefix(arn, prefix)
		k := st.Keys[a.KeyARN]
		if own && name > in.Marker && k != nil && !k.gone(c.now) && (only == "" || a.KeyARN == only) {
			updated := a.Created
			if !a.Updated.IsZero() {
				updated = a.Updated
			}
			list = append(list, entry{name, arn, k.ID, epoch(a.Created), epoch(updated)})
		}
	}
	slices.SortFunc(list, func(a, b entry) int { return strings.Compare(a.AliasName, b.AliasName) })
	out := map[string]any{"Aliases": list, "Truncated": false}
	if len(list) > limit {
		out["Aliases"], out["Truncated"], out["NextMarker"] = list[:limit], true, list[limit-1].AliasName
	}
	return out, nil
}
