package cli

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/keywright/keywright/internal/client"
)

// rotatePoll is how often a rotation is looked at.
const rotatePoll = time.Second

func keyRotateCommand() *cobra.Command {
	var api apiFlags
	var cluster string
	var wait, databases, compact bool
	c := &cobra.Command{
		Use: "rotate PROJECT", Short: "Give the nodes of a project new master keys", Args: cobra.ExactArgs(1),
		Long: "Rotates the master keys of the project's encrypted clusters, or of one: each node makes a new key and seals its\n" +
			"keyring with it while it runs; no data are rewritten and no connection is felt. One cluster follows the other, node\n" +
			"after node. It does not wait for the maintenance window. The replaced keys are destroyed when nothing needs them.\n" +
			"With --databases it is the keys of the databases that are rotated: new files are written under new keys at once,\n" +
			"old ones go over as they are compacted, or all of them now with --compact, which costs disk and processor time but\n" +
			"leaves at least half of both to the clients.\n" +
			"It needs Project Owner.",
		Example: "  keywright key rotate Payments --wait\n  keywright key rotate Payments --cluster staging\n" +
			"  keywright key rotate Payments --databases --compact --wait",
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := api.client()
			if err != nil {
				return err
			}
			p, err := api.project(c.Context(), cl, args[0])
			if err != nil {
				return err
			}
			if compact && !databases {
				return errors.New("--compact rewrites database files: give --databases with it")
			}
			if databases {
				return rotateDatabases(c, &api, cl, p, cluster, compact, wait)
			}
			if cluster != "" {
				_, err = ask[rotatingCluster](c.Context(), cl, http.MethodPost, p.path(clusterPath(cluster)+":rotateMasterKey"), nil)
				if err != nil {
					return fmt.Errorf("rotate: %w", err)
				}
				return followRotations[rotatingCluster](c, &api, cl, p, []string{cluster}, wait)
			}
			all, err := ask[struct {
				Results []rotatingCluster `json:"results"`
			}](c.Context(), cl, http.MethodPost, p.path(":rotateMasterKeys"), nil)
			if err != nil {
				return fmt.Errorf("rotate: %w", err)
			}
			var names []string
			for _, r := range all.value.Results {
				names = append(names, r.Name)
			}
			return followRotations[rotatingCluster](c, &api, cl, p, names, wait)
		},
	}
	api.add(c)
	c.Flags().StringVar(&cluster, "cluster", "", "rotate this cluster only")
	c.Flags().BoolVar(&databases, "databases", false, "rotate the keys of the databases instead: new files use new keys")
	c.Flags().BoolVar(&compact, "compact", false, "with --databases: rewrite all files under the new keys, and remove the old keys")
	c.Flags().BoolVar(&wait, "wait", false, "show the progress until all nodes have new keys")
	return c
}

func clusterPath(name string) string { return "/clusters/" + url.PathEscape(name) }

// rotatingCluster is the API's answer, as far as the text shows it.
type rotatingCluster struct {
	Name     string `json:"name"`
	Rotation *struct {
		State string `json:"state"`
		Nodes []struct {
			NodeID  string `json:"nodeId"`
			State   string `json:"state"`
			To      string `json:"toKeyId"`
			Failure string `json:"failure"`
		} `json:"nodes"`
	} `json:"masterKeyRotation"`
}

// line says how far a cluster is; done that nothing is left.
func (r rotatingCluster) line() (text string, done bool) {
	if r.Rotation == nil {
		return r.Name + ": no rotation", true
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
	return fmt.Sprintf("%s: %s, %d of %d nodes%s", r.Name, r.Rotation.State, n, len(r.Rotation.Nodes), failure), r.Rotation.State == "DONE"
}

// rotating is a cluster as a kind of rotation shows it.
type rotating interface {
	// line tells in a line how far it is, and whether it is done.
	line() (text string, done bool)
}

// followRotations shows how far the clusters are, once or until all are done.
func followRotations[T rotating](c *cobra.Command, api *apiFlags, cl *client.Client, p projectRef, names []string, wait bool) error {
	last := map[string]string{}
	for _, name := range names {
		for {
			a, err := ask[T](c.Context(), cl, http.MethodGet, p.path(clusterPath(name)), nil)
			if err != nil {
				return fmt.Errorf("follow the rotation of %s: %w", name, err)
			}
			text, done := a.value.line()
			if last[name] != text || !wait {
				last[name] = text
				if err := api.show(c, a.raw, func(t *table) { t.line("%s", text) }); err != nil {
					return err
				}
			}
			if done || !wait {
				break
			}
			if err := pause(c.Context(), rotatePoll); err != nil {
				return err
			}
		}
	}
	return nil
}
