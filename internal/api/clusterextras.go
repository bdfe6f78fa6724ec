package api

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/keys"
)

// autoScalingMode answers how a cluster scales: as a whole.
func autoScalingMode(c *call) (int, any, error) {
	_, err := c.cfg.Cluster.Get(c.ctx(), c.who, c.project(), c.vars["clusterName"])
	return http.StatusOK, map[string]string{"autoScalingMode": "CLUSTER_WIDE_SCALING"}, err
}

// containerBody is a network container. Clusters run on enrolled hosts, in networks
// that are not the platform's: a container is no more than the name of a region in a
// project, which Terraform looks up for every region of a cluster.
type containerBody struct {
	ID           string `json:"id"`
	ProviderName string `json:"providerName"`
	RegionName   string `json:"regionName"`
	Provisioned  bool   `json:"provisioned"`
}

func listContainers(c *call) (int, any, error) {
	all, err := c.cfg.Cluster.List(c.ctx(), c.who, c.project())
	if err != nil {
		return 0, nil, err
	}
	out, seen := []containerBody{}, map[containerBody]bool{}
	for _, v := range all {
		for _, sp := range v.Settings.Specs {
			for _, r := range sp.Regions {
				b := containerBody{ID: containerID(c.project(), r.ProviderName, r.RegionName), ProviderName: r.ProviderName, RegionName: r.RegionName}
				if p := c.query("providerName"); seen[b] || p != "" && p != r.ProviderName {
					continue
				}
				seen[b] = true
				out = append(out, b)
			}
		}
	}
	return paged(c, out)
}

// containerID follows from what the container is, so that it never changes.
func containerID(project keys.ProjectID, provider, region string) string {
	sum := sha256.Sum256([]byte("keywright container " + string(project) + " " + provider + " " + region))
	return hex.EncodeToString(sum[:12])
}

func listFlexClusters(c *call) (int, any, error) { return listNobody(c) }

// createTenantCluster refuses, by name, the kinds of clusters that share processes
// with those of others.
func createTenantCluster(c *call) (int, any, error) {
	if _, err := c.cfg.Tenant.Project(c.ctx(), c.who, c.project()); err != nil {
		return 0, nil, err
	}
	return 0, nil, apierr.BadRequest("FEATURE_UNSUPPORTED", "Flex and Serverless clusters cannot be had: make a cluster of tier M10 or larger (POST /groups/%s/clusters).", c.project())
}

// notFlex answers what the Atlas CLI asks before the ordinary path: only these codes
// make it go on there.
func notFlex(c *call) (int, any, error) {
	name := c.vars["clusterName"]
	if _, err := c.cfg.Cluster.Get(c.ctx(), c.who, c.project(), name); err != nil {
		return 0, nil, err
	}
	return 0, nil, apierr.BadRequest("CANNOT_USE_NON_FLEX_CLUSTER_IN_FLEX_API", "The cluster %s is not a Flex cluster and cannot be used in the Flex API.", name).With(name)
}
