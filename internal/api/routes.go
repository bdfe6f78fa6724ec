package api

import (
	"net/http"
	"slices"
)

// routes is the API.
func routes() []route {
	var (
		v1       = []string{legacyVersion}
		v15      = []string{advancedVersion}
		clusters = []string{legacyVersion, advancedVersion, currentVersion}
		writes   = append(slices.Clone(clusters), "2024-10-23")
		args     = []string{legacyVersion, currentVersion}
		flex     = []string{"2024-11-13"}
		get      = http.MethodGet
		post     = http.MethodPost
		put      = http.MethodPut
		patch    = http.MethodPatch
		del      = http.MethodDelete
	)
	return []route{
		{method: get, pattern: "", family: atlas, versions: v1, handle: root},
		{method: get, pattern: "/unauth/controlPlaneIPAddresses", family: atlasV2, versions: []string{"2023-11-15"}, open: true, handle: controlPlaneAddresses},
		{method: get, pattern: "/orgs", family: atlas, versions: v1, handle: listOrgs},
		{method: get, pattern: "/orgs/{orgId}", family: atlas, versions: v1, handle: getOrg},
		{method: get, pattern: "/orgs/{orgId}/groups", family: atlas, versions: v1, handle: listGroups},
		{method: get, pattern: "/orgs/{orgId}/events", family: atlas, versions: v1, handle: listOrgEvents},
		{method: get, pattern: "/orgs/{orgId}/events/{eventId}", family: atlas, versions: v1, handle: getOrgEvent},

		{method: get, pattern: "/orgs/{orgId}/apiKeys", family: atlas, versions: v1, handle: listAPIKeys},
		{method: post, pattern: "/orgs/{orgId}/apiKeys", family: atlas, versions: v1, handle: createOrgAPIKey},
		{method: get, pattern: "/orgs/{orgId}/apiKeys/{apiUserId}", family: atlas, versions: v1, handle: getAPIKey},
		{method: del, pattern: "/orgs/{orgId}/apiKeys/{apiUserId}", family: atlas, versions: v1, handle: deleteAPIKey},
		{method: post, pattern: "/groups/{groupId}/apiKeys", family: atlas, versions: v1, handle: createGroupAPIKey},
		{method: patch, pattern: "/groups/{groupId}/apiKeys/{apiUserId}", family: atlas, versions: v1, handle: assignAPIKey},

		{method: post, pattern: "/groups", family: atlas, versions: v1, handle: createGroup},
		{method: get, pattern: "/groups", family: atlas, versions: v1, handle: listGroups},
		{method: get, pattern: "/groups/byName/{groupName}", family: atlas, versions: v1, handle: getGroupByName},
		{method: get, pattern: "/groups/{groupId}", family: atlas, versions: v1, handle: getGroup},
		{method: patch, pattern: "/groups/{groupId}", family: atlas, versions: v1, handle: updateGroup},
		{method: del, pattern: "/groups/{groupId}", family: atlas, versions: v1, handle: deleteGroup},
		{method: get, pattern: "/groups/{groupId}/events", family: atlas, versions: v1, handle: listProjectEvents},
		{method: get, pattern: "/groups/{groupId}/events/{eventId}", family: atlas, versions: v1, handle: getProjectEvent},
		{method: get, pattern: "/groups/{groupId}/settings", family: atlas, versions: v1, handle: getSettings},
		{method: patch, pattern: "/groups/{groupId}/settings", family: atlas, versions: v1, handle: updateSettings},
		{method: get, pattern: "/groups/{groupId}/limits", family: atlas, versions: v1, handle: listLimits},
		{method: get, pattern: "/groups/{groupId}/teams", family: atlas, versions: v1, handle: listNobody},
		{method: get, pattern: "/groups/{groupId}/users", family: atlas, versions: []string{legacyVersion, "2025-02-19"}, handle: listNobody},
		{method: get, pattern: "/groups/{groupId}/managedSlowMs", family: atlas, versions: v1, handle: getManagedSlowMs},
		{method: post, pattern: "/groups/{groupId}/managedSlowMs/enable", family: atlas, versions: v1, handle: enableManagedSlowMs},
		{method: del, pattern: "/groups/{groupId}/managedSlowMs/disable", family: atlas, versions: v1, handle: disableManagedSlowMs},
		{method: get, pattern: "/groups/{groupId}/ipAddresses", family: atlas, versions: v1, handle: ipAddresses},

		{method: get, pattern: "/groups/{groupId}/maintenanceWindow", family: atlas, versions: v1, handle: getMaintenance},
		{method: patch, pattern: "/groups/{groupId}/maintenanceWindow", family: atlas, versions: v1, handle: updateMaintenance},
		{method: del, pattern: "/groups/{groupId}/maintenanceWindow", family: atlas, versions: v1, handle: resetMaintenance},
		{method: post, pattern: "/groups/{groupId}/maintenanceWindow/autoDefer", family: atlas, versions: v1, handle: autoDeferMaintenance},
		{method: post, pattern: "/groups/{groupId}/maintenanceWindow/defer", family: atlas, versions: v1, handle: deferMaintenance},

		{method: post, pattern: "/groups/{groupId}/cloudProviderAccess", family: atlas, versions: v1, handle: registerRole},
		{method: get, pattern: "/groups/{groupId}/cloudProviderAccess", family: atlas, versions: v1, handle: listRoles},
		{method: get, pattern: "/groups/{groupId}/cloudProviderAccess/{roleId}", family: atlas, versions: v1, handle: getRole},
		{method: patch, pattern: "/groups/{groupId}/cloudProviderAccess/{roleId}", family: atlas, versions: v1, handle: authorizeRole},
		{method: del, pattern: "/groups/{groupId}/cloudProviderAccess/{cloudProvider}/{roleId}", family: atlas, versions: v1, handle: deauthorizeRole},

		{method: get, pattern: "/groups/{groupId}/encryptionAtRest", family: atlas, versions: v1, handle: getEncryption},
		{method: patch, pattern: "/groups/{groupId}/encryptionAtRest", family: atlas, versions: v1, handle: updateEncryption},

		{method: post, pattern: "/groups/{groupId}/clusters", family: atlas, versions: writes, handle: createCluster},
		{method: get, pattern: "/groups/{groupId}/clusters", family: atlas, versions: clusters, handle: listClusters},
		{method: get, pattern: "/groups/{groupId}/clusters/{clusterName}", family: atlas, versions: clusters, handle: getCluster},
		{method: patch, pattern: "/groups/{groupId}/clusters/{clusterName}", family: atlas, versions: writes, handle: updateCluster},
		{method: del, pattern: "/groups/{groupId}/clusters/{clusterName}", family: atlas, versions: clusters[:2], handle: deleteCluster},
		{method: get, pattern: "/groups/{groupId}/clusters/{clusterName}/status", family: atlas, versions: v1, handle: clusterStatus},
		{method: post, pattern: "/groups/{groupId}/clusters", family: atlasV15, versions: v15, handle: createCluster},
		{method: get, pattern: "/groups/{groupId}/clusters", family: atlasV15, versions: v15, handle: listClusters},
		{method: get, pattern: "/groups/{groupId}/clusters/{clusterName}", family: atlasV15, versions: v15, handle: getCluster},
		{method: patch, pattern: "/groups/{groupId}/clusters/{clusterName}", family: atlasV15, versions: v15, handle: updateCluster},
		{method: del, pattern: "/groups/{groupId}/clusters/{clusterName}", family: atlasV15, versions: v15, handle: deleteCluster},

		{method: get, pattern: "/groups/{groupId}/clusters/{clusterName}/processArgs", family: atlas, versions: args, handle: getProcessArgs},
		{method: patch, pattern: "/groups/{groupId}/clusters/{clusterName}/processArgs", family: atlas, versions: args, handle: updateProcessArgs},
		{method: get, pattern: "/groups/{groupId}/clusters/{clusterName}/autoScalingConfiguration", family: atlasV2, versions: clusters[2:], handle: autoScalingMode},
		{method: get, pattern: "/groups/{groupId}/containers", family: atlas, versions: v1, handle: listContainers},
		{method: get, pattern: "/groups/{groupId}/containers/all", family: atlas, versions: v1, handle: listContainers},

		{method: get, pattern: "/groups/{groupId}/flexClusters", family: atlasV2, versions: flex, handle: listFlexClusters},
		{method: post, pattern: "/groups/{groupId}/flexClusters", family: atlasV2, versions: flex, handle: createTenantCluster},
		{method: get, pattern: "/groups/{groupId}/flexClusters/{clusterName}", family: atlasV2, versions: flex, handle: notFlex},
		{method: get, pattern: "/groups/{groupId}/flexClusters/{clusterName}/backup/snapshots", family: atlasV2, versions: flex, handle: notFlex},
		{method: get, pattern: "/groups/{groupId}/flexClusters/{clusterName}/backup/snapshots/{snapshotId}", family: atlasV2, versions: flex, handle: notFlex},
		{method: get, pattern: "/groups/{groupId}/flexClusters/{clusterName}/backup/restoreJobs", family: atlasV2, versions: flex, handle: notFlex},
		{method: get, pattern: "/groups/{groupId}/flexClusters/{clusterName}/backup/restoreJobs/{restoreJobId}", family: atlasV2, versions: flex, handle: notFlex},
		{method: post, pattern: "/groups/{groupId}/serverless", family: atlas, versions: v1, handle: createTenantCluster},

		{method: post, pattern: "/groups/{groupId}/databaseUsers", family: atlas, versions: v1, handle: createUser},
		{method: get, pattern: "/groups/{groupId}/databaseUsers", family: atlas, versions: v1, handle: listUsers},
		{method: get, pattern: "/groups/{groupId}/databaseUsers/{databaseName}/{username}", family: atlas, versions: v1, handle: getUser},
		{method: patch, pattern: "/groups/{groupId}/databaseUsers/{databaseName}/{username}", family: atlas, versions: v1, handle: updateUser},
		{method: del, pattern: "/groups/{groupId}/databaseUsers/{databaseName}/{username}", family: atlas, versions: v1, handle: deleteUser},

		{method: post, pattern: "/groups/{groupId}/accessList", family: atlas, versions: v1, handle: addAccess},
		{method: get, pattern: "/groups/{groupId}/accessList", family: atlas, versions: v1, handle: listAccess},
		{method: get, pattern: "/groups/{groupId}/accessList/{entryValue}", family: atlas, versions: v1, handle: getAccess},
		{method: get, pattern: "/groups/{groupId}/accessList/{entryValue}/status", family: atlas, versions: v1, handle: getAccessStatus},
		{method: del, pattern: "/groups/{groupId}/accessList/{entryValue}", family: atlas, versions: v1, handle: deleteAccess},

		{method: get, pattern: "/alertConfigs/matchers/fieldNames", family: atlas, versions: v1, handle: matcherFieldNames},
		{method: get, pattern: "/groups/{groupId}/alertConfigs", family: atlas, versions: v1, handle: listAlertConfigs},
		{method: post, pattern: "/groups/{groupId}/alertConfigs", family: atlas, versions: v1, handle: createAlertConfig},
		{method: get, pattern: "/groups/{groupId}/alertConfigs/{alertConfigId}", family: atlas, versions: v1, handle: getAlertConfig},
		{method: put, pattern: "/groups/{groupId}/alertConfigs/{alertConfigId}", family: atlas, versions: v1, handle: replaceAlertConfig},
		{method: patch, pattern: "/groups/{groupId}/alertConfigs/{alertConfigId}", family: atlas, versions: v1, handle: toggleAlertConfig},
		{method: del, pattern: "/groups/{groupId}/alertConfigs/{alertConfigId}", family: atlas, versions: v1, handle: deleteAlertConfig},
		{method: get, pattern: "/groups/{groupId}/alertConfigs/{alertConfigId}/alerts", family: atlas, versions: v1, handle: listConfigAlerts},
		{method: get, pattern: "/groups/{groupId}/alerts", family: atlas, versions: v1, handle: listAlerts},
		{method: get, pattern: "/groups/{groupId}/alerts/{alertId}", family: atlas, versions: v1, handle: getAlert},
		{method: patch, pattern: "/groups/{groupId}/alerts/{alertId}", family: atlas, versions: []string{legacyVersion, "2024-05-30"}, handle: acknowledgeAlert},
		{method: get, pattern: "/groups/{groupId}/alerts/{alertId}/alertConfigs", family: atlas, versions: v1, handle: listAlertConfigsOfAlert},
		{method: post, pattern: "/groups/{groupId}/alertConfigs/{alertConfigId}:test", family: own, handle: testAlertConfig},
		{method: get, pattern: "/groups/{groupId}/alertDeliveries", family: own, handle: listDeliveries},

		{method: get, pattern: "/groups/{groupId}/encryptionAtRest", family: own, handle: getKeyStatus},
		{method: post, pattern: "/groups/{groupId}/encryptionAtRest:tryAgain", family: own, handle: tryAgain},
		{method: post, pattern: "/groups/{groupId}/encryptionAtRest:importCredentials", family: own, handle: importCredentials},
		{method: post, pattern: "/groups/{groupId}/encryptionAtRest:abortChange", family: own, handle: abortKeyChange},
		{method: post, pattern: "/groups/{groupId}/encryptionAtRest:rollback", family: own, handle: rollbackKeyChange},
		{method: get, pattern: "/groups/{groupId}/encryptionAtRest:guidance", family: own, handle: getGuidance},
		{method: post, pattern: "/groups/{groupId}/encryptionAtRest:check", family: own, handle: checkCandidate},
		{method: get, pattern: "/groups/{groupId}/cloudProviderAccess/{roleId}:trustPolicy", family: own, handle: getTrustPolicy},
		{method: get, pattern: "/groups/{groupId}/clusters/{clusterName}", family: own, handle: getClusterKeys},
		{method: post, pattern: "/groups/{groupId}/clusters/{clusterName}:rotateMasterKey", family: own, handle: rotateMasterKey},
		{method: post, pattern: "/groups/{groupId}/clusters/{clusterName}:rotateDatabaseKeys", family: own, handle: rotateDatabaseKeys},
		{method: post, pattern: "/groups/{groupId}:rotateMasterKeys", family: own, handle: rotateMasterKeys},
		{method: post, pattern: "/orgs/{orgId}/keys:export", family: own, handle: exportKeys},
		{method: get, pattern: "/orgs/{orgId}/keys", family: own, handle: listKeys},
		{method: get, pattern: "/orgs/{orgId}/keys/{keyArn}", family: own, handle: getKey},
		{method: get, pattern: "/groups/{groupId}/encryptionAtRest:rehearse", family: own, handle: rehearse},
		{method: post, pattern: "/groups/{groupId}/clusters/{clusterName}:drill", family: own, handle: orderDrill},
		{method: get, pattern: "/groups/{groupId}/clusters/{clusterName}/drills", family: own, handle: listDrills},
		{method: get, pattern: "/groups/{groupId}/keyPolicy", family: own, handle: getKeyPolicy},
		{method: patch, pattern: "/groups/{groupId}/keyPolicy", family: own, handle: updateKeyPolicy},
		{method: get, pattern: "/orgs/{orgId}/audit:head", family: own, handle: auditHead},
		{method: get, pattern: "/orgs/{orgId}/audit:verify", family: own, handle: verifyAudit},
		{method: get, pattern: "/groups/{groupId}/networkAccess", family: own, handle: getNetworkAccess},
		{method: post, pattern: "/groups/{groupId}/networkAccess:acknowledge", family: own, handle: acknowledgeAddresses},
		{method: get, pattern: "/hosts", family: own, handle: listHosts},
		{method: post, pattern: "/hosts/{hostId}:forget", family: own, handle: forgetHost},
		{method: get, pattern: "/hosts/{hostId}/awsPolicy", family: own, handle: getHostPolicy},
		{method: post, pattern: "/hosts/enrolmentTokens", family: own, handle: createEnrolmentToken},
		{method: post, pattern: "/hosts/{host}:unfreeze", family: own, handle: unfreezeHost},
	}
}
