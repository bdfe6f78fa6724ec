// Package apierr is the error that crosses the border of the HTTP API: a status,
// a stable code that clients compare, a detail that says what was wrong and what
// to do, and parameters.
//
// Services return it where a caller can act on the difference; everything else
// becomes a reference number at the border (api), so that nothing internal leaks.
package apierr
