// Package api is the HTTP API that Atlas's clients know, plus what Atlas has no
// call for.
//
// The table in routes.go is the API: each line says method, path, versions and
// handler. Everything that all calls share happens in one place each, in this
// order: the escaped path is matched (route), the version is chosen from the
// media type (version), the caller proves who they are (digest), the body is
// decoded with every unknown name refused (decode), the handler calls one service
// of control, and the answer or refusal is written (answer). A handler does
// nothing but translate between the wire and a service: rules live in control.
//
// A cluster has one model (store.ClusterSettings) and three forms: that of
// 2024-08-05 and that of 2023-02-01 (clusters, clusterbody), and that of 2023-01-01,
// which is v1.0 (clusterlegacy). Clients read one form, change a field and send all
// of it back: what a form cannot say, and what a request leaves out, stays.
package api
