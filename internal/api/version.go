package api

import (
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/apierr"
)

// legacyVersion and advancedVersion are the versions that v1.0 and v1.5 equal;
// currentVersion is the first with one replicationSpecs element a shard.
const (
	legacyVersion   = "2023-01-01"
	advancedVersion = "2023-02-01"
	currentVersion  = "2024-08-05"
)

// chooseVersion picks the version of a call: the newest one that is not later
// than the date asked for. The date comes from the Accept header, or from the
// body's type where Accept names none.
func chooseVersion(r *http.Request, prefix string, have []string) (string, error) {
	switch prefix {
	case "/api/atlas/v1.0":
		return pick(legacyVersion, have)
	case "/api/atlas/v1.5":
		return pick(advancedVersion, have)
	}
	date, err := askedVersion(r)
	if err != nil {
		return "", err
	}
	return pick(date, have)
}

func pick(date string, have []string) (string, error) {
	chosen := ""
	for _, v := range have {
		if v <= date {
			chosen = v
		}
	}
	if chosen == "" {
		return "", apierr.New(http.StatusNotAcceptable, "INVALID_VERSION_DATE",
			"This resource has no version of %s or before; its oldest is %s. Send Accept: application/vnd.atlas.%s+json.", date, have[0], have[0]).With(date)
	}
	return chosen, nil
}

// askedVersion reads the date that a request names.
func askedVersion(r *http.Request) (string, error) {
	for _, name := range []string{"Accept", "Content-Type"} {
		for _, part := range strings.Split(r.Header.Get(name), ",") {
			media, _, err := mime.ParseMediaType(strings.TrimSpace(part))
			if err != nil {
				continue
			}
			rest, ok := strings.CutPrefix(media, "application/vnd.atlas.")
			date, isJSON := strings.CutSuffix(rest, "+json")
			if !ok || !isJSON {
				continue
			}
			if _, err := time.Parse(time.DateOnly, date); err != nil {
				return "", apierr.New(http.StatusNotAcceptable, "INVALID_VERSION_DATE",
					"%q is not a version date. Send a media type such as application/vnd.atlas.2024-08-05+json.", date).With(date)
			}
			return date, nil
		}
	}
	return "", apierr.New(http.StatusNotAcceptable, "INVALID_VERSION_DATE",
		"The request names no version. Send Accept: application/vnd.atlas.2024-08-05+json (or an older date).")
}

// contentType is the type of a successful answer.
func contentType(f family, prefix, version string) string {
	if f.versioned && prefix == "/api/atlas/v2" {
		return "application/vnd.atlas." + version + "+json;charset=utf-8"
	}
	return "application/json"
}
