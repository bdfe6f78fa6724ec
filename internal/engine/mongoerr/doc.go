// Package mongoerr holds the one error type that the engine's rooms hand to a
// client: a MongoDB code, its name and a message that says what was wrong.
// Clients act upon the numbers, so they are MongoDB's own.
package mongoerr
