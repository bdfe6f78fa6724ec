package api

import (
	"encoding/json"
	"net/http"
	"slices"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/cluster"
	"github.com/keywright/keywright/internal/store"
)

// processArgs are the arguments of a cluster's processes: stored and given back.
// Those of TLS are the cluster's advancedConfiguration under another path.
type processArgs struct {
	ExpireImagesAfter *int      `json:"changeStreamOptionsPreAndPostImagesExpireAfterSeconds"`
	ChunkMigration    *int      `json:"chunkMigrationConcurrency"`
	Ciphers12         *[]string `json:"customOpensslCipherConfigTls12"`
	Ciphers13         *[]string `json:"customOpensslCipherConfigTls13"`
	MaxTimeMS         *int      `json:"defaultMaxTimeMS"`
	WriteConcern      *string   `json:"defaultWriteConcern"`
	JavaScript        *bool     `json:"javascriptEnabled"`
	MinimumTLS        *string   `json:"minimumEnabledTlsProtocol"`
	NoTableScan       *bool     `json:"noTableScan"`
	OplogHours        *float64  `json:"oplogMinRetentionHours"`
	OplogMB           *int      `json:"oplogSizeMB"`
	QueryStats        *int      `json:"queryStatsLogVerbosity"`
	BIRefresh         *int      `json:"sampleRefreshIntervalBIConnector"`
	BISample          *int      `json:"sampleSizeBIConnector"`
	CipherMode        *string   `json:"tlsCipherConfigMode"`
	TransactionLife   *int      `json:"transactionLifetimeLimitSeconds"`
}

// legacyProcessArgs has two arguments more, until 2024-08-05.
type legacyProcessArgs struct {
	processArgs
	ReadConcern      *string `json:"defaultReadConcern"`
	FailIndexTooLong *bool   `json:"failIndexKeyTooLong"`
}

// argsBody shows a cluster's arguments; what was never set is null.
func (c *call) argsBody(s store.ClusterSettings) (any, error) {
	var out legacyProcessArgs
	b, err := json.Marshal(s.ProcessArgs)
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		return nil, err
	}
	whenUnset(&out.WriteConcern, "majority")
	whenUnset(&out.JavaScript, false) // nodes run none
	whenUnset(&out.NoTableScan, false)
	a := s.Advanced
	out.MinimumTLS, out.CipherMode = &a.MinimumEnabledTLSProtocol, &a.TLSCipherConfigMode
	out.Ciphers12, out.Ciphers13 = orEmpty(a.CustomCipherTLS12), orEmpty(a.CustomCipherTLS13)
	if c.version == legacyVersion {
		return out, nil
	}
	return out.processArgs, nil
}

func whenUnset[T any](into **T, v T) {
	if *into == nil {
		*into = &v
	}
}

func getProcessArgs(c *call) (int, any, error) {
	v, err := c.cfg.Cluster.Get(c.ctx(), c.who, c.project(), c.vars["clusterName"])
	if err != nil {
		return 0, nil, err
	}
	body, err := c.argsBody(v.Settings)
	return http.StatusOK, body, err
}

func updateProcessArgs(c *call) (int, any, error) {
	var in legacyProcessArgs
	var err error
	if c.version == legacyVersion {
		err = decode(c.r, &in)
	} else {
		err = decode(c.r, &in.processArgs)
	}
	if err != nil {
		return 0, nil, err
	}
	if err := in.check(); err != nil {
		return 0, nil, err
	}
	old, err := c.cfg.Cluster.Get(c.ctx(), c.who, c.project(), c.vars["clusterName"])
	if err != nil {
		return 0, nil, err
	}
	p, err := in.patch(old.Settings)
	if err != nil {
		return 0, nil, err
	}
	v, err := c.cfg.Cluster.Update(c.ctx(), c.who, c.project(), old.Name, p)
	if err != nil {
		return 0, nil, err
	}
	body, err := c.argsBody(v.Settings)
	return http.StatusOK, body, err
}

