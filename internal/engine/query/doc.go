// Package query understands MongoDB's query language: it parses filters,
// sorts and projections, applies them to raw documents, and chooses which
// index answers a query.
//
// It is pure: it reads documents that somebody else fetched, and a plan only
// says where to look. Whatever a plan finds is filtered again with
// Filter.Match, so bounds may be wider than the filter, never narrower.
//
// Filters, sorts and projections are immutable after parsing and safe for
// concurrent use. Documents that are matched must have passed index.Validate.
package query
