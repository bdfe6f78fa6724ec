package api

import (
	"maps"
	"net/http"

	"github.com/keywright/keywright/internal/control/tenant"
)

// defaultSettings are a project's flags until somebody changes them. They belong to
// services of Atlas that there are none of here: they are stored and given back, as
// Terraform's provider needs every one of them.
func defaultSettings() map[string]bool {
	return map[string]bool{
		"isClusterAiAssistantEnabled":                     false,
		"isCollectDatabaseSpecificsStatisticsEnabled":     true,
		"isDataExplorerEnabled":                           true,
		"isDataExplorerGenAIFeaturesEnabled":              false,
		"isDataExplorerGenAISampleDocumentPassingEnabled": false,
		"isDataValidationEnabled":                         false,
		"isExtendedStorageSizesEnabled":                   false,
		"isNativeRerankingEnabled":                        false,
		"isPerformanceAdvisorEnabled":                     true,
		"isRealtimePerformancePanelEnabled":               true,
		"isSchemaAdvisorEnabled":                          true,
	}
}

type settingsRequest struct {
	AIAssistant      *bool `json:"isClusterAiAssistantEnabled"`
	Statistics       *bool `json:"isCollectDatabaseSpecificsStatisticsEnabled"`
	DataExplorer     *bool `json:"isDataExplorerEnabled"`
	GenAI            *bool `json:"isDataExplorerGenAIFeaturesEnabled"`
	GenAISamples     *bool `json:"isDataExplorerGenAISampleDocumentPassingEnabled"`
	DataValidation   *bool `json:"isDataValidationEnabled"`
	ExtendedStorage  *bool `json:"isExtendedStorageSizesEnabled"`
	Reranking        *bool `json:"isNativeRerankingEnabled"`
	Advisor          *bool `json:"isPerformanceAdvisorEnabled"`
	PerformancePanel *bool `json:"isRealtimePerformancePanelEnabled"`
	SchemaAdvisor    *bool `json:"isSchemaAdvisorEnabled"`
}

// flags gives the flags that the request names.
func (in settingsRequest) flags() map[string]bool {
	out := map[string]bool{}
	for name, v := range map[string]*bool{
		"isClusterAiAssistantEnabled":                     in.AIAssistant,
		"isCollectDatabaseSpecificsStatisticsEnabled":     in.Statistics,
		"isDataExplorerEnabled":                           in.DataExplorer,
		"isDataExplorerGenAIFeaturesEnabled":              in.GenAI,
		"isDataExplorerGenAISampleDocumentPassingEnabled": in.GenAISamples,
		"isDataValidationEnabled":                         in.DataValidation,
		"isExtendedStorageSizesEnabled":                   in.ExtendedStorage,
		"isNativeRerankingEnabled":                        in.Reranking,
		"isPerformanceAdvisorEnabled":                     in.Advisor,
		"isRealtimePerformancePanelEnabled":               in.PerformancePanel,
		"isSchemaAdvisorEnabled":                          in.SchemaAdvisor,
	} {
		if v != nil {
			out[name] = *v
		}
	}
	return out
}

func settingsBody(stored map[string]bool) map[string]bool {
	out := defaultSettings()
	maps.Copy(out, stored)
	return out
}

func getSettings(c *call) (int, any, error) {
	p, err := c.cfg.Tenant.Project(c.ctx(), c.who, c.project())
	return http.StatusOK, settingsBody(p.Settings), err
}

func updateSettings(c *call) (int, any, error) {
	var in settingsRequest
	if err := decode(c.r, &in); err != nil {
		return 0, nil, err
	}
	p, err := c.cfg.Tenant.ProjectFor(c.ctx(), c.who, tenant.GroupOwner, c.project())
	if err != nil {
		return 0, nil, err
	}
	// Terraform sends all flags back: what is as it was makes no event.
	have, flags := settingsBody(p.Settings), in.flags()
	maps.DeleteFunc(flags, func(name string, v bool) bool { return have[name] == v })
	if len(flags) > 0 {
		p, err = c.cfg.Tenant.UpdateProject(c.ctx(), c.who, c.project(), tenant.ProjectPatch{Settings: flags})
	}
	return http.StatusOK, settingsBody(p.Settings), err
}

func getManagedSlowMs(c *call) (int, any, error) {
	p, err := c.cfg.Tenant.Project(c.ctx(), c.who, c.project())
	return http.StatusOK, p.ManagedSlowMs, err
}

func enableManagedSlowMs(c *call) (int, any, error)  { return c.setManagedSlowMs(true) }
func disableManagedSlowMs(c *call) (int, any, error) { return c.setManagedSlowMs(false) }

func (c *call) setManagedSlowMs(on bool) (int, any, error) {
	p, err := c.cfg.Tenant.ProjectFor(c.ctx(), c.who, tenant.GroupOwner, c.project())
	if err == nil && p.ManagedSlowMs != on {
		_, err = c.cfg.Tenant.UpdateProject(c.ctx(), c.who, c.project(), tenant.ProjectPatch{ManagedSlowMs: &on})
	}
	return noContent(err)
}

// listLimits answers a bare array. There are no limits that could be changed.
func listLimits(c *call) (int, any, error) {
	_, err := c.cfg.Tenant.Project(c.ctx(), c.who, c.project())
	return http.StatusOK, []struct{}{}, err
}

// listNobody lists a project's people or teams: there are API keys only.
func listNobody(c *call) (int, any, error) {
	if _, err := c.cfg.Tenant.Project(c.ctx(), c.who, c.project()); err != nil {
		return 0, nil, err
	}
	return paged(c, []struct{}{})
}