func (in legacyProcessArgs) check() error {
	if w := in.WriteConcern; w != nil && (*w == "" || len(*w) > 64) {
		return badAttribute("defaultWriteConcern", "1 to 64 characters are expected")
	}
	if err := oneOf("defaultReadConcern", in.ReadConcern, "local", "available"); err != nil {
		return err
	}
	for name, v := range map[string]*int{
		"chunkMigrationConcurrency": in.ChunkMigration, "defaultMaxTimeMS": in.MaxTimeMS, "oplogSizeMB": in.OplogMB, "queryStatsLogVerbosity": in.QueryStats,
		"sampleRefreshIntervalBIConnector": in.BIRefresh, "sampleSizeBIConnector": in.BISample, "transactionLifetimeLimitSeconds": in.TransactionLife,
	} {
		if v != nil && *v < 0 {
			return badAttribute(name, "a number from 0 is expected")
		}
	}
	if v := in.OplogHours; v != nil && *v < 0 {
		return badAttribute("oplogMinRetentionHours", "a number from 0 is expected")
	}
	if v := in.ExpireImagesAfter; v != nil && *v < -1 {
		return badAttribute("changeStreamOptionsPreAndPostImagesExpireAfterSeconds", "a number from 0, or -1 for the default, is expected")
	}
	return checkTLS(in.MinimumTLS, in.CipherMode, in.Ciphers12, in.Ciphers13)
}

// patch turns the arguments that were sent into a change. Numbers take the form in
// which they come back from the store, so that the same value is no change.
func (in legacyProcessArgs) patch(old store.ClusterSettings) (cluster.Patch, error) {
	p := cluster.Patch{Advanced: mergeTLS(old.Advanced, in.MinimumTLS, in.CipherMode, in.Ciphers12, in.Ciphers13)}
	in.MinimumTLS, in.CipherMode, in.Ciphers12, in.Ciphers13 = nil, nil, nil, nil
	var sent map[string]any
	b, err := json.Marshal(in)
	if err == nil {
		err = json.Unmarshal(b, &sent)
	}
	if err != nil {
		return p, err
	}
	args := map[string]any{}
	for name, v := range sent {
		if v != nil {
			args[name] = v
		}
	}
	if v := in.ExpireImagesAfter; v != nil && *v == -1 {
		args["changeStreamOptionsPreAndPostImagesExpireAfterSeconds"] = nil // the default
	}
	for name, v := range args {
		if have, ok := old.ProcessArgs[name]; ok && have == v || !ok && v == nil {
			delete(args, name)
		}
	}
	if len(args) > 0 {
		p.ProcessArgs = args
	}
	return p, nil
}

// mergeTLS gives the TLS settings with what was sent in them; nil for no change.
func mergeTLS(a store.AdvancedConfiguration, minimum, mode *string, ciphers12, ciphers13 *[]string) *store.AdvancedConfiguration {
	if minimum == nil && mode == nil && ciphers12 == nil && ciphers13 == nil {
		return nil
	}
	if minimum != nil {
		a.MinimumEnabledTLSProtocol = *minimum
	}
	if mode != nil {
		a.TLSCipherConfigMode = *mode
	}
	if ciphers12 != nil {
		a.CustomCipherTLS12 = *orNil(ciphers12)
	}
	if ciphers13 != nil {
		a.CustomCipherTLS13 = *orNil(ciphers13)
	}
	return &a
}

func checkTLS(minimum, mode *string, lists ...*[]string) error {
	if err := oneOf("minimumEnabledTlsProtocol", minimum, "TLS1_0", "TLS1_1", "TLS1_2", "TLS1_3"); err != nil {
		return err
	}
	if err := oneOf("tlsCipherConfigMode", mode, "CUSTOM", "DEFAULT"); err != nil {
		return err
	}
	for _, l := range lists {
		if l == nil {
			continue
		}
		if len(*l) > 50 || slices.ContainsFunc(*l, func(s string) bool { return s == "" || len(s) > 100 }) {
			return badAttribute("customOpensslCipherConfig", "at most 50 names of cipher suites are possible")
		}
	}
	return nil
}

func oneOf(name string, v *string, allowed ...string) error {
	if v == nil || slices.Contains(allowed, *v) {
		return nil
	}
	return apierr.BadRequest("INVALID_ENUM_VALUE", "An invalid enumeration value %q was specified for %s; possible are %q.", (*v)[:min(len(*v), 100)], name, allowed).With(name)
}

func missingAttribute(name string) error {
	return apierr.BadRequest("MISSING_ATTRIBUTE", "The required attribute %s was not specified.", name).With(name)
}

func badAttribute(name, what string) error {
	return apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute %s specified: %s.", name, what).With(name)
}

// orNil turns an empty list into none, as it comes back from the store: an empty
// list in the place of none is no change.
func orNil[T any](s *[]T) *[]T {
	if s != nil && len(*s) == 0 {
		return new([]T)
	}
	return s
}
