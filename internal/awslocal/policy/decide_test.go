package policy

import (
	"strings"
	"testing"
)

const (
	accountA = "111122223333"
	accountB = "444455556666"
	keyK     = "arn:aws:kms:us-east-1:111122223333:key/k"
	rootLine = `{"Sid":"Root","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}`
)

func userOf(account, name string) Caller {
	arn := "arn:aws:iam::" + account + ":user/" + name
	return Caller{Kind: UserCaller, Account: account, ARN: arn, PrincipalARN: arn, UniqueID: "AIDA" + account + name}
}

func sessionOf(account, role, name string) Caller {
	return Caller{
		Kind: SessionCaller, Account: account, ARN: "arn:aws:sts::" + account + ":assumed-role/" + role + "/" + name,
		PrincipalARN: "arn:aws:iam::" + account + ":role/" + role, UniqueID: "AROA" + account + role,
	}
}

func rootOf(account string) Caller {
	arn := "arn:aws:iam::" + account + ":root"
	return Caller{Kind: RootCaller, Account: account, ARN: arn, PrincipalARN: arn, UniqueID: account}
}

func must(t *testing.T, kind Kind, text string) *Document {
	t.Helper()
	d, err := Parse(kind, text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return d
}

func doc(statements ...string) string {
	return `{"Version":"2012-10-17","Statement":[` + strings.Join(statements, ",") + `]}`
}

func allow(action, resource string) string {
	return `{"Effect":"Allow","Action":"` + action + `","Resource":"` + resource + `"}`
}

func principal(effect, arn, action string) string {
	return `{"Effect":"` + effect + `","Principal":{"AWS":"` + arn + `"},"Action":"` + action + `","Resource":"*"}`
}

// ids binds every named principal to the id of the same name, as if it existed
// when the policy was written.
func ids(d *Document) map[string]string {
	out := map[string]string{}
	for _, p := range d.NamedPrincipals() {
		name := p.Text[strings.LastIndexByte(p.Text, '/')+1:]
		switch p.Kind {
		case UserPrincipal:
			out[p.Text] = "AIDA" + p.Account + name
		case RolePrincipal:
			out[p.Text] = "AROA" + p.Account + name
		}
	}
	return out
}

type vector struct {
	name     string
	caller   Caller
	action   string // kms:Encrypt if empty
	key      string // key policy
	identity string
	session  string
	boundary string
	context  Context
	crosses  bool
	want     Reason
}

func (v vector) decide(t *testing.T, kind Kind, resource string) Decision {
	t.Helper()
	p := Policies{}
	if v.key != "" {
		d := must(t, kind, v.key)
		p.Resource = &ResourcePolicy{Named: Named{Doc: d}, IDs: ids(d)}
	}
	if v.identity != "" {
		p.Identity = []Named{{Name: "id", Doc: must(t, Identity, v.identity)}}
	}
	if v.session != "" {
		p.Session = &Named{Doc: must(t, Session, v.session)}
	}
	if v.boundary != "" {
		p.Boundary = &Named{Name: "b", Doc: must(t, Boundary, v.boundary)}
	}
	if v.action == "" {
		v.action = "kms:Encrypt"
	}
	return Decide(Call{Caller: v.caller, Action: v.action, Resource: resource, ResourceAccount: accountA, Crosses: v.crosses, Context: v.context}, p)
}

func TestDecideForKeys(t *testing.T) {
	u, s := userOf(accountA, "u"), sessionOf(accountA, "r", "s1")
	roleR, userU := "arn:aws:iam::"+accountA+":role/r", "arn:aws:iam::"+accountA+":user/u"
	sessionS1 := "arn:aws:sts::" + accountA + ":assumed-role/r/s1"
	full, idEncrypt := doc(rootLine), doc(allow("kms:Encrypt", keyK))
	describe := doc(allow("kms:DescribeKey", "*"))
	toB := doc(rootLine, principal("Allow", "arn:aws:iam::"+accountB+":root", "kms:*"))
	other := sessionOf(accountB, "r", "s")
	for _, v := range []vector{
		{name: "default policy, user without identity policy", caller: u, key: full, want: NoIdentity},
		{name: "default policy, user with it", caller: u, key: full, identity: idEncrypt},
		{name: "the same, another action", caller: u, action: "kms:Decrypt", key: full, identity: idEncrypt, want: NoIdentity},
		{name: "root needs no identity policy", caller: rootOf(accountA), key: full},
		{name: "root of another account needs the key policy", caller: rootOf(accountB), key: full, crosses: true, want: NoResource},
		{name: "root of another account that it names", caller: rootOf(accountB), key: toB, crosses: true},
		{name: "key policy names another user, kms:* in identity", caller: userOf(accountA, "v"), key: doc(principal("Allow", userU, "kms:*")), identity: doc(allow("kms:*", "*")), want: NoResource},
		{name: "key policy names the user: enough alone", caller: u, key: doc(principal("Allow", userU, "kms:*"))},
		{name: "key policy names everybody: enough alone", caller: u, key: doc(principal("Allow", "*", "kms:*"))},
		{name: "key policy names role: enough without identity policy", caller: s, key: doc(principal("Allow", roleR, "kms:*"))},
		{name: "key policy names role, session policy only describes", caller: s, key: doc(principal("Allow", roleR, "kms:*")), session: describe, want: NoSession},
		{name: "key policy names session, session policy only describes", caller: s, key: doc(principal("Allow", sessionS1, "kms:*")), session: describe},
		{name: "key policy names another session", caller: sessionOf(accountA, "r", "s2"), key: doc(principal("Allow", sessionS1, "kms:*")), want: NoResource},
		{name: "account line and deny for the role", caller: s, key: doc(rootLine, principal("Deny", roleR, "kms:*")), identity: idEncrypt, want: DenyInResource},
		{name: "deny for the account hits its sessions", caller: s, key: doc(principal("Allow", roleR, "kms:*"), principal("Deny", accountA, "kms:Encrypt")), want: DenyInResource},
		{name: "deny in the identity policy beats a direct allow", caller: s, key: doc(principal("Allow", "*", "kms:*")), identity: doc(`{"Effect":"Deny","Action":"kms:Enc*","Resource":"*"}`), want: DenyInIdentity},
		{name: "deny in the session policy", caller: s, key: doc(principal("Allow", "*", "kms:*")), session: doc(`{"Effect":"Deny","Action":"*","Resource":"*"}`), want: DenyInSession},
		{name: "account line, session policy lacks it", caller: s, key: full, identity: idEncrypt, session: describe, want: NoSession},
		{name: "account line, all three allow", caller: s, key: full, identity: idEncrypt, session: idEncrypt},
		{name: "other account named, no identity policy", caller: other, key: toB, crosses: true, want: NoIdentity},
		{name: "other account named, identity policy on the key", caller: other, key: toB, identity: idEncrypt, crosses: true},
		{name: "the same, an operation that does not cross", caller: other, action: "kms:DisableKey", key: toB, identity: doc(allow("kms:*", "*")), want: NotAcrossAccounts},
		{name: "other account not named", caller: other, key: full, identity: idEncrypt, crosses: true, want: NoResource},
		{name: "other account's role named, no identity policy", caller: other, key: doc(principal("Allow", "arn:aws:iam::"+accountB+":role/r", "kms:*")), crosses: true, want: NoIdentity},
		{name: "role of the same name in another account", caller: other, key: doc(rootLine, principal("Allow", roleR, "kms:*")), identity: idEncrypt, crosses: true, want: NoResource},
		{name: "other account, everybody named, session policy lacks it", caller: other, key: doc(principal("Allow", "*", "kms:*")), identity: idEncrypt, session: describe, crosses: true, want: NoSession},
		{name: "resource of another key in the key policy", caller: u, key: doc(`{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"` + keyK + `2"}`), want: NoResource},
		{name: "statement without resource", caller: u, key: doc(`{"Effect":"Allow","Principal":"*","Action":"kms:*"}`), want: NoResource},
		{name: "statement without action", caller: u, key: doc(`{"Effect":"Allow","Principal":"*","Resource":"*"}`), want: NoResource},
		{name: "NotAction", caller: u, key: doc(`{"Effect":"Allow","Principal":"*","NotAction":"kms:Decrypt","Resource":"*"}`)},
		{name: "NotAction names it", caller: u, key: doc(`{"Effect":"Allow","Principal":"*","NotAction":"kms:enc*","Resource":"*"}`), want: NoResource},
		{name: "NotResource in the identity policy", caller: u, key: full, identity: doc(`{"Effect":"Allow","Action":"*","NotResource":"` + keyK + `"}`), want: NoIdentity},
		{name: "NotPrincipal denies others", caller: userOf(accountA, "v"), key: doc(rootLine, `{"Effect":"Deny","NotPrincipal":{"AWS":["`+userU+`","`+accountA+`"]},"Action":"*","Resource":"*"}`), identity: idEncrypt, want: DenyInResource},
		{name: "NotPrincipal spares the listed", caller: u, key: doc(rootLine, `{"Effect":"Deny","NotPrincipal":{"AWS":["`+userU+`","`+accountA+`"]},"Action":"*","Resource":"*"}`), identity: idEncrypt},
		{name: "service principal is nobody", caller: u, key: doc(`{"Effect":"Allow","Principal":{"Service":"s3.amazonaws.com"},"Action":"kms:*","Resource":"*"}`), identity: idEncrypt, want: NoResource},
		{name: "boundary lacks it, account line and identity policy", caller: u, key: full, identity: idEncrypt, boundary: describe, want: NoBoundary},
		{name: "boundary allows, identity policy lacks it", caller: u, key: full, identity: describe, boundary: idEncrypt, want: NoIdentity},
		{name: "boundary allows too", caller: u, key: full, identity: idEncrypt, boundary: idEncrypt},
		{name: "boundary gives nothing by itself", caller: u, key: full, boundary: doc(allow("*", "*")), want: NoIdentity},
		{name: "boundary lacks it, key policy names the user", caller: u, key: doc(principal("Allow", userU, "kms:*")), boundary: describe},
		{name: "boundary lacks it, key policy names the role", caller: s, key: doc(principal("Allow", roleR, "kms:*")), boundary: describe, want: NoBoundary},
		{name: "boundary allows, key policy names the role", caller: s, key: doc(principal("Allow", roleR, "kms:*")), boundary: idEncrypt},
		{name: "boundary lacks it, key policy names the session", caller: s, key: doc(principal("Allow", sessionS1, "kms:*")), boundary: describe},
		{name: "boundary denies, key policy names the user", caller: u, key: doc(principal("Allow", userU, "kms:*")), boundary: doc(allow("*", "*"), `{"Effect":"Deny","Action":"kms:Encrypt","Resource":"*"}`), want: DenyInBoundary},
		{name: "boundary lacks it across accounts", caller: other, key: toB, identity: idEncrypt, boundary: describe, crosses: true, want: NoBoundary},
		{name: "session policy is named before the boundary", caller: s, key: full, identity: idEncrypt, boundary: describe, session: describe, want: NoSession},
		{name: "no key: boundary", caller: u, action: "kms:CreateKey", identity: doc(allow("kms:*", "*")), boundary: describe, want: NoBoundary},
		{name: "no key: identity alone", caller: u, action: "kms:CreateKey", identity: doc(allow("kms:*", "*"))},
		{name: "no key: nothing", caller: u, action: "kms:CreateKey", want: NoIdentity},
		{name: "no key: session policy", caller: s, action: "kms:CreateKey", identity: doc(allow("kms:*", "*")), session: describe, want: NoSession},
	} {
		t.Run(v.name, func(t *testing.T) {
			if d := v.decide(t, Key, keyK); d.Reason != v.want {
				t.Errorf("got %d (%s), want %d; by %q", d.Reason, d.Text("kms:Encrypt"), v.want, d.By)
			}
		})
	}
}

func TestDecideForRoles(t *testing.T) {
	const roleARN = "arn:aws:iam::" + accountA + ":role/r"
	trust := func(who string) string {
		return doc(`{"Effect":"Allow","Principal":{"AWS":"` + who + `"},"Action":"sts:AssumeRole","Condition":{"StringEquals":{"sts:ExternalId":"x"}}}`)
	}
	id := doc(allow("sts:AssumeRole", "*"))
	with, other, none := Context{"sts:externalid": {"x"}}, Context{"sts:externalid": {"y"}}, Context{}
	u, platform := userOf(accountA, "u"), userOf(accountB, "p")
	for _, v := range []vector{
		{name: "account line, user without permission", caller: u, key: trust(accountA), context: with, want: NoIdentity},
		{name: "user named, with the id", caller: u, key: trust(u.ARN), context: with},
		{name: "user named, without", caller: u, key: trust(u.ARN), context: none, want: NoResource},
		{name: "user named, another id", caller: u, key: trust(u.ARN), context: other, want: NoResource},
		{name: "other account, both halves", caller: platform, key: trust(accountB), identity: id, context: with},
		{name: "other account, no permission", caller: platform, key: trust(accountB), context: with, want: NoIdentity},
		{name: "other account, no trust", caller: platform, key: trust(accountA), identity: id, context: with, want: NoResource},
		{name: "other account, other id", caller: platform, key: trust(accountB), identity: id, context: other, want: NoResource},
	} {
		t.Run(v.name, func(t *testing.T) {
			v.action, v.crosses = "sts:AssumeRole", true
			if d := v.decide(t, Trust, roleARN); d.Reason != v.want {
				t.Errorf("got %d, want %d", d.Reason, v.want)
			}
		})
	}
}

func TestPrincipalMadeAnewDoesNotMatch(t *testing.T) {
	u := userOf(accountA, "u")
	d := must(t, Key, doc(principal("Allow", u.ARN, "kms:*")))
	call := Call{Caller: u, Action: "kms:Encrypt", Resource: keyK, ResourceAccount: accountA}
	p := Policies{Resource: &ResourcePolicy{Named: Named{Doc: d}, IDs: map[string]string{u.ARN: u.UniqueID}}}
	if !Decide(call, p).Allowed() {
		t.Fatal("the user itself is refused")
	}
	call.Caller.UniqueID = "AIDAnew"
	if Decide(call, p).Reason != NoResource {
		t.Error("a new user of the same name matches")
	}
	if text := d.Rename(map[string]string{u.ARN: "AIDAu"}); !strings.Contains(text, `"Principal":{"AWS":"AIDAu"}`) {
		t.Errorf("read back as %s", text)
	}
}

func TestConditions(t *testing.T) {
	u := userOf(accountA, "u")
	app := Context{}
	app.Set("kms:EncryptionContext:app", "x")
	app.Set("kms:EncryptionContext:n", "1")
	app.Set("kms:EncryptionContextKeys", "app", "n")
	upper := Context{}
	upper.Set("kms:EncryptionContext:App", "x")
	upper.Set("kms:EncryptionContextKeys", "App")
	onlyApp := Context{}
	onlyApp.Set("kms:EncryptionContextKeys", "app")
	at := func(key string, v ...string) Context { c := Context{}; c.Set(key, v...); return c }
	for _, c := range []struct {
		name, condition string
		ctx             Context
		want            bool
	}{
		{"context pair", `"StringEquals":{"kms:EncryptionContext:app":"x"}`, app, true},
		{"context name has no case", `"StringEquals":{"kms:EncryptionContext:app":"x"}`, upper, true},
		{"context value has case", `"StringEquals":{"kms:EncryptionContext:app":"X"}`, app, false},
		{"context absent", `"StringEquals":{"kms:EncryptionContext:app":"x"}`, Context{}, false},
		{"all keys listed", `"ForAllValues:StringEquals":{"kms:EncryptionContextKeys":["app","n"]}`, app, true},
		{"a key not listed", `"ForAllValues:StringEquals":{"kms:EncryptionContextKeys":["app"]}`, app, false},
		{"keys have case", `"ForAllValues:StringEquals":{"kms:EncryptionContextKeys":["app"]}`, upper, false},
		{"no context meets ForAllValues", `"ForAllValues:StringEquals":{"kms:EncryptionContextKeys":["app"]}`, Context{}, true},
		{"unless Null false", `"ForAllValues:StringEquals":{"kms:EncryptionContextKeys":["app"]},"Null":{"kms:EncryptionContextKeys":"false"}`, Context{}, false},
		{"Null false present", `"Null":{"kms:EncryptionContextKeys":false}`, app, true},
		{"Null true absent", `"Null":{"kms:EncryptionContextKeys":"true"}`, Context{}, true},
		{"ForAnyValue", `"ForAnyValue:StringEquals":{"kms:EncryptionContextKeys":["n","z"]}`, app, true},
		{"ForAnyValue none", `"ForAnyValue:StringEquals":{"kms:EncryptionContextKeys":["z"]}`, app, false},
		{"ForAnyValue absent", `"ForAnyValue:StringNotEquals":{"kms:EncryptionContextKeys":["z"]}`, Context{}, false},
		{"ForAnyValue negated", `"ForAnyValue:StringNotEquals":{"kms:EncryptionContextKeys":["app"]}`, app, true},
		{"ForAllValues negated", `"ForAllValues:StringNotEquals":{"kms:EncryptionContextKeys":["app"]}`, onlyApp, false},
		{"AND over keys", `"StringEquals":{"kms:EncryptionContext:app":"x","kms:EncryptionContext:n":"2"}`, app, false},
		{"OR over values", `"StringEquals":{"kms:EncryptionContext:n":["2","1"]}`, app, true},
		{"negated: none may match", `"StringNotEquals":{"kms:EncryptionContext:n":["2","1"]}`, app, false},
		{"negated absent", `"StringNotEquals":{"kms:EncryptionContext:z":"1"}`, app, true},
		{"IfExists absent", `"StringEqualsIfExists":{"kms:EncryptionContext:z":"1"}`, app, true},
		{"IfExists present", `"StringEqualsIfExists":{"kms:EncryptionContext:n":"2"}`, app, false},
		{"ignore case", `"StringEqualsIgnoreCase":{"kms:EncryptionContext:app":"X"}`, app, true},
		{"like", `"StringLike":{"sts:RoleSessionName":"key?right-*"}`, at("sts:RoleSessionName", "keywright-p1"), true},
		{"like has case", `"StringLike":{"sts:RoleSessionName":"Key*"}`, at("sts:RoleSessionName", "keywright-p1"), false},
		{"equals takes no wildcard", `"StringEquals":{"sts:RoleSessionName":"key*"}`, at("sts:RoleSessionName", "keywright-p1"), false},
		{"address", `"IpAddress":{"aws:SourceIp":["10.0.0.0/8","127.0.0.1"]}`, at("aws:SourceIp", "127.0.0.1"), true},
		{"address outside", `"IpAddress":{"aws:SourceIp":"10.0.0.0/8"}`, at("aws:SourceIp", "127.0.0.1"), false},
		{"address v6", `"IpAddress":{"aws:SourceIp":"2001:db8::/32"}`, at("aws:SourceIp", "2001:db8::1"), true},
		{"not address, key absent", `"NotIpAddress":{"aws:SourceIp":"10.0.0.0/8"}`, Context{}, true},
		{"no address at all", `"IpAddress":{"aws:SourceIp":"10.0.0.0/8"}`, at("aws:SourceIp", "x"), false},
		{"number", `"NumericLessThanEquals":{"sts:DurationSeconds":3600}`, at("sts:DurationSeconds", "900"), true},
		{"number too large", `"NumericLessThanEquals":{"sts:DurationSeconds":"3600"}`, at("sts:DurationSeconds", "3601"), false},
		{"date", `"DateLessThan":{"aws:CurrentTime":"2026-01-01T00:00:00Z"}`, at("aws:CurrentTime", "2025-12-31T23:59:59Z"), true},
		{"date past", `"DateLessThan":{"aws:CurrentTime":"2026-01-01T00:00:00Z"}`, at("aws:CurrentTime", "2026-01-01T00:00:00Z"), false},
		{"date in seconds", `"DateGreaterThan":{"aws:EpochTime":"1700000000"}`, at("aws:EpochTime", "1700000001"), true},
		{"bool", `"Bool":{"aws:SecureTransport":"FALSE"}`, at("aws:SecureTransport", "false"), true},
		{"ARN", `"ArnLike":{"aws:PrincipalArn":"arn:aws:iam::*:role/key*"}`, at("aws:PrincipalArn", "arn:aws:iam::1:role/keywright"), true},
		{"ARN part by part", `"ArnEquals":{"aws:PrincipalArn":"arn:*:role/keywright"}`, at("aws:PrincipalArn", "arn:aws:iam::1:role/keywright"), false},
		{"ARN negated", `"ArnNotEquals":{"aws:PrincipalArn":"arn:aws:iam::1:role/other"}`, at("aws:PrincipalArn", "arn:aws:iam::1:role/keywright"), true},
		{"tag, name without case", `"StringEquals":{"aws:PrincipalTag/Team":"x"}`, at("aws:PrincipalTag/team", "x"), true},
		{"tag of the resource like the caller's", `"StringEquals":{"aws:ResourceTag/team":"${aws:PrincipalTag/team}"}`, Context{"aws:resourcetag/team": {"x"}, "aws:principaltag/team": {"x"}}, true},
		{"tag absent", `"StringEquals":{"aws:ResourceTag/team":"x"}`, Context{}, false},
		{"no service calls here: ViaService", `"StringEquals":{"kms:ViaService":"s3.us-east-1.amazonaws.com"}`, Context{}, false},
		{"no service calls here: not ViaService", `"StringNotEquals":{"kms:ViaService":"s3.us-east-1.amazonaws.com"}`, Context{}, true},
		{"variable", `"StringEquals":{"kms:EncryptionContext:app":"${aws:username}"}`, Context{"kms:encryptioncontext:app": {"u"}, "aws:username": {"u"}}, true},
		{"variable's star is no wildcard", `"StringLike":{"kms:EncryptionContext:app":"${aws:username}"}`, Context{"kms:encryptioncontext:app": {"xyz"}, "aws:username": {"*"}}, false},
		{"variable with default", `"StringEquals":{"kms:EncryptionContext:app":"${aws:username, 'x'}"}`, app, true},
		{"variable unknown", `"StringNotEquals":{"kms:EncryptionContext:app":"${aws:username}"}`, app, false},
		{"literal star", `"StringLike":{"kms:EncryptionContext:app":"${*}"}`, app, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := doc(`{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*","Condition":{` + c.condition + `}}`)
			v := vector{caller: u, key: text, context: c.ctx}
			if got := v.decide(t, Key, keyK).Allowed(); got != c.want {
				t.Errorf("allowed %v, want %v", got, c.want)
			}
		})
	}
}

func TestOldLanguageHasNoVariables(t *testing.T) {
	text := `{"Statement":{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*","Condition":{"StringEquals":{"kms:EncryptionContext:app":"${aws:username}"}}}}`
	v := vector{caller: userOf(accountA, "u"), key: text, context: Context{"kms:encryptioncontext:app": {"${aws:username}"}, "aws:username": {"u"}}}
	if !v.decide(t, Key, keyK).Allowed() {
		t.Error("the text was not taken as it stands")
	}
}
