// Package console is the web console: pages that are made on the server, by the services
// that the API uses too, with the same checks of permission and the same events. Nothing
// is possible here that the API cannot do.
//
// A page is a method of visit (pages*.go): it asks the services, brings what they say into
// a small structure of words and tones (verdict.go, clusters.go), and renders a template.
// The route table in routes.go names each page. Templates are templ files; the generated Go
// is kept beside them (run `go generate ./internal/console` after a change).
//
// Pages work without script; static/console.js adds copy buttons. The Content-Security-Policy
// allows neither inline scripts nor inline style. Changes are forms that answer with a
// redirect; cross-origin requests are refused before anything else.
package console

//go:generate go run github.com/a-h/templ/cmd/templ@v0.3.960 generate -include-version=false
