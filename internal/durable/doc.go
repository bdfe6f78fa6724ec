// Package durable replaces small files so that a crash or a power loss leaves
// either the old content or the new one, whole, and the new one once the call
// has returned.
package durable
