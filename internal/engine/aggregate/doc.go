// Package aggregate runs aggregation pipelines over a stream of raw documents.
//
// It is pure: documents come in through a function and go out through one.
// Stages that can, work document by document; those that must hold documents
// ($group, $sort) hold at most MemoryLimit bytes each and then fail, they never
// spill to disk. A leading $match and $sort are meant to be answered by the
// caller from an index: see Pipeline.LeadingMatch.
package aggregate
