package awslocal

import (
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	maxTags     = 50
	maxTagKey   = 128
	maxTagValue = 256
)

// tag is a pair on a key, user, role or managed policy.
type tag struct{ Key, Value string }

// tagError says what is wrong with tags; IAM and KMS give it different names.
type tagError struct{ text string }

func (e *tagError) Error() string { return e.text }

// checkTags checks the tags of one request.
func checkTags(tags []tag) error {
	seen := map[string]bool{}
	for _, t := range tags {
		switch {
		case t.Key == "" || utf8.RuneCountInString(t.Key) > maxTagKey || utf8.RuneCountInString(t.Value) > maxTagValue:
			return &tagError{"A tag key has 1 to 128 characters and a value at most 256"}
		case strings.HasPrefix(strings.ToLower(t.Key), "aws:"):
			return &tagError{"Tags beginning with aws: are reserved"}
		case seen[strings.ToLower(t.Key)]:
			return &tagError{"Duplicate tag keys"}
		}
		seen[strings.ToLower(t.Key)] = true
	}
	if len(tags) > maxTags {
		return &tagError{"Too many tags"}
	}
	return nil
}

// withTags gives the tags after a change.
func withTags(old map[string]string, add []tag) (map[string]string, error) {
	out := maps.Clone(old)
	if out == nil {
		out = map[string]string{}
	}
	for _, t := range add {
		// Keys that differ in case only are one tag, as they are one condition key.
		maps.DeleteFunc(out, func(k, _ string) bool { return strings.EqualFold(k, t.Key) })
		out[t.Key] = t.Value
	}
	if len(out) > maxTags {
		return nil, &tagError{"Too many tags"}
	}
	return out, nil
}

func withoutTags(old map[string]string, names []string) map[string]string {
	out := maps.Clone(old)
	for _, n := range names {
		delete(out, n)
	}
	return out
}

// asMap is what the condition keys aws:RequestTag/... see.
func asMap(tags []tag) map[string]string {
	out := make(map[string]string, len(tags))
	for _, t := range tags {
		out[t.Key] = t.Value
	}
	return out
}

// tagElements writes tags sorted by key.
func tagElements(tags map[string]string) element {
	out := group("Tags")
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		out.kids = append(out.kids, group("member", leaf("Key", k), leaf("Value", tags[k])))
	}
	return out
}
