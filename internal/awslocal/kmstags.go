package awslocal

import (
	"maps"
	"slices"
)

// kmsTag is a tag in KMS's words.
type kmsTag struct{ TagKey, TagValue string }

func tagsFromKMS(in []kmsTag) ([]tag, error) {
	out := make([]tag, 0, len(in))
	for _, t := range in {
		out = append(out, tag{Key: t.TagKey, Value: t.TagValue})
	}
	return out, checkTags(out)
}

// tagsForKMS writes tags sorted by key.
func tagsForKMS(tags map[string]string) []kmsTag {
	out := []kmsTag{}
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		out = append(out, kmsTag{k, tags[k]})
	}
	return out
}

func tagResource(c *call, st *state, body []byte) (any, error) {
	var in struct {
		keyIDInput
		Tags []kmsTag
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	tags, err := tagsFromKMS(in.Tags)
	if err != nil {
		return nil, err
	}
	k, err := c.manage(st, in.KeyID, "TagResource", requestTags(tags))
	if err != nil {
		return nil, err
	}
	if k.pending() {
		return nil, pendingDeletion(k)
	}
	after, err := withTags(k.Tags, tags)
	if err != nil {
		return nil, err
	}
	k.Tags = after
	return nil, nil
}

func untagResource(c *call, st *state, body []byte) (any, error) {
	var in struct {
		keyIDInput
		TagKeys []string
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	k, err := c.manage(st, in.KeyID, "UntagResource", func(t *target) { t.tagKeys = in.TagKeys })
	if err != nil {
		return nil, err
	}
	if k.pending() {
		return nil, pendingDeletion(k)
	}
	k.Tags = withoutTags(k.Tags, in.TagKeys)
	return nil, nil
}

func listResourceTags(c *call, st *state, body []byte) (any, error) {
	var in struct {
		keyIDInput
		Limit  *int
		Marker string
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	limit := maxTags
	if in.Limit != nil {
		if limit = *in.Limit; limit < 1 || limit > maxTags {
			return nil, invalid("1 validation error detected: Value at 'limit' failed to satisfy constraint: Member must have value between 1 and %d", maxTags)
		}
	}
	k, err := c.manage(st, in.KeyID, "ListResourceTags")
	if err != nil {
		return nil, err
	}
	list := slices.DeleteFunc(tagsForKMS(k.Tags), func(t kmsTag) bool { return in.Marker != "" && t.TagKey <= in.Marker })
	out := map[string]any{"Tags": list, "Truncated": false}
	if len(list) > limit {
		out["Tags"], out["Truncated"], out["NextMarker"] = list[:limit], true, list[limit-1].TagKey
	}
	return out, nil
}
