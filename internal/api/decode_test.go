package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/store"
)

type sample struct {
	Name  string            `json:"name"`
	Count *int              `json:"count"`
	Parts []part            `json:"parts"`
	Map   map[string]part   `json:"map"`
	At    *time.Time        `json:"at"`
	Seen  json.RawMessage   `json:"seen"`
	Inner *struct{ X bool } `json:"inner"`
}

type part struct {
	On bool `json:"on"`
}

func TestBodiesAreReadExactly(t *testing.T) {
	for body, want := range map[string]struct{ code, says string }{
		`{}`: {}, `null`: {}, ` {"name":"x"} `: {}, `{"name":null,"count":null,"parts":null,"at":null,"seen":null}`: {},
		`{"seen":{"any":[{"thing":1}]}}`: {}, `{"parts":[{"on":true},{}]}`: {}, `{"map":{"any name":{"on":true}}}`: {},
		`{"at":"2026-01-31T12:00:00Z"}`: {},
		``:                              {"MALFORMED_JSON", ""}, `{`: {"MALFORMED_JSON", ""}, `{"name":"x"}}`: {"MALFORMED_JSON", ""},
		`{"name":"x"} {}`: {"MALFORMED_JSON", ""}, `{"name":"x"},`: {"MALFORMED_JSON", ""}, `{name:1}`: {"MALFORMED_JSON", ""},
		`{"name":"x",}`: {"MALFORMED_JSON", ""}, `{"name":"x"}//`: {"MALFORMED_JSON", ""}, "\x00": {"MALFORMED_JSON", ""},
		`{"Name":"x"}`: {"INVALID_ATTRIBUTE", "Name"}, `{"NAME":"x"}`: {"INVALID_ATTRIBUTE", "NAME"}, `{"other":1}`: {"INVALID_ATTRIBUTE", "other"},
		`{"parts":[{"on":true},{"off":1}]}`: {"INVALID_ATTRIBUTE", "parts.off"}, `{"map":{"a":{"On":true}}}`: {"INVALID_ATTRIBUTE", "map.a.On"},
		`{"other":null}`: {"INVALID_ATTRIBUTE", "other"},
		`{"name":1}`:     {"INVALID_ATTRIBUTE", "name"}, `{"count":"1"}`: {"INVALID_ATTRIBUTE", "count"}, `{"count":1.5}`: {"INVALID_ATTRIBUTE", "count"},
		`{"count":99999999999999999999}`: {"INVALID_ATTRIBUTE", "count"}, `{"parts":{}}`: {"INVALID_ATTRIBUTE", "parts"}, `{"parts":[1]}`: {"INVALID_ATTRIBUTE", "parts"},
		`{"at":"yesterday"}`: {"INVALID_ATTRIBUTE", "time"}, `[]`: {"INVALID_JSON", "object"}, `"x"`: {"INVALID_JSON", "object"}, `17`: {"INVALID_JSON", ""},
		`{"name":"x","name":"y"}`: {"INVALID_JSON", "name comes twice"}, `{"seen":{"a":1,"a":2}}`: {"INVALID_JSON", "seen.a"},
		`{"parts":[{"off":1}],"parts":[]}`:                                     {"INVALID_ATTRIBUTE", "parts.off"},
		`{"seen":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`: {"INVALID_JSON", "levels"},
	} {
		var v sample
		err := decode(httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body)), &v)
		if apierr.Code(err) != want.code || (err != nil && !strings.Contains(err.Error(), want.says)) {
			t.Errorf("%.60s: %v, want %v", body, err, want)
		}
	}
	exact := `{"name":"` + strings.Repeat("x", maxBody-len(`{"name":""}`)) + `"}`
	var v sample
	if err := decode(httptest.NewRequest(http.MethodPost, "/", strings.NewReader(exact)), &v); err != nil {
		t.Errorf("the largest body: %v", err)
	}
	if err := decode(httptest.NewRequest(http.MethodPost, "/", strings.NewReader(exact+" ")), &v); apierr.Code(err) != "REQUEST_TOO_LARGE" {
		t.Errorf("a larger one: %v", err)
	}
}

// Whatever comes is decoded or refused with a code, never both, and never a panic.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		`{"name":"x","parts":[{"on":true}]}`, `{"replicationSpecs":[{"regionConfigs":[{"electableSpecs":{"instanceSize":"M10"}}]}]}`, `[[[[`, `{"a":{"a":{}}}`,
		`{"replicationSpecs":[{"regionsConfig":{"US_EAST_1":{"electableNodes":3}}}],"providerSettings":{"instanceSizeName":"M10"}}`, `null`, `{"at":""}`, "{\"\xff\":1}",
		`[{"cidrBlock":"0.0.0.0/0","deleteAfterDate":"2026-01-31T12:00:00Z"}]`, `{"awsKms":{"enabled":true},"azureKeyVault":{}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, v := range []any{&sample{}, &clusterRequest{}, &legacyRequest{}, &encryptionRequest{}, &[]entryRequest{}, &userRequest{}, &legacyProcessArgs{}} {
			err := decodeBytes(b, v)
			if err != nil && apierr.Code(err) == "" {
				t.Errorf("refused without a code: %v", err)
			}
			if err == nil && !json.Valid(b) {
				t.Error("taken though malformed")
			}
			if c, ok := v.(change); ok && err == nil {
				_, _ = c.patch(legacyVersion, exampleSettings())
				_, _ = c.patch(currentVersion, exampleSettings())
			}
		}
	})
}

func exampleSettings() store.ClusterSettings {
	return store.ClusterSettings{Specs: []store.ReplicationSpec{{ID: "a", ZoneName: "Zone 1", NumShards: 1, Regions: []store.RegionConfig{
		{ProviderName: "AWS", RegionName: "US_EAST_1", Priority: 7, Electable: &store.HardwareSpec{InstanceSize: "M10", NodeCount: 3, DiskSizeGB: 10}},
	}}}}
}
