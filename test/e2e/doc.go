// Package e2e drives the built program as its users do: `keywright up` as a
// process, the AWS API through AWS's SDK and command line, the HTTP API with
// digest authentication, the databases through the official driver and mongosh,
// and kill -9. It knows nothing of the inside but where files lie.
package e2e
