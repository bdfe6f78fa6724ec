package cli

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/keywright/keywright/internal/client"
)

// databaseKeysCluster is the API's answer, as far as the text shows it.
type databaseKeysCluster struct {
	Name     string `json:"name"`
	Rotation *struct {
		State   string `json:"state"`
		Compact bool   `json:"compact"`
		Nodes   []struct {
			State   string `json:"state"`
			Failure string `json:"failure"`
		} `json:"nodes"`
	} `json:"databaseKeyRotation"`
	Nodes []struct {
		Keysets *struct {
			Bytes   int64 `json:"bytes"`
			Newest  int64 `json:"bytesUnderNewest"`
			OldKeys int64 `json:"oldKeys"`
		} `json:"databaseKeys"`
	} `json:"nodes"`
}

// line says how far a cluster is; done that nothing is left.
func (r databaseKeysCluster) line() (text string, done bool) {
	if r.Rotation == nil {
		return r.Name + ": no rotation of database keys", true
	}
	n, failure := 0, ""
	for _, part := range r.Rotation.Nodes {
		if part.State == "DONE" || part.State == "SKIPPED" {
			n++
		}
		if part.Failure != "" {
			failure = "; it is tried again: " + part.Failure
		}
	}
	var bytes, newest, old int64
	known := false
	for _, node := range r.Nodes {
		if k := node.Keysets; k != nil {
			bytes, newest, old, known = bytes+k.Bytes, newest+k.Newest, old+k.OldKeys, true
		}
	}
	progress := ""
	if known && bytes > 0 {
		progress = fmt.Sprintf(", %.1f %% of the bytes under the newest keys, %d old keys left", 100*float64(newest)/float64(bytes), old)
	}
	return fmt.Sprintf("%s: %s, %d of %d nodes%s%s", r.Name, r.Rotation.State, n, len(r.Rotation.Nodes), progress, failure), r.Rotation.State == "DONE"
}

// rotateDatabases asks for new database keys of one cluster, or of all encrypted ones.
func rotateDatabases(c *cobra.Command, api *apiFlags, cl *client.Client, p projectRef, cluster string, compact, wait bool) error {
	names := []string{cluster}
	if cluster == "" {
		all, err := ask[struct {
			Results []struct {
				Name string `json:"name"`
				With string `json:"encryptionAtRestProvider"`
			} `json:"results"`
		}](c.Context(), cl, http.MethodGet, atlasAPI+"/groups/"+string(p.ID)+"/clusters?itemsPerPage=500", nil)
		if err != nil {
			return fmt.Errorf("list clusters: %w", err)
		}
		names = nil
		for _, r := range all.value.Results {
			if r.With == "AWS" {
				names = append(names, r.Name)
			}
		}
		if len(names) == 0 {
			return errors.New("no cluster of the project is encrypted with a customer key: there are no database keys to rotate")
		}
	}
	for _, name := range names {
		if _, err := ask[databaseKeysCluster](c.Context(), cl, http.MethodPost, p.path(clusterPath(name)+":rotateDatabaseKeys"), map[string]bool{"compact": compact}); err != nil {
			return fmt.Errorf("rotate: %w", err)
		}
	}
	return followRotations[databaseKeysCluster](c, api, cl, p, names, wait)
}
