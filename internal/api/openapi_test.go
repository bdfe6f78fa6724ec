package api_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/keywright/keywright/internal/api"
)

// spec is the published description of the API. It may be read where it lies beside
// the checkout, and is no part of the project.
const spec = "../../../shared/reference/atlas-openapi.json"

// statuses that the real service gives where its description says otherwise.
var liveStatus = map[string]string{
	"POST /groups": "200", "DELETE /groups/{groupId}": "204", "POST /groups/{groupId}/accessList": "200",
	"POST /groups/{groupId}/alertConfigs": "200",
}

// knownToDiffer are places where the description does not fit the real service or
// contradicts itself: events have types that are ours (and the description knows an
// event by its type only), appName is our own, readPreference is in lower case, regionName must be text
// and an object at once, and the hardware of three providers is told apart by nothing.
var knownToDiffer = regexp.MustCompile(`/(eventTypeName|resourceType|readPreference|regionName|electableSpecs|appName)$`)

// The answers of the whole tour are what the description says.
func TestAnswersFollowTheDescription(t *testing.T) {
	doc := description(t)
	r := newRig(t)
	checked := 0
	r.run(func(c touch, a answer) {
		name := api.RouteOf(c.method, c.path)
		pattern, ok := strings.CutPrefix(name, c.method+" "+v2)
		if !ok || a.status >= 400 || strings.Contains(pattern, "/alert") {
			return // alerts have a test of their own
		}
		op := operation(doc, c.method, pattern)
		if op == nil {
			t.Errorf("%s %s is not described", c.method, pattern)
			return
		}
		status := itoa(a.status)
		if s, ok := liveStatus[c.method+" "+pattern]; ok {
			status = s
		}
		resp := op.Responses.Value(status)
		if resp == nil {
			t.Errorf("%s %s answers %d, which is not described", c.method, pattern, a.status)
			return
		}
		if a.raw == "" {
			return
		}
		media, _, _ := strings.Cut(a.header.Get("Content-Type"), ";")
		content := resp.Value.Content[media]
		if content == nil {
			t.Errorf("%s %s answers %q, which is not described", c.method, pattern, media)
			return
		}
		if content.Schema == nil {
			return
		}
		var body any
		if err := json.Unmarshal([]byte(a.raw), &body); err != nil {
			t.Fatal(err)
		}
		if err := content.Schema.Value.VisitJSON(withoutNulls(body), openapi3.MultiErrors()); err != nil {
			for _, reason := range reasons(err) {
				t.Errorf("%s %s (%s): %s", c.method, pattern, media, reason)
			}
		}
		checked++
	})
	t.Logf("%d answers were checked", checked)
	if checked < 40 {
		t.Errorf("only %d answers were checked", checked)
	}
}

// description reads the published description.
func description(t *testing.T) *openapi3.T {
	t.Helper()
	b, err := os.ReadFile(spec)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("the OpenAPI description atlas-openapi.json is not beside the checkout")
	}
	if err != nil {
		t.Fatal(err)
	}
	doc, err := openapi3.NewLoader().LoadFromData(b)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// reasons gives the findings without the schemas that they quote.
func reasons(err error) []string {
	var many openapi3.MultiError
	if errors.As(err, &many) {
		var out []string
		for _, e := range many {
			out = append(out, reasons(e)...)
		}
		return out
	}
	var one *openapi3.SchemaError
	if errors.As(err, &one) {
		if knownToDiffer.MatchString("/" + strings.Join(one.JSONPointer(), "/")) {
			return nil
		}
		return []string{"/" + strings.Join(one.JSONPointer(), "/") + ": " + one.Reason}
	}
	return []string{err.Error()}
}

func operation(doc *openapi3.T, method, pattern string) *openapi3.Operation {
	path := doc.Paths.Find(v2 + pattern)
	if path == nil {
		return nil
	}
	return path.GetOperation(method)
}

// withoutNulls takes nulls out: the real service gives them where its description
// does not mention them (authorizedDate, customerMasterKeyID).
func withoutNulls(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for name, child := range v {
			if child != nil {
				out[name] = withoutNulls(child)
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, child := range v {
			out[i] = withoutNulls(child)
		}
		return out
	}
	return v
}
