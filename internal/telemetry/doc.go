// Package telemetry counts what a process does and shows it in Prometheus's text form.
//
// Everything is made with New, which has a registry of its own; there is no global one.
// What is counted as it happens has a method here (a KMS call, an HTTP request, a KMIP
// operation). What is state somewhere else is read at the moment of a scrape, by a
// Source. Labels have values from fixed lists (operations, classes, routes, states) and
// identifiers of our own making, never text that somebody sends: a caller cannot make
// series. Nothing here is secret: no ARN, no address, no name.
package telemetry
